"""Labels that other tools read from containers, and which select no machine.

Kubernetes' own labels of nodes (topology.kubernetes.io/…) are none of them: machines may well have the same.
"""

NAMES = ("autoheal", "caddy", "swag")
PREFIXES = (
    "caddy.", "caddy_", "com.centurylinklabs.watchtower.", "com.docker.", "deunhealth.", "diun.",
    "docker-volume-backup.", "dozzle.", "flame.", "glance.", "homepage.", "io.containers.", "io.podman.",
    "kuma.", "ofelia.", "org.opencontainers.image.", "sablier.", "swag_", "traefik.", "tsdproxy.", "wud.",
)  # fmt: skip


def is_of_a_container(label: str) -> bool:
    """Return whether a label is for a tool that reads it from a container."""
    label = label.lower()
    return label in NAMES or label.startswith(PREFIXES)
