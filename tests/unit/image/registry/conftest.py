"""A network that answers as a test tells it, in the place of the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import urllib3.util

from tank_agent.image.registry import http
from tank_agent.settings.image import RegistrySettings
from tests.support.wire import Wire


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with pytest.MonkeyPatch.context() as patch:
        found = Wire()
        patch.setattr(urllib3.util.connection, "create_connection", found.connect)
        # It takes longer to make than all the rest of an example.
        context = http.tls_context(RegistrySettings())
        patch.setattr(http, "tls_context", lambda _: context)
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
            patch.delenv(name, raising=False)
        yield found
