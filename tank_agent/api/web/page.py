"""The page, and the policy by which browsers run nothing in it but its own script and style."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from msgspec import Struct

_FILE = Path(__file__).with_name("page.html")
_INLINE = re.compile(rb"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL)
_REST = "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class StaticPage(Struct, frozen=True, kw_only=True):
    """A page, and its Content-Security-Policy."""

    html: bytes
    policy: str


def load(file: Path = _FILE) -> StaticPage:
    """Return the page of a file, with the hashes of its inline script and style (CSP level 3)."""
    html = file.read_bytes()
    hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for kind, content in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    script, style = (" ".join(found) or "'none'" for found in hashes.values())
    policy = f"default-src 'none'; script-src {script}; style-src {style}; {_REST}"
    return StaticPage(html=html, policy=policy)
