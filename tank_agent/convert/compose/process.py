"""The program of a service: image, command, variables, user, terminal, health, its end and restart."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from msgspec import Struct

from tank_agent.convert.compose import values
from tank_agent.convert.compose.service import Act, ComposeService, Table, each, mapped
from tank_agent.convert.model import Value
from tank_agent.spec import health_values
from tank_agent.spec.beside import FILE_MAX
from tank_agent.spec.env_file import parse_env_file
from tank_agent.spec.findings import show

_ARCHIVES = "/srv/images"
# docker's, where a health check names none.
_TIMEOUT = 30.0


def image(service: ComposeService, key: str, value: Value) -> None:
    """Take the image by its name."""
    name = values.text(value).strip()
    if not name:
        raise ValueError("is empty; write the image's name")
    service.put(key, value, "image", name)


def build(service: ComposeService, key: str, value: Value) -> None:
    """Say how an image that compose builds comes here; without a name it is read from an archive."""
    named = service.keys.get("image")
    name = values.text(named).strip() if named is not None else ""
    if name:
        message = f"images are built elsewhere: `docker compose build {service.name}`, and push {name}"
        service.lost(key, value, message)
        return
    made = f"{service.stack.name}-{service.container}"
    archive = f"{_ARCHIVES}/{made}.tar"
    service.put(key, value, "image", f"docker-archive:{archive}")
    service.lost(
        key,
        value,
        f"images are built elsewhere: `docker compose build {service.name} && docker save -o {archive} "
        f"{made}` where docker is, or push it to a registry and write its name as image",
    )


def pull_policy(service: ComposeService, key: str, value: Value) -> None:
    """Say when the registry is asked."""
    word = values.text(value)
    known = {"always": "always", "never": "never", "missing": "missing", "if_not_present": "missing"}
    if word in known:
        service.put(key, value, "pull", known[word])
    elif word == "build":
        service.note(key, value, "the image is built elsewhere, see build")
    elif word in ("daily", "weekly") or word.startswith("every_"):
        service.put(key, value, "pull", "always")
        service.note(key, value, 'is asked at each start; image = "digest" in [update] follows the tag')
    else:
        raise ValueError(f"{show(word)} is no policy of compose")


def command(service: ComposeService, key: str, value: Value) -> None:
    """Take the arguments; with an entrypoint that is empty they are the whole command."""
    words = values.words(value)
    if value.plain is None:
        return
    entrypoint = service.keys.get("entrypoint")
    cleared = entrypoint is not None and entrypoint.plain is not None and not values.words(entrypoint)
    if cleared and words:
        service.put(key, value, "command", words)
    else:
        service.put(key, value, "args", words)


def entrypoint(service: ComposeService, key: str, value: Value) -> None:
    """Take the program; the image's Cmd is dropped, as docker does it."""
    words = values.words(value)
    if words:
        service.put(key, value, "command", words)
        return
    given = service.keys.get("command")
    if value.plain is not None and (given is None or not values.words(given)):
        service.lost(key, value, "resets the image's entrypoint: write command with what is to run")


def environment(service: ComposeService, key: str, value: Value) -> None:
    """Take variables; those without a value have that of the environment, as in compose."""
    for name, given in values.pairs(value):
        if given.plain is None:
            found = service.stack.given.environment.get(name)
            # A mapping's null and a list's "NAME" both ask the environment.
            if found is None:
                message = f"{name} has no value and is not set here, so it is left out, as compose does it"
                service.note(key, given, message)
                continue
            service.put(key, given, ("env", name), found)
        else:
            service.put(key, given, ("env", name), values.text(given))


def env_file(service: ComposeService, key: str, value: Value) -> None:
    """Put env files beside the pod file."""
    stack = service.stack
    known: dict[str, str] = {}
    for one in values.items(value):
        given = one.plain if isinstance(one.plain, dict) else {"path": one}
        for name in sorted(set(given) - {"path", "required", "format"}):
            service.lost(f"{key}.{name}", given[name], "is not known as a key of compose")
        name = values.text(given["path"]) if "path" in given else ""
        if not name:
            raise ValueError("names no file")
        path = values.path_from(stack.project.directory, stack.given.home, name)
        required = values.boolean(given["required"]) if "required" in given else True
        raw = "format" in given and values.text(given["format"]) == "raw"
        try:
            content = stack.given.read(path)
        except OSError as error:
            if not required:
                service.note(key, one, f"{name} is not there, and need not be: it is left out")
                continue
            problem = error.strerror or "cannot be read"
            message = f"{path}: {problem}; write it and import again, or put its variables into env"
            service.lost(key, one, message)
            continue
        _add_env_file(service, key, _EnvFile(one, path, content, raw), known)


class _EnvFile(Struct, frozen=True):
    """An env file that a service names; `raw` is docker's own form."""

    value: Value
    path: str
    content: bytes
    raw: bool


def _add_env_file(service: ComposeService, key: str, file: _EnvFile, known: dict[str, str]) -> None:
    """Put a file beside if it reads the same here, else its variables into a file that does."""
    content, path = file.content, file.path
    try:
        if file.raw or len(content) > FILE_MAX:
            raise ValueError(f"{path}: is too large, or in docker's raw format")
        variables = parse_env_file(content, path, known)
    except ValueError as error:
        found, wrong = _read_leniently(file, service.stack.given.environment)
        content = "".join(f"{name}='{_quoted(text)}'\n" for name, text in found.items()).encode()
        try:
            variables = parse_env_file(content, path, known)
        except ValueError:
            service.lost(key, file.value, f"{error}; write it so, and import again")
            return
        if wrong:
            service.lost(key, file.value, f"{path}: {wrong}")
        else:
            service.note(key, file.value, f"{path} is written anew with its values ({error})")
    known.update(variables)
    name = beside_name(service, path)
    service.draft.beside[name] = content
    service.add(key, file.value, "env_file", name)


def _read_leniently(file: _EnvFile, environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return the variables of a file line by line as they stand, and what can't be taken over of it."""
    found: dict[str, str] = {}
    wrong = ""
    raw = file.raw
    for line in file.content.decode(errors="replace").splitlines():
        name, equals, text = line.partition("=")
        name = name.strip().removeprefix("export ").strip()
        if not name or name.startswith("#"):
            continue
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            wrong = f"a line is no variable: {show(line)}; it is left out"
            continue
        if not equals:
            if name in environment:
                found[name] = environment[name]
            continue
        text = text if raw else text.strip()
        if not raw and len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
            text = text[1:-1]
        elif not raw:
            text = text.partition(" #")[0].rstrip()
        if not raw and re.search(r"\$[A-Za-z_{]", text):
            wrong = f"{name} refers to variables that are not in the file; write their values"
        found[name] = text
    return found, wrong


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")


def beside_name(service: ComposeService, path: str) -> str:
    """Return the path of a file beside the pod file: in a directory of the project's name."""
    stack = service.stack
    known = stack.files.get(path)
    if known is None:
        short = posixpath.relpath(path, stack.project.directory)
        parts = [part.lstrip(".") for part in short.split("/") if part.strip(".")]
        plain = "/".join(re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in parts if part) or "file"
        known = f"{stack.name}/{plain}"
        while known in stack.files.values():
            known += "_"
        stack.files[path] = known
    return known


def user(service: ComposeService, key: str, value: Value) -> None:
    """Take user and group."""
    word = values.text(value)
    if word:
        service.put(key, value, "user", word)


def group_add(service: ComposeService, key: str, value: Value) -> None:
    """Take further groups."""
    groups = values.texts(value)
    if groups:
        service.put(key, value, "groups", groups)


def working_dir(service: ComposeService, key: str, value: Value) -> None:
    """Take the directory."""
    word = values.text(value)
    if word:
        service.put(key, value, "working_dir", values.in_path(word))


def tty(service: ComposeService, key: str, value: Value) -> None:
    """Give the program a terminal."""
    if values.boolean(value):
        service.put(key, value, "tty", True)


def stdin_open(service: ComposeService, key: str, value: Value) -> None:
    """Keep standard input open, which a terminal does."""
    terminal = service.keys.get("tty")
    if values.boolean(value) and not (terminal is not None and values.boolean(terminal)):
        service.put(key, value, "tty", True)
        service.note(
            key, value, "standard input is kept open by a terminal, tty = true; `tank attach` is at it"
        )


def init(service: ComposeService, key: str, value: Value) -> None:
    """Name the reaper of zombies, which pods have not."""
    if values.boolean(value):
        message = "there is no init process: the program is process 1, and reaps its children itself"
        service.lost(key, value, message)


def stop_signal(service: ComposeService, key: str, value: Value) -> None:
    """Take the signal."""
    service.put(key, value, "stop_signal", values.text(value))


def stop_grace_period(service: ComposeService, key: str, value: Value) -> None:
    """Take how long a stop may last, an hour at most."""
    length = values.seconds(value)
    if length > 3600:
        service.note(key, value, "an hour is the longest; that is taken")
    service.put(key, value, "stop_grace", values.time_text(min(length, 3600)))


def restart(service: ComposeService, key: str, value: Value) -> None:
    """Take the policy; what compose gives up after some times is tried on, ever slower."""
    word, _, times = values.text(value).partition(":")
    known = {
        **dict.fromkeys(("no", "false", "none", ""), "never"),
        **dict.fromkeys(("always", "unless-stopped", "true", "any"), "always"),
        "on-failure": "on-failure",
    }
    if word not in known:
        raise ValueError(f"{show(word)} is no policy of compose")
    service.put_pod(key, value, ("restart",), known[word])
    if times:
        message = f"is tried on after {times} times, ever slower, and `tank status` says so"
        service.note(key, value, message)


def healthcheck(service: ComposeService, key: str, value: Value) -> None:
    """Take the check; docker restarts nothing because of it, so nothing is here."""
    given = values.mapping(value)
    test = given.get("test")
    disabled = "disable" in given and values.boolean(given["disable"])
    if disabled or (test is not None and values.texts(test)[:1] == ["NONE"]):
        service.put(key, value, ("health", "image"), False)
        return
    each(service, key, given, HEALTHCHECK)
    if service.draft.find("containers", service.container, "health", "exec") is not None:
        if "timeout" not in given:
            service.put(key, value, ("health", "timeout"), values.time_text(_TIMEOUT))
        service.put(key, value, ("health", "on_failure"), "none")


def _test(service: ComposeService, key: str, value: Value) -> None:
    if isinstance(value.plain, tuple):
        kind, *words = values.texts(value) or [""]
        if kind not in ("CMD", "CMD-SHELL"):
            raise ValueError("begins with none of CMD, CMD-SHELL and NONE")
        if kind == "CMD-SHELL":
            words = ["/bin/sh", "-c", " ".join(words)]
    else:
        word = values.text(value)
        words = ["/bin/sh", "-c", word] if word else []
    if words:
        service.put(key, value, ("health", "exec"), words)


def _within(name: str, low: float, high: float, usual: float) -> Act:
    """Return what takes a time of a check, within the limits that ours has."""

    def act(service: ComposeService, key: str, value: Value) -> None:
        length = values.seconds(value) or usual
        taken = min(max(length, low), high)
        if taken != length:
            low_text, high_text = values.time_text(low), values.time_text(high)
            service.note(key, value, f"is {low_text} to {high_text} here; {values.time_text(taken)} is taken")
        service.put(key, value, ("health", name), values.time_text(taken))

    return act


def _retries(service: ComposeService, key: str, value: Value) -> None:
    count = values.whole(value) or 3
    taken = min(max(count, 1), health_values.RETRIES_MAX)
    if taken != count:
        service.note(key, value, f"is 1 to {health_values.RETRIES_MAX} here; {taken} is taken")
    service.put(key, value, ("health", "retries"), taken)


def _disable(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: with true, no other key is looked at."""


HEALTHCHECK: Table = {
    "test": mapped("`exec`", _test),
    "interval": mapped("`interval`", _within("interval", 1.0, health_values.DAY, 30.0)),
    "timeout": mapped("`timeout`", _within("timeout", 0.1, health_values.HOUR, 30.0)),
    "retries": mapped("`retries`", _retries),
    "start_period": mapped("`start_period`", _within("start_period", 0.0, health_values.HOUR, 0.0)),
    "start_interval": mapped("`start_interval`", _within("start_interval", 0.5, health_values.DAY, 5.0)),
    "disable": mapped("`image = false`", _disable),
}
