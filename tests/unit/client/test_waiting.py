"""The words for who waits for a session: one sentence, told when it changes, until the answer comes."""

from __future__ import annotations

from typing import Any

import pytest

from tank_agent.api.reports import PodReport
from tank_agent.cli.main import parsed
from tank_agent.cli.plain_exec import tell
from tank_agent.client import waiting
from tank_agent.client.fast import start
from tank_agent.client.waiting import sentence, tell_what
from tank_agent.errors import AgentUnreachable, TankError

PULLING = PodReport(name="web", phase="pulling")
WAITING = PodReport(name="web", phase="pending", waits=("waits for pod db: starting",))
RUNNING = PodReport(name="web", phase="running")


class Answer:
    """An answer that comes once there was nothing more to look at."""

    def __init__(self, looks: int) -> None:
        self.left, self.asked = looks, list[float]()

    def comes(self, seconds: float) -> bool:
        self.asked.append(seconds)
        self.left -= 1
        return self.left <= 0


def looks_at(monkeypatch: pytest.MonkeyPatch, *found: PodReport | TankError) -> list[tuple[str, str]]:
    """Let the status of a pod be these, one after the other; return what is asked for."""
    asked, answers = list[tuple[str, str]](), iter(found)

    class Client:
        def __init__(self, path: str) -> None:
            self.path = path

        def status(self, name: str) -> PodReport:
            asked.append((self.path, name))
            answer = next(answers)
            if isinstance(answer, TankError):
                raise answer
            return answer

    monkeypatch.setattr(waiting, "Client", Client)
    return asked


@pytest.mark.parametrize(
    ("pod", "text"),
    [
        (PULLING, "web waits for its image, which is being pulled"),
        (WAITING, "web waits for pod db: starting"),
        (
            PodReport(name="web", phase="pending", waits=("container db: starting",)),
            "web: container db: starting",
        ),
        (PodReport(name="web", phase="pending"), "web waits to start"),
        (PodReport(name="web", phase="stopping"), "web is being stopped, and starts again"),
        (RUNNING, ""),
    ],
)
def test_what_a_pod_waits_for(pod: PodReport, text: str) -> None:
    assert sentence(pod) == text


def test_each_thing_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = AgentUnreachable("nobody")
    asked = looks_at(monkeypatch, PULLING, PULLING, gone, PULLING, WAITING, RUNNING)
    answer, told = Answer(6), list[str]()
    tell_what("/s", "web/app", answer, told.append)  # type: ignore[arg-type]
    assert told == [
        "web waits for its image, which is being pulled; Ctrl-C leaves",
        "web waits for pod db: starting; Ctrl-C leaves",
    ]
    assert asked == [("/s", "web")] * 6
    assert answer.asked == [1.0] * 6


def test_it_goes_to_stderr_so_that_what_is_piped_stays_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks_at(monkeypatch, PodReport(name="web", phase="pending", waits=("waits for \x1b[2J",)))
    tell("/s", "web", Answer(1))  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "web waits for \\x1b[2J; Ctrl-C leaves\n")


@pytest.mark.parametrize(("comes_in_time", "told"), [(True, 0), (False, 1)])
def test_it_is_told_only_once_a_second_has_passed(comes_in_time: bool, told: int) -> None:
    calls = list[Any]()

    class Asked:
        def comes(self, seconds: float) -> bool:
            assert seconds == 1.0
            return comes_in_time

        def answer(self, *, expected: int) -> str:
            return f"answer {expected}"

    assert start._answered(Asked(), calls.append) == "answer 101"  # type: ignore[arg-type,comparison-overlap]
    assert len(calls) == told


@pytest.mark.parametrize(
    ("words", "wait"),
    [
        (("exec", "web", "ls"), None),
        (("exec", "--wait", "5s", "web", "ls"), 5.0),
        (("exec", "--wait", "0s", "web", "ls"), 0.0),
        (("exec", "web", "ls", "--wait", "5s"), None),
        (("attach", "web"), None),
        (("attach", "web", "--wait", "2m"), 120.0),
    ],
)
def test_how_long_is_an_option(words: tuple[str, ...], wait: float | None) -> None:
    assert parsed([*words]).wait == wait


@pytest.mark.parametrize("verb", ["exec", "attach"])
def test_how_long_goes_to_the_agent_and_bounds_the_client(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sent(Exception):
        pass

    sent = list[tuple[str, float]]()

    def ask_for_session(path: str, target: str, body: bytes = b"", within: float = 0.0) -> None:
        sent.append((target, within))
        raise Sent

    monkeypatch.setattr("tank_agent.client.fast.http.ask_for_session", ask_for_session)
    for wait in (None, 2.5):
        with pytest.raises(Sent):
            if verb == "exec":
                start.exec_command("/s", "web", ["ls"], tty=False, stdin=0, stdout=1, stderr=2, wait=wait)
            else:
                start.attach("/s", "web", stdin=0, stdout=1, wait=wait)
    assert ["wait=2.5" in target for target, _ in sent] == [False, True]
    assert [within for _, within in sent] == [30.0, 2.5]
