"""Following one repository: fetch → verify → check → publish, each step with its own status.

A step that fails leaves what ran alone: the next look tries again, from the step that failed. Nothing here
waits for a time; `follower` does.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tank_agent.errors import Problem, Stalled, TankError
from tank_agent.linux import fault
from tank_agent.settings.git import COMMIT, GitSettings, is_reference_name, problems
from tank_agent.source.files import Parse, PodFile, parse_bytes
from tank_agent.source.follower import OwnedPod
from tank_agent.source.git import content, decide, verify
from tank_agent.source.git.access import GitError, Wanted
from tank_agent.source.git.address import parse_url
from tank_agent.source.git.child import HelperPool, HelperSession
from tank_agent.source.git.clone import Clone, Look
from tank_agent.source.git.objects import Commit, Tag, printable
from tank_agent.source.git.repository import MANY_PACKS
from tank_agent.source.git.status import GitStatus, Progress, StepFailedError, StepStatus, kind_of
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Host, selects
from tank_agent.spec.parse import ParsedPod

# Files of the last commit stay in memory up to this size, so that the next one needs only what changed.
_KEPT = 16 << 20
# Seconds that a person's question waits for a look that runs.
_PATIENCE = 30.0


class GitSource:
    """Follows one repository. `poll`, `read` and `confirm` may be called from any thread; one runs at a time.

    Args:
        settings: what `settings.problems` found nothing against.
        directory: ours alone, as data_dir/git.
        current: the desired pods, for the budget.
        publish: takes a new Snapshot over, in one transaction; it runs in the thread that called `poll`.
        remember, recall: keep small values over restarts; b"" is "never kept" (Journal.remember,
        Journal.recall).
        on_status: called with every change of the status; must return at once.
        clock: Unix time in seconds.

    Raises:
        Stalled: the settings are wrong.
    """

    def __init__(
        self,
        settings: GitSettings,
        *,
        directory: Path,
        host: Host,
        current: Callable[[], Iterable[OwnedPod]],
        publish: Callable[[Snapshot], None],
        remember: Callable[[str, bytes], None],
        recall: Callable[[str], bytes],
        on_status: Callable[[GitStatus], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        parse: Parse = parse_bytes,
        pool: HelperPool | None = None,
    ) -> None:
        found = problems(settings)
        if found:
            raise Stalled("; ".join(f"git.{key}: {message}" for key, message in found), hint="see agent.toml")
        self._settings = settings
        self._host = host
        self._current = current
        self._publish = publish
        self._remember = remember
        self._recall = recall
        self._parse = parse
        remote = parse_url(settings.url)
        self.remote = remote
        self._clone = Clone(settings, remote, directory, pool if pool is not None else HelperPool())
        self._lock = threading.Lock()
        # The branch is part of the key: who may edit agent.toml may follow another one.
        self._key = hashlib.sha256(f"{remote}\n{settings.ref}".encode()).hexdigest()[:16]
        status = GitStatus(
            remote=str(remote),
            ref=settings.ref or settings.commit or "HEAD",
            applied=StepStatus(
                revision=self._recall(f"git.deployed.{self._key}").decode("ascii", "replace") or None
            ),
        )
        self._progress = Progress(status, on_status, clock)
        self._vouched = verify.Vouched(recall, remember)
        self._objects: dict[str, bytes] = {}
        self._parsed: dict[content.File, PodFile] = {}
        self._checked: Snapshot | None = None
        self._applied: Snapshot | None = None
        self._applied_tip: str | None = None

    @property
    def status(self) -> GitStatus:
        """Return how far we are."""
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

    def confirm(self, revision: str) -> None:
        """Let a commit through the budget, whatever it removes; `poll` then applies it.

        Raises:
            Stalled: no such commit waits.
        """
        latest = self.status.fetched.revision
        if latest is None or len(revision) < 7 or not latest.startswith(revision):
            raise Stalled(
                f"no commit {printable(revision, 40)} waits", hint="`tank status` names the one that does"
            )
        self._remember(f"git.confirmed.{self._key}", latest.encode())

    def read(self, revision: str) -> Snapshot:
        """Return what a branch, a tag or any commit declares for this host, without following it.

        Raises:
            TankError: there is none of that name, it cannot be had, or it holds no such path.
        """
        with self._alone(), self._clone.open() as look:
            tip = revision if COMMIT.fullmatch(revision) else self._fetch_aside(look, revision)
            tags, commits = self._history_of(look, tip, None)
            kept = self._parsed
            try:
                return self._snapshot(look.session, _target(tip, tags, commits), {})
            except content.DirectoryMissingError as error:
                raise GitError("not-found", str(error), hint="see git.path") from None
            finally:
                self._parsed = kept

    def is_vouched(self, commit: str) -> bool:
        """Return whether a commit was verified here, or nothing has to be."""
        return self._settings.verify.mode == "off" or commit in self._vouched

    def vouch(self, commit: str) -> None:
        """Verify any commit as if it were followed, unless it was verified when it came; from any thread.

        Raises:
            TankError: nobody trusted signed it, or something that it brings along; or it cannot be had.
        """
        if self.is_vouched(commit):
            return
        if self._settings.verify.mode == "tag":
            hint = "push a signed tag that names it; what ran goes on"
            raise GitError("refused", f"commit {commit[:12]} is refused: no signed tag named it", hint=hint)
        with self._alone(), self._clone.open() as look:
            judged = self._judge(look, commit)
            # What we cut off may hold what lies between.
            if judged.found.holes and look.repository.is_shallow() and self._repair(0):
                look.reopen()
                judged = self._judge(look, commit)
            self._check_signatures(look, judged)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for a look that runs, but not for as long as a remote may take."""
        if not self._lock.acquire(timeout=_PATIENCE):
            raise GitError(
                "unreachable",
                f"git is still being looked at after {_PATIENCE:g} s",
                hint="`tank git status` tells how far it is; see git.timeout",
            )
        try:
            yield
        finally:
            self._lock.release()

    def _judge(self, look: Look, commit: str) -> decide.Judged:
        deployed = self._deployed()
        tags, commits = self._history_of(look, commit, deployed)
        return decide.Judged(
            tip=commit,
            tags=tags,
            commit=_target(commit, tags, commits),
            deployed=deployed,
            found=decide.judge(commit, deployed, commits),
        )

    def _history_of(self, look: Look, tip: str, deployed: str | None) -> tuple[list[Tag], dict[str, Commit]]:
        """Return what `HelperSession.history` does, of an object that may have to be fetched first."""
        try:
            return look.session.history(tip, deployed)
        except GitError:
            look.fetch(Wanted(commit=tip, depth=int(look.repository.is_shallow())), follow=False)
            return look.session.history(tip, deployed)

    def _fetch_aside(self, look: Look, name: str) -> str:
        """Bring what a branch or a tag of the remote points to, and return its name."""
        names = (
            (name,)
            if name.startswith("refs/") or name == "HEAD"
            else (f"refs/heads/{name}", f"refs/tags/{name}")
        )
        if not is_reference_name(name):
            raise GitError("not-found", f"{printable(name, 40)} is not a name that git allows")
        found = look.session.list_refs(names)
        for ref in names:
            if ref in found:
                return look.fetch(Wanted(ref=ref, depth=int(look.repository.is_shallow())), follow=False)
        raise GitError(
            "not-found",
            f"the remote has no branch or tag {printable(name, 40)}",
            hint="name a branch, a tag, or a commit by all of its 40 digits",
        )

    def stop(self) -> None:
        """Make a `poll` that runs end soon."""
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
        """Forget what another commit was refused or held for: the remote wants what runs again."""
        if self.status.state == "in-sync":
            return
        done = StepStatus(revision=self.status.applied.revision, at=self._progress.clock())
        self._checked = self._applied
        self._progress.change(
            fetched=done, verified=done, checked=done, applied=done, held=None, latest=self.status.commit
        )

    def _fetch(self, look: Look) -> str | None:
        """Return the object to go on with; None if there is nothing to do."""
        known = look.repository.tip()
        try:
            tip = look.latest()
            if tip != known:
                tip = look.fetch(Wanted(ref=self._settings.ref, commit=self._settings.commit))
                fault.point("git:fetched")
        except (TankError, OSError) as error:
            if kind_of(error) == "broken" and known is not None and self._repair(self._settings.fetch_depth):
                look.reopen()
                tip = look.repository.tip() or known
            else:
                self._progress.fail("fetched", error)
                # Offline right after a start: what we have may still be what is wanted here now.
                look.reopen()
                return known if self._applied is None else None
        now = self._progress.clock()
        step = self.status.fetched
        if step.error is not None:
            step = msgspec.structs.replace(step, error=None, hint=None, at=now)
        self._progress.change(looked_at=now, fetched=step)
        return tip

    def _verify(self, look: Look, tip: str) -> Commit:
        deployed = self._deployed()
        with self._progress.step("verified"):
            tags, commits = look.session.history(tip, deployed)
            commit = _target(tip, tags, commits)
            look.repository.set_have(commit.info.id)
            if self.status.fetched.revision != commit.info.id:
                done = StepStatus(
                    revision=commit.info.id, error=self.status.fetched.error, at=self._progress.clock()
                )
                self._progress.change(fetched=done, latest=commit.info, held=None)
            if _is_done(self.status.verified, commit):
                return commit
            found = decide.judge(commit.info.id, deployed, commits)
            if (
                found.relation == "diverged"
                and not self._settings.allow_rewrite
                and look.repository.is_shallow()
            ):
                # What we cut off may hold the answer.
                if not self._repair(0):
                    raise GitError("broken", "the history behind the deployed commit could not be fetched")
                look.reopen()
                _, commits = look.session.history(tip, deployed)
                found = decide.judge(commit.info.id, deployed, commits)
            self._check_relation(commit, deployed, found)
            judged = decide.Judged(tip=tip, tags=tags, commit=commit, deployed=deployed, found=found)
            self._check_signatures(look, judged)
        self._progress.done("verified", commit.info.id)
        fault.point("git:verified")
        return commit

    def _check_relation(self, commit: Commit, deployed: str | None, found: decide.History) -> None:
        if self._settings.allow_rewrite or found.relation not in ("behind", "diverged"):
            return
        deployed = (deployed or "")[:12]
        why = {
            "behind": f"{commit} is older than the deployed commit {deployed}",
            "diverged": f"{commit} does not follow the deployed commit {deployed}: the history was rewritten"
            " or moved back",
        }[found.relation]
        raise GitError(
            "refused", why, hint="push a commit on top of the deployed one, or set git.allow_rewrite"
        )

    def _check_signatures(self, look: Look, judged: decide.Judged) -> None:
        verifier = verify.load(self._settings.verify, look.user)
        if verifier is None:
            return
        found, commit = judged.found, judged.commit
        if self._settings.verify.mode == "tag" and self._settings.tag is not None:
            verifier.check_tag(judged.tags, self._settings.tag)
        elif found.relation == "same":
            # Deployed before [git.verify] was there, it is as new to us as the first commit ever.
            verifier.check_commits(() if commit.info.id in self._vouched else (commit,))
        else:
            _refuse_holes(found)
            try:
                verifier.check_commits(found.new)
            except GitError:
                # Wrong clocks may hide that a commit is older than the deployed one: look at all before
                # refusing.
                _, commits = look.session.history(judged.tip, judged.deployed, full=True)
                again = decide.judge(found.new[0].info.id, judged.deployed, commits)
                # What was refused may be kept from us now.
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
                if not self._settings.allow_empty and self._confirmed() != revision:
                    raise GitError(
                        "not-found",
                        f"{error}; the pods that run go on",
                        hint="see git.path; `tank sync --confirm` takes it as no pods",
                    ) from None
                snapshot = Snapshot(source=GIT.name, revision=revision)
            self._objects = kept if sum(map(len, kept.values())) <= _KEPT else {}
        self._checked = snapshot
        self._progress.done("checked", commit.info.id)
        fault.point("git:checked")
        return snapshot

    def _snapshot(self, session: HelperSession, commit: Commit, kept: dict[str, bytes]) -> Snapshot:
        """Read, parse and select; `kept` is filled with the objects that this commit needs."""
        path = self._settings.directory(self._host.name)
        known = frozenset(bytes.fromhex(name) for name in self._objects)
        objects, omitted = session.tree(commit.tree, path, known)
        objects.update(self._objects)

        def load(name: str) -> bytes:
            if name not in objects:
                raise GitError("corrupt", f"object {name[:12]} is missing")
            kept[name] = objects[name]
            return objects[name]

        limits = self._clone.limits
        files, found = content.walk(commit.tree, path, load, limits.entries, limits.depth)
        parsed: dict[content.File, PodFile] = {}
        for file in files:
            if file.id in omitted:
                message = f"is larger than {limits.blob} bytes; no pod file is"
                found += (Problem(file.path, 0, "", message),)
                continue
            data = load(file.id)
            parsed[file] = self._parsed.get(file) or self._parse(data, file.path)
        self._parsed = parsed
        return content.snapshot(commit.info, tuple(parsed), found, parsed, self._selects)

    def _selects(self, found: ParsedPod) -> bool:
        return selects(found.selector, self._host)

    def _waits(self, commit: Commit, snapshot: Snapshot) -> bool:
        sentence = None
        if self._confirmed() != commit.info.id:
            sentence = decide.held(self._current(), snapshot, self._settings.budget)
        if sentence is not None:
            sentence = f"{commit} is {sentence}; `tank sync --confirm {commit.info.id[:12]}` lets it through"
        self._progress.change(held=sentence)
        return sentence is not None

    def _apply(self, commit: Commit, snapshot: Snapshot) -> None:
        with self._progress.step("applied"):
            self._publish(snapshot)
            fault.point("git:published")
            self._remember(f"git.deployed.{self._key}", commit.info.id.encode())
        fault.point("git:remembered")
        self._applied = snapshot
        self._progress.done("applied", commit.info.id)
        self._progress.change(commit=commit.info)

    def _deployed(self) -> str | None:
        """Return the commit that none may fall behind; None if there is none, or a fixed commit is wanted."""
        if self._settings.commit is not None:
            return None
        return self._recall(f"git.deployed.{self._key}").decode("ascii", "replace") or None

    def _confirmed(self) -> str | None:
        return self._recall(f"git.confirmed.{self._key}").decode("ascii", "replace") or None

    def _repair(self, depth: int) -> bool:
        """Make our copy anew, beside the old one; False, with the error recorded, if that failed."""
        try:
            self._clone.renew(Wanted(ref=self._settings.ref, commit=self._settings.commit, depth=depth))
        except (TankError, OSError) as error:
            self._progress.fail("fetched", error)
            return False
        return True


def _is_done(step: StepStatus, commit: Commit) -> bool:
    return step.revision == commit.info.id and step.error is None


def _refuse_holes(found: decide.History) -> None:
    if found.holes:
        raise GitError("corrupt", f"commit {min(found.holes)[:12]} is missing")


def _target(tip: str, tags: list[Tag], commits: Mapping[str, Commit]) -> Commit:
    return commits[tags[-1].target if tags else tip]
