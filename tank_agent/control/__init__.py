"""The services behind the API: pods, sources, images, sessions; `offline` and
`secret_files` are for verbs without an agent."""
