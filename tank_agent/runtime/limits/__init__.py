"""Cgroups of both kinds of hosts, the limits written into them, and limits of processes."""
