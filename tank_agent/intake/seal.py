"""Sealing: give each encrypted secret the keyed hash of what it says, before the journal has its pod.

A pod with a secret that can't be decrypted becomes a problem of its file, so that its last good spec goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from tank_agent.errors import InvalidSpec, Problem, SecretError, one_line
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Pod
from tank_agent.spec.parse import ParsedPod


def sealed_snapshot(secrets: Secrets, snapshot: Snapshot) -> Snapshot:
    """Return a snapshot with sealed pods, and with problems in place of those that can't be sealed.

    It is the same object if none of its pods has an encrypted secret.
    """
    if not any(declared.pod.secrets for declared in snapshot.pods):
        return snapshot
    pods: list[Declared] = []
    problems: list[Problem] = []
    for declared in snapshot.pods:
        pod, errors = secrets.sealed(declared.pod)
        problems += [_problem(error, declared.file, declared.line, pod.name) for error in errors]
        if not errors:
            pods.append(declared if pod is declared.pod else replace(declared, pod=pod))
    return replace(snapshot, pods=tuple(pods), problems=(*snapshot.problems, *problems))


def sealed_pods(secrets: Secrets, pods: Sequence[ParsedPod], file: str) -> list[Pod]:
    """Return the pods of a file, sealed.

    Raises:
        InvalidSpec: the file, or whom its secrets are encrypted for, is at fault.
        SecretError: only this machine is.
    """
    found: list[Pod] = []
    failed: list[SecretError] = []
    problems: list[Problem] = []
    for parsed in pods:
        pod, errors = secrets.sealed(parsed.pod)
        found.append(pod)
        failed += errors
        problems += [_problem(error, file, parsed.line, pod.name) for error in errors]
    if any(error.of_file for error in failed):
        raise InvalidSpec(tuple(problems))
    if failed:
        raise failed[0]
    return found


def _problem(error: SecretError, file: str, line: int, pod: str) -> Problem:
    return Problem(file, line, "secrets", one_line(str(error)), pod)
