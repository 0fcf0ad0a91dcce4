"""The mechanics of health checks: the probe of a container, and one attempt of it, which blocks nobody."""
