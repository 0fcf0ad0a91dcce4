"""The verbs about managed volumes, their snapshots, and data that snapshots replaced."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from tank_agent.api import storage
from tank_agent.errors import Stalled, VolumeInUse
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import NewEvent
from tank_agent.linux.clock import rfc3339
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.mounts.snapshots import TakenSnapshot, no_snapshot
from tank_agent.spec.model import Pod

# Seconds in which all sizes of a listing are found out.
_SIZES = 2.0
_STOP = "`tank delete` the pod, or take its file away, and wait until it is gone: its volumes stay"


class Storage(Struct, frozen=True):
    """Managed volumes, as the API sees them. All methods may be called from many threads."""

    journal: Journal
    containers: Containers
    snapshots: Snapshots

    def list(self) -> Sequence[storage.ManagedVolume]:
        """Return every managed volume, with sizes as far as they are known within two seconds.

        The shared ones come last.
        """
        volumes, deadline = self.containers.volumes, time.monotonic() + _SIZES
        store = self.snapshots.store
        places = {(pod, name): path for pod, name, path in volumes.managed()}
        taken: dict[tuple[str, str], list[TakenSnapshot]] = {}
        for one in store.all():
            taken.setdefault((one.pod, one.volume), []).append(one)
        aside: dict[tuple[str, str], list[storage.DataPutAside]] = {}
        for pod, name, path in volumes.put_aside():
            about = storage.DataPutAside(
                name=path.name,
                at=rfc3339(path.lstat().st_ctime),
                size=store.size(path, deadline),
                path=str(path),
            )
            aside.setdefault((pod, name), []).append(about)
        own = [
            storage.ManagedVolume(
                pod=pod,
                name=name,
                path=str(volumes.path(pod, name)),
                in_use=self._belongs(pod, name) is not None,
                gone=(pod, name) not in places,
                size=store.size(places[pod, name], deadline) if (pod, name) in places else None,
                snapshots=tuple(self._listed(one, deadline) for one in taken.get((pod, name), ())),
                put_aside=tuple(aside.get((pod, name), ())),
            )
            for pod, name in sorted({*places, *taken, *aside})
        ]
        return own + [
            storage.ManagedVolume(
                pod="",
                name=name,
                path=str(path),
                in_use=bool(pods := self._sharing(name)),
                size=store.size(path, deadline),
                shared=True,
                pods=tuple(pods),
            )
            for name, path in volumes.shared()
        ]

    def remove(self, pod: str, name: str, by: str = "") -> storage.RemovedVolume:
        """Remove a volume that no pod has, with its snapshots; or a snapshot, or data put aside, by its name.

        `by` is the user who asks for it, here and below.

        Raises:
            VolumeInUse: a pod is desired with the volume, or runs; or an update may go back to the snapshot.
        """
        volume, at, identifier = name.partition("@")
        if at:
            self._refuse_needed(pod, volume, identifier)
            gone = self.snapshots.store.remove(pod, volume, identifier)
            if gone:
                what = f"removed snapshot {identifier} of volume {volume}"
                self._tell(pod, "snapshot-removed", what, by)
            return storage.RemovedVolume(deleted=gone)

        def check() -> None:
            use = self._belongs(pod, name)
            if use is not None:
                raise VolumeInUse(f"volume {pod}/{name} is in use: {use}", hint="remove the pod first")

        # A name that a pod has is in use even if the volume is gone.
        check()
        deleted = self.containers.volumes.remove(pod, name, check)
        # The id of those that are left of an earlier removal, too.
        left = [one.id for one in self.snapshots.store.of_volume(pod, name)]
        gone_too = [identifier for identifier in left if self.snapshots.store.remove(pod, name, identifier)]
        if deleted or gone_too:
            snapshots = f", and its snapshots {', '.join(gone_too)}" if gone_too else ""
            self._tell(pod, "volume-removed", f"removed volume {name}{snapshots}", by)
        return storage.RemovedVolume(deleted=deleted or bool(gone_too), snapshots=tuple(gone_too))

    def remove_shared(self, name: str, by: str = "") -> storage.RemovedVolume:
        """Remove a shared volume.

        Raises:
            VolumeInUse: a pod has it, or had it in its last good revision, or still runs with it.
        """

        def check(*, past: bool = False) -> None:
            pods = self._sharing(name, past=past)
            if pods:
                who = "; ".join(pods.values())
                raise VolumeInUse(
                    f"shared volume {name} is in use: {who}", hint="take it out of these pods first"
                )

        # Once only, since no revision is read while volumes wait.
        check(past=True)
        deleted = self.containers.volumes.remove(None, name, check)
        if deleted:
            self._tell("", "volume-removed", f"removed the shared volume {name}", by)
        return storage.RemovedVolume(deleted=deleted)

    def take(
        self, pod: str, name: str, ended: Callable[[], bool], *, by: str = "", force: bool
    ) -> storage.ListedSnapshot:
        """Copy a volume; without `force`, only if no container writes to it meanwhile.

        Raises:
            VolumeInUse: a container that mounts it runs, or ran while it was copied.
            Stalled: there is no such volume.
        """
        volumes = self.containers.volumes
        opened = volumes.times_opened(pod, name)

        def check() -> None:
            if force:
                return
            user = self._user(pod, name)
            if user is None and volumes.times_opened(pod, name) == opened:
                return
            who = f"container {user} runs" if user else "a container ran meanwhile"
            hint = f"--force copies it all the same, file after file, while it is written to; or {_STOP}"
            raise VolumeInUse(f"volume {pod}/{name}: {who}, so the copy might not fit together", hint=hint)

        check()
        self._refuse_unknown(pod, name)
        found = self.journal.get(pod)
        generation = found.generation if found is not None else 0
        store = self.snapshots.store
        taken = self.snapshots.by_hand(
            pod, lambda job: store.take_by_hand(pod, generation, name, job, check), ended
        )
        self._tell(pod, "snapshot-taken", f"took snapshot {taken.id} of volume {name}", by)
        return self._listed(taken, time.monotonic() + _SIZES)

    def restore(
        self, pod: str, name: str, identifier: str, ended: Callable[[], bool], *, by: str = ""
    ) -> storage.RestoredVolume:
        """Put a snapshot in place of its volume, whose data is kept beside it.

        Raises:
            VolumeInUse: a container that mounts it runs.
            Stalled: there is no such snapshot.
        """
        store = self.snapshots.store

        def check() -> None:
            user = self._user(pod, name)
            if user is not None:
                raise VolumeInUse(f"volume {pod}/{name}: container {user} runs with it", hint=_STOP)

        found = next((one for one in store.of_volume(pod, name) if one.id == identifier), None)
        if found is None:
            raise no_snapshot(pod, name, identifier)
        check()
        desired = self.journal.get(pod)
        generation = desired.generation if desired is not None else 0
        kept = self.snapshots.by_hand(
            pod, lambda job: store.restore_by_hand(found, generation, job, check), ended
        )
        beside = f"; what it held is kept as {kept}" if kept else ""
        self._tell(pod, "data-restored", f"put snapshot {identifier} of volume {name} back{beside}", by)
        return storage.RestoredVolume(pod=pod, name=name, snapshot=identifier, put_aside=kept)

    def _tell(self, pod: str, kind: str, message: str, by: str) -> None:
        self.journal.try_to_record([NewEvent(pod=pod, type=kind, message=message, by=by)])

    def _sharing(self, name: str, *, past: bool = True) -> dict[str, str]:
        """Return the pods that a shared volume must stay for, each with why; `past`: good revisions, too."""
        found = {}
        for pod, desired in sorted(self.journal.desired().items()):
            good = self.journal.status(pod).good
            if _shares(desired.pod, name):
                found[pod] = f"pod {pod} has it ({desired.owner})"
            elif past and good is not None and good.generation != desired.generation:
                revision = self.journal.revision(pod, good.generation)
                if revision is not None and _shares(revision.pod, name):
                    found[pod] = f"pod {pod} has it in its last good revision"
        for pod in sorted(self.containers.pods()):
            if any(name in run.record.shared for run in self.containers.runs(pod)):
                found.setdefault(pod, f"pod {pod} still runs with it")
        return found

    def _belongs(self, pod: str, name: str) -> str | None:
        """Return why a volume must stay."""
        desired = self.journal.get(pod)
        if desired is not None and any(
            volume.name == name and volume.host is None and not volume.shared
            for volume in desired.pod.volumes
        ):
            return f"pod {pod} has it ({desired.owner})"
        return f"pod {pod} still runs" if self.containers.runs(pod) else None

    def _user(self, pod: str, name: str) -> str | None:
        """Return a container that runs with a volume, or may do so."""
        desired = self.journal.get(pod)
        specs = {} if desired is None else {found.name: found for found in desired.pod.containers}
        for run in self.containers.runs(pod):
            spec, paths = specs.get(run.record.container), set(run.record.volumes)
            # Of another spec than the present one, nobody knows which volumes they are.
            unknown = paths - {mount.path for mount in spec.mounts} if spec is not None else paths
            if unknown or (spec is not None and any(mount.volume == name for mount in spec.mounts)):
                return run.record.name
        return None

    def _refuse_unknown(self, pod: str, name: str) -> None:
        if (pod, name) not in {(found, volume) for found, volume, _ in self.containers.volumes.managed()}:
            raise Stalled(f"there is no volume {pod}/{name}", hint="`tank volume ls` shows them")

    def _refuse_needed(self, pod: str, volume: str, identifier: str) -> None:
        if self._needed(pod, volume, identifier):
            raise VolumeInUse(
                f"snapshot {pod}/{volume}@{identifier} is in use: it is the data of the last good revision",
                hint="it goes by itself once a later revision is good",
            )

    def _needed(self, pod: str, volume: str, identifier: str) -> bool:
        status = self.journal.status(pod)
        good = status.good.snapshots if status.good is not None else {}
        restore = status.rollout.restore if status.rollout is not None else {}
        return identifier in (good.get(volume), restore.get(volume))

    def _listed(self, one: TakenSnapshot, deadline: float) -> storage.ListedSnapshot:
        return storage.ListedSnapshot(
            id=one.id,
            at=rfc3339(one.at),
            generation=one.generation,
            size=self.snapshots.store.size(one.path, deadline),
            path=str(one.path),
            by_hand=one.manual,
            in_use=self._needed(one.pod, one.volume, one.id),
        )


def _shares(pod: Pod, name: str) -> bool:
    return any(volume.shared and volume.name == name for volume in pod.volumes)
