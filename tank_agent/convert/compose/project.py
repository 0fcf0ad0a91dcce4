"""A compose project as it was read: files merged, variables filled in, with the place of each value."""

from __future__ import annotations

from msgspec import Struct, field

from tank_agent.convert.model import Remark, Value


class Project(Struct, frozen=True, kw_only=True):
    """A compose project: `extends`, `include`, overrides, profiles and `${…}` are resolved.

    `directory` is the absolute path that relative paths of its files start from. Each entry of the others is
    a mapping as compose's specification has it, in either of the forms that it allows; null is an empty one.
    `environment` are the variables that they were filled in with, of the caller and of `.env`; an env_file
    may name them, too. `remarks` are on what was left out or could not be filled in.
    """

    name: str
    directory: str
    services: dict[str, Value]
    volumes: dict[str, Value] = field(default_factory=dict)
    networks: dict[str, Value] = field(default_factory=dict)
    configs: dict[str, Value] = field(default_factory=dict)
    secrets: dict[str, Value] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()
