"""The door for browsers and Prometheus: reports over TCP that only show, never change.

`opening` has the token and the address, `server` listens there, `guards` decides who comes in, `shown` what
leaves, `page` holds the page. `live` tells open pages what changed, with the last hour of `usage`.
"""
