"""The agent's HTTP API on a unix socket, read from the wire inwards.

`listener` makes the socket, `server` takes calls there, `peer` says who called, `connection` speaks HTTP with
one caller, `routes` is the table of what can be asked, `handlers` ask the `service` (the agent), and `wire`
is what both ends agree on.
"""
