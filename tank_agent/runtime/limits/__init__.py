"""Cgroups of both kinds of hosts, and the limits written into them."""
