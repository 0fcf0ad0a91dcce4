"""What `tank image` shows: the form in which images travel from the agent to its callers."""

from __future__ import annotations

from msgspec import Struct


class ListedImage(Struct, frozen=True, kw_only=True):
    """One name of an image, or an image that no name stands for any more (`reference` is then empty).

    `reference` is the full form; `size` is in bytes, unpacked; layers are shared, so sizes don't add up.
    `pulled_at` is RFC 3339 in UTC. `pods` need the image: they run it, should run it, or did before.
    """

    reference: str
    digest: str
    size: int
    layers: int
    pulled_at: str | None = None
    pods: tuple[str, ...] = ()


class RemovedImages(Struct, frozen=True, kw_only=True):
    """What was removed: names, or digests of images without one, and the bytes that their layers had."""

    removed: tuple[str, ...] = ()
    freed: int = 0
