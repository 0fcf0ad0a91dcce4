"""The storm guard, with times that are given."""

from __future__ import annotations

from tank_agent.reconcile.storm import PACE, StormGuard

PODS = [f"pod-{number}" for number in range(10)]
WINDOW = 10.0


def storm(pods: int = 10, at: float = 100.0) -> tuple[StormGuard, list[str]]:
    """Let pods turn unhealthy one after the other until it is a storm, or all are; return what was said."""
    guard, said = StormGuard(), []
    for number, pod in enumerate(PODS[:pods]):
        sentence = guard.turned(pod, PODS[:pods], at + 0.1 * number, WINDOW)
        said += [sentence] if sentence is not None else []
    return guard, said


def test_more_than_half_of_at_least_four_pods_are_a_storm() -> None:
    assert storm(3)[1] == []
    for pods in (4, 5, 10):
        guard, said = storm(pods)
        assert guard.active
        assert len(said) == 1
        assert said[0].startswith(f"{pods // 2 + 1} of {pods} pods with health checks turned unhealthy")


def test_half_of_the_pods_are_none() -> None:
    guard = StormGuard()
    assert [guard.turned(pod, PODS, 1.0, WINDOW) for pod in PODS[:5]] == [None] * 5
    assert guard.hold("run", 1.0) is None


def test_pods_that_turn_one_after_the_other_are_none() -> None:
    guard = StormGuard()
    assert [guard.turned(pod, PODS, 5.0 * number, WINDOW) for number, pod in enumerate(PODS)] == [None] * 10
    # Nor is one pod that turns again and again.
    assert [guard.turned("pod-0", PODS, 100.0 + number, WINDOW) for number in range(10)] == [None] * 10


def test_pods_that_are_being_restarted_count_as_probed() -> None:
    guard = StormGuard()
    for number, pod in enumerate(PODS[:4]):
        probed = PODS[number:4]
        said = guard.turned(pod, probed, 1.0 + number, WINDOW)
        assert (said is not None) == (number == 2)
        guard.left(pod, 1.0 + number)


def test_pods_that_were_removed_long_ago_do_not_count() -> None:
    guard = StormGuard()
    for pod in PODS[3:]:
        guard.left(pod, 0.0)
    assert [guard.turned(pod, PODS[:3], 100.0, WINDOW) for pod in PODS[:3]] == [None] * 3


def test_restarts_are_paced_in_a_storm() -> None:
    guard, _ = storm()
    assert guard.hold("run-0", 101.0) is None
    guard.restarted("run-0", 101.0)
    assert guard.hold("run-1", 101.5) == 101.0 + PACE
    assert guard.hold("run-2", 101.5) == 101.0 + 2 * PACE
    # Each keeps its time, and one is due at its own only.
    assert guard.hold("run-1", 110.9) == 101.0 + PACE
    assert guard.hold("run-1", 111.0) is None
    assert guard.hold("run-2", 111.0) == 121.0
    guard.restarted("run-1", 111.2)
    assert guard.hold("run-3", 111.3) == 131.0


def test_restarts_just_before_the_storm_count() -> None:
    guard = StormGuard()
    guard.restarted("run-0", 99.0)
    for pod in PODS[:6]:
        guard.turned(pod, PODS, 100.0, WINDOW)
    assert guard.hold("run-1", 100.0) == 109.0


def test_a_storm_ends_when_no_pod_is_unhealthy() -> None:
    guard, _ = storm()
    guard.hold("run-0", 101.0)
    guard.gone("run-0", 3)
    assert guard.active
    guard.gone("run-1", 0)
    assert not guard.active
    assert guard.hold("run-2", 102.0) is None
    # The next one is told again.
    assert any(guard.turned(pod, PODS, 200.0, WINDOW) for pod in PODS)


def test_it_is_told_once() -> None:
    guard, said = storm()
    assert len(said) == 1
    assert [guard.turned(pod, PODS, 105.0, WINDOW) for pod in PODS] == [None] * 10
