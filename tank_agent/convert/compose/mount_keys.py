"""The keys of a mount in the long form of compose, each with what it becomes."""

from __future__ import annotations

from tank_agent.convert.compose import values
from tank_agent.convert.compose.service import ComposeService, Table, group, lost, mapped, note
from tank_agent.convert.model import Value


def _create_host_path(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: what is not there has its remark."""


def _nocopy(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: the mount has it already."""


def _subpath(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: the mount has it already."""


def _propagation(service: ComposeService, key: str, value: Value) -> None:
    if values.text(value) not in ("rprivate", "private", ""):
        service.lost(
            key, value, "mounts are private to a container: later ones of the machine are not seen in it"
        )


MOUNT: Table = {
    "consistency": note("does nothing on Linux"),
    "volume": group(
        {
            "nocopy": mapped("no `from_image`, which a managed volume has otherwise", _nocopy),
            "subpath": mapped("`subpath`", _subpath),
            "labels": note("labels of volumes do nothing here"),
        }
    ),
    "bind": group(
        {
            "create_host_path": mapped("nothing: a path that is not there has a note", _create_host_path),
            "propagation": mapped("lost, unless it is private", _propagation),
            "selinux": note("there is no SELinux label here"),
            "recursive": lost("what is mounted below comes along always"),
        }
    ),
}
