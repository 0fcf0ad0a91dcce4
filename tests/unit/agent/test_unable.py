"""While the machine does not let the agent work, whoever asks is told why; a bug is none of that."""

from __future__ import annotations

import errno
import os

import pytest

from tank_agent.agent.unable import as_trouble, unable
from tank_agent.errors import Retry


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "/data"),
            "/data: cannot start: Read-only file system",
        ),
        (MemoryError(), "too small"),
        (RuntimeError("can't start new thread"), "too small"),
        (Retry("cannot open the journal: no"), "cannot open the journal: no"),
    ],
)
def test_every_question_is_answered_with_what_is_wrong(error: Exception, said: str) -> None:
    trouble = as_trouble(error)
    assert said in str(trouble)
    with pytest.raises(Retry) as answer:
        unable(trouble).status()
    assert answer.value is trouble


def test_a_bug_stays_one() -> None:
    with pytest.raises(RuntimeError, match="plan does not converge"):
        as_trouble(RuntimeError("plan does not converge"))
