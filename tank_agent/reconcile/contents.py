"""Files and secrets of containers: what secrets in files of the host say now, and what is to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from tank_agent.journal.records import DesiredPod
from tank_agent.reconcile.core.observed import Run
from tank_agent.runtime.mounts.contents import Payload
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.spec.model import ConfigFile, Container, Pod, Secret

# The desired one, and those before it that still run.
_MOST_SPECS = 4


class HostSecrets:
    """Gives pods the digests of their secrets in files of the host; any thread may use it."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        # The digests that a spec had last, and the spec with them: the same as long as both are, for caches.
        self._known: dict[str, dict[int, tuple[Pod, tuple[str, ...], Pod]]] = {}

    def observed(self, desired: DesiredPod | None, runs: Sequence[Run]) -> DesiredPod | None:
        """Return a desired pod with what its files of the host say now, so that a change is one of the pod's.

        While a file can't be read, what its containers have counts.
        """
        # Asked for each pod at each resync, and most have no secrets.
        if desired is None or not desired.pod.secrets:
            return desired
        if all(secret.host is None for secret in desired.pod.secrets):
            return desired
        pod = desired.pod
        digests = tuple(self._digest(pod, secret, runs) for secret in pod.secrets)
        specs = self._known.setdefault(pod.name, {})
        known = specs.get(id(pod))
        if known is None or known[0] is not pod or known[1] != digests:
            pairs = zip(pod.secrets, digests, strict=True)
            filled = replace(pod, secrets=tuple(replace(secret, digest=digest) for secret, digest in pairs))
            if len(specs) >= _MOST_SPECS:
                specs.clear()
            known = specs[id(pod)] = pod, digests, filled
        return replace(desired, pod=known[2])

    def forget(self, pod: str) -> None:
        """Forget a pod that is gone."""
        self._known.pop(pod, None)

    def _digest(self, pod: Pod, secret: Secret, runs: Sequence[Run]) -> str:
        if secret.host is None:
            return secret.digest
        found = self._secrets.host_digest(secret.host)
        if found is not None:
            return found
        paths = [
            (container.name, mount.path)
            for container in pod.containers
            for mount in container.mounts
            if mount.secret == secret.name
        ]
        had = [run.contents.get(path, "") for run in runs for name, path in paths if run.container == name]
        return next(filter(None, had), "")


def payloads(pod: Pod, container: Container, secrets: Secrets) -> Mapping[str, Payload]:
    """Return what a container has at the paths of its mounts; nothing is decrypted before it is read."""
    files = {found.name: found for found in pod.files}
    by_name = {found.name: found for found in pod.secrets}
    made = {}
    for mount in container.mounts:
        if mount.file is not None:
            made[mount.path] = Payload(read=partial(_read_file, files[mount.file]))
        elif mount.secret is not None:
            read = partial(_read_secret, by_name[mount.secret], secrets)
            made[mount.path] = Payload(read=read, secret=True)
    return made


def _read_file(file: ConfigFile) -> tuple[bytes, str]:
    return file.content, file.digest


def _read_secret(secret: Secret, secrets: Secrets) -> tuple[bytes, str]:
    plaintext = secrets.plaintext(secret)
    # That of a file of the host may be from before it was read.
    known = secret.digest if secret.host is None else ""
    return plaintext, known or secrets.digest(plaintext)
