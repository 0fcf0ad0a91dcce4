"""Questions about secrets: the program and the keys that decrypt them, and whether those of pods can be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tank_agent.doctor import Check, fail_of, ok, warn
from tank_agent.errors import SecretError
from tank_agent.runtime.secrets.identities import opened
from tank_agent.runtime.secrets.secrets import tried
from tank_agent.spec.model import Pod


def age(output: str | None) -> Check:
    """Say whether the program is there that decrypts secrets of pods."""
    if output is None:
        return warn("age", "not installed, so no pod can have encrypted secrets", "apt install age")
    found = re.search(r"\d+(?:\.\d+)+", output)
    return ok("age", f"version {found[0]}" if found else "of an unknown version")


def identities(files: Sequence[str]) -> Check:
    """Say which keys this machine has for secrets of pods."""
    name, listed = "keys for secrets", ", ".join(files)
    fix = "age-keygen -o /etc/tank/age.key, or name others: [secrets] identities in agent.toml"
    with opened(files) as keys:
        readable = [file for file, _ in keys.readable]
        wrong = [f"{one.file} {one.why}" for one in keys.unusable]
    if wrong:
        return warn(name, "; ".join([*(f"{file} is there" for file in readable), *wrong]), fix)
    if not readable:
        return warn(name, f"none of {listed} is there" if files else "none is named", fix)
    return ok(name, ", ".join(readable))


def of_pods(pods: Iterable[Pod], files: Sequence[str], own: Sequence[Path]) -> Check:
    """Say whether all secrets of pods can be had on this machine."""
    name, wrong, count = "secrets of pods", [], 0
    for pod in pods:
        for secret in pod.secrets:
            count += 1
            try:
                tried(secret, files, own)
            except SecretError as error:
                wrong.append(f"pod {pod.name}: {error.message}")
    if wrong:
        fix = "containers that need them can't start again; `tank secret check` tries files"
        return fail_of(name, wrong, fix)
    return ok(name, f"all {count} can be had" if count else "there are none")
