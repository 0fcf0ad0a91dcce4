"""Following a repository: what a push may do to a machine, and what not. Real git makes every commit."""

from __future__ import annotations

import hashlib
import importlib
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.settings.git import GitSettings, GitVerify
from tank_agent.source.git.access import GitError
from tank_agent.source.git.child import HelperPool, HelperSession
from tank_agent.source.git.objects import Commit, Tag
from tank_agent.source.git.source import GitSource
from tank_agent.source.git.status import GitStatus
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Host, content_hash
from tests.support.git import (
    Work,
    git_daemon,
    https_server,
    make_certificate,
    make_key,
    pod_text,
    wait_until,
)


class Desired(Struct, frozen=True):
    name: str
    owner: str
    hash: str


class Machine:
    """What the agent is to the source: it takes snapshots over as the journal would, and remembers."""

    def __init__(self, work: Work, directory: Path, transport: str = "dulwich", **settings: object) -> None:
        self.work = work
        self.data_dir = directory
        self.directory = directory / "git"
        self.memory: dict[str, bytes] = {}
        self.desired: dict[str, Desired] = {}
        self.published: list[Snapshot] = []
        self.told: list[GitStatus] = []
        fields = {"url": str(work.bare), "branch": "main", "path": "pods", "timeout": 30.0, **settings}
        self.settings = GitSettings(transport=transport, **fields)  # type: ignore[arg-type]
        self.pool = HelperPool()
        self.start()

    def start(self) -> None:
        """Begin as a new process would, with only what is remembered."""
        inbox: Any = SimpleNamespace(
            settings=SimpleNamespace(data_dir=self.data_dir),
            host=Host(name="edge-1", labels={"site": "fra"}),
            owned=self.current,
            publish=self.publish,
            remember=self.memory.__setitem__,
            recall=lambda key: self.memory.get(key, b""),
        )
        self.source = GitSource(self.settings, inbox, on_status=self.told.append, pool=self.pool)

    def current(self) -> list[Desired]:
        return list(self.desired.values())

    def publish(self, snapshot: Snapshot, cause: str) -> None:
        self.published.append(snapshot)
        kept = {problem.pod for problem in snapshot.problems}
        self.desired = {
            name: pod
            for name, pod in self.desired.items()
            if pod.owner in snapshot.unreadable or name in kept
        }
        for item in snapshot.pods:
            self.desired[item.pod.name] = Desired(item.pod.name, item.owner, content_hash(item.pod))

    def sync(self) -> GitStatus:
        status = self.source.poll()
        assert "\n" not in (status.error or "") + (status.held or "")
        assert not list(self.directory.glob("scratch-*"))
        return status

    @property
    def runs(self) -> str:
        return " ".join(sorted(self.desired))


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(tmp_path)
    for name in ("a", "b", "c"):
        made.write(f"pods/{name}.toml")
    made.commit("begin")
    return made


@pytest.fixture(params=["dulwich", "git"])
def machine(request: pytest.FixtureRequest, work: Work, tmp_path: Path) -> Machine:
    return Machine(work, tmp_path / "data", request.param)


@pytest.fixture
def one(work: Work, tmp_path: Path) -> Machine:
    return Machine(work, tmp_path / "data")


def test_follows_changes_additions_renames_and_removals(machine: Machine, work: Work) -> None:
    status = machine.sync()
    assert (status.state, machine.runs) == ("in-sync", "a b c")
    assert status.applied.revision == status.fetched.revision == work.head()
    assert status.commit is not None
    assert (status.commit.author, status.commit.subject) == ("Ann Author", "begin")
    before = dict(machine.desired)
    machine.sync()
    assert len(machine.published) == 1
    work.write("pods/a.toml", pod_text(command="false"))
    work.write("pods/deep/d.toml")
    work.git("mv", "pods/b.toml", "pods/e.toml")
    work.git("rm", "--quiet", "pods/c.toml")
    work.write("pods/.draft.toml")
    work.write("other/x.toml")
    head = work.commit("all at once")
    machine.settings = machine.settings
    machine.memory["git.confirmed." + machine.source._key] = head.encode()
    assert machine.sync().applied.revision == head
    assert machine.runs == "a d e"
    assert machine.desired["a"].hash != before["a"].hash
    assert machine.desired["d"].owner == "git:pods/deep/d.toml"
    assert machine.published[-1].pods[0].revision == head


def test_a_bad_commit_keeps_what_ran_and_a_good_one_follows(machine: Machine, work: Work) -> None:
    machine.sync()
    before = dict(machine.desired)
    work.write("pods/a.toml", "this is no TOML")
    work.write("pods/b.toml", pod_text(command="false"))
    assert machine.sync().state == "in-sync"
    work.commit("bad")
    status = machine.sync()
    assert status.state == "in-sync"
    assert [problem.file for problem in machine.published[-1].problems] == ["pods/a.toml"]
    assert machine.runs == "a b c"
    assert machine.desired["a"] == before["a"]
    assert machine.desired["b"] != before["b"]
    work.write("pods/a.toml", pod_text(command="false"))
    work.commit("good")
    machine.sync()
    assert machine.published[-1].problems == ()
    assert machine.desired["a"] != before["a"]


def test_links_submodules_and_huge_files_do_no_harm(machine: Machine, work: Work) -> None:
    (work.path / "pods/link.toml").symlink_to("/etc/passwd")
    (work.path / "pods/up.toml").symlink_to("../other/x.toml")
    (work.path / "pods/sub").symlink_to("/etc")
    work.write("other/x.toml")
    work.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(work.bare), "pods/module")
    work.write("pods/huge.toml", "# " + "x" * (2 << 20))
    (work.path / "pods/noise.bin").write_bytes(os.urandom(3 << 20))
    work.commit("hostile")
    status = machine.sync()
    assert (status.state, machine.runs) == ("in-sync", "a b c")
    assert [str(problem).split(" ", 1)[0] for problem in machine.published[-1].problems] == [
        "pods/link.toml:",
        "pods/up.toml:",
        "pods/huge.toml:",
    ]


def write_bomb(work: Work, path: str, size: int) -> None:
    """Commit a file of zeros without ever having it: git keeps a few bytes for each megabyte."""
    digest = hashlib.sha1(b"blob %d\0" % size)
    pack = zlib.compressobj(1)
    data = pack.compress(b"blob %d\0" % size)
    for _ in range(size >> 20):
        digest.update(bytes(1 << 20))
        data += pack.compress(bytes(1 << 20))
    data += pack.flush()
    name = digest.hexdigest()
    file = work.path / ".git/objects" / name[:2] / name[2:]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    work.git("update-index", "--add", "--cacheinfo", f"100644,{name},{path}")
    work.git("commit", "--quiet", "-m", "bomb")
    work.push()


def test_a_file_that_unpacks_to_gigabytes_is_left_out(machine: Machine, work: Work) -> None:
    machine.sync()
    limits = machine.source._clone.limits
    machine.source._clone.limits = msgspec.structs.replace(limits, memory=300 << 20)
    write_bomb(work, "pods/bomb.toml", 320 << 20)
    status = machine.sync()
    assert machine.runs == "a b c"
    assert (status.state, status.error) == ("in-sync", None)
    assert "pods/bomb.toml: is larger than" in str(machine.published[-1].problems[0])
    work.git("rm", "--quiet", "--cached", "pods/bomb.toml")
    work.git("commit", "--quiet", "--amend", "--allow-empty", "-m", "defused")
    work.git("config", "--file", str(work.bare / "config"), "receive.denyNonFastForwards", "false")
    work.push("--force")
    machine.source._clone.limits = limits
    assert machine.sync().fetched.error is None


def test_a_path_that_is_a_link_or_missing_removes_nothing(machine: Machine, work: Work) -> None:
    machine.sync()
    work.git("mv", "pods", "moved")
    (work.path / "pods").symlink_to("moved")
    work.commit("link")
    status = machine.sync()
    assert status.checked.error is not None
    assert "pods is a symbolic link, not a directory" in status.checked.error
    (work.path / "pods").unlink()
    head = work.commit("gone")
    status = machine.sync()
    assert status.error == "check: pods is not in this commit; the pods that run go on"
    assert (status.state, machine.runs) == ("error", "a b c")
    machine.source.confirm(head[:12])
    assert (machine.sync().state, machine.runs) == ("in-sync", "")


def test_a_repository_emptied_by_mistake_waits_for_a_nod(machine: Machine, work: Work) -> None:
    machine.sync()
    work.git("rm", "--quiet", "-r", "pods")
    work.write("pods/README", "nothing here")
    head = work.commit("oops")
    status = machine.sync()
    assert (status.state, status.error, machine.runs) == ("held", None, "a b c")
    assert status.held is not None
    assert "would remove 3 (a, b, c) of 3 pods" in status.held
    assert f"tank sync --confirm {head[:12]}" in status.held
    with pytest.raises(Stalled, match="no commit"):
        machine.source.confirm("0" * 40)
    work.git("revert", "--no-edit", "HEAD")
    work.push()
    status = machine.sync()
    assert (status.state, status.held, machine.runs) == ("in-sync", None, "a b c")


def test_a_confirmed_commit_goes_through_also_after_a_restart(one: Machine, work: Work) -> None:
    one.settings = GitSettings(url=one.settings.url, branch="main", path="pods", budget=0)
    one.start()
    one.sync()
    work.git("rm", "--quiet", "pods/c.toml")
    head = work.commit("remove one")
    assert one.sync().state == "held"
    one.source.confirm(head)
    one.start()
    assert (one.sync().state, one.runs) == ("in-sync", "a b")


def test_an_older_commit_is_refused(work: Work, tmp_path: Path) -> None:
    machine = Machine(work, tmp_path / "data", depth=0)
    first = work.head()
    second = work.commit("second")
    machine.sync()
    work.git("push", "--quiet", "--force", "origin", f"{first}:main")
    status = machine.sync()
    assert "is older than the deployed commit" in (status.verified.error or "")
    assert status.applied.revision == second


def test_a_branch_moved_back_to_the_deployed_commit_is_in_sync_again(machine: Machine, work: Work) -> None:
    good = work.head()
    assert machine.sync().state == "in-sync"

    def move_back() -> None:
        work.git("push", "--quiet", "--force", "origin", f"{good}:main")
        status = machine.sync()
        assert (status.state, status.error, status.held) == ("in-sync", None, None)
        assert status.fetched.revision == status.checked.revision == status.applied.revision == good
        assert status.latest == status.commit is not None
        work.git("reset", "--quiet", "--hard", good)

    work.git("rm", "--quiet", "-r", "pods")
    work.write("pods/README", "nothing here")
    held = work.commit("held")
    assert machine.sync().state == "held"
    move_back()
    # What waited and went away is judged anew when it comes back.
    work.git("push", "--quiet", "--force", "origin", f"{held}:main")
    assert machine.sync().state == "held"
    move_back()
    work.git("mv", "pods", "moved")
    work.commit("no such path")
    assert machine.sync().error == "check: pods is not in this commit; the pods that run go on"
    move_back()
    work.git("commit", "--quiet", "--amend", "-m", "rewritten")
    work.push("--force")
    assert "does not follow the deployed commit" in (machine.sync().verified.error or "")
    move_back()
    assert len(machine.published) == 1


def test_a_held_commit_waits_again_when_the_refused_one_on_top_is_taken_back(
    machine: Machine, work: Work
) -> None:
    machine.sync()
    good = work.head()
    work.git("rm", "--quiet", "-r", "pods")
    work.write("pods/README", "nothing here")
    held = work.commit("held")
    assert machine.sync().state == "held"
    work.git("checkout", "--quiet", "--orphan", "other")
    work.commit("refused", push=False)
    work.git("push", "--quiet", "--force", "origin", "HEAD:main")
    assert "does not follow" in (machine.sync().verified.error or "")
    work.git("push", "--quiet", "--force", "origin", f"{held}:main")
    status = machine.sync()
    assert (status.state, status.error, status.applied.revision) == ("held", None, good)
    count = len(machine.told)
    machine.sync()
    assert len(machine.told) == count
    machine.source.confirm(held)
    assert (machine.sync().state, machine.runs) == ("in-sync", "")


def test_rewritten_history_and_older_commits_are_refused(machine: Machine, work: Work) -> None:
    first = work.head()
    work.write("pods/a.toml", pod_text(command="false"))
    second = work.commit("second")
    assert machine.sync().applied.revision == second
    work.git("push", "--quiet", "--force", "origin", f"{first}:main")
    status = machine.sync()
    assert status.verified.error is not None
    assert "is older than the deployed commit" in status.verified.error
    work.git("reset", "--quiet", "--hard", first)
    work.write("pods/a.toml", pod_text(command="sleep"))
    rewritten = work.commit("rewritten", push=False)
    work.push("--force")
    for _ in range(2):
        status = machine.sync()
        assert status.verified.error is not None
        assert "does not follow the deployed commit" in status.verified.error
        assert status.applied.revision == second
        machine.start()
    # The fix needs no hand on the machine.
    work.git("merge", "--quiet", "--strategy=ours", "-m", "join", second)
    joined = work.head()
    work.push()
    assert machine.sync().applied.revision == joined
    assert rewritten != joined


def test_a_rewrite_is_followed_where_it_is_allowed(machine: Machine, work: Work) -> None:
    machine.settings = GitSettings(
        url=machine.settings.url, path="pods", allow_rewrite=True, transport=machine.settings.transport
    )
    machine.start()
    machine.sync()
    work.git("commit", "--quiet", "--amend", "-m", "amended")
    work.push("--force")
    status = machine.sync()
    assert (status.state, status.applied.revision) == ("in-sync", work.head())


def test_the_deployed_commit_is_found_behind_a_shallow_copy(machine: Machine, work: Work) -> None:
    machine.sync()
    for number in range(5):
        work.commit(f"step {number}")
    # The copy is lost, so that the next has depth 1 and does not reach back to the deployed commit.
    shutil.rmtree(machine.directory)
    machine.start()
    status = machine.sync()
    assert (status.state, status.error, status.applied.revision) == ("in-sync", None, work.head())


@pytest.fixture
def signers(work: Work, tmp_path: Path) -> Path:
    for name in ("ann", "eve"):
        make_key(tmp_path / name)
    public = (tmp_path / "ann.pub").read_text().split()
    file = tmp_path / "allowed_signers"
    file.write_text(f"ann@example.com {public[0]} {public[1]}\n")
    for name, value in (("gpg.format", "ssh"), ("user.signingKey", str(tmp_path / "ann"))):
        work.git("config", name, value)
    return file


def verifying(machine: Machine, signers: Path, **more: object) -> Machine:
    machine.settings = GitSettings(
        url=machine.settings.url,
        path="pods",
        transport=machine.settings.transport,
        verify=GitVerify(mode="tag" if "tag" in more else "commits", allowed_signers=str(signers)),
        **more,  # type: ignore[arg-type]
    )
    machine.start()
    return machine


def test_every_commit_since_the_deployed_one_must_be_signed(
    machine: Machine, work: Work, signers: Path
) -> None:
    verifying(machine, signers)
    status = machine.sync()
    assert "is not signed" in (status.error or "")
    assert machine.published == []
    good = work.commit("good", "--gpg-sign")
    assert machine.sync().applied.revision == good
    work.commit("unsigned")
    work.commit("signed over it", "--gpg-sign")
    status = machine.sync()
    assert status.error is not None
    assert '"unsigned" by Ann Author) is refused: it is not signed' in status.error
    assert status.applied.revision == good
    # The way out: history on top of what is deployed, signed from end to end.
    work.git("reset", "--quiet", "--hard", good)
    fixed = work.commit("fixed", "--gpg-sign", push=False)
    work.push("--force")
    assert machine.sync().applied.revision == fixed


def test_a_helper_that_keeps_the_unsigned_commit_to_itself_is_not_believed(
    one: Machine, work: Work, signers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = work.commit("good", "--gpg-sign")
    assert verifying(one, signers).sync().applied.revision == good
    unsigned = work.commit("unsigned")
    work.commit("signed over it", "--gpg-sign")
    answer = HelperSession.history

    def withhold(
        session: HelperSession, tip: str, deployed: str | None, *, full: bool = False
    ) -> tuple[list[Tag], dict[str, Commit]]:
        tags, commits = answer(session, tip, deployed, full=full)
        return tags, {name: commit for name, commit in commits.items() if not (full and name == unsigned)}

    # Whoever sends the pack may have taken the helper over; it is asked twice before a commit is refused.
    monkeypatch.setattr(HelperSession, "history", withhold)
    status = one.sync()
    assert "is missing" in (status.error or "")
    assert status.applied.revision == good


def test_a_merge_brings_no_unsigned_commit_in(machine: Machine, work: Work, signers: Path) -> None:
    base = work.commit("base", "--gpg-sign")
    verifying(machine, signers).sync()
    work.git("checkout", "--quiet", "-b", "side", base)
    work.write("pods/d.toml")
    work.commit("side", push=False)
    work.git("checkout", "--quiet", "main")
    main = work.commit("main", "--gpg-sign")
    assert machine.sync().applied.revision == main
    work.git("merge", "--quiet", "--no-ff", "--gpg-sign", "-m", "merge", "side")
    work.push()
    status = machine.sync()
    assert '"side" by Ann Author) is refused' in (status.error or "")
    assert status.applied.revision == main


def test_where_rewrites_are_allowed_an_older_commit_must_be_signed_too(
    machine: Machine, work: Work, signers: Path
) -> None:
    unsigned = work.head()
    signed = work.commit("signed", "--gpg-sign")
    latest = work.commit("latest", "--gpg-sign")
    verifying(machine, signers, allow_rewrite=True)
    assert machine.sync().applied.revision == latest
    work.git("push", "--quiet", "--force", "origin", f"{unsigned}:main")
    status = machine.sync()
    assert '"begin" by Ann Author) is refused: it is not signed' in (status.error or "")
    assert status.applied.revision == latest
    work.git("push", "--quiet", "--force", "origin", f"{signed}:main")
    assert machine.sync().applied.revision == signed


def test_a_signed_tag_vouches_for_its_commit(machine: Machine, work: Work, signers: Path) -> None:
    work.git("tag", "-a", "-m", "x", "v1")
    work.git("push", "--quiet", "origin", "v1")
    verifying(machine, signers, tag="v1")
    assert "is refused: it is not signed" in (machine.sync().error or "")
    work.git("tag", "--force", "-s", "-m", "x", "v1")
    work.git("push", "--quiet", "--force", "origin", "v1")
    assert machine.sync().applied.revision == work.head()
    # A signed tag under another name is not the one that was signed.
    work.commit("next")
    work.git("tag", "-s", "-m", "x", "v2")
    work.git("push", "--quiet", "--force", "origin", "refs/tags/v2:refs/tags/v1")
    assert "made as v2" in (machine.sync().error or "")


def test_nothing_unverified_is_vouched_for(machine: Machine, work: Work, signers: Path) -> None:
    verifying(machine, signers)
    base = work.commit("base", "--gpg-sign")
    assert machine.sync().applied.revision == base
    unsigned = work.commit("unsigned")
    assert "is not signed" in (machine.sync().error or "")
    on_top = work.commit("signed over it", "--gpg-sign")
    work.git("checkout", "--quiet", "-b", "side", base)
    aside = work.commit("unsigned aside")
    signed_aside = work.commit("signed over that", "--gpg-sign")
    work.git("checkout", "--quiet", "-B", "other", base)
    good_aside = work.commit("signed aside", "--gpg-sign")
    for commit in (unsigned, on_top, aside, signed_aside):
        for _ in range(2):
            with pytest.raises(GitError, match="is refused: it is not signed"):
                machine.source.vouch(commit)
        machine.start()
    # What was verified when it came, and what would be verified if it came now.
    machine.source.vouch(base)
    machine.source.vouch(good_aside)
    # An older one counts by itself, as if the branch were moved back to it.
    first = work.git("rev-list", "--max-parents=0", "HEAD")
    with pytest.raises(GitError, match="is refused: it is not signed"):
        machine.source.vouch(first)
    with pytest.raises(GitError):
        machine.source.vouch("0" * 40)
    assert (machine.sync().applied.revision, len(machine.published)) == (base, 1)


def test_what_was_verified_may_come_back_when_its_key_has_gone(
    machine: Machine, work: Work, signers: Path
) -> None:
    verifying(machine, signers)
    first = work.commit("first", "--gpg-sign")
    machine.sync()
    work.commit("second", "--gpg-sign")
    machine.sync()
    signers.write_text("eve@example.com " + (signers.parent / "eve.pub").read_text())
    machine.start()
    machine.source.vouch(first)
    third = work.commit("third", "--gpg-sign")
    with pytest.raises(GitError, match="its key is not in"):
        machine.source.vouch(third)


def test_a_commit_deployed_before_verify_is_told_when_it_comes(
    machine: Machine, work: Work, signers: Path
) -> None:
    unsigned = work.head()
    assert machine.sync().applied.revision == unsigned
    verifying(machine, signers, branch="main")
    published = len(machine.published)
    status = machine.sync()
    assert "is refused: it is not signed" in (status.error or "")
    assert (status.applied.revision, len(machine.published)) == (unsigned, published)
    assert not machine.source.is_vouched(unsigned)
    signed = work.commit("signed", "--gpg-sign")
    assert (machine.sync().state, machine.source.is_vouched(signed)) == ("in-sync", True)
    machine.start()
    assert machine.sync().state == "in-sync"
    with pytest.raises(GitError, match="is refused: it is not signed"):
        machine.source.vouch(unsigned)


def test_under_signed_tags_only_tagged_commits_are_vouched_for(
    machine: Machine, work: Work, signers: Path
) -> None:
    first = work.head()
    work.git("tag", "-s", "-m", "x", "v1")
    work.git("push", "--quiet", "origin", "v1")
    verifying(machine, signers, tag="v1").sync()
    second = work.commit("signed, but no tag names it", "--gpg-sign")
    third = work.commit("third")
    work.git("tag", "--force", "-s", "-m", "x", "v1")
    work.git("push", "--quiet", "--force", "origin", "v1")
    machine.start()
    assert machine.sync().applied.revision == third
    machine.source.vouch(first)
    machine.source.vouch(third)
    with pytest.raises(GitError, match="no signed tag named it"):
        machine.source.vouch(second)


def test_a_host_takes_its_own_directory(work: Work, tmp_path: Path) -> None:
    work.write("hosts/edge-1/x.toml")
    work.write("hosts/edge-2/y.toml")
    work.commit("hosts")
    machine = Machine(work, tmp_path / "data", path="hosts/{hostname}")
    machine.sync()
    assert machine.runs == "x"


def test_reads_any_commit_without_following_it(machine: Machine, work: Work) -> None:
    first = work.head()
    work.write("pods/d.toml")
    work.commit("second")
    work.git("config", "--file", str(work.bare / "config"), "uploadpack.allowAnySHA1InWant", "true")
    machine.sync()
    found = machine.source.read(first)
    assert sorted(item.pod.name for item in found.pods) == ["a", "b", "c"]
    assert (machine.runs, len(machine.published)) == ("a b c d", 1)
    with pytest.raises(GitError):
        machine.source.read("0" * 40)


def test_reads_branches_and_tags_without_following_them(machine: Machine, work: Work) -> None:
    machine.sync()
    work.git("checkout", "--quiet", "-b", "more")
    work.write("pods/d.toml")
    work.commit("on a branch")
    work.git("tag", "-a", "v1", "-m", "tagged")
    work.git("push", "--quiet", "origin", "v1")
    for name in ("more", "v1", "refs/heads/more"):
        found = machine.source.read(name)
        assert sorted(item.pod.name for item in found.pods) == ["a", "b", "c", "d"]
        assert {item.subject for item in found.pods} == {"on a branch"}
    assert len(machine.source.read("main").pods) == 3
    for name in ("none", "--upload-pack=x", "a..b", "x" * 300):
        with pytest.raises(GitError):
            machine.source.read(name)
    assert machine.sync().state == "in-sync"
    assert (machine.runs, len(machine.published)) == ("a b c", 1)


def damage_pack(repository: Path) -> None:
    for pack in repository.glob("objects/pack/*.pack"):
        data = bytearray(pack.read_bytes())
        for at in range(20, len(data) - 20, 7):
            data[at] ^= 0xFF
        pack.write_bytes(data)


def remove_packs(repository: Path) -> None:
    for file in repository.glob("objects/pack/*"):
        file.unlink()


def cut_pack(repository: Path) -> None:
    for pack in repository.glob("objects/pack/*.pack"):
        os.truncate(pack, 40)


def replace_index(repository: Path) -> None:
    for index in repository.glob("objects/pack/*.idx"):
        index.write_bytes(b"nonsense")


def forget_everything(repository: Path) -> None:
    shutil.rmtree(repository)
    repository.write_text("a file")
    repository.unlink()


@pytest.mark.parametrize("damage", [damage_pack, remove_packs, cut_pack, replace_index, forget_everything])
@pytest.mark.parametrize("restart", [False, True])
def test_a_damaged_copy_repairs_itself(machine: Machine, work: Work, damage, restart: bool) -> None:  # type: ignore[no-untyped-def]
    machine.sync()
    damage(machine.directory / "repository")
    if restart:
        machine.start()
        status = machine.sync()
        assert (status.state, status.error, machine.runs) == ("in-sync", None, "a b c")
    work.write("pods/d.toml")
    head = work.commit("after the damage")
    status = machine.sync()
    assert (status.state, status.error, status.applied.revision) == ("in-sync", None, head)
    assert machine.runs == "a b c d"
    assert [entry.name for entry in machine.directory.iterdir()] == ["repository"]


def test_many_packs_become_one(one: Machine, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tank_agent.source.git.source.MANY_PACKS", 3)
    for number in range(6):
        work.write("pods/a.toml", pod_text(command=f"c{number}"))
        head = work.commit(f"step {number}")
        status = one.sync()
        assert (status.state, status.error, status.applied.revision) == ("in-sync", None, head)
        assert len(list(one.directory.glob("repository/objects/pack/*.pack"))) <= 4


def orphans() -> list[str]:
    """Return the helpers whose agent is gone."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            parent = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"tank_agent.source.git.helper" in words and parent == "1":
            found.append(process.name)
    return found


STEPS = [
    "git:scratch-made",
    "git:pack-copied",
    "git:pack-taken",
    "git:pack-taken@2",
    "git:tip-written",
    "git:fetched",
    "git:have-written",
    "git:verified",
    "git:checked",
    "git:published",
    "git:remembered",
    "git:renewal-begun",
    "git:swap-begun",
    "git:swap-done",
]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_step_it_goes_on_where_it_was(
    one: Machine, work: Work, step: str, tmp_path: Path
) -> None:
    one.sync()
    if "swap" in step or "renewal" in step:
        damage_pack(one.directory / "repository")
    work.write("pods/d.toml")
    head = work.commit("next")
    state = tmp_path / "memory"
    state.mkdir()
    for key, value in one.memory.items():
        (state / key).write_bytes(value)
    code = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from tank_agent.settings.git import GitSettings
from tank_agent.source.git.source import GitSource
from tank_agent.spec.model import Host
state = Path({str(state)!r})
inbox = SimpleNamespace(
    settings=SimpleNamespace(data_dir=Path({str(one.data_dir)!r})),
    host=Host(name="edge-1"),
    owned=lambda: (),
    publish=lambda snapshot, cause: None,
    remember=lambda key, value: (state / key).write_bytes(value),
    recall=lambda key: (state / key).read_bytes() if (state / key).exists() else b"",
)
source = GitSource(GitSettings(url={str(work.bare)!r}, branch="main", path="pods"), inbox)
print(source.poll())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TANK_FAULT": step},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, (step, done.stdout, done.stderr)
    wait_until(lambda: not orphans(), what="the end of the helper of a killed agent")
    one.memory = {file.name: file.read_bytes() for file in state.iterdir()}
    one.start()
    status = one.sync()
    assert (status.state, status.error, status.applied.revision) == ("in-sync", None, head)
    assert one.runs == "a b c d"
    assert [entry.name for entry in one.directory.iterdir()] == ["repository"]


def test_a_strict_umask_keeps_the_helper_out_of_nothing(one: Machine, work: Work) -> None:
    before = os.umask(0o077)
    try:
        assert one.sync().state == "in-sync"
    finally:
        os.umask(before)
    work.write("pods/d.toml")
    work.commit("next")
    os.umask(0o077)
    try:
        assert one.sync().state == "in-sync"
    finally:
        os.umask(before)
    assert one.runs == "a b c d"


@pytest.mark.parametrize("transport", ["dulwich", "git"])
def test_an_agent_whose_code_only_root_may_read_follows_a_repository(
    work: Work, tmp_path: Path, transport: str
) -> None:
    """The helper gives up root, and can load no more of the code then."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for package in ("tank_agent", "dulwich", "urllib3"):
        shutil.copytree(Path(importlib.import_module(package).__path__[0]), closed / package)
    authority, certificate = make_certificate(tmp_path)
    code = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, {str(closed)!r})
import dulwich
from tank_agent.settings.git import GitSettings
from tank_agent.source.git import source
from tank_agent.spec.model import Host
assert source.__file__.startswith({str(closed)!r}) and dulwich.__file__.startswith({str(closed)!r})
for number, url in enumerate(sys.argv[1:]):
    settings = GitSettings(url=url, path="pods", transport={transport!r}, ca_file={str(authority)!r})
    inbox = SimpleNamespace(
        settings=SimpleNamespace(data_dir=Path({str(tmp_path)!r}, f"data-{{number}}")), host=Host(name="x"),
        owned=lambda: (), publish=lambda snapshot, cause: print(len(snapshot.pods)),
        remember=lambda *_: None, recall=lambda _: b"",
    )
    followed = source.GitSource(settings, inbox)
    print(followed.poll().error)
"""
    with git_daemon(tmp_path) as plain, https_server(tmp_path, certificate) as https:
        urls = [str(work.bare), f"{plain}/fleet.git", f"{https}/fleet.git"]
        done = subprocess.run(
            [sys.executable, "-c", code, *urls],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout.split()) == (0, ["3", "None"] * 3), done.stderr


def test_a_full_disk_is_said_and_survived(one: Machine, work: Work, tmp_path: Path) -> None:
    """The source works on a tmpfs of 256 KiB, in a mount namespace of its own."""
    # Other files than pods' are not copied.
    noise = (f"# {os.urandom(300_000).hex()}\n" for _ in range(2))
    for number, text in enumerate(noise):
        work.write(f"pods/noise-{number}.toml")
        path = work.path / f"pods/noise-{number}.toml"
        path.write_text(text + path.read_text())
    work.commit("large")
    disk = tmp_path / "disk"
    disk.mkdir()
    code = f"""
import ctypes, os, subprocess
from pathlib import Path
from types import SimpleNamespace
from tank_agent.settings.git import GitSettings
from tank_agent.source.git.source import GitSource
from tank_agent.spec.model import Host
assert ctypes.CDLL(None).unshare(0x20000) == 0
run = lambda *argv: subprocess.run(argv, check=True)
run("mount", "--make-rprivate", "/")
run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", {str(disk)!r})
for transport in ("dulwich", "git"):
    inbox = SimpleNamespace(
        settings=SimpleNamespace(data_dir=Path({str(disk)!r})), host=Host(name="x"),
        owned=lambda: (), publish=print, remember=lambda *_: None, recall=lambda _: b"",
    )
    source = GitSource(GitSettings(url={str(work.bare)!r}, path="pods", transport=transport), inbox)
    print(source.poll().error, os.listdir({str(disk / "git")!r}))
run("mount", "-o", "remount,size=8m", {str(disk)!r})
print(source.poll().state)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["fetch: no space left below data_dir ['repository']"] * 2, done.stdout
    assert lines[-1] == "in-sync"


def test_a_server_that_is_down_changes_nothing(machine: Machine, work: Work, tmp_path: Path) -> None:
    with git_daemon(tmp_path) as address:
        machine.settings = GitSettings(
            url=f"{address}/fleet.git", path="pods", transport=machine.settings.transport, timeout=20
        )
        machine.start()
        assert machine.sync().state == "in-sync"
    status = machine.sync()
    assert status.error is not None
    assert status.error.startswith("fetch: ")
    assert (status.applied.revision, machine.runs) == (work.head(), "a b c")
    # Started without a network, the agent still applies what it has.
    machine.start()
    machine.published.clear()
    status = machine.sync()
    assert (status.state, status.applied.revision, len(machine.published)) == ("error", work.head(), 1)


class BadServer:
    """Passes the git protocol on from a real server, but stops, or hangs up, after so many bytes."""

    def __init__(self, target: int, limit: int, *, stall: bool) -> None:
        self._target, self._limit, self._stall = target, limit, stall
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> BadServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with socket.socket() as poke:
            poke.connect_ex(("127.0.0.1", self.port))
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            client, _ = self._listener.accept()
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                self._relay(client, server)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        left = self._limit
        open_ends = [client, server]
        while not self._stop.is_set():
            ready, _, _ = select.select(open_ends, [], [], 0.05)
            for source in ready:
                data = source.recv(left if source is server else 65536)
                if source is client:
                    if not data:
                        # Only its writing end: it still reads.
                        open_ends.remove(client)
                        server.shutdown(socket.SHUT_WR)
                    else:
                        server.sendall(data)
                    continue
                if not data:
                    return
                client.sendall(data)
                left -= len(data)
                if left == 0:
                    if self._stall:
                        self._stop.wait(20)
                    return


@pytest.mark.parametrize("stall", [False, True])
def test_half_a_pack_and_a_stalled_server_end_in_one_line(
    machine: Machine, work: Work, tmp_path: Path, stall: bool
) -> None:
    (work.path / "noise.bin").write_bytes(os.urandom(1 << 20))
    work.commit("large")
    with git_daemon(tmp_path) as address:
        port = int(address.rsplit(":", 1)[1])
        for limit in (10, 200_000):
            with BadServer(port, limit, stall=stall) as bad:
                machine.settings = GitSettings(
                    url=f"git://127.0.0.1:{bad.port}/fleet.git",
                    path="pods",
                    transport=machine.settings.transport,
                    timeout=2,
                )
                machine.start()
                status = machine.sync()
                assert status.error is not None, limit
                assert status.error.startswith("fetch: "), status.error
                assert not stall or "no answer within 2 s" in status.error
                assert machine.published == []
        machine.settings = GitSettings(url=f"{address}/fleet.git", path="pods", timeout=20)
        machine.start()
        assert machine.sync().state == "in-sync"


def test_a_repository_that_may_not_be_read_says_so(machine: Machine, work: Work) -> None:
    work.bare.chmod(0o700)
    status = machine.sync()
    assert status.error == "fetch: the repository may not be read"
    # Given to who pushes, it is read as that user.
    for path in (work.bare, *work.bare.rglob("*")):
        os.chown(path, 1234, 1234)
    assert machine.sync().state == "in-sync"


def test_stop_ends_a_fetch_that_hangs(work: Work, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/fleet.git"
        machine = Machine(work, tmp_path / "data", url=url, timeout=60.0)
        thread = threading.Thread(target=machine.source.poll)
        thread.start()
        connection, _ = silent.accept()
        machine.source.stop()
        # It would end by itself after 60 s.
        thread.join(40)
        assert not thread.is_alive()
        connection.close()


def test_status_is_told_once_per_change(one: Machine, work: Work) -> None:
    one.sync()
    count = len(one.told)
    for _ in range(3):
        one.sync()
    assert len(one.told) == count
    shutil.move(work.bare, f"{work.bare}.away")
    for _ in range(3):
        one.sync()
    assert len(one.told) == count + 1
    assert one.told[-1].fetched.error == f"{work.bare}: No such file or directory"
    shutil.move(f"{work.bare}.away", work.bare)
    one.sync()
    assert (len(one.told), one.told[-1].error) == (count + 2, None)


@pytest.fixture
def warm() -> Iterator[HelperPool]:
    pool = HelperPool(warm=True)
    yield pool
    pool.close()


def test_a_helper_in_reserve_is_replaced_when_it_dies(one: Machine, work: Work, warm: HelperPool) -> None:
    one.pool = warm
    one.start()
    one.sync()
    assert warm._spare is not None
    pid = warm._spare.process.pid
    warm._spare.kill()
    wait_until(lambda: warm._spare is not None and not warm._spare.usable)
    head = work.commit("next")
    assert one.sync().applied.revision == head
    assert warm._spare is not None and warm._spare.process.pid != pid
