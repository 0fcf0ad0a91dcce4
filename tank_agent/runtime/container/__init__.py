"""One container: its OCI configuration, crun and conmon, its exit, and its adoption by a new agent."""
