"""Are those whom [notify] names reached, and are their secrets closed to others?"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tank_agent.doctor import Check, note, ok, warn
from tank_agent.linux.paths import NotReadableError
from tank_agent.linux.process import ENVIRONMENT
from tank_agent.runtime.secrets.identities import read_key
from tank_agent.settings.notify import NotifySettings

_NAME = "notifications"
_CLOSED = "chown root:root {0} && chmod 600 {0}"


def of_files(settings: NotifySettings, agent_file: Path | None) -> list[Check]:
    """Check the files and programs of [notify]; `agent_file` is agent.toml, which may hold a secret."""
    checks = []
    for key in ("urls_file", "webhook_token_file"):
        file = getattr(settings, key)
        wrong = _unreadable(file) if file is not None else ""
        if wrong:
            checks.append(warn(_NAME, f"{key}: {file} {wrong}", _CLOSED.format(file)))
    if settings.urls_file is not None and shutil.which("apprise", path=ENVIRONMENT["PATH"]) is None:
        checks.append(
            warn(_NAME, "apprise is not installed, so nobody in urls_file is told", "apt install apprise")
        )
    if settings.webhook is not None and agent_file is not None and _has_secret(settings.webhook):
        try:
            is_open = bool(agent_file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
        except OSError:
            is_open = False
        if is_open:
            found = (
                f"{agent_file} can be read by others, and the address of the webhook in it may be a secret"
            )
            checks.append(note(_NAME, found, f"chmod 600 {agent_file}"))
    return checks


def of_agent(receivers: Sequence[tuple[str, int, str]], problems: Sequence[str]) -> list[Check]:
    """Check what the agent says of its receivers: name, messages that wait, and why the last try failed."""
    checks = [warn(_NAME, problem, "`tank notify test` tries it again") for problem in problems]
    for name, waiting, error in receivers:
        if error:
            found = f"{name} can't be told, {waiting} wait: {error}"
            checks.append(warn(_NAME, found, "`tank notify test` tries it again"))
    if not checks:
        checks.append(ok(_NAME, f"go to {', '.join(name for name, _, _ in receivers)}"))
    return checks


def _unreadable(file: str) -> str:
    try:
        read_key(file)
    except PermissionError:
        # For who is not root; the agent says by itself what it can't read.
        return ""
    except OSError as error:
        return f"can't be read: {error.strerror}"
    except NotReadableError as error:
        return str(error)
    return ""


def _has_secret(webhook: str) -> bool:
    parts = urlsplit(webhook)
    return bool(parts.path.strip("/") or parts.query or parts.username or parts.password)
