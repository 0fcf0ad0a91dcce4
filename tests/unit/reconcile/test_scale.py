"""Nothing is quadratic in pods: counted, not timed, for some pods and for four times as many."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tank_agent.control.pods import Service, settled
from tank_agent.journal.records import PodStatus
from tank_agent.reconcile.machine import Work
from tests.support.counting import assert_linear, operations
from tests.support.fake_runtime import fake_machine
from tests.unit.reconcile.test_troubles import StillClock, World, live, pod


def world_of(pods: int, *, running: bool = True) -> World:
    specs = [pod(f"pod-{number:04}") for number in range(pods)]
    world = World(*specs, clock=StillClock())
    if running:
        world.found = {spec.name: (live(spec),) for spec in specs}
    else:
        world.network = "absent"
    return world


def service_of(world: World) -> Service:
    sources = SimpleNamespace(pod_report=lambda _: (None, None), directory_problems=lambda: ())
    world.measured = lambda _: {}  # type: ignore[attr-defined]
    world.addresses = world.ports = world.wanted_ports = lambda _: ()  # type: ignore[attr-defined]
    world.leases = lambda _: {}  # type: ignore[attr-defined]
    machine = fake_machine(world.journal, world, cast(Any, world.clock), backoff=None)
    nothing = cast(Any, None)
    images = cast(Any, SimpleNamespace(checks=SimpleNamespace(newer=lambda _: {}, errors=lambda _: {})))
    return Service(
        nothing,
        machine,
        world.loop,
        nothing,
        sessions=nothing,
        images=images,
        sources=cast(Any, sources),
        storage=nothing,
    )


def test_a_resync_looks_at_each_pod_once() -> None:
    assert_linear(lambda pods: operations(world_of(pods).loop.resync), few=20)


def test_work_on_one_pod_does_not_look_at_the_others() -> None:
    def measure(pods: int) -> int:
        world = world_of(pods, running=False)

        def do(action: object, work: Work) -> None:
            world.found[work.name] = (live(pod(work.name)),)

        world.do = do  # type: ignore[method-assign]

        def work() -> None:
            for name in world.journal.desired():
                world.loop.wake(name, "test")
            while not world.loop.idle():
                name = world.loop._queue.take()
                assert name is not None
                world.loop._reconcile(name, "test")
                world.loop._queue.done(name)

        counted = operations(work)
        assert len(world.found) == pods
        return counted

    assert_linear(measure, few=10)


def test_status_and_plan_look_at_each_pod_once() -> None:
    def status(pods: int) -> int:
        world = world_of(pods)
        service = service_of(world)
        return operations(service.status)

    def plan(pods: int) -> int:
        world = world_of(pods)
        service = service_of(world)
        return operations(lambda: service.plan(None))

    assert_linear(status, few=10)
    assert_linear(plan, few=10)


def test_one_of_many_pods_is_shown_without_the_others() -> None:
    few, many = (world_of(pods) for pods in (5, 200))
    costs = [operations(lambda world=world: service_of(world).status("pod-0003")) for world in (few, many)]
    assert costs[1] < 2 * costs[0]


def test_to_wait_for_all_pods_looks_at_all_of_them_seldom() -> None:
    """As often as pods are worked on, it is asked again whether all of them are settled."""

    def measure(pods: int) -> int:
        world = world_of(pods)
        # The last one is on its way.
        last = f"pod-{pods - 1:04}"
        world.found[last] = ()
        all_settled = settled(world.loop)

        def ask() -> None:
            for _ in range(pods):
                assert not all_settled()

        counted = operations(ask)
        world.found[last] = (live(pod(last)),)
        assert all_settled()
        return counted

    assert_linear(measure)


def test_what_one_pod_is_waited_for_costs_nothing_for_the_others() -> None:
    def measure(pods: int) -> int:
        world = world_of(pods)
        world.journal.record("gone", PodStatus(error="x"))

        def ask() -> None:
            for _ in range(pods):
                assert world.loop.knows("pod-0001")
                assert world.loop.knows("gone")

        return operations(ask)

    assert_linear(measure)
