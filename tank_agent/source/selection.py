"""Leaves out what is not meant for this machine, for sources that read files."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from tank_agent.source.podfiles import PodFile, parse_bytes
from tank_agent.spec.selectors import Host, selects

Parse = Callable[[bytes, str], PodFile]


def parser_for(host: Host, parse: Parse = parse_bytes) -> Parse:
    """Return a parser that leaves out the pods whose selectors do not match a host."""

    def parse_and_select(data: bytes, file: str) -> PodFile:
        found = parse(data, file)
        return replace(found, pods=tuple(item for item in found.pods if selects(item.selector, host)))

    return parse_and_select
