"""Our copy of the repository: look at the remote through it, fetch into it, and renew it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from tank_agent.linux import fault
from tank_agent.linux.trees import remove_tree
from tank_agent.settings.git import GitSettings
from tank_agent.source.git.access import NO_SPACE, GitError, Wanted, load_access
from tank_agent.source.git.address import Remote
from tank_agent.source.git.child import HelperLimits, HelperPool, HelperSession, Setup, helper_user
from tank_agent.source.git.repository import Repository, clean, read_local_ref, scratch_directory

# New names that a missing branch probably has.
_USUAL_BRANCHES = ("main", "master", "trunk", "develop")


class Look:
    """One look at the remote through one helper, which is started when it is first needed."""

    def __init__(self, clone: Clone, repository: Repository) -> None:
        self._clone = clone
        self.repository = repository
        self._stack = contextlib.ExitStack()
        self._session: HelperSession | None = None
        self._scratch = -1
        self._local: int | None = None
        self._user: tuple[int, int] | None = None
        self._prepared = False

    def close(self) -> None:
        """End the helper; the next request starts another."""
        self._session = None
        self._prepared = False
        self._stack.close()

    @property
    def user(self) -> tuple[int, int] | None:
        """Return the user for all that reads foreign data; None if we are not root."""
        self._prepare()
        return self._user

    @property
    def session(self) -> HelperSession:
        """Return the session with the helper.

        Raises:
            TankError: it cannot start, or a file that the settings name cannot be read.
        """
        self._prepare()
        if self._session is None:
            clone = self._clone
            path, self._scratch = self._stack.enter_context(scratch_directory(clone.directory))
            self.repository.make_scratch(path, self._user)
            objects = os.open(self.repository.objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stack.callback(os.close, objects)
            given = {"scratch": self._scratch, "objects": objects}
            if self._local is not None:
                given["local"] = self._local
            setup = Setup(
                transport=clone.settings.transport,
                remote=clone.remote,
                access=load_access(clone.settings, clone.remote),
                limits=clone.limits,
                descriptors=tuple(given),
                user=self._user,
            )
            helper = clone.pool.take()
            self._stack.callback(helper.close)
            self._session = HelperSession(helper, setup, given.values())
            clone.started(self._session)
        return self._session

    def latest(self) -> str:
        """Return the object that the ref points to at the remote; nothing is fetched.

        Raises:
            GitError: no such ref, or no answer.
        """
        settings = self._clone.settings
        if settings.ref is None:
            return settings.commit or ""
        self._prepare()
        if self._local is not None:
            name = read_local_ref(self._local, settings.ref)
            if name is not None:
                return name
        found = self.session.list_refs((settings.ref,))
        if settings.ref not in found:
            message = f"the remote is empty or has no {settings.ref}"
            raise GitError("not-found", message, self._hint_of_head())
        return found[settings.ref]

    def _hint_of_head(self) -> str:
        found = self.session.list_refs(("HEAD", *(f"refs/heads/{name}" for name in _USUAL_BRANCHES)))
        head = found.get("HEAD")
        for name in _USUAL_BRANCHES:
            if head is not None and found.get(f"refs/heads/{name}") == head:
                return f"the remote's HEAD is the branch {name}: see git.branch; the pods that run go on"
        return "see git.branch, git.tag; the pods that run go on"

    def fetch(self, wanted: Wanted, *, follow: bool = True) -> str:
        """Fetch an object into our copy, and return its name; `follow` makes it the newest of the ref."""
        depth = wanted.depth or (0 if self.repository.packs() else self._clone.settings.fetch_depth)
        name = self.session.fetch(Wanted(ref=wanted.ref, commit=wanted.commit, depth=depth))
        self.take_over()
        if follow:
            self.repository.set_tip(name)
        return name

    def take_over(self) -> None:
        """Copy the fetched objects into our copy."""
        try:
            self.repository.take_over(self._scratch, self._clone.settings.max_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise GitError(*NO_SPACE) from error
            raise

    def _prepare(self) -> None:
        if self._prepared:
            return
        self.repository.prepare()
        self._local = None
        remote = self._clone.remote
        if remote.scheme == "file":
            try:
                self._local = os.open(remote.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise GitError("not-found", f"{remote.path}: {error.strerror}", "see git.url") from error
            self._stack.callback(os.close, self._local)
        self._user = helper_user(self._clone.settings.run_as, self._local)
        self._prepared = True


class Clone:
    """Our copy in a directory, and its remote; to be used by one thread, except `stop`."""

    def __init__(self, settings: GitSettings, remote: Remote, directory: Path, pool: HelperPool) -> None:
        self.settings = settings
        self.remote = remote
        self.directory = directory
        self.pool = pool
        self.limits = HelperLimits(
            file_size=settings.max_size,
            wall=settings.timeout,
            cpu=int(max(10, settings.timeout)),
            blob=settings.max_file,
        )
        self._repository = Repository(directory / "repository")
        self._cleaned = False
        self._session: HelperSession | None = None
        self._stopped = False

    @contextlib.contextmanager
    def open(self) -> Iterator[Look]:
        """Yield a look at the remote through our copy."""
        if not self._cleaned:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.directory.chmod(0o700)
            clean(self.directory)
            self._cleaned = True
        with contextlib.closing(Look(self, self._repository)) as look:
            yield look
        self.pool.refill()

    def renew(self, wanted: Wanted) -> None:
        """Fetch a new copy, and replace the old one by it when its commit can be read.

        Raises:
            TankError, OSError: it could not be fetched; the old copy stays.
        """
        fresh = Repository(self.directory / "repository.new")
        remove_tree(fresh.path)
        with contextlib.closing(Look(self, fresh)) as look:
            fault.point("git:renewal-begun")
            name = look.session.fetch(wanted)
            look.take_over()
            fresh.set_tip(name)
            tags, _ = look.session.history(name, None)
            fresh.set_have(tags[-1].target if tags else name)
        self._repository.replace(fresh)

    def started(self, session: HelperSession) -> None:
        """Note the session that `stop` has to end."""
        self._session = session
        if self._stopped:
            session.stop()

    def stop(self) -> None:
        """End the session that runs and all later ones; from any thread."""
        # In this order, so that a session that starts meanwhile ends, too.
        self._stopped = True
        if self._session is not None:
            self._session.stop()
