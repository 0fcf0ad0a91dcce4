"""Structs of the answers about images and volumes. Times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Literal

from tank_agent.api.reports import ClientAnswer


class ListedSnapshot(ClientAnswer, frozen=True, kw_only=True):
    """A snapshot of a volume; `size` is in bytes, of which it may share some; None if that took too long.

    `generation` is that of the update it was taken for, or of the pod if it was taken `by_hand`. `in_use`: it
    is the data of the last good revision.
    """

    id: str
    at: str
    generation: int
    path: str
    size: int | None = None
    by_hand: bool = False
    in_use: bool = False


class DataPutAside(ClientAnswer, frozen=True, kw_only=True):
    """The data of a volume that a snapshot replaced; `name` is the one to remove it by."""

    name: str
    at: str
    path: str
    size: int | None = None


class ManagedVolume(ClientAnswer, frozen=True, kw_only=True):
    """A managed volume; `in_use` if its pod is desired with it, or runs.

    `size` is in bytes, None if that took too long. `gone`: there are only the snapshots of it, or data put
    aside. A `shared` one has no `pod` (""), and `pods` are those that use it.
    """

    pod: str
    name: str
    path: str
    in_use: bool
    gone: bool = False
    size: int | None = None
    snapshots: tuple[ListedSnapshot, ...] = ()
    put_aside: tuple[DataPutAside, ...] = ()
    shared: bool = False
    pods: tuple[str, ...] = ()


class RestoredVolume(ClientAnswer, frozen=True, kw_only=True):
    """A volume that has the data of a snapshot; `put_aside` is the name of the former data, if it had any."""

    pod: str
    name: str
    snapshot: str
    put_aside: str | None = None


class RemovedVolume(ClientAnswer, frozen=True, kw_only=True):
    """The answer to a removal: False if there was nothing; `snapshots` are those that went with a volume."""

    deleted: bool
    snapshots: tuple[str, ...] = ()


class ListedImage(ClientAnswer, frozen=True, kw_only=True):
    """One name of an image, or an image without a name (`reference` is then empty).

    `reference` is the full form; `size` is in bytes, unpacked; layers are shared, so sizes don't add up.
    `pods` need the image: they run it, are to run it, or did before their last change.
    """

    reference: str
    digest: str
    size: int
    layers: int
    pulled_at: str | None = None
    pods: tuple[str, ...] = ()


class MovedImage(ClientAnswer, frozen=True, kw_only=True):
    """A container whose image, as its file writes it, stands for another one now; both are digests."""

    container: str
    image: str
    before: str
    after: str


class ImageUpdate(ClientAnswer, frozen=True, kw_only=True):
    """The answer to `tank image update`: the pod, its generation now, and what moved (nothing if empty).

    `stopped`: a person stopped the pod, so it runs what moved once it is started.
    """

    name: str
    generation: int
    moved: tuple[MovedImage, ...] = ()
    stopped: bool = False


class RemovedImages(ClientAnswer, frozen=True, kw_only=True):
    """The removed names, or digests of images without a name, and the bytes that their layers had."""

    removed: tuple[str, ...] = ()
    freed: int = 0


class PulledLayer(ClientAnswer, frozen=True, kw_only=True):
    """The progress of one layer; `digest` is of the compressed layer."""

    digest: str
    done: int
    total: int
    state: Literal["waiting", "downloading", "unpacking", "done", "cached"] = "waiting"


class PullReport(ClientAnswer, frozen=True, kw_only=True):
    """The progress of a pull, in bytes of compressed layers; `trouble` is the error of the last request."""

    done: int
    total: int
    layers: tuple[PulledLayer, ...] = ()
    trouble: str = ""
