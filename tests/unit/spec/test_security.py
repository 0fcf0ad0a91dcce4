"""The [containers.security] table: what is right, what is wrong, and what becomes of it."""

from __future__ import annotations

import pytest

from tank_agent.runtime.container.oci import CAPABILITIES, capabilities
from tank_agent.spec.model import Security
from tank_agent.spec.parse import parse_pod_file
from tank_agent.spec.render import render_pod
from tank_agent.spec.values import CAPABILITIES as EVERY

POD = '[[containers]]\nname = "app"\nrootfs = "/root"\ncommand = ["/app"]\n[containers.security]\n'


def security(text: str) -> Security:
    parsed = parse_pod_file(POD + text, "web.toml")
    assert parsed.problems == ()
    (found,) = parsed.pods
    (again,) = parse_pod_file(render_pod(found.pod), "web.toml").pods
    assert again.pod == found.pod
    return found.pod.containers[0].security


def test_what_means_the_same_is_the_same() -> None:
    one = security('capabilities = { add = ["net_admin", "CAP_SYS_TIME"], drop = ["Chown"] }')
    other = security('capabilities = { add = ["SYS_TIME", "NET_ADMIN", "NET_ADMIN"], drop = ["CAP_CHOWN"] }')
    assert one == other == Security(add=("CAP_NET_ADMIN", "CAP_SYS_TIME"), drop=("CAP_CHOWN",))
    assert security("") == Security()
    assert security('devices = ["/dev/fuse", "/dev/fuse"]').devices == ("/dev/fuse",)
    # Not /dev/fd and /dev/console, which are the container's own.
    assert security('devices = ["/dev/fd0", "/dev/console2"]').devices == ("/dev/console2", "/dev/fd0")
    assert security('seccomp = "/etc/tank/profile.json"').seccomp == "/etc/tank/profile.json"
    assert security('apparmor = "default"') == Security()
    assert security('apparmor = "/usr/sbin/my-profile"').apparmor == "/usr/sbin/my-profile"
    assert security('privileged = true\napparmor = "mine"').apparmor == "mine"
    assert security('userns = "auto"').userns == "auto"
    assert security('userns = "host"') == Security()
    assert security("privileged = true\nread_only_root = true").privileged


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ('capabilities = { add = ["NET_ADMN"] }', "capabilities.add[0]", 'did you mean "NET_ADMIN"?'),
        ('capabilities = { add = ["CHOWN"], drop = ["CHOWN"] }', "capabilities", "both added and dropped"),
        ('seccomp = "off"', "seccomp", '"unconfined"'),
        ('apparmor = ""', "apparmor", '"unconfined"'),
        ('apparmor = "a profile"', "apparmor", "name of a loaded one"),
        ('apparmor = "mine\\n"', "apparmor", "name of a loaded one"),
        ("apparmor = false", "apparmor", "text"),
        ('devices = ["fuse"]', "devices[0]", "below /dev"),
        ('devices = ["/dev/../etc"]', "devices[0]", "below /dev"),
        ('devices = ["/dev/pts/0"]', "devices[0]", "container's own"),
        ('devices = ["/dev/console"]', "devices[0]", "container's own"),
        ('privileged = true\ndevices = ["/dev/fuse"]', "privileged", "gives everything already"),
        ('userns = "yes"', "userns", '"auto"'),
        ('privileged = true\nuserns = "auto"', "userns", "remove one of them"),
        ("privilegd = true", "privilegd", "did you mean privileged?"),
    ],
)
def test_what_is_wrong_is_said(text: str, key: str, words: str) -> None:
    (problem,) = parse_pod_file(POD + text, "web.toml").problems
    assert problem.key == f"containers[0].security.{key}"
    assert words in problem.message


def test_capabilities() -> None:
    every = frozenset(EVERY)
    default = frozenset(CAPABILITIES)
    assert capabilities(Security()) == default
    assert capabilities(Security(add=("CAP_NET_ADMIN",))) == default | {"CAP_NET_ADMIN"}
    assert capabilities(Security(drop=("CAP_KILL",))) == default - {"CAP_KILL"}
    assert capabilities(Security(drop=("ALL",))) == frozenset()
    assert capabilities(Security(drop=("ALL",), add=("CAP_KILL",))) == {"CAP_KILL"}
    assert capabilities(Security(privileged=True), every) == every
    assert capabilities(Security(add=("ALL",), drop=("CAP_SYS_BOOT",)), every) == every - {"CAP_SYS_BOOT"}
