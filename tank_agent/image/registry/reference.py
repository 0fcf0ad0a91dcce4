"""Image references as the store takes them: an unreadable one is an image that can't be had."""

from __future__ import annotations

from tank_agent.errors import Stalled
from tank_agent.spec import reference as grammar
from tank_agent.spec.findings import show


def parse_reference(text: str) -> grammar.Reference:
    """Read what a user wrote after `image =`, as `spec.reference` does.

    Raises:
        Stalled: it is no reference; the message says what would be right.
    """
    try:
        return grammar.parse_reference(text)
    except ValueError as error:
        raise Stalled(
            f"image {show(text)}: {error}",
            hint="write for example nginx:1.27, ghcr.io/owner/name@sha256:…, or oci:/path/to/layout:tag",
        ) from error
