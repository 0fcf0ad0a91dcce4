"""Check whether this machine can run pods, and say how to get what is missing. Works without an agent."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, add_places, client_of, load_places
from tank_agent.cli.output import GREEN, RED, YELLOW, colored, say, show
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import GitReport
    from tank_agent.client.client import Client
    from tank_agent.doctor import Check
    from tank_agent.settings.settings import Settings

HELP = "is this machine ready, and what is missing"
EXAMPLES = (
    ("tank doctor", "is this machine ready, and what is missing"),
    ("tank doctor -o json", "for a script"),
)

_NOT_YET = "[notify] was set after the agent started, so nobody is told yet"
_RESTART = "systemctl restart tank-agent"
_COLORS = {"ok": GREEN, "note": GREEN, "warn": YELLOW, "fail": RED}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_places(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    settings, problems = _settings(arguments)
    checks = [
        *problems,
        *_examine(settings),
        *_notify(settings),
        *_web(settings),
        *_agent(arguments, settings),
    ]
    show(arguments, checks, lambda: _print(checks))
    return 1 if any(check.result == "fail" for check in checks) else 0


def _settings(arguments: argparse.Namespace) -> tuple[Settings, Sequence[Check]]:
    """Return the settings, or the defaults with the problems of agent.toml."""
    from tank_agent.doctor import fail
    from tank_agent.errors import InvalidSpec
    from tank_agent.settings.settings import Settings

    try:
        return load_places(arguments), ()
    except InvalidSpec as error:
        fix = "correct it; the default directories are examined below"
        return Settings(), [fail("configuration", str(problem), fix) for problem in error.problems]


def _examine(settings: Settings) -> Sequence[Check]:
    from tank_agent.doctor.examine import examine

    return examine(settings.data_dir, settings.run_dir, settings.pods_dir, settings.secrets.identities)


def _notify(settings: Settings) -> Sequence[Check]:
    if settings.notify is None:
        return ()
    from tank_agent.doctor.notify import of_files

    return of_files(settings.notify, settings.file)


def _web(settings: Settings) -> Sequence[Check]:
    if settings.web is None:
        return ()
    from tank_agent.doctor.web import of_settings

    return of_settings(settings.web)


def _agent(arguments: argparse.Namespace, settings: Settings) -> Sequence[Check]:
    """Say whether the agent answers, and whether the secrets and the devices of its pods can be had."""
    from tank_agent.doctor import ok, warn
    from tank_agent.errors import AgentUnreachable

    try:
        if arguments.run_dir and not arguments.socket:
            arguments.socket = str(Path(arguments.run_dir) / "tank.sock")
        client = client_of(arguments)
        info = client.info()
        pods = [listed.pod for listed in client.list()]
    except AgentUnreachable as error:
        found = [warn("agent", error.message, error.hint or "")]
        if settings.web is not None:
            from tank_agent.doctor.web import of_address

            found.append(of_address(settings.web.listen))
        return found
    answers = ok("agent", f"version {info.version}, pid {info.pid}")
    found = [*_shown_outward(client, settings)]
    if any(pod.secrets for pod in pods):
        from tank_agent.doctor import secrets

        own = (settings.data_dir, settings.run_dir)
        found.append(secrets.of_pods(pods, settings.secrets.identities, own))
    if settings.notify is not None:
        from tank_agent.doctor.notify import of_agent

        told = client.notifications()
        receivers = [(one.name, one.waiting, one.error) for one in told.receivers]
        found += (
            of_agent(receivers, told.problems) if told.on else [warn("notifications", _NOT_YET, _RESTART)]
        )
    if any(container.security.devices for pod in pods for container in pod.containers):
        from tank_agent.doctor import devices

        found.append(devices.of_pods(pods))
    return (*found, answers)


def _shown_outward(client: Client, settings: Settings) -> Iterator[Check]:
    """Say whether the forge has the status of the commit, and whether the page is served."""
    has_status = settings.git is not None and settings.git.status is not None
    if settings.web is None and not has_status:
        return
    sources = client.sources()
    if has_status:
        yield _commit_status(sources.git)
    if settings.web is not None:
        from tank_agent.doctor.web import of_agent

        told = sources.web
        yield of_agent(
            settings.web.listen,
            at=told.listen if told is not None else None,
            error=told.error if told is not None else None,
            hint=told.hint if told is not None else None,
        )


def _commit_status(git: GitReport | None) -> Check:
    from tank_agent.doctor.commit_status import of_agent

    told = git.status if git is not None else None
    return of_agent(
        on=told is not None,
        commit=told.commit if told is not None else None,
        state=told.state if told is not None else None,
        place=f"{told.context} of {told.project}" if told is not None else "",
        error=told.error if told is not None else None,
        hint=told.hint if told is not None else None,
    )


def _print(checks: Sequence[Check]) -> None:
    for check in checks:
        mark = colored(f"{check.result:<5}", _COLORS[check.result])
        print(f"{mark} {check.name:<19} {escape(check.found)}")
        if check.fix:
            say(f"{'':<25} → {check.fix}")
