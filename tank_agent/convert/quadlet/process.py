"""The process of a container: image, command, environment, user, health and end."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

from tank_agent.convert.names import valid
from tank_agent.convert.quadlet.amounts import duration, seconds, truth
from tank_agent.convert.quadlet.draft import ContainerDraft
from tank_agent.convert.quadlet.unit import Entry, words_of
from tank_agent.spec.quantities import format_duration

_SAFE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_ENV_FILE_MAX = 1 << 20
_GRACE_MAX = 3600.0


def image(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Run an image by its name, or what a unit pulls or builds."""
    kind = text.rpartition(".")[2]
    if kind not in ("image", "build"):
        draft.put("image", text.removeprefix("docker://"))
        return
    unit = draft.units.named(text)
    if unit is None:
        draft.lost(entry, f"there is no {text} among the units; write the image's name in the pod file")
        draft.put("image", "localhost/" + valid(text.rpartition(".")[0]))
    elif kind == "image":
        draft.put("image", unit.text("Image", "ImageTag") or unit.text("Image", "Image"))
    else:
        tag = unit.text("Build", "ImageTag") or f"localhost/{valid(unit.name)}"
        draft.put("image", tag)
        draft.lost(
            entry,
            f"images are not built here: build {unit.file} elsewhere and push it to a registry, or "
            f"`podman save --format oci-archive`; then name it in the pod file in place of {tag}",
        )


def entrypoint(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Run another program than the image's."""
    try:
        words = json.loads(text)
    except ValueError:
        words = [text]
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        draft.put("command", words)
    else:
        draft.lost(entry, "is neither a program nor a JSON list of words")


def arguments(draft: ContainerDraft, entry: Entry, _text: str) -> None:
    """Give the program these words."""
    draft.put("args", words_of(entry.text))


def environment(draft: ContainerDraft, entry: Entry, word: str) -> None:
    """Set a variable; one without a value is the host's."""
    name, equals, value = word.partition("=")
    if not equals:
        draft.lost(entry, f"{name} has no value, so that it would be the host's; write one")
        return
    draft.keys.setdefault("env", {})[name] = value


def environment_file(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Take variables from a file, which is copied beside the pod file."""
    optional = text.startswith("-")
    path = Path(os.path.join(draft.unit.directory, text.removeprefix("-")))
    name = f"{draft.pod.name}-{path.name}" if not path.name.startswith(draft.pod.name) else path.name
    name = name.replace("/", "-").replace(" ", "-")
    files = draft.keys.setdefault("env_file", [])
    if name not in files:
        # A later file wins, and secrets' are the last.
        files.insert(len([one for one in files if not one.endswith(".secret.env")]), name)
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "is not a regular file")
        with path.open("rb") as opened:
            content = opened.read(_ENV_FILE_MAX)
        draft.pod.beside[name] = _compose_form(draft, entry, content.decode())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        draft.pod.beside.setdefault(name, f"# The variables of {path} go here.\n".encode())
        message = f"{path} can't be read ({why}): write its variables into {name}, beside the pod file"
        (draft.note if optional else draft.lost)(entry, message)


def _compose_form(draft: ContainerDraft, entry: Entry, text: str) -> bytes:
    """Return the lines of an env file of podman, where quotes are part of a value, as ours has them."""
    lines = []
    for line in text.splitlines():
        name, equals, value = line.lstrip().partition("=")
        if not line.strip() or line.lstrip().startswith("#"):
            lines.append(line.strip())
        elif not equals:
            draft.lost(entry, f"{name.strip()} has no value, so that it would be the host's; write one")
        elif _SAFE.fullmatch(value):
            lines.append(f"{name}={value}")
        elif "'" not in value:
            lines.append(f"{name}='{value}'")
        else:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
            lines.append(f'{name}="{escaped}"')
    return ("\n".join(lines) + "\n").encode()


def user(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Run as a user; Group= says the group."""
    group = draft.unit.text("Container", "Group")
    draft.put("user", f"{text}:{group}" if group and ":" not in text else text)


def group(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Run with a group, of the user that User= names."""
    if not draft.unit.text("Container", "User"):
        draft.put("user", f"0:{text}")


def time_zone(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Give the container the clock of a zone, as podman does: by its /etc/localtime."""
    zone = "/etc/localtime" if text == "local" else f"/usr/share/zoneinfo/{text}"
    volume = draft.pod.volume("localtime", host=draft.behind_links(entry, zone))
    draft.mount(entry, "/etc/localtime", volume=volume, read_only=True)


def stop_timeout(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set how long the program may take to end."""
    grace = seconds(text)
    if grace > _GRACE_MAX:
        draft.lost(entry, "is longer than the hour that a pod may take to stop; it gets one hour")
    draft.put("stop_grace", format_duration(min(grace, _GRACE_MAX)))


def pull(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set when the registry is asked."""
    draft.put("pull", "always" if text == "newer" else text)
    if text == "newer":
        draft.note(entry, "the registry is asked before each start, which fetches only what is newer")


def auto_update(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Follow the tag of the image."""
    if text in ("registry", "image"):
        draft.pod.keys.setdefault("update", {})["image"] = "digest"
    else:
        draft.lost(entry, f"{text} has no counterpart: an image that is on this machine only is named anew")


def health(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Ask by a command whether the container works; podman's own defaults are written down."""
    command = _health_command(text)
    if command is None:
        draft.put("health", {"image": False})
        return
    table: dict[str, Any] = {"exec": command, "timeout": "30s", "start_period": "0s", "on_failure": "none"}
    draft.put("health", table)


def _health_command(text: str) -> list[str] | None:
    """Return the words that podman makes of a health command; None for none."""
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        kind, rest = words[0].upper(), words[1:]
        listed = len(words) > 1
    else:
        first, _, remainder = text.partition(" ")
        kind, rest, listed, words = first.upper(), [remainder], False, [text]
    if kind == "NONE":
        return None
    if kind == "CMD":
        return rest if listed else rest[0].split()
    if kind == "CMD-SHELL":
        return ["/bin/sh", "-c", " ".join(rest).strip()]
    return words if listed else ["/bin/sh", "-c", words[0]]


def health_time(key: str) -> Any:
    """Return the action that sets a time of the health check."""

    def action(draft: ContainerDraft, entry: Entry, text: str) -> None:
        if text in ("disable", "0") and key == "interval":
            draft.lost(entry, "a probe is asked regularly here; remove the table for none")
        elif (draft.get("health") or {}).get("image") is not False:
            draft.put("health", key, duration(text))

    return action


def health_retries(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set how many failures in a row count."""
    draft.put("health", "retries", int(text))


def health_failure(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set what follows when it is unhealthy; systemd restarts what podman kills or stops."""
    draft.put("health", "on_failure", "none" if text == "none" else "restart")


def startup_check(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Merge the probe of the start with the one after it, if both are the same."""
    if _health_command(text) != draft.get("health", "exec"):
        draft.lost(
            entry, "a container has one probe here, that of HealthCmd; it counts during the start, too"
        )
    every = draft.unit.text("Container", "HealthStartupInterval")
    times = draft.unit.text("Container", "HealthStartupRetries")
    if every and every != "disable":
        draft.put("health", "start_interval", duration(every))
    if times.isdigit() and int(times):
        period = seconds(every or "30s") * int(times)
        draft.put("health", "start_period", format_duration(min(period, 3600.0)))


def notify(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Let others wait for the health check, as they do here anyway."""
    if text == "healthy":
        return
    if truth(text):
        draft.lost(
            entry, "nothing listens for sd_notify here; give a health check, which is what others wait for"
        )


def run_init(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Say that no further process is put before the program."""
    if truth(text):
        draft.lost(
            entry,
            "no init is put before the program: if it leaves zombies, take an image with tini as entrypoint",
        )
