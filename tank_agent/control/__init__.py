"""The services behind the API: pods, sources, images, sessions; `offline` is for verbs without an agent."""
