"""The health that the loop sees, with times and results that are given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tank_agent.image.config import ImageHealthcheck
from tank_agent.journal.records import Exit, Health, NewEvent
from tank_agent.linux.clock import Clock
from tank_agent.reconcile import probes as module
from tank_agent.reconcile.core.observed import Probed
from tank_agent.reconcile.prober import Watch
from tank_agent.reconcile.probes import HEALTH_CHANGED, Probes
from tank_agent.reconcile.storm import PACE
from tank_agent.runtime.health.result import GOOD, ProbeResult, bad, ours
from tank_agent.runtime.run import LiveRun, RunRecord
from tank_agent.spec.model import Container, HealthCheck

CHECK = HealthCheck(tcp=80, interval=10.0, timeout=4.0, retries=2, start_period=0.0, start_interval=1.0)


class HandMovedClock(Clock):
    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return 5000.0 + self.now

    def monotonic(self) -> float:
        return self.now


class FakeProber:
    """Notes when probes are due."""

    def __init__(
        self, _watches: object, _lock: object, _executor: object, _clock: object, settle: Any
    ) -> None:
        self.settle = settle
        self.aborted: list[str] = []
        self.started, self.closed = False, False

    def start(self) -> None:
        self.started = True

    def alive(self) -> bool:
        return self.started and not self.closed

    def schedule(self, watch: Watch, at: float) -> None:
        watch.at = at

    def abort(self, watch: Watch) -> None:
        self.aborted.append(watch.id)

    def close(self) -> None:
        self.closed = True


class World:
    """Probes whose results a test gives."""

    def __init__(self) -> None:
        self.clock = HandMovedClock()
        self.woken: list[str] = []
        self.events: list[NewEvent] = []
        self.frozen = False
        executor = SimpleNamespace(cgroups=SimpleNamespace(frozen=lambda _: self.frozen))
        self.probes = Probes(
            cast("Any", executor), self.clock, self.wake, self.events.append, lambda pod: Path("/netns") / pod
        )

    def wake(self, pod: str, cause: str) -> None:
        assert cause == HEALTH_CHANGED
        self.woken.append(pod)

    @property
    def prober(self) -> FakeProber:
        return cast("FakeProber", self.probes._prober)

    def watch(self, run: str) -> Watch:
        return self.probes._watches[run]

    def want(self, run: str = "run-1", check: HealthCheck | None = CHECK, **options: Any) -> LiveRun:
        live = options.pop("live", None) or live_run(run, self.clock.now)
        wanted = {"hurry": False, "known": None, **options}
        self.probes.want(live, Container(name="app", health=check), **wanted)
        return live

    def settle(self, *results: ProbeResult, run: str = "run-1", late: float = 0.0) -> None:
        """Let results come, each at the time that its probe is due."""
        for result in results:
            watch = self.watch(run)
            self.clock.now = max(self.clock.now, watch.at)
            watch.begun = self.clock.now
            self.prober.settle(watch, watch.probe, result, late)

    def seen(self, run: str = "run-1") -> Probed:
        probed = self.probes.observe(run)
        assert probed is not None
        return probed

    def state(self, run: str = "run-1") -> str:
        return self.seen(run).health.state

    def told(self) -> list[str]:
        return [event.type for event in self.events]


def live_run(run: str, now: float, **changes: Any) -> LiveRun:
    record = RunRecord(
        id=run,
        pod=f"pod-of-{run}",
        container="app",
        hash="",
        revision="r",
        cgroup="/group",
        image="",
        stop_signal=15,
        stop_grace=1.0,
        terminal=False,
        created_at=0.0,
    )
    facts = {"started": True, "alive_since": now}
    return LiveRun(record=record, directory=Path("/nowhere"), **facts | changes)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "Prober", FakeProber)
    return World()


def test_a_container_without_a_probe_costs_no_thread(world: World) -> None:
    world.want(check=None)
    world.want(check=HealthCheck(interval=5.0))
    assert world.probes.observe("run-1") is None
    assert world.prober is None
    world.probes.drop(["run-1"])
    world.probes.drop_pod("pod-of-run-1")
    assert world.probes.alive()
    world.probes.close()


def test_a_fresh_run_is_probed_soon_and_not_all_at_one_moment(world: World) -> None:
    times = set()
    for number in range(100):
        world.want(f"run-{number}")
        times.add(round(world.watch(f"run-{number}").at - 1000.0, 3))
    assert all(0.9 <= time <= 1.1 for time in times)
    assert len(times) > 50
    assert world.seen() == Probed(health=Health(state="starting", since=6000.0))


def test_healthy_then_unhealthy_then_healthy(world: World) -> None:
    world.want()
    world.settle(GOOD)
    assert (world.state(), world.told(), len(world.woken)) == ("healthy", ["healthy"], 1)
    steady = world.seen().steady_since
    assert steady == world.clock.now
    world.settle(GOOD, GOOD, GOOD)
    assert (world.seen().steady_since, len(world.woken)) == (steady, 1)
    world.settle(bad("no\nanswer"))
    assert (world.state(), world.seen().steady_since, len(world.woken)) == ("healthy", None, 2)
    assert (world.seen().health.message, world.seen().health.failing) == ("no\\nanswer", 1)
    world.settle(bad("no answer"))
    assert (world.state(), world.seen().restart, len(world.woken)) == ("unhealthy", True, 3)
    assert world.told() == ["healthy", "unhealthy"]
    event = world.events[-1]
    assert (event.pod, event.container, event.revision) == ("pod-of-run-1", "app", "r")
    assert event.message == "2 probes in a row failed: no answer"
    world.settle(GOOD)
    assert (world.state(), world.seen().restart, len(world.woken)) == ("healthy", False, 4)
    assert world.told() == ["healthy", "unhealthy", "healthy"]


def test_probes_keep_their_interval(world: World) -> None:
    world.want()
    world.settle(GOOD)
    first = world.watch("run-1").at - world.clock.now
    # Those that became healthy together are apart from then on.
    assert 5.0 <= first <= 10.0
    for _ in range(3):
        world.settle(GOOD)
        assert world.watch("run-1").at == world.clock.now + 10.0


def test_probes_share_wake_ups(world: World) -> None:
    runs = [f"run-{number}" for number in range(100)]
    for run in runs:
        world.want(run)
    for run in runs:
        world.settle(GOOD, run=run)
    # Two a second, and those that became healthy together are spread over half an interval.
    assert 5 <= len({world.watch(run).at for run in runs}) <= 12


def test_a_probe_that_took_long_leaves_the_container_a_pause(world: World) -> None:
    world.want(hurry=True)
    watch = world.watch("run-1")
    watch.begun = 1001.0
    world.clock.now = 1005.0
    world.prober.settle(watch, watch.probe, bad("late"), 0.0)
    assert watch.at == 1005.5


def test_probes_are_counted_by_how_they_end_and_ours_take_no_time(world: World) -> None:
    world.want()
    world.settle(GOOD, GOOD, bad("no"), ours("busy"))
    watch = world.watch("run-1")
    watch.begun = world.clock.now
    world.clock.now += 1.5
    world.prober.settle(watch, watch.probe, GOOD, 0.0)
    record = watch.run.record
    found = world.probes._counters.of(record.pod)
    assert found is not None
    ((key, count),) = found.probes.items()
    assert key == (record.container, "http" if CHECK.http else "tcp" if CHECK.tcp else "exec")
    assert count.ended == {"successful": 3, "failed": 1, "unknown": 1}
    assert count.seconds == 1.5
    # One of a run that is probed no more counts for nobody.
    world.probes.drop(["run-1"])
    world.prober.settle(watch, watch.probe, GOOD, 0.0)
    again = world.probes._counters.of(record.pod)
    assert again is not None and again.probes[key].ended["successful"] == 3


def test_on_failure_none_restarts_nothing(world: World) -> None:
    world.want(check=replace(CHECK, on_failure="none"))
    world.settle(bad("no"), *[bad("no")] * 12)
    assert (world.state(), world.seen().restart) == ("unhealthy", False)


def test_after_its_verdict_the_loop_has_time_to_restart_it(world: World) -> None:
    world.want(check=replace(CHECK, interval=1.0, retries=1))
    world.settle(bad("no"))
    assert world.seen().restart
    # It may recover where the loop does not, as in a storm.
    assert 4.7 < world.watch("run-1").at - world.clock.now < 5.3
    world.settle(GOOD)
    assert world.state() == "healthy"


def test_errors_of_ours_are_dropped_and_five_in_a_row_are_told(world: World) -> None:
    world.want()
    world.settle(GOOD)
    before = world.seen()
    world.settle(*[ours("crun is busy")] * 4)
    assert (world.seen(), world.told()) == (before, ["healthy"])
    world.settle(ours("crun is busy"))
    assert world.told() == ["healthy", "probe-trouble"]
    assert world.events[-1].message == "its health can't be found out: crun is busy"
    world.settle(*[ours("crun is busy")] * 20)
    assert world.told() == ["healthy", "probe-trouble"]
    world.settle(GOOD, *[ours("crun is busy")] * 5)
    assert world.told() == ["healthy", "probe-trouble", "probe-trouble"]
    assert world.state() == "healthy"


def test_failures_while_the_agent_is_late_are_dropped_and_successes_are_not(world: World) -> None:
    world.want()
    world.settle(bad("timeout"), bad("timeout"), bad("timeout"), late=2.1)
    assert (world.state(), world.seen().health.failing) == ("starting", 0)
    world.settle(GOOD, late=100.0)
    assert world.state() == "healthy"
    world.settle(bad("no"), bad("no"), late=1.9)
    assert world.state() == "unhealthy"


def test_failures_of_a_frozen_container_are_dropped(world: World) -> None:
    world.want()
    world.settle(GOOD)
    world.frozen = True
    world.settle(*[bad("timeout")] * 10)
    assert world.state() == "healthy"
    world.frozen = False
    world.settle(bad("no"), bad("no"))
    assert world.state() == "unhealthy"


def test_failures_of_a_container_that_has_ended_are_dropped(world: World) -> None:
    live = world.want()
    world.settle(GOOD)
    live.exit = Exit(at=1.0, code=0)
    world.settle(bad("refused"), bad("refused"))
    assert (world.state(), world.seen().health.failing, world.told()) == ("healthy", 0, ["healthy"])


def test_what_the_journal_knows_is_shown_until_a_probe_says_otherwise(world: World) -> None:
    known = Health(state="healthy", since=4.0)
    live = live_run("run-1", 1000.0, adopted=True)
    world.want(live=live, known=known)
    assert world.seen() == Probed(health=known)
    assert 1000.0 <= world.watch("run-1").at <= 1010.0
    world.settle(GOOD)
    assert world.seen().health == known
    assert world.seen().steady_since is not None
    assert (world.told(), len(world.woken)) == ([], 1)


def test_adopted_runs_are_spread_over_an_interval_unless_an_update_waits(world: World) -> None:
    known, times = Health(state="healthy", since=4.0), []
    for number in range(100):
        live = live_run(f"run-{number}", 1000.0, adopted=True)
        world.want(live=live, known=known)
        times.append(world.watch(f"run-{number}").at - 1000.0)
    assert min(times) < 1.0
    assert max(times) > 9.0
    live = live_run("run-x", 1000.0, adopted=True)
    world.want(live=live, known=known, hurry=True)
    assert world.watch("run-x").at <= 1001.1


def test_an_adopted_run_is_not_restarted_before_a_probe_confirms_it(world: World) -> None:
    known = Health(state="unhealthy", since=4.0, message="old", failing=2)
    world.want(live=live_run("run-1", 1000.0, adopted=True), known=known)
    assert world.seen() == Probed(health=known)
    world.settle(bad("still"))
    assert world.seen().restart
    assert world.seen().health.since == 4.0


def test_wanting_the_same_again_changes_nothing(world: World) -> None:
    live = world.want()
    watch, at = world.watch("run-1"), world.watch("run-1").at
    for _ in range(3):
        world.want(live=live, check=replace(CHECK))
    assert world.watch("run-1") is watch
    assert watch.at == at
    assert world.prober.aborted == []


def test_an_update_that_waits_makes_probes_close(world: World) -> None:
    live = world.want()
    world.settle(GOOD)
    world.want(live=live, hurry=True)
    assert world.watch("run-1").at == world.clock.now + 1.0
    world.settle(GOOD, GOOD)
    assert world.watch("run-1").at == world.clock.now + 1.0
    world.want(live=live, hurry=False)
    world.settle(GOOD)
    assert 5.0 <= world.watch("run-1").at - world.clock.now <= 10.0


def test_a_changed_probe_counts_anew_and_keeps_what_is_shown(world: World) -> None:
    live = world.want()
    world.settle(bad("no"), *[bad("no")] * 11)
    assert world.seen().restart
    world.want(live=live, check=replace(CHECK, tcp=81))
    assert world.prober.aborted == ["run-1"]
    assert (world.state(), world.seen().restart) == ("unhealthy", False)
    world.settle(bad("no"))
    assert world.seen().restart is False
    world.settle(GOOD)
    assert world.state() == "healthy"


def test_a_late_result_of_the_former_probe_is_dropped(world: World) -> None:
    live = world.want()
    watch, former = world.watch("run-1"), world.watch("run-1").probe
    world.want(live=live, check=replace(CHECK, tcp=81))
    world.prober.settle(watch, former, GOOD, 0.0)
    assert world.state() == "starting"
    world.probes.drop(["run-1"])
    world.prober.settle(watch, watch.probe, GOOD, 0.0)
    assert (world.probes.observe("run-1"), world.told(), world.woken) == (None, [], [])


def test_a_probe_that_is_taken_out_of_the_file_ends(world: World) -> None:
    live = world.want()
    world.want(live=live, check=None)
    assert world.probes.observe("run-1") is None
    assert world.prober.aborted == ["run-1"]


def test_the_image_has_a_health_check(world: World) -> None:
    live = live_run("run-1", 1000.0)
    live.record = replace(live.record, healthcheck=ImageHealthcheck(command=("/check",), interval=7.0))
    world.want(live=live, check=None)
    assert world.watch("run-1").probe.exec == ("/check",)
    world.want(live=live, check=HealthCheck(image=False))
    assert world.probes.observe("run-1") is None


def test_drop_is_idempotent_and_by_pod(world: World) -> None:
    world.want("run-1")
    world.want("run-2")
    world.probes.drop(["run-1", "run-1", "never"])
    world.probes.drop(["run-1"])
    world.probes.drop_pod("pod-of-run-2")
    world.probes.drop_pod("pod-of-run-2")
    assert world.prober.aborted == ["run-1", "run-2"]
    assert (world.probes.observe("run-1"), world.probes.observe("run-2")) == (None, None)


def test_a_namespace_is_asked_for_once_a_run(world: World) -> None:
    world.want()
    assert world.watch("run-1").netns == Path("/netns/pod-of-run-1")


def test_a_storm_paces_restarts_and_is_told_once(world: World) -> None:
    runs = [f"run-{number}" for number in range(6)]
    for run in runs:
        world.want(run)
        world.settle(GOOD, run=run)
    for _ in range(2):
        for run in runs:
            watch = world.watch(run)
            watch.begun = world.clock.now
            world.prober.settle(watch, watch.probe, bad("no"), 0.0)
        world.clock.now += 10.0
    assert world.told().count("health-storm") == 1
    storm = next(event for event in world.events if event.type == "health-storm")
    assert (storm.pod, storm.container) == ("", "")
    holds = [world.seen(run).hold for run in runs]
    now = world.clock.now
    assert holds == [None, *(now + PACE * number for number in range(1, 6))]
    assert [world.probes.hold(run) for run in runs] == holds
    # The loop restarts the first; another one recovers by itself.
    world.probes.restarted("run-0")
    world.probes.drop(["run-0"])
    world.settle(GOOD, run="run-1")
    assert world.seen("run-1").restart is False
    for run in runs[2:]:
        world.probes.drop([run])
    world.want("run-7")
    assert world.probes.hold("run-7") is None


def test_a_journal_that_fails_ends_no_probes(world: World) -> None:
    def fail(_event: NewEvent) -> None:
        raise OSError("full")

    world.probes._report = fail
    world.want()
    world.settle(GOOD)
    assert (world.state(), len(world.woken)) == ("healthy", 1)


def test_closing_ends_the_thread_and_nothing_begins_later(world: World) -> None:
    world.want()
    prober = world.prober
    assert world.probes.alive()
    world.probes.close()
    assert prober.closed
    world.want("run-2")
    assert world.probes.observe("run-2") is None
    world.probes.close()
