"""The names of users, as this machine's own file has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.linux.users import user_name

_PASSWD = b"""root:x:0:0:root:/root:/bin/bash
# a comment
+
broken:x
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
l\xe9a:x:1000:1000::/home/lea:/bin/sh
second:x:1000:1000::/home/second:/bin/sh
"""


@pytest.mark.parametrize(
    ("uid", "name"),
    [(0, "root"), (65534, "nobody"), (1000, "l\ufffda"), (6553, "6553"), (1001, "1001")],
)
def test_the_first_line_of_a_user_has_the_name(uid: int, name: str, tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(_PASSWD)
    assert user_name(uid, passwd) == name


def test_without_the_file_a_user_has_a_number(tmp_path: Path) -> None:
    assert user_name(1000, tmp_path / "none") == "1000"
    assert user_name(1000, tmp_path) == "1000"
