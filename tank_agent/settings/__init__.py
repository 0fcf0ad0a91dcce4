"""agent.toml: `declaration` declares a setting, `settings` reads the file; `git` and `image` are tables."""
