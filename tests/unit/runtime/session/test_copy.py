"""The agent's side of a copy, without a container."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tank_agent.errors import CannotCopy
from tank_agent.runtime.session.copy import Copier, Copying, FilesRequest


def test_an_agent_without_descriptors_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = os.pipe, list[int]()

    def scarce() -> tuple[int, int]:
        if len(made) >= 6:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.extend(real())
        return made[-2], made[-1]

    monkeypatch.setattr(os, "pipe", scarce)
    copier = Copier(most=1)
    run = cast("Any", SimpleNamespace(record=SimpleNamespace(name="web/app"), process=None, exit=None))
    with pytest.raises(OSError, match="Too many open files"):
        copier.start(run, FilesRequest(path="/", read=True))
    for descriptor in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert copier.free.acquire(blocking=False)


@pytest.mark.parametrize(("written", "fails"), [(b"ok", False), (b"okfailed it ended\0", False), (b"", True)])
def test_a_report_is_not_waited_for(written: bytes, fails: bool) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, written)
    copying = cast("Any", object.__new__(Copying))
    copying._report, copying._name = reader, "web/app"
    copying._process = SimpleNamespace(wait=lambda _: 0)
    # The writer stays open, as in a process that the kernel can't end at once.
    if fails:
        with pytest.raises(CannotCopy, match="died"):
            copying.result()
    else:
        assert copying.result().code == 0
    os.close(reader)
    os.close(writer)
