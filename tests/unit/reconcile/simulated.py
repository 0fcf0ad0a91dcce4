"""One pod on a machine in memory: the real loop, steps and journal; time, programs and volumes are simulated.

What a program does follows from its word: "good-1" is healthy two seconds after its start, "sick-2" never,
"flap-3" now and then; "crash-4" ends after five seconds, "boom-5" at once, "ruin-6" is sick and leaves its
word in the volume as all do, and "refused-7" cannot be started.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from tank_agent.errors import TankError
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, Exit, Health, PodStatus
from tank_agent.journal.stops import Wish
from tank_agent.journal.store import MemoryStore, Write
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.observed import Probed, SnapshotJob
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.machine import Machine, Work
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.steps import Steps
from tank_agent.runtime.container.crun import StartFailed
from tank_agent.runtime.container.launch import Launch
from tank_agent.runtime.run import LiveRun, RunRecord, RunState, Stopping
from tank_agent.spec.model import Container, HealthCheck, Mount, Pod, Update, Volume
from tests.support.fake_runtime import idle_fills, no_secrets
from tests.unit.journal.builders import declared, snapshot

NAME = "web"
MIN_HEALTHY, DEADLINE, MAX_RESTARTS = 10.0, 60.0, 2
HEALTHY_AFTER, UNHEALTHY_AFTER, FLAP, CRASHES_AFTER = 2.0, 6.0, 4.0, 5.0
# Seconds that a program takes to end, and a copy of its volume.
_ENDS_IN, _COPIED_IN = 0.5, 3.0
_MOST_TURNS = 400
KINDS = ("good", "sick", "flap", "crash", "boom", "ruin", "refused")


class Killed(BaseException):
    """The agent was killed."""


class SimulatedClock(Clock):
    """Stands still until it is moved; the wall clock may jump."""

    def __init__(self) -> None:
        self.now, self.offset = 1000.0, 1_795_000_000.0

    def wall(self) -> float:
        return self.offset + self.now

    def monotonic(self) -> float:
        return self.now


def pod(word: str, *, snapshots: bool = True) -> Pod:
    """Return a pod of a program beside one that no update concerns."""
    app = Container(
        name="app",
        rootfs="/r",
        command=(word,),
        mounts=(Mount(volume="data", path="/data"),),
        health=HealthCheck(exec=("check",)),
    )
    side = Container(name="side", rootfs="/r", command=("good-side",))
    update = Update(min_healthy=MIN_HEALTHY, deadline=DEADLINE, max_restarts=MAX_RESTARTS)
    volumes = (Volume(name="data", snapshot=snapshots),)
    return Pod(name=NAME, containers=(app, side), volumes=volumes, update=update)


class _Store(MemoryStore):
    """Counts its writes as things that a kill may come before or after."""

    def __init__(self, effect: Callable[[], None]) -> None:
        super().__init__()
        self._effect = effect

    def write(self, writes: Sequence[Write]) -> None:
        self._effect()
        super().write(writes)
        self._effect()


class World:
    """The machine. Parts of it that the loop asks are this object itself."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.boot = 1
        self.store = _Store(self.effect)
        self.text: Pod | None = None
        self.generation_limit = 0
        # Facts of the machine that outlive an agent.
        self.live: dict[str, LiveRun] = {}
        self.words: dict[str, str] = {}
        self.started: dict[str, float] = {}
        self.network = "absent"
        self.volume: tuple[str, ...] = ()
        self.inode = 0
        self.note: tuple[int, str, int] | None = None
        self.copies: dict[str, tuple[str, ...]] = {}
        self.kept_aside: list[tuple[str, ...]] = []
        # What the world does to it.
        self.disk_is_full = self.outside_is_sick = False
        self.kill_in = 0
        self._numbers = 0
        self.starts: list[tuple[float, str]] = []
        self._begin()

    # --- the agent --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin as a new agent does: with what the journal and the machine have."""
        self.journal = Journal(self.store, clock=self.clock.wall)
        self.since = self.clock.monotonic()
        self.job: SnapshotJob | None = None
        self.job_done = math.inf
        self.job_volumes: Mapping[str, Any] = {}
        for run in self.live.values():
            if run.state is RunState.RUNNING:
                run.alive_since = self.since
        rooms = ("containers", "networks", "pulls", "snapshots", "probes")
        parts: dict[str, Any] = dict.fromkeys(rooms, self)
        parts |= {"journal": self.journal, "clock": self.clock, "boot_id": f"boot-{self.boot}"}
        parts |= {"secrets": no_secrets(), "fills": idle_fills()}
        parts |= {"backoff": Backoff(base=0.5, cap=300, stable_after=600), "since": self.since}
        machine = Machine(**{name: parts[name] for name in Machine.__struct_fields__ if name in parts})
        self.loop = Reconciler(machine, Steps(machine), workers=0)
        self.merge()
        self.wake()

    def restart_agent(self) -> None:
        """Kill the agent and start the next one."""
        self.kill_in = 0
        self._begin()

    def guarded(self, do: Callable[[], object]) -> None:
        """Do something that may run into the point at which the agent is killed; then the next one starts."""
        try:
            do()
        except Killed:
            self.restart_agent()

    def effect(self) -> None:
        """Die here if that is due: before or after anything that lasts."""
        if self.kill_in:
            self.kill_in -= 1
            if not self.kill_in:
                raise Killed

    def reboot(self, *, clean: bool) -> None:
        """Let the machine go down, in order or by a power cut, and come up again."""
        if clean:
            self.kill_in = 0
            self.loop.observer.draining = True
            self.wake()
            for _ in range(20):
                self._turns()
                if not self.live:
                    break
                self._advance(self.clock.now + 1)
            assert not self.live, self.live
        self.kill_in = 0
        self.live.clear()
        self.network = "absent"
        self.boot += 1
        self.clock.offset += self.clock.now - 5.0
        self.clock.now = 5.0
        self._begin()

    # --- people -----------------------------------------------------------------------------------------

    def push(self, text: Pod) -> None:
        """Let the pod's file say this."""
        self.text = text
        self.guarded(self.merge)

    def merge(self) -> None:
        """Merge what the file says, as the agent does also when it starts."""
        if self.text is not None:
            applied = self.journal.merge(snapshot(declared(self.text)))
            if applied.changed:
                self.wake()

    def verb(self, do: Callable[[], object]) -> None:
        """Do what a person asks for, who reads the error if it is refused."""

        def asked() -> None:
            try:
                do()
            except TankError:
                return
            self.merge()
            self.wake()

        self.guarded(asked)

    def wish(self) -> Wish:
        """Return who asks, and when."""
        return Wish(by="root", boot_id=f"boot-{self.boot}", monotonic=self.clock.now)

    @property
    def desired(self) -> DesiredPod | None:
        return self.journal.get(NAME)

    @property
    def status(self) -> PodStatus:
        return self.journal.status(NAME)

    # --- time -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self.loop.wake(NAME, "simulated")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the loop work whenever there is something to do."""
        end = self.clock.now + seconds
        while True:
            while not self.loop._queue.idle():
                self.guarded(self._turns)
            nearest = min(self._next_event(), self.loop._queue._due.get(NAME, math.inf))
            self._advance(min(max(nearest, self.clock.now), end))
            if self.clock.now >= end:
                break
        while not self.loop._queue.idle():
            self.guarded(self._turns)

    def _turns(self) -> None:
        """Do what the workers do, until there is nothing to do now."""
        queue = self.loop._queue
        for _ in range(_MOST_TURNS):
            if queue.idle():
                return
            name = queue.take()
            assert name is not None
            try:
                self.loop._reconcile(name, "simulated")
            except Exception as error:
                self.loop._failed(Work(name=name, cause="simulated"), None, error)
            finally:
                queue.done(name)
        raise AssertionError(f"does not come to rest: {self.events()[-10:]}")

    def _advance(self, to: float) -> None:
        self.clock.now = max(to, self.clock.now)
        for run in list(self.live.values()):
            if run.state is RunState.RUNNING and self._ends_at(run) <= self.clock.now:
                self.end(run)
        if self.job is not None and self.job.state == "running" and self.job_done <= self.clock.now:
            self.guarded(self._end_job)
        # Probes and exits wake the loop; a look for nothing costs nothing here.
        self.wake()

    def end(self, run: LiveRun, code: int = 3) -> None:
        """Let a program end."""
        stopped = run.stopping is not None
        run.exit = Exit(at=self.clock.wall(), code=0 if stopped else code)
        run.monitor = run.process = None

    def _age(self, run: LiveRun) -> float:
        return self.clock.now - self.started[run.record.id]

    def _kind(self, run: LiveRun) -> str:
        return self.words[run.record.id].partition("-")[0]

    def _ends_at(self, run: LiveRun) -> float:
        if run.stopping is not None:
            return run.stopping.deadline - 10.0 + _ENDS_IN
        started = self.started[run.record.id]
        return started + {"crash": CRASHES_AFTER, "boom": 0.1}.get(self._kind(run), math.inf)

    def _next_event(self) -> float:
        """Return when something happens by itself."""
        found = [self.job_done if self.job is not None and self.job.state == "running" else math.inf]
        for run in self.live.values():
            if run.state is RunState.RUNNING:
                age, started = self._age(run), self.started[run.record.id]
                steps = [HEALTHY_AFTER, UNHEALTHY_AFTER]
                steps += [FLAP * (age // FLAP + 1)] if self._kind(run) == "flap" else []
                found += [started + step for step in steps if step > age + 1e-6]
                found.append(self._ends_at(run))
        return min(found)

    # --- probes -----------------------------------------------------------------------------------------

    def observe(self, about: str) -> Any:
        """Return the health of a run, or how far the copy of the pod's volume is."""
        return self.job if about == NAME else self._probed(self.live[about])

    def _probed(self, run: LiveRun) -> Probed | None:
        if run.record.container != "app" or run.state is not RunState.RUNNING:
            return None
        age, started, kind = self._age(run), self.started[run.record.id], self._kind(run)
        since: float | None = None
        if kind in ("good", "crash", "boom") and age >= HEALTHY_AFTER:
            since = started + HEALTHY_AFTER
        if kind == "flap" and age // FLAP % 2 == 1:
            since = started + FLAP * (age // FLAP)
        if self.outside_is_sick:
            since = None
        if since is not None:
            health = Health(state="healthy", since=self.clock.wall())
            # The next agent knows of no probe before its own.
            return Probed(health=health, steady_since=max(since, self.since))
        state = "unhealthy" if age >= UNHEALTHY_AFTER else "starting"
        return Probed(health=Health(state=cast(Any, state), since=self.clock.wall(), message="it is sick"))

    # --- containers -------------------------------------------------------------------------------------

    def runs(self, name: str) -> tuple[LiveRun, ...]:
        return tuple(self.live.values())

    def pods(self) -> frozenset[str]:
        return frozenset((NAME,)) if self.live else frozenset()

    def after_others(self) -> frozenset[str]:
        return frozenset()

    def check(self, *arguments: Any) -> Any:
        """Begin to look for room; or, as containers and networks do, notice nothing."""
        if len(arguments) > 1:
            self._begin_job("check", *arguments)
        return frozenset()

    def create(self, launch: Launch) -> LiveRun:
        """Make a run that does not begin yet."""
        self.effect()
        assert launch.container.command is not None
        (word,) = launch.container.command
        if word.startswith("refused"):
            raise StartFailed(f"no such file: {word}")
        name = launch.container.name
        assert name not in {run.record.container for run in self.live.values() if run.state in _ALIVE}
        self._numbers += 1
        record = RunRecord(
            id=f"{name}-{self._numbers}",
            pod=NAME,
            container=name,
            hash=launch.hash,
            revision=launch.revision,
            cgroup="",
            image="",
            stop_signal=15,
            stop_grace=10.0,
            terminal=False,
            created_at=self.clock.wall(),
            settings=launch.settings,
            job_run=launch.job_run,
        )
        run = LiveRun(record=record, directory=Path("/none"), pid=self._numbers, monitor=1)
        self.live[record.id], self.words[record.id] = run, word
        self.effect()
        return run

    def start(self, run: LiveRun) -> None:
        """Let a program begin, which writes to its volume at once."""
        self.effect()
        run.started, run.alive_since = True, self.clock.now
        self.started[run.record.id] = self.clock.now
        self.network = "used"
        if run.record.container == "app":
            assert not self._is_copying(), "a program writes to a volume that is copied"
            word = self.words[run.record.id]
            self.volume = (*self.volume, word)
            self.starts.append((self.clock.wall(), word))
        self.effect()

    def stop(self, run: LiveRun, unhealthy: str = "") -> None:
        self.effect()
        run.stopping = Stopping(deadline=self.clock.now + 10.0, unhealthy=unhealthy)
        self.effect()

    def kill(self, run: LiveRun) -> None:
        self.effect()
        self.end(run)

    def remove(self, of: Any) -> None:
        """Remove a run; or, as networks do, the network of the pod."""
        self.effect()
        if isinstance(of, LiveRun):
            del self.live[of.record.id]
        else:
            self.network = "absent"
        self.effect()

    # --- volumes ----------------------------------------------------------------------------------------

    def take(self, name: str, generation: int, volumes: Mapping[str, Any]) -> None:
        self._begin_job("take", name, generation, volumes)

    def put_back(self, name: str, generation: int, snapshots: Mapping[str, str], failed: int = 0) -> None:
        self._begin_job("put-back", name, generation, snapshots)

    def _begin_job(self, kind: Any, _: str, generation: int, volumes: Mapping[str, Any]) -> None:
        self.effect()
        same = self.job is not None and (self.job.kind, self.job.generation) == (kind, generation)
        if same and self.job is not None and self.job.state != "failed":
            return
        assert set(volumes) == {"data"}
        if kind != "check":
            alive = [run for run in self.live.values() if run.record.container == "app"]
            assert not [run for run in alive if run.state in _ALIVE], "a program runs on what is copied"
        self.job = SnapshotJob(kind=kind, generation=generation)
        self.job_volumes, self.job_done = volumes, self.clock.now + _COPIED_IN

    def _is_copying(self) -> bool:
        return self.job is not None and self.job.state == "running" and self.job.kind != "check"

    def _end_job(self) -> None:
        job = self.job
        assert job is not None
        if self.disk_is_full:
            retry_at = self.clock.now + 30
            self.job = replace(job, state="failed", error="no space left", retry_at=retry_at)
            return
        self.effect()
        if job.kind == "take":
            id_ = f"{job.generation}-{len(self.copies)}"
            self.copies[id_] = self.volume
            self.job = replace(job, state="done", ids={"data": id_})
        elif job.kind == "put-back":
            self._back(job.generation, self.job_volumes["data"])
            self.job = replace(job, state="done")
        else:
            self.job = replace(job, state="done")
        self.effect()

    def _back(self, generation: int, id_: str) -> None:
        """Put a copy in place of the volume, unless a note says that this was done."""
        if self.note == (generation, id_, self.inode):
            return
        self.inode += 1
        self.note = (generation, id_, self.inode)
        self.kept_aside.append(self.volume)
        self.volume = self.copies[id_]

    def finished(self, name: str) -> None:
        if self.job is None or self.job.state == "running":
            return
        if self.job.kind == "put-back":
            self.effect()
            self.note = None
        self.job = None

    def keep(self, name: str, wanted: Collection[str]) -> None:
        """Remove the copies that nobody wants any more."""
        assert set(wanted) <= self.copies.keys() | {"absent"}
        self.copies = {id_: found for id_, found in self.copies.items() if id_ in wanted}

    # --- the rest ---------------------------------------------------------------------------------------

    def state(self, name: str) -> str:
        return self.network

    def remembered(self) -> frozenset[str]:
        return frozenset() if self.network == "absent" else frozenset((NAME,))

    def make(self, spec: Pod) -> None:
        self.effect()
        self.network = "fresh"

    def check_host(self) -> tuple[str, ...]:
        return ()

    def want(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None

    def events(self) -> list[tuple[str, str]]:
        return [(event.type, event.message) for event in self.journal.events(limit=100_000)]


_ALIVE = (RunState.RUNNING, RunState.ORPHANED)
