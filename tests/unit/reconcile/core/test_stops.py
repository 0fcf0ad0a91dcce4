"""From any situation: nothing of a stopped pod runs, and exactly the runs that are to be replaced end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Situation
from tank_agent.reconcile.core.order import unready_pod
from tank_agent.reconcile.core.phase import Phase, view_pod
from tank_agent.reconcile.core.plan import plan
from tank_agent.reconcile.core.restart import stays_down
from tank_agent.runtime.run import RunState
from tests.unit.reconcile.core.builders import watching
from tests.unit.reconcile.core.test_plan import NAMES, rollouts, settle, situations


def with_images(start: Situation) -> Situation:
    """Return the situation with every image here."""
    return start.seeing(images=dict.fromkeys(NAMES, ObservedImage(state=ImageState.READY)))


@settings(max_examples=800, deadline=None)
@given(st.one_of(situations(), rollouts()), st.booleans())
def test_nothing_of_a_stopped_pod_is_left(start: Situation, has_images: bool) -> None:
    if start.desired is None:
        return
    start = with_images(start) if has_images else start
    start = replace(start, status=replace(start.status, stopped=1.0))
    end = settle(start)
    assert end.observed.runs == ()
    assert end.observed.network == "absent"
    assert not [known for known in end.status.containers.values() if known.instance]
    assert plan(end).actions == ()
    # No update is judged, and none begins.
    assert end.status.rollout == start.status.rollout
    view = view_pod(end)
    assert view.phase is Phase.STOPPED
    assert {one.phase for one in view.containers} == {Phase.STOPPED}
    assert unready_pod(end) == "stopped"
    started = settle(with_images(replace(end, status=replace(end.status, stopped=None))))
    assert view_pod(started).phase is not Phase.STOPPED


@settings(max_examples=800, deadline=None)
@given(situations(), st.data())
def test_exactly_the_runs_that_are_to_be_replaced_end(start: Situation, data: st.DataObject) -> None:
    desired = start.desired
    if desired is None:
        return
    # What is left once all is well; a fresh run has another id.
    start = settle(with_images(start.seeing(network_change=None)))
    start = start.seeing(runs=tuple(replace(run, id=f"old-{run.id}") for run in start.observed.runs))
    runs = {run.id: run for run in start.observed.runs}
    asked = frozenset(data.draw(st.sets(st.sampled_from(sorted(runs)))) if runs else ())
    # A run and its hash are recorded at once.
    containers = {
        run.container: replace(
            start.status.containers[run.container],
            hash=run.hash,
            instance=run.id,
            boot_id=start.now.boot_id,
        )
        for run in runs.values()
        if run.container in start.status.containers
    }
    asked = frozenset(id_ for id_ in asked if runs[id_].container in containers)
    status = replace(
        start.status,
        containers={**start.status.containers, **containers},
        replacing=tuple(sorted(asked)),
    )
    marked = tuple(replace(run, replaced=run.id in asked) for run in start.observed.runs)
    end = settle(replace(start, status=status).seeing(runs=marked))
    kept = {run.id for run in end.observed.runs}
    assert kept & runs.keys() == runs.keys() - asked
    assert end.status.replacing == ()
    for id_ in asked:
        name = runs[id_].container
        fresh = [run for run in end.observed.runs if run.container == name]
        assert [run.state for run in fresh] == [RunState.RUNNING]
        known = end.status.containers[name]
        assert (known.failures, known.exit, stays_down(known.exit, desired.pod.restart)) == (0, None, False)
        assert known.restarts == containers[name].restarts


def test_the_wait_of_an_update_goes_on_after_a_stop_and_none_is_judged_meanwhile() -> None:
    late = watching(after=1000.0)
    assert [type(step).__name__ for step in plan(late).actions][:1] == ["Decide"]
    stopped = replace(late, status=replace(late.status, stopped=1.0))
    assert {type(step).__name__ for step in plan(stopped).actions} == {"Stop"}
