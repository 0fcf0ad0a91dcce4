"""All of agent.toml: `settings` reads and checks the file; each other module is one of its tables."""
