"""The AppArmor profile of a container: which one, from what the kernel has loaded, and what ours covers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.runtime.container.oci import MASKED_PATHS, READ_ONLY_PATHS
from tank_agent.runtime.security.apparmor import DEFAULT, DEFAULT_FILE, Profiles, loaded_profiles, profile_of
from tank_agent.spec.model import Security

LOADED = {DEFAULT: "enforce", "mine": "complain"}


def kernel(directory: Path, enabled: str | None, listed: str | None) -> tuple[Path, Path]:
    files = (directory / "enabled", directory / "profiles")
    for file, text in zip(files, (enabled, listed), strict=True):
        if text is not None:
            file.write_text(text)
    return files


def test_what_is_loaded_is_what_the_kernel_lists(tmp_path: Path) -> None:
    listed = "tank-default (enforce)\n/usr/bin/man (complain)\nwith space (kill)\ncrun (unconfined)\n"
    assert loaded_profiles(*kernel(tmp_path, "Y\n", listed)) == {
        "tank-default": "enforce",
        "/usr/bin/man": "complain",
        "with space": "kill",
        "crun": "unconfined",
    }


@pytest.mark.parametrize("enabled", [None, "N\n", ""])
def test_a_kernel_without_apparmor_has_no_profiles(tmp_path: Path, enabled: str | None) -> None:
    assert loaded_profiles(*kernel(tmp_path, enabled, "tank-default (enforce)\n")) is None


def test_a_list_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        loaded_profiles(*kernel(tmp_path, "Y\n", None))


@pytest.mark.parametrize(
    ("security", "loaded", "profile"),
    [
        (Security(), LOADED, DEFAULT),
        (Security(), {"mine": "enforce"}, None),
        (Security(), {}, None),
        (Security(), None, None),
        (Security(apparmor="unconfined"), LOADED, None),
        (Security(apparmor="unconfined"), None, None),
        (Security(apparmor="mine"), LOADED, "mine"),
        (Security(privileged=True), LOADED, None),
        (Security(privileged=True, apparmor="mine"), LOADED, "mine"),
        (Security(privileged=True, apparmor=DEFAULT), LOADED, DEFAULT),
    ],
)
def test_a_container_gets_the_profile_it_should(
    security: Security, loaded: Profiles | None, profile: str | None
) -> None:
    assert profile_of(security, lambda: loaded) == profile


@pytest.mark.parametrize("privileged", [False, True])
def test_who_asked_for_a_profile_never_goes_without(privileged: bool) -> None:
    security = Security(apparmor="other", privileged=privileged)
    with pytest.raises(Stalled, match="AppArmor profile other is not loaded") as refused:
        profile_of(security, lambda: LOADED)
    assert refused.value.hint == "load it with `apparmor_parser -r FILE`"
    with pytest.raises(Stalled, match="AppArmor is off on this machine"):
        profile_of(security, lambda: None)


def unreadable() -> Profiles | None:
    raise PermissionError(13, "Permission denied")


def test_a_list_that_cannot_be_read_stops_only_who_asked() -> None:
    assert profile_of(Security(), unreadable) is None
    with pytest.raises(Stalled, match="cannot read which profiles are loaded: Permission denied"):
        profile_of(Security(apparmor="mine"), unreadable)


def denied(permission: str) -> list[re.Pattern[str]]:
    """Return the paths of the profile's deny rules with a permission, as apparmor.d(5) reads them."""
    rules = re.findall(r"^ *audit deny (\S+) (\w+),$", DEFAULT_FILE.read_text(), re.MULTILINE)
    assert len(rules) == DEFAULT_FILE.read_text().count(" deny ")
    words = {"**": ".*", "*": "[^/]*", "{": "(?:", "}": ")", ",": "|"}
    return [
        re.compile("".join(words.get(part, part) for part in re.split(r"(\*\*|\*|\{|\}|,)", path)))
        for path, permissions in rules
        if permission in permissions
    ]


@pytest.mark.parametrize("path", MASKED_PATHS)
def test_what_is_masked_cannot_be_read_through_the_profile_either(path: str) -> None:
    # Of a directory it is what lies in it.
    assert any(rule.fullmatch(path) or rule.fullmatch(f"{path}/x/y") for rule in denied("r"))


@pytest.mark.parametrize(
    "path",
    [
        *READ_ONLY_PATHS,
        *(f"{path}/x/y" for path in READ_ONLY_PATHS),
        *MASKED_PATHS,
        "/proc/sys/kernel/core_pattern",
        "/proc/kcore",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
    ],
)
@pytest.mark.parametrize("permission", "wkl")
def test_what_is_read_only_cannot_be_written_through_the_profile_either(path: str, permission: str) -> None:
    assert any(rule.fullmatch(path) or rule.fullmatch(f"{path}/x") for rule in denied(permission))


@pytest.mark.parametrize(
    "path", ["/proc/1/attr/current", "/proc/12/oom_score_adj", "/data/x", "/procs", "/s"]
)
def test_the_profile_leaves_processes_and_files_alone(path: str) -> None:
    assert not any(rule.fullmatch(path) for permission in "rwkl" for rule in denied(permission))
