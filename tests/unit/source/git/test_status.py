"""The status of a git source."""

from __future__ import annotations

from tank_agent.source.git.status import GitStatus, StepStatus


def test_status_tells_the_first_error_and_the_state() -> None:
    status = GitStatus(remote="r", ref="HEAD")
    assert (status.state, status.error) == ("pending", None)
    ok = StepStatus(revision="a")
    assert GitStatus(remote="r", ref="HEAD", fetched=ok, applied=ok).state == "in-sync"
    assert GitStatus(remote="r", ref="HEAD", applied=ok).state == "pending"
    assert GitStatus(remote="r", ref="HEAD", fetched=StepStatus(revision="b"), applied=ok).state == "behind"
    assert GitStatus(remote="r", ref="HEAD", fetched=ok, held="held: x").state == "held"
    bad = GitStatus(remote="r", ref="HEAD", verified=StepStatus(error="no"))
    assert (bad.state, bad.error) == ("error", "verify: no")
