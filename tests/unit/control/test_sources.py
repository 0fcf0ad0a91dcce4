"""The verbs about sources: which revision is meant, what is refused, how a pod stands to its repository."""

from __future__ import annotations

import msgspec
import pytest

from tank_agent.control.sources import Sources
from tank_agent.errors import InvalidSpec, PodNotFound, Retry, Stalled
from tank_agent.intake.intake import Unstored, owned_pods
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Good, PodStatus, Rollout, Verdict
from tank_agent.journal.store import MemoryStore
from tank_agent.journal.transitions import Applied
from tank_agent.source.directory import DirectoryFollower
from tank_agent.source.follower import Follower
from tank_agent.source.git.access import GitError
from tank_agent.source.git.follower import GitFollower
from tank_agent.source.git.objects import CommitInfo
from tank_agent.source.git.status import GitStatus, StepStatus
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Host, RestartPolicy, Volume, content_hash
from tank_agent.spec.parse import parse_pod_file
from tests.support.age import secrets_of
from tests.unit.journal.builders import FakeClock, pod, snapshot

COMMITS = [f"{number}" * 40 for number in range(1, 5)]


class FakeSources:
    def __init__(self) -> None:
        self.is_suspended = False
        self.announced: list[tuple[Applied, str]] = []
        self.looks = 0
        self.late: Follower | None = None
        self.secrets = secrets_of()
        self.unstored = Unstored(Journal(MemoryStore(), clock=FakeClock()))

    def suspended(self) -> bool:
        return self.is_suspended

    def suspend(self) -> None:
        self.is_suspended = True

    def resume(self) -> None:
        self.is_suspended = False

    def announce(self, applied: Applied, cause: str) -> None:
        self.announced.append((applied, cause))

    def look(self, within: float) -> Follower | None:
        self.looks += 1
        return self.late


class FakeGit:
    def __init__(self) -> None:
        self.status = GitStatus(remote="/srv/x", ref="refs/heads/main")
        self.snapshots: dict[str, Snapshot] = {}
        self.repository = self
        self.troubles: tuple[str, ...] = ()
        self.refused: set[str] = set()

    def is_vouched(self, commit: str) -> bool:
        return commit not in self.refused

    def vouch(self, commit: str) -> None:
        if commit in self.refused:
            raise GitError("refused", f"commit {commit[:12]} is refused: it is not signed")

    def read(self, revision: str) -> Snapshot:
        return self.snapshots[revision]


def of_git(command: str, commit: str) -> Snapshot:
    declared = Declared(
        pod=pod(command=command),
        owner="git:web.toml",
        revision=commit,
        file="web.toml",
        author="Ann",
        subject=command,
    )
    return snapshot(declared, source="git")


class World:
    """A journal whose pod web went through the commands one, two, three, and what asks it."""

    def __init__(self) -> None:
        self.journal = Journal(MemoryStore(), clock=FakeClock())
        self.sources, self.git = FakeSources(), FakeGit()
        for command, commit in zip(("one", "two", "three"), COMMITS, strict=False):
            self.journal.merge(of_git(command, commit))
        self.gitops = Sources(self.journal, self.sources, self.git, Host(name="edge-1"))  # type: ignore[arg-type]

    @property
    def command(self) -> str:
        found = self.journal.get("web")
        assert found is not None
        return " ".join(found.pod.containers[0].command or ())

    def report(self) -> dict[str, str | None]:
        found, _ = self.gitops.pod_report(self.journal.get("web"))
        assert found is not None
        return dict(msgspec.to_builtins(found))


@pytest.fixture
def world() -> World:
    return World()


def test_rollback_goes_back_one_each_time(world: World) -> None:
    assert world.gitops.roll_back("web", None).generation == 2
    assert world.command == "two"
    assert world.gitops.roll_back("web", None).generation == 1
    assert world.command == "one"
    with pytest.raises(Stalled, match="no older revision"):
        world.gitops.roll_back("web", None)
    applied, cause = world.sources.announced[-1]
    assert (applied.changed, cause) == (("web",), "rolled back")


@pytest.mark.parametrize(
    ("to", "command"), [("1", "one"), ("2", "two"), (COMMITS[0], "one"), (COMMITS[1][:4], "two")]
)
def test_rollback_to_a_generation_or_a_commit(world: World, to: str, command: str) -> None:
    world.gitops.roll_back("web", to)
    assert world.command == command


@pytest.mark.parametrize("to", ["9", "22", "ffff", "", "0" * 39])
def test_rollback_to_what_is_not_kept(world: World, to: str) -> None:
    with pytest.raises(Stalled, match="is kept"):
        world.gitops.roll_back("web", to)
    with pytest.raises(PodNotFound):
        world.gitops.roll_back("nobody", to)


def test_rollback_to_a_commit_of_the_repository(world: World) -> None:
    world.git.snapshots[COMMITS[3]] = of_git("four", COMMITS[3])
    revision = world.gitops.roll_back("web", COMMITS[3])
    assert (world.command, revision.generation, revision.subject) == ("four", 0, "four")
    world.git.snapshots["f" * 40] = snapshot(source="git")
    with pytest.raises(Stalled, match="has no valid pod web"):
        world.gitops.roll_back("web", "f" * 40)


def test_rollback_of_applied_pods_and_seeds_goes_back_one_each_time(world: World) -> None:
    applied = [pod("job", command=word) for word in ("a", "b", "c")]
    for number, spec in enumerate(applied):
        world.journal.put_all([spec], f"{number}" * 12)
    for number in (2, 1):
        assert world.gitops.roll_back("job", None).generation == number
    with pytest.raises(Stalled, match="no older revision"):
        world.gitops.roll_back("job", None)
    # Where a restored generation is restored again, it is still the text of the first one.
    world.gitops.roll_back("job", "4")
    assert world.gitops.roll_back("job", None).generation == 1
    world.journal.put_all([pod("job", command="d")], "f" * 12)
    assert world.gitops.roll_back("job", None).pod == applied[0]


@pytest.mark.parametrize("to", [None, "2", COMMITS[1][:4], COMMITS[1], COMMITS[3]])
def test_rollback_brings_no_text_of_an_unverified_commit_back(world: World, to: str | None) -> None:
    world.git.snapshots[COMMITS[3]] = of_git("four", COMMITS[3])
    world.git.refused = {COMMITS[1], COMMITS[3]}
    with pytest.raises(GitError, match="is refused: it is not signed"):
        world.gitops.roll_back("web", to)
    assert world.command == "three"
    # Not by the way over another owner either: the text is still that commit's.
    world.journal.merge(snapshot(source="git"))
    world.journal.put_all([pod(command="applied")], "f" * 12)
    with pytest.raises(GitError, match="is refused"):
        world.gitops.roll_back("web", "2")
    world.gitops.roll_back("web", "1")
    assert world.command == "one"


def test_text_that_came_before_verify_is_told(world: World) -> None:
    world.gitops.roll_back("web", "1")
    world.git.refused = {COMMITS[0]}
    assert world.report()["state"] == "pinned"
    assert "was never verified" in (world.report()["error"] or "")


def test_sync_says_why_not(world: World) -> None:
    world.gitops.sync(None)
    assert world.sources.looks == 1
    world.sources.late = GitFollower.__new__(GitFollower)
    with pytest.raises(Retry, match=r"git is still being looked at after 0\.2 s"):
        world.gitops.sync(None, 0.2)
    world.sources.late = DirectoryFollower.__new__(DirectoryFollower)
    with pytest.raises(Retry, match="files of pods_dir are still being looked at"):
        world.gitops.sync(None)
    world.gitops.suspend(None)
    with pytest.raises(Stalled, match="suspended"):
        world.gitops.sync(None)
    with pytest.raises(Stalled, match="all sources are suspended"):
        world.gitops.resume("web")
    with pytest.raises(Stalled, match="no git repository"):
        Sources(world.journal, FakeSources(), None, Host(name="x")).sync("")  # type: ignore[arg-type]


def test_how_a_pod_stands(world: World) -> None:
    assert world.report()["state"] == "behind"
    done = StepStatus(revision=COMMITS[2])
    world.git.status = GitStatus(remote="r", ref="r", fetched=done, applied=done)
    assert world.report() == {
        "state": "in-sync",
        "error": None,
        "commit": COMMITS[2],
        "author": "Ann",
        "subject": "three",
        "file": "web.toml",
    }
    newer = StepStatus(revision=COMMITS[3])
    world.git.status = GitStatus(remote="r", ref="r", fetched=newer, applied=done, held="too much")
    assert (world.report()["state"], world.report()["error"]) == ("held", "too much")
    world.git.status = GitStatus(remote="r", ref="r", fetched=StepStatus(error="no answer"), applied=done)
    assert (world.report()["state"], world.report()["error"]) == ("error", "fetch: no answer")
    world.gitops.roll_back("web", "1")
    assert world.report()["state"] == "pinned"
    world.gitops.suspend("web")
    assert world.report()["state"] == "suspended"


def test_the_report_of_the_repository(world: World) -> None:
    commit = CommitInfo(id=COMMITS[2], author="Ann", subject="three", at=0.0)
    done = StepStatus(revision=COMMITS[2], at=0.0)
    world.git.status = GitStatus(remote="r", ref="r", fetched=done, applied=done, commit=commit)
    report = msgspec.to_builtins(world.gitops.report())
    assert (report["suspended"], report["git"]["state"], report["git"]["pods"]) == (False, "in-sync", 1)
    assert report["git"]["commit"]["at"] == "1970-01-01T00:00:00Z"
    world.gitops.suspend(None)
    assert msgspec.to_builtins(world.gitops.report())["git"]["state"] == "suspended"
    alone = Sources(world.journal, world.sources, None, Host(name="x"))  # type: ignore[arg-type]
    assert "agent.toml has no [git]" in msgspec.to_builtins(alone.report())["git"]["error"]
    world.journal.merge(snapshot(source="git"))
    assert alone.report().git is None


def test_the_budget_counts_what_files_declare(world: World) -> None:
    assert [one.hash for one in owned_pods(world.journal.desired().values())] == [
        content_hash(pod(command="three"))
    ]
    world.gitops.roll_back("web", "1")
    assert [one.hash for one in owned_pods(world.journal.desired().values())] == [
        content_hash(pod(command="three"))
    ]
    world.gitops.suspend("web")
    assert owned_pods(world.journal.desired().values()) == []


def test_what_is_meant_for_others_is_refused(world: World) -> None:
    text = 'hosts = ["core-*"]\n[[containers]]\nname = "app"\nrootfs = "/srv/x"\ncommand = ["/x"]\n'
    found = parse_pod_file(text, "web.toml").pods
    with pytest.raises(InvalidSpec, match=r"web\.toml:1: is not meant for this machine \(edge-1\)"):
        world.gitops.refuse_elsewhere(found, "web.toml")
    assert world.gitops.parse(text.encode(), "web.toml").pods == ()


def fail(world: World, generation: int) -> None:
    """Let the pod's present generation fail as an update, and go back to another one."""
    found = world.journal.revision("web", generation)
    assert found is not None
    rollout = Rollout(generation=3, kind="update", boot_id="b", begun=1.0, replaced=generation)
    good = Good(generation=generation, hash=found.hash, at=1.0)
    world.journal.record("web", PodStatus(rollout=rollout, good=good))
    verdict = Verdict(outcome="failed", at=2.0, reason="container app ended with exit code 3")
    world.journal.quarantine("web", 3, verdict, found)


def test_rollback_to_what_failed_needs_force(world: World) -> None:
    fail(world, 2)
    assert world.command == "two"
    for to in ("3", COMMITS[2], COMMITS[2][:6]):
        with pytest.raises(Stalled, match="failed as an update: container app ended with exit code 3"):
            world.gitops.roll_back("web", to)
    # One before: not the failed one, and not the one that is back already.
    assert world.gitops.roll_back("web", None).generation == 1
    assert world.gitops.roll_back("web", "3", force=True).generation == 3
    assert world.command == "three"


def test_a_rollback_with_data_puts_the_snapshots_back_before_the_start(world: World) -> None:
    spec = msgspec.structs.replace(pod("db"), volumes=(Volume(name="data", snapshot=True),))
    changed = msgspec.structs.replace(spec, restart=RestartPolicy.ON_FAILURE)
    first, second = (world.journal.put(one, name) for one, name in ((spec, "a" * 12), (changed, "b" * 12)))
    good = Good(generation=1, hash=first.hash, at=1.0, snapshots={"data": "2"})
    rollout = Rollout(generation=second.generation, kind="update", boot_id="b", begun=1.0, replaced=1)
    world.journal.record("db", PodStatus(rollout=rollout, good=good))
    with pytest.raises(Stalled, match="no snapshot of the data"):
        world.gitops.roll_back("web", None, with_data=True)
    assert world.gitops.roll_back("db", None, with_data=True).generation == 1
    found = world.journal.status("db").rollout
    # The rollout of the new generation begins with it.
    assert found is not None and found.restore == {"data": "2"}
    event = world.journal.events()[-1]
    assert (event.type, event.message) == (
        "rolled-back",
        "rolled back to generation 1, with the data that it had",
    )


def test_a_rollback_without_data_leaves_the_volumes(world: World) -> None:
    fail(world, 2)
    world.gitops.roll_back("web", "1")
    found = world.journal.status("web").rollout
    assert found is not None and found.restore == {}
