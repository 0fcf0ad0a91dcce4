"""The seccomp profile says what its table means, and the cache hands out whole programs only."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from tank_agent.errors import Stalled
from tank_agent.runtime.security import syscalls
from tank_agent.runtime.security.seccomp import SeccompCache, default_profile

PROGRAM = bytes(range(8)) * 100


def rules_for(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def make_cache(tmp_path: Path, crun_version: str = "1.8.1") -> SeccompCache:
    return SeccompCache(tmp_path / "data", crun_version=lambda: crun_version, machine="x86_64")


def learn(cache: SeccompCache, tmp_path: Path, program: bytes = PROGRAM) -> bool:
    source = tmp_path / "seccomp.bpf"
    source.write_bytes(program)
    source.chmod(0o600)
    return cache.learn({"profile": 1}, source)


def test_no_call_is_both_allowed_and_refused() -> None:
    assert not syscalls.ALLOWED & syscalls.REFUSED
    assert not any(extra & syscalls.REFUSED for extra in syscalls.MACHINE_ALLOWED.values())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    "name", ["unshare", "setns", "mount", "fsopen", "move_mount", "pivot_root", "keyctl", "bpf"]
)
def test_power_over_the_machine_is_refused_with_eperm(machine: str, name: str) -> None:
    profile = default_profile(machine)
    assert rules_for(profile, name) == [
        {"names": sorted(syscalls.REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    ]


@pytest.mark.parametrize("name", ["clone3", "io_uring_setup", "modify_ldt", "a_call_of_the_future"])
def test_what_no_rule_names_looks_like_an_older_kernel(name: str) -> None:
    profile = default_profile("x86_64")
    assert rules_for(profile, name) == []
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_only_the_machines_own_architecture_and_calls() -> None:
    assert default_profile("x86_64")["architectures"] == ["SCMP_ARCH_X86_64"]
    assert default_profile("aarch64")["architectures"] == ["SCMP_ARCH_AARCH64"]
    assert rules_for(default_profile("x86_64"), "fork")
    assert not rules_for(default_profile("aarch64"), "fork")


def test_an_unknown_machine_is_an_error_that_says_so() -> None:
    with pytest.raises(Stalled, match="pdp11"):
        default_profile("pdp11")


def test_clone_makes_processes_and_no_namespaces() -> None:
    allow, *refuse = rules_for(default_profile("x86_64"), "clone")
    assert allow["args"] == [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert len(refuse) == 7
    assert all(rule["errnoRet"] == 1 for rule in refuse)


def test_a_capability_opens_its_own_calls_and_no_others() -> None:
    profile = default_profile("x86_64", {"CAP_SYS_ADMIN", "CAP_NET_RAW"})
    assert rules_for(profile, "mount")[0]["action"] == "SCMP_ACT_ALLOW"
    assert rules_for(profile, "clone") == [{"names": ["clone"], "action": "SCMP_ACT_ALLOW"}]
    assert rules_for(profile, "keyctl")[0]["errnoRet"] == 1
    assert rules_for(profile, "reboot")[0]["errnoRet"] == 1


def test_the_cache_knows_nothing_before_it_learns(tmp_path: Path) -> None:
    assert make_cache(tmp_path).annotation_for({"profile": 1}) is None


def test_a_learnt_program_outlives_the_agent(tmp_path: Path) -> None:
    assert learn(make_cache(tmp_path), tmp_path)
    annotation = make_cache(tmp_path).annotation_for({"profile": 1})
    assert annotation is not None
    assert base64.b64decode(annotation, validate=True) == PROGRAM


def test_the_files_are_private(tmp_path: Path) -> None:
    learn(make_cache(tmp_path), tmp_path)
    (file,) = (tmp_path / "data/cache").iterdir()
    assert file.stat().st_mode & 0o7777 == 0o600
    assert file.parent.stat().st_mode & 0o7777 == 0o700


def test_another_profile_crun_or_machine_has_its_own_program(tmp_path: Path) -> None:
    learn(make_cache(tmp_path), tmp_path)
    arm = SeccompCache(tmp_path / "data", crun_version=lambda: "1.8.1", machine="aarch64")
    assert make_cache(tmp_path).annotation_for({"profile": 2}) is None
    assert make_cache(tmp_path, "1.21").annotation_for({"profile": 1}) is None
    assert arm.annotation_for({"profile": 1}) is None


@pytest.mark.parametrize("program", [b"", b"1234567", bytes(32776), bytes(1 << 20)])
def test_what_cannot_be_a_program_is_not_learnt(tmp_path: Path, program: bytes) -> None:
    cache = make_cache(tmp_path)
    assert not learn(cache, tmp_path, program)
    assert cache.annotation_for({"profile": 1}) is None


def test_a_missing_program_is_not_learnt(tmp_path: Path) -> None:
    assert not make_cache(tmp_path).learn({"profile": 1}, tmp_path / "absent")


def damage_flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def damage_truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 8)


def damage_empty(file: Path) -> None:
    os.truncate(file, 0)


def damage_grow(file: Path) -> None:
    file.write_bytes(file.read_bytes() + bytes(8))


def damage_symlink(file: Path) -> None:
    file.rename(file.with_suffix(".real"))
    file.symlink_to(file.with_suffix(".real"))


def damage_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def damage_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def damage_mode(file: Path) -> None:
    file.chmod(0o620)


@pytest.mark.parametrize(
    "damage",
    [
        damage_flip,
        damage_truncate,
        damage_empty,
        damage_grow,
        damage_symlink,
        damage_fifo,
        damage_directory,
        damage_mode,
    ],
)
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: Any) -> None:
    learn(make_cache(tmp_path), tmp_path)
    (file,) = (tmp_path / "data/cache").iterdir()
    damage(file)
    assert make_cache(tmp_path).annotation_for({"profile": 1}) is None


def test_learning_replaces_a_damaged_file(tmp_path: Path) -> None:
    learn(make_cache(tmp_path), tmp_path)
    (file,) = (tmp_path / "data/cache").iterdir()
    damage_flip(file)
    assert learn(make_cache(tmp_path), tmp_path)
    assert make_cache(tmp_path).annotation_for({"profile": 1}) is not None
    assert list((tmp_path / "data/cache").iterdir()) == [file]


def test_old_programs_are_dropped(tmp_path: Path) -> None:
    for version in range(40):
        learn(make_cache(tmp_path, str(version)), tmp_path)
    assert len(list((tmp_path / "data/cache").iterdir())) == 32
    assert make_cache(tmp_path, "39").annotation_for({"profile": 1}) is not None
