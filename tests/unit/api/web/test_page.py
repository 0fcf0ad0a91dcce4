"""The page and its policy: browsers run what is in it, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from tank_agent.api.web import page


def test_the_policy_has_the_hashes_of_what_is_inline(tmp_path: Path) -> None:
    script, style = b'"use strict";\nlet a = "<b>";\n', b"\nb { color: red }\n"
    file = tmp_path / "page.html"
    file.write_bytes(b"<style>%b</style><script>%b</script>" % (style, script))
    found = page.load(file)
    hashes = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (script, style)]
    assert found.policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert found.html == file.read_bytes()


def test_our_page_asks_nobody_else_and_is_small() -> None:
    found = page.load()
    assert len(found.html) < 40 << 10
    assert not re.search(rb"(src|href)\s*=\s*[\"']?\s*(https?:)?//", found.html)
    assert b"unsafe" not in found.policy.encode()
