"""The agent's HTTP API on a unix socket, read from the wire inwards.

`types` is what both ends agree on: calls, and the structs of their answers. `listener` makes the socket,
`server` takes connections there and speaks HTTP, `routes` finds the handler of a request, and that asks
`control`.
"""
