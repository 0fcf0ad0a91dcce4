"""What a container runs: the image's configuration with the pod file's own words over it."""

from __future__ import annotations

from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.config import ImageConfig
from tank_agent.spec.container_paths import is_kernel_path, normal_path
from tank_agent.spec.model import Container
from tank_agent.spec.signals import parse_signal

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RunParameters(Struct, frozen=True, kw_only=True):
    """How to run a container's process.

    `cwd` is absolute and normal. `user` is as written ("postgres:postgres", "1000", "0:0"): resolve it in the
    mounted root file system with `resolve_user`. `stop_signal` is a name such as "SIGTERM" or "SIGRTMIN+3";
    `spec.signals.signal_number` gives its number.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    user: str
    stop_signal: str


def merge(container: Container, config: ImageConfig) -> RunParameters:
    """Return what to run, by the argv rule of DESIGN section 3.

    Raises:
        Stalled: there is no command, or one of the two asks for something that cannot be.
    """
    return RunParameters(
        argv=_argv(container, config),
        env=_environment(container, config),
        cwd=_working_directory(container.working_dir or config.working_dir or "/", container.name),
        user=container.user or config.user or "0:0",
        stop_signal=_signal_name(container.stop_signal or config.stop_signal or "SIGTERM", container.name),
    )


def _argv(container: Container, config: ImageConfig) -> tuple[str, ...]:
    if container.command is not None:
        argv = (*container.command, *(container.args or ()))
    else:
        argv = (*config.entrypoint, *(config.cmd if container.args is None else container.args))
    if not argv or not argv[0]:
        source = (
            "its root file system has none" if container.image is None else f"{container.image} names none"
        )
        raise Stalled(
            f"there is no command to run: {source}",
            where=f"container {container.name}",
            hint='set command = ["/path/to/program"] in the pod file',
        )
    if any("\0" in word for word in argv):
        raise Stalled("the command contains a NUL byte", where=f"container {container.name}")
    return argv


def _environment(container: Container, config: ImageConfig) -> dict[str, str]:
    # An entry without "=" would make some runtimes pass on the host's variable of that name (CVE-2026-57231).
    given = (entry.partition("=") for entry in config.env if "\0" not in entry)
    merged = {name: value for name, equals, value in given if name and equals}
    merged.update(container.env)
    merged.setdefault("PATH", DEFAULT_PATH)
    return merged


def _working_directory(path: str, container: str) -> str:
    parts = path.split("/")
    normal = normal_path(path)
    if not path.startswith("/") or ".." in parts or "\0" in path:
        problem = "is not an absolute path without '..'"
    elif is_kernel_path(normal):
        problem = "is in a file system of the kernel"
    else:
        return normal
    raise Stalled(
        f"working directory {path!r} {problem}",
        where=f"container {container}",
        hint='set working_dir = "/some/directory" in the pod file',
    )


def _signal_name(name: str, container: str) -> str:
    try:
        return parse_signal(name.strip())
    except ValueError as error:
        raise Stalled(
            f"stop signal: {error}",
            where=f"container {container}",
            hint='set stop_signal = "SIGTERM" in the pod file',
        ) from error
