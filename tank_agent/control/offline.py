"""Work without an agent: plan a tree of pod files on a laptop, and make a repository to push to."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from tank_agent.api.reports import PlannedPod, PlanReport
from tank_agent.control import elsewhere
from tank_agent.control.published import waits_for_ports, what_it_takes
from tank_agent.errors import Problem, Stalled
from tank_agent.journal import ownership
from tank_agent.journal.ownership import Known
from tank_agent.journal.records import ContainerStatus, DesiredPod, Exit, Good, PodStatus, Rollout
from tank_agent.reconcile.core.changes import changes
from tank_agent.reconcile.core.content_changes import texts
from tank_agent.reconcile.core.hashes import container_hash, settings_hash
from tank_agent.reconcile.core.observed import ImageState, Moment, Observed, ObservedImage, Run, Situation
from tank_agent.reconcile.core.plan import simulate
from tank_agent.reconcile.core.proof import proof, proof_of_all, step_words
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.runtime.run import RunState
from tank_agent.source.files import only_beside, parse_bytes, parser_for
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Declared, Elsewhere, Snapshot
from tank_agent.spec.beside import Beside, nothing_beside
from tank_agent.spec.model import EVERYWHERE, Host

# Seconds after which nothing that runs counts as fresh.
_BOOTED = 1e6
# Pod files by their names from the top of a tree, or why one can't be used.
Files = Mapping[str, bytes | Problem]
# Returns the reader of the files beside a pod file, by the name of that.
BesideFile = Callable[[str], Beside]


def plan_trees(
    path: Path,
    files: Files,
    against: Files | None,
    host: Host | None,
    *,
    beside: BesideFile = lambda _: nothing_beside,
    beside_before: BesideFile = lambda _: nothing_beside,
) -> PlanReport:
    """Return what would change on a machine that follows `against` (None: nothing) and gets `files` instead.

    Findings name files as below `path`. With a host, pods whose selectors do not match it are left out.
    `beside` reads what is beside `files`, `beside_before` what is beside `against`.
    """
    snapshot, selective = _parsed(files, host, beside)
    before: Mapping[str, DesiredPod] = {}
    if against is not None:
        merged = ownership.merge(Known(), _parsed(against, host, beside_before)[0], 0.0)
        before = {pod.name: pod for pod in merged.changed}
    known = Known(desired=before, generations={name: pod.generation for name, pod in before.items()})
    merged = ownership.merge(known, snapshot, 0.0)
    not_here = elsewhere.not_here(snapshot.elsewhere, {one.pod.name for one in snapshot.pods})
    planned = [
        PlannedPod(
            name=name,
            change="remove",
            notes=tuple(one.why for one in not_here.get(name, ())),
            proof=_proof(before[name], None),
        )
        for name in merged.removed
    ]
    changed = {pod.name: pod for pod in merged.changed}
    after = {name: pod for name, pod in {**before, **changed}.items() if name not in merged.removed}
    ports = {name: pod.pod.ports for name, pod in after.items()}
    waits = waits_for_ports(ports, {name: pod.pod.ports for name, pod in before.items()})
    for pod in merged.changed:
        old = before.get(pod.name)
        diff = () if old is None else texts(changes(old.pod, pod.pod))
        takes = what_it_takes(pod.pod, pod.pod.ports) if old is None else ()
        change, notes = "create" if old is None else "update", (*takes, *waits.get(pod.name, ()))
        hash_ = _proof(old, pod)
        planned.append(PlannedPod(name=pod.name, change=change, diff=diff, notes=notes, proof=hash_))
    planned.sort(key=lambda pod: pod.name)
    # Without a host, nobody can say which of several pods of one name is meant.
    own = set(snapshot.problems)
    found = [one for one in merged.problems if one in own or one.pod not in selective]
    named = [replace(one, file=_as_given(path, one.file)) for one in found]
    return PlanReport(
        pods=tuple(planned),
        problems=tuple(sorted(map(str, named))),
        elsewhere=elsewhere.lines(
            {
                name: [replace(one, file=_as_given(path, one.file)) for one in found]
                for name, found in not_here.items()
            }
        ),
        proof=proof_of_all({pod.name: pod.proof for pod in planned}),
    )


def _as_given(path: Path, file: str) -> str:
    """Return a file's name as the user gave it."""
    return os.fspath(path / file) if path.is_dir() else os.fspath(path)


def without_removals(report: PlanReport) -> PlanReport:
    """Return a plan without the pods that it takes away, for one file: that says nothing about other pods."""
    pods = tuple(pod for pod in report.pods if pod.change != "remove")
    proofs = {pod.name: pod.proof for pod in pods if pod.proof}
    return replace(report, pods=pods, proof=proof_of_all(proofs))


def init_repository(path: Path, branch: str, owner: str | None) -> bool:
    """Make a bare repository to push to; False if there is one already.

    Raises:
        Stalled: something else is there, or there is no such user.
    """
    # Imported here, since `tank plan` needs this module but not git.
    from tank_agent.source.git.repository import init_bare

    try:
        user = None if owner is None else pwd.getpwnam(owner)
    except KeyError:
        hint = f"sudo adduser --system --group {owner}"
        raise Stalled(f"there is no user {owner}", hint=hint) from None
    ids = None if user is None else (user.pw_uid, user.pw_gid)
    return init_bare(path.absolute(), branch=branch, owner=ids)


def _proof(before: DesiredPod | None, after: DesiredPod | None) -> str:
    """Return the proof of a change on a machine where everything is as `before` declares it, and runs."""
    name = before.name if before is not None else after.name if after is not None else ""
    was, will_be = (pod.hash if pod is not None else "" for pod in (before, after))
    return proof(name, was, will_be, step_words(simulate(_at_rest(before, after))))


def _at_rest(before: DesiredPod | None, after: DesiredPod | None) -> Situation:
    """Return the situation in which a machine at rest gets a change, with every image at hand."""
    now = Moment(wall=_BOOTED, monotonic=_BOOTED, boot_id="now")
    runs, known = [], {}
    for container in before.pod.containers if before is not None else ():
        assert before is not None
        hash_, settings = container_hash(before.pod, container), settings_hash(container)
        status = ContainerStatus(hash=hash_, boot_id=now.boot_id, started_at=0.0, settings=settings)
        if container.init:
            # It was done before the others started.
            known[container.name] = replace(
                status, boot_id="", exit=Exit(at=0.0, code=0), ended_boot=now.boot_id
            )
            continue
        run = Run(
            id=container.name, container=container.name, hash=hash_, state=RunState.RUNNING, settings=settings
        )
        runs.append(run)
        known[container.name] = replace(status, instance=run.id)
    rollout, good = None, None
    if before is not None:
        # What runs has proved itself.
        rollout = Rollout(
            generation=before.generation, kind="first", boot_id=now.boot_id, begun=0.0, outcome="good"
        )
        good = Good(generation=before.generation, hash=before.hash, at=0.0)
    sysctls = [pod.pod.sysctls for pod in (before, after) if pod is not None]
    own_network = before is not None and before.pod.network.mode != "host"
    wanted = after.pod.containers if after is not None else ()
    return Situation(
        desired=after,
        status=PodStatus(containers=known, rollout=rollout, good=good),
        observed=Observed(
            runs=tuple(runs),
            network="used" if own_network else "absent",
            network_outdated=own_network and sysctls[0] != sysctls[-1],
            images={container.name: ObservedImage(state=ImageState.READY) for container in wanted},
        ),
        now=now,
        backoff=Backoff(),
    )


def _parsed(tree: Files, host: Host | None, beside: BesideFile) -> tuple[Snapshot, frozenset[str]]:
    """Return a tree as a repository would declare it, and without a host the names of pods with selectors."""
    parse = parse_bytes if host is None else parser_for(host)
    problems = [found for found in tree.values() if isinstance(found, Problem)]
    pods: list[Declared] = []
    selective: set[str] = set()
    parsed = {name: parse(data, name, beside(name)) for name, data in tree.items() if isinstance(data, bytes)}
    others = only_beside(parsed.values())
    not_here: list[Elsewhere] = []
    for name, file in parsed.items():
        problems += file.problems if name not in others else ()
        pods += file.declared(GIT.owner(name))
        not_here += file.not_here(GIT.owner(name))
        if host is None:
            selective |= {one.pod.name for one in file.pods if one.selector != EVERYWHERE}
    unreadable = frozenset(GIT.owner(problem.file) for problem in problems)
    snapshot = Snapshot(
        source=GIT.name,
        revision="",
        pods=tuple(pods),
        problems=tuple(problems),
        unreadable=unreadable,
        elsewhere=tuple(not_here),
    )
    return snapshot, frozenset(selective)
