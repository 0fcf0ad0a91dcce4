"""Values of other tools that users write behind our keys, each with the sentence for it, or with our word."""

from __future__ import annotations

_INTERFACES = 'write a table [[network.nics]] with name = "eth0" and ip = "10.0.0.5/24"'
_SHARED = "containers of one pod share its network, so write them into one pod"
# What other tools call networks, and the sentence for it.
NETWORKS = {
    **dict.fromkeys(("", "disabled", "false", "lo", "loopback", "no", "off"), 'write "none"'),
    **dict.fromkeys(
        ("default", "docker", "docker0", "nat", "podman", "private", "true", "yes"), 'write "bridge"'
    ),
    **dict.fromkeys(("pasta", "slirp4netns"), 'write "bridge"'),
    **dict.fromkeys(("dhcp", "ipvlan", "macvlan"), _INTERFACES),
    **dict.fromkeys(("container", "ns", "pod", "service"), _SHARED),
}
# When they ask the registry, each with ours.
PULL_POLICIES = {
    **dict.fromkeys(("build", "false", "if-not-present", "ifnotpresent", "present", "no"), "missing"),
    **dict.fromkeys(("newer", "true", "yes"), "always"),
    "off": "never",
}
_DIGEST = 'write image = "digest" in [update] of the pod, which looks for newer images every 6h'
# Those that ask at times.
PULL_TIMES = dict.fromkeys(("daily", "every", "weekly"), _DIGEST)
_USER = 'write user = "1000:1000" in [[containers]] for the user of the program, and remove it'
# What they call user namespaces, and the sentence for it.
USER_NAMESPACES = {
    **dict.fromkeys(("keep-id", "nomap"), _USER),
    **dict.fromkeys(("private", "remap", "true"), 'write "auto"'),
    **dict.fromkeys(("", "false", "none"), 'write "host"'),
}
# Their restart policies, each with ours.
RESTART_POLICIES = {
    **dict.fromkeys(("any", "true", "unless-stopped", "yes"), "always"),
    **dict.fromkeys(("false", "no", "none"), "never"),
    **dict.fromkeys(("on-abnormal", "on-abort", "on-failure", "onfailure"), "on-failure"),
}
