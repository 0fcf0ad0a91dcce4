"""What several test files share: images, agents, servers. Import-safe; no fixtures."""
