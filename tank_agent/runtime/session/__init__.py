"""Commands, terminals and logs of a running container."""
