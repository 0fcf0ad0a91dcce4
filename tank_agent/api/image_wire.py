"""What the server and the client agree on about images, apart: the client imports it only for a pull."""

from __future__ import annotations

from msgspec import Struct

from tank_agent.api.wire import ErrorBody
from tank_agent.image.config import Progress
from tank_agent.image.reports import ListedImage


class PullLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the answer to a pull: how far it is, or at last the image, or why there is none."""

    progress: Progress | None = None
    image: ListedImage | None = None
    error: ErrorBody | None = None
