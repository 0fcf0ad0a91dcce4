"""New content for containers that go on: what is due, and the action."""

from __future__ import annotations

from msgspec.structs import replace

from tank_agent.reconcile.core.actions import RunAction
from tank_agent.reconcile.core.hashes import outdated_contents
from tank_agent.reconcile.core.observed import Run, Situation
from tank_agent.spec.model import Container, Pod


class Deliver(RunAction, frozen=True, kw_only=True):
    """Put new content in the place of files of a run while it goes on, and then send it `signals` ("HUP")."""

    sentence = "give container {container} the new content of {paths} while it runs{then}"
    word = "deliver {container}"
    paths: tuple[str, ...]
    signals: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the step as `tank plan` prints it."""
        then = f", then send {' and '.join(self.signals)}" if self.signals else ""
        return self.sentence.format(container=self.container, paths=", ".join(self.paths), then=then)

    def expected(self, situation: Situation) -> Situation:
        """Return the situation with the content in its place."""
        assert situation.desired is not None
        pod, runs = situation.desired.pod, situation.observed.runs
        return situation.seeing(
            runs=tuple(
                replace(run, contents={**run.contents, **outdated_contents(run, pod)}, undelivered=None)
                if run.id == self.run
                else run
                for run in runs
            )
        )


def deliver_due(run: Run, container: Container, pod: Pod) -> tuple[Deliver | None, float | None]:
    """Return what brings a run its new content, None if it has all; and when to try again (monotonic)."""
    contents, failed = outdated_contents(run, pod), run.undelivered
    if not contents:
        return None, None
    found = [mount for mount in container.mounts if mount.path in contents]
    given = (mount.on_change.removeprefix("signal:") for mount in found if mount.on_change != "nothing")
    action = Deliver(
        run=run.id,
        container=container.name,
        paths=tuple(mount.path for mount in found),
        signals=tuple(dict.fromkeys(given)),
    )
    return action, failed.retry_at if failed is not None and failed.contents == contents else None
