"""Follow one repository: fetch → verify → check → publish, each step with its own status.

A step that fails changes nothing that runs: the next look tries again, from that step. Nothing here waits for
a time; `follower` does.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from tank_agent.errors import Problem, Stalled, TankError
from tank_agent.linux import fault
from tank_agent.settings.git import COMMIT, GitSettings, is_reference_name, problems
from tank_agent.source.files import PodFile, only_beside, parse_bytes
from tank_agent.source.follower import Inbox
from tank_agent.source.git import content, decide, verify
from tank_agent.source.git.access import GitError, Wanted
from tank_agent.source.git.address import parse_url
from tank_agent.source.git.child import HelperPool, HelperSession
from tank_agent.source.git.clone import Clone, Look
from tank_agent.source.git.objects import BadObjectError, Commit, parse_tree, printable
from tank_agent.source.git.repository import MANY_PACKS
from tank_agent.source.git.status import GitStatus, Progress, StepFailedError, StepStatus, kind_of
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.beside import FILE_MAX
from tank_agent.spec.model import Selector
from tank_agent.spec.selection import mismatch

# Files of the last commit stay in memory up to this size, so that the next one needs only what changed.
_KEPT = 16 << 20
# Seconds that a request of a user waits for a look that runs.
_PATIENCE = 30.0


class GitSource:
    """Follows one repository. `poll`, `read` and `confirm` may be called from any thread; one runs at a time.

    Args:
        settings: those in which `settings.problems` finds nothing.
        inbox: publishes snapshots in the thread that called `poll`, and keeps small values over restarts.
        on_status: called with every change of the status; must return at once.

    Raises:
        Stalled: the settings are wrong.
    """

    def __init__(
        self,
        settings: GitSettings,
        inbox: Inbox,
        *,
        on_status: Callable[[GitStatus], None] = lambda _: None,
        pool: HelperPool | None = None,
    ) -> None:
        found = problems(settings)
        if found:
            raise Stalled("; ".join(f"git.{key}: {message}" for key, message in found), hint="see agent.toml")
        self._settings = settings
        self._inbox = inbox
        self.remote = parse_url(settings.url)
        directory = inbox.settings.data_dir / "git"
        self._clone = Clone(settings, self.remote, directory, pool or HelperPool())
        self._lock = threading.Lock()
        # The branch is part of the key, since agent.toml may name another one later.
        self._key = hashlib.sha256(f"{self.remote}\n{settings.ref}".encode()).hexdigest()[:16]
        status = GitStatus(
            remote=str(self.remote),
            ref=settings.ref or settings.commit or "HEAD",
            applied=StepStatus(revision=self._recalled("deployed")),
        )
        self._progress = Progress(status, on_status)
        self._vouched = verify.Vouched(inbox.recall, inbox.remember)
        self._objects: dict[str, bytes] = {}
        self._parsed: dict[content.File, content.Parsed] = {}
        self._checked: Snapshot | None = None
        self._applied: Snapshot | None = None
        self._applied_tip: str | None = None

    @property
    def status(self) -> GitStatus:
        """Return the state of every step."""
        return self._progress.status

    def poll(self) -> GitStatus:
        """Look at the remote, follow it as far as allowed, and return the status; raises no TankError."""
        with self._lock:
            for repair in (True, False):
                try:
                    with self._clone.open() as look:
                        self._follow(look)
                except StepFailedError:
                    pass
                except GitError as error:
                    if error.kind == "corrupt" and repair:
                        if self._repair(self._settings.fetch_depth):
                            continue
                    else:
                        self._progress.fail("verified" if self._checked is None else "checked", error)
                return self.status
        return self.status

    def confirm(self, revision: str | None) -> str:
        """Let the commit that waits pass the budget at the next `poll`, and return its name.

        Raises:
            Stalled: none waits, or not `revision`.
        """
        waits = self.status.fetched.revision
        if waits is None or waits == self.status.applied.revision:
            raise Stalled("no commit waits for a confirmation", hint="`tank git status` shows how far git is")
        if revision is not None and (len(revision) < 7 or not waits.startswith(revision)):
            message = f"no commit {printable(revision, 40)} waits"
            raise Stalled(message, hint="`tank status` names the one that does")
        self._inbox.remember(f"git.confirmed.{self._key}", waits.encode())
        return waits

    def read(self, revision: str) -> Snapshot:
        """Return the pods that a branch, a tag or any commit declares for this host, without following it.

        Raises:
            TankError: there is no such name or path, or it cannot be fetched.
        """
        with self._alone(), self._clone.open() as look:
            tip = revision if COMMIT.fullmatch(revision) else self._fetch_aside(look, revision)
            commit = self._judge_any(look, tip, None).commit
            kept = self._parsed
            try:
                return self._snapshot(look.session, commit, {})
            except content.DirectoryMissingError as error:
                raise GitError("not-found", str(error), "see git.path") from None
            finally:
                self._parsed = kept

    def text(self, commit: str, path: str, patience: float) -> bytes | None:
        """Return a pod file of a commit, without asking the remote.

        None if our copy does not have it, or a look takes longer than `patience` seconds.
        """
        if self._checked is not None and self._checked.revision == commit:
            blob = next((file.id for file in tuple(self._parsed) if file.path == path), "")
            if (known := self._objects.get(blob)) is not None:
                return known
        try:
            with self._alone(patience), self._clone.open() as look:
                tree = self._judge(look, commit, None).commit.tree
                directory, _, name = path.rpartition("/")
                objects, _ = look.session.tree(tree, directory, frozenset())
                entries = parse_tree(objects[content.descend(tree, directory, objects.__getitem__)])
                blob = next((entry.id for entry in entries if entry.name == name.encode()), "")
                return objects.get(blob)
        except (TankError, OSError, KeyError, BadObjectError, content.DirectoryMissingError):
            return None

    def declaring(self, pod: str) -> tuple[str, Selector] | None:
        """Return the file of the last commit that declares a pod, and the machines that it is meant for."""
        for path, found in ((file.path, parsed.file) for file, parsed in tuple(self._parsed.items())):
            for one in found.pods:
                if one.pod.name == pod:
                    return path, one.selector
        return None

    def is_vouched(self, commit: str) -> bool:
        """Return whether a commit was verified, or none has to be."""
        return self._settings.verify.mode == "off" or commit in self._vouched

    def vouch(self, commit: str) -> None:
        """Verify any commit as if it were followed, unless it was verified before; from any thread.

        Raises:
            TankError: a signature is missing or not trusted, or the commit cannot be fetched.
        """
        if self.is_vouched(commit):
            return
        if self._settings.verify.mode == "tag":
            hint = "push a signed tag that names it; what ran goes on"
            raise GitError("refused", f"commit {commit[:12]} is refused: no signed tag named it", hint)
        with self._alone(), self._clone.open() as look:
            judged = self._judge_any(look, commit, self._deployed())
            # The commits in between may be missing in a shallow copy.
            if judged.holes and look.repository.is_shallow() and self._repair(0):
                look.close()
                judged = self._judge_any(look, commit, self._deployed())
            self._check_signatures(look, judged)

    @contextmanager
    def _alone(self, patience: float = _PATIENCE) -> Iterator[None]:
        """Wait for a look that runs, but not for as long as a remote may take."""
        if not self._lock.acquire(timeout=patience):
            message = f"git is still being looked at after {patience:g} s"
            raise GitError("unreachable", message, "`tank git status` shows how far it is; see git.timeout")
        try:
            yield
        finally:
            self._lock.release()

    def _judge(self, look: Look, tip: str, deployed: str | None, *, full: bool = False) -> decide.Judged:
        tags, commits = look.session.history(tip, deployed, full=full)
        return decide.judge(tip, deployed, commits, tags)

    def _judge_any(self, look: Look, tip: str, deployed: str | None) -> decide.Judged:
        """Judge an object that may have to be fetched first."""
        try:
            return self._judge(look, tip, deployed)
        except GitError:
            look.fetch(Wanted(commit=tip, depth=int(look.repository.is_shallow())), follow=False)
            return self._judge(look, tip, deployed)

    def _fetch_aside(self, look: Look, name: str) -> str:
        """Fetch the object that a branch or a tag of the remote points to, and return its name."""
        full = name.startswith("refs/") or name == "HEAD"
        names = (name,) if full else (f"refs/heads/{name}", f"refs/tags/{name}")
        if not is_reference_name(name):
            raise GitError("not-found", f"{printable(name, 40)} is not a name that git allows")
        found = look.session.list_refs(names)
        for ref in names:
            if ref in found:
                return look.fetch(Wanted(ref=ref, depth=int(look.repository.is_shallow())), follow=False)
        message = f"the remote has no branch or tag {printable(name, 40)}"
        raise GitError("not-found", message, "name a branch, a tag, or a commit by all of its 40 digits")

    def stop(self) -> None:
        """Let a `poll` that runs end soon."""
        self._clone.stop()

    def _follow(self, look: Look) -> None:
        tip = self._fetch(look)
        if tip is None:
            return
        if tip == self._applied_tip:
            self._settle()
            return
        commit = self._verify(look, tip)
        snapshot = self._check(look, commit)
        if self._waits(commit, snapshot):
            return
        self._apply(commit, snapshot)
        self._applied_tip = tip
        if look.repository.packs() > MANY_PACKS:
            self._repair(self._settings.fetch_depth)

    def _settle(self) -> None:
        """Clear the errors of another commit: the remote is back at the commit that runs."""
        if self.status.state == "in-sync":
            return
        done = StepStatus(revision=self.status.applied.revision, at=time.time())
        self._checked = self._applied
        self._progress.change(
            fetched=done, verified=done, checked=done, applied=done, held=None, latest=self.status.commit
        )

    def _fetch(self, look: Look) -> str | None:
        """Return the object to continue with; None if there is nothing to do."""
        known = look.repository.tip()
        try:
            tip = look.latest()
            if tip != known:
                tip = look.fetch(Wanted(ref=self._settings.ref, commit=self._settings.commit))
                fault.point("git:fetched")
        except (TankError, OSError) as error:
            if kind_of(error) == "broken" and known is not None and self._repair(self._settings.fetch_depth):
                look.close()
                tip = look.repository.tip() or known
            else:
                self._progress.fail("fetched", error)
                # After a start without network, the commit of our copy may still have to be applied.
                look.close()
                return known if self._applied is None else None
        now = time.time()
        step = self.status.fetched
        if step.error is not None:
            step = msgspec.structs.replace(step, error=None, hint=None, at=now)
        self._progress.change(looked_at=now, fetched=step)
        return tip

    def _verify(self, look: Look, tip: str) -> Commit:
        deployed = self._deployed()
        with self._progress.step("verified"):
            judged = self._judge(look, tip, deployed)
            commit = judged.commit
            look.repository.set_have(commit.info.id)
            if self.status.fetched.revision != commit.info.id:
                error = self.status.fetched.error
                done = StepStatus(revision=commit.info.id, error=error, at=time.time())
                self._progress.change(fetched=done, latest=commit.info, held=None)
            if _is_done(self.status.verified, commit):
                return commit
            if judged.relation in ("behind", "diverged") and not self._settings.allow_rewrite:
                if judged.relation == "diverged" and look.repository.is_shallow():
                    # The connection may be missing in a shallow copy.
                    if not self._repair(0):
                        raise GitError(
                            "broken", "the history behind the deployed commit could not be fetched"
                        )
                    look.close()
                    judged = self._judge(look, tip, deployed)
                _refuse_rewrite(judged)
            self._check_signatures(look, judged)
        self._progress.done("verified", commit.info.id)
        fault.point("git:verified")
        return commit

    def _check_signatures(self, look: Look, judged: decide.Judged) -> None:
        verifier = verify.load(self._settings.verify, look.user)
        if verifier is None:
            return
        commit = judged.commit
        if self._settings.verify.mode == "tag" and self._settings.tag is not None:
            verifier.check_tag(judged.tags, self._settings.tag)
        elif judged.relation == "same":
            # If it was deployed before [git.verify] was set, it was never checked.
            verifier.check_commits(() if commit.info.id in self._vouched else (commit,))
        else:
            _refuse_holes(judged)
            try:
                verifier.check_commits(judged.new)
            except GitError:
                # Wrong clocks can hide that a commit is older than the deployed one: before a refusal, read
                # all of the history.
                again = self._judge(look, judged.tip, judged.deployed, full=True)
                # The helper could withhold the refused commit now.
                _refuse_holes(again)
                verifier.check_commits(again.new)
        self._vouched.add(commit.info.id)

    def _check(self, look: Look, commit: Commit) -> Snapshot:
        revision = commit.info.id
        if self._checked is not None and _is_done(self.status.checked, commit):
            return self._checked
        with self._progress.step("checked"):
            kept: dict[str, bytes] = {}
            try:
                snapshot = self._snapshot(look.session, commit, kept)
            except content.DirectoryMissingError as error:
                if not self._settings.allow_empty and self._recalled("confirmed") != revision:
                    message = f"{error}; the pods that run go on"
                    hint = "see git.path; `tank sync --confirm` takes it as no pods"
                    raise GitError("not-found", message, hint) from None
                snapshot = Snapshot(source=GIT.name, revision=revision)
            self._objects = kept if sum(map(len, kept.values())) <= _KEPT else {}
        self._checked = snapshot
        self._progress.done("checked", commit.info.id)
        fault.point("git:checked")
        return snapshot

    def _snapshot(self, session: HelperSession, commit: Commit, kept: dict[str, bytes]) -> Snapshot:
        """Read, parse and select the pods of a commit; `kept` is filled with the objects that it needs."""
        path = self._settings.directory(self._inbox.host.name)
        known = frozenset(bytes.fromhex(name) for name in self._objects)
        objects, omitted = session.tree(commit.tree, path, known)
        objects.update(self._objects)

        def load(name: str) -> bytes:
            if name not in objects:
                raise GitError("corrupt", f"object {name[:12]} is missing")
            kept[name] = objects[name]
            return objects[name]

        def ask(names: Collection[str]) -> tuple[dict[str, bytes], dict[str, int]]:
            blobs, too_large = session.blobs(names, FILE_MAX)
            objects.update(blobs)
            kept.update(blobs)
            return blobs, too_large

        limits = self._clone.limits
        overlooked: list[str] = []
        files, found = content.walk(
            commit.tree, path, load, limits.entries, limits.depth, overlooked=overlooked
        )
        message = f"is larger than {limits.blob} bytes; no pod file is"
        found += tuple(Problem(file.path, 0, "", message) for file in files if file.id in omitted)
        usable = [file for file in files if file.id not in omitted]
        # What is kept is what the next commit starts with, so each is loaded.
        for file in usable:
            load(file.id)
        before = {(file.path, file.id): known for file, known in self._parsed.items()}
        have = lambda name: load(name) if name in objects else None  # noqa: E731
        self._parsed = content.PodReader(load, have, ask, parse_bytes).read(usable, before)
        pod_files = {file: known.file for file, known in self._parsed.items()}
        return content.snapshot(
            commit.info,
            tuple(pod_files),
            found,
            pod_files,
            lambda pod: mismatch(pod.selector, self._inbox.host),
            others=self._only_beside(pod_files.values()),
            overlooked=overlooked,
        )

    def _only_beside(self, files: Collection[PodFile]) -> frozenset[str]:
        """Return the files that are no pod files, but only beside one; no pod came from them."""
        others = only_beside(files)
        owners = {pod.owner for pod in self._inbox.owned()} if others else ()
        return frozenset(path for path in others if GIT.owner(path) not in owners)

    def _waits(self, commit: Commit, snapshot: Snapshot) -> bool:
        sentence = None
        if self._recalled("confirmed") != commit.info.id:
            sentence = decide.held(self._inbox.owned(), snapshot, self._settings.budget)
        if sentence is not None:
            sentence = f"{commit} is {sentence}; `tank sync --confirm {commit.info.id[:12]}` lets it through"
        self._progress.change(held=sentence)
        return sentence is not None

    def _apply(self, commit: Commit, snapshot: Snapshot) -> None:
        with self._progress.step("applied"):
            self._inbox.publish(snapshot, f"commit {commit.info.id[:12]}")
            fault.point("git:published")
            self._inbox.remember(f"git.deployed.{self._key}", commit.info.id.encode())
        fault.point("git:remembered")
        self._applied = snapshot
        self._progress.done("applied", commit.info.id)
        self._progress.change(commit=commit.info)

    def _deployed(self) -> str | None:
        """Return the commit that later ones must follow; None if there is none, or for a fixed commit."""
        return None if self._settings.commit is not None else self._recalled("deployed")

    def _recalled(self, what: Literal["deployed", "confirmed"]) -> str | None:
        return self._inbox.recall(f"git.{what}.{self._key}").decode("ascii", "replace") or None

    def _repair(self, depth: int) -> bool:
        """Replace our copy by a new one; False, with the error recorded, if that failed."""
        try:
            self._clone.renew(Wanted(ref=self._settings.ref, commit=self._settings.commit, depth=depth))
        except (TankError, OSError) as error:
            self._progress.fail("fetched", error)
            return False
        return True


def _is_done(step: StepStatus, commit: Commit) -> bool:
    return step.revision == commit.info.id and step.error is None


def _refuse_holes(judged: decide.Judged) -> None:
    if judged.holes:
        raise GitError("corrupt", f"commit {min(judged.holes)[:12]} is missing")


def _refuse_rewrite(judged: decide.Judged) -> None:
    why = {
        "behind": "is older than the deployed commit {}",
        "diverged": "does not follow the deployed commit {}: the history was rewritten or moved back",
    }.get(judged.relation)
    if why is not None:
        hint = "push a commit on top of the deployed one, or set git.allow_rewrite"
        raise GitError("refused", f"{judged.commit} {why.format((judged.deployed or '')[:12])}", hint)
