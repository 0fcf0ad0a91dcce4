"""Words of other tools, and ours: of compose, Docker, podman, Quadlet, Kubernetes, Nomad and systemd.

The one place for them. `pod_keys` and `agent_keys` are of files, `values` of what stands behind a key,
`verbs` of the command line: all four are tables. `advice` applies those of values.
"""
