"""One container: its devices, OCI configuration, crun and conmon, exit, and adoption by a new agent."""
