"""The agent's HTTP API, read from the wire inwards.

`types` is what both ends agree on: calls, and the structs of their answers. A `door` is a way in: `server` is
the one at the agent's unix socket, which `listener` makes, and `web` the one for browsers and Prometheus.
Behind each, `acceptor` takes connections, `connection` speaks HTTP with one caller, `routes` finds the
handler of a request, and that asks `control`.
"""
