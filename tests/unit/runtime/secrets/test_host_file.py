"""Files of the host as secrets: never over somebody's link, never the agent's own, never blocking."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tank_agent.runtime.secrets.host_file import NoHostFile, read_host_file

pytestmark = pytest.mark.machine


def refused(path: Path, *own: Path) -> str:
    with pytest.raises(NoHostFile) as caught:
        read_host_file(str(path), own, "db")
    assert caught.value.message.startswith("secret db: ") and caught.value.hint
    return caught.value.message


def test_a_file_is_read_also_over_links_of_root(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "key1.pem").write_text("key")
    (tmp_path / "live").mkdir()
    link = tmp_path / "live" / "key.pem"
    link.symlink_to("../archive/key1.pem")
    assert read_host_file(str(link), (), "db") == b"key"
    (tmp_path / "absolute").symlink_to(tmp_path / "live")
    assert read_host_file(str(tmp_path / "absolute" / "key.pem"), (), "db") == b"key"


@pytest.mark.parametrize("whose", ["link", "directory", "open directory"])
def test_links_that_others_could_have_made_are_not_followed(whose: str, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root's")
    place = tmp_path / "home"
    place.mkdir()
    link = place / "secret"
    link.symlink_to(tmp_path / "shadow")
    if whose == "link":
        os.chown(link, 1000, 1000, follow_symlinks=False)
    elif whose == "directory":
        os.chown(place, 1000, 1000)
    else:
        place.chmod(0o777)
    assert f"leads over {link}, a link that is not root's alone" in refused(link)


def test_a_link_in_what_containers_write_to_leads_nowhere_else(tmp_path: Path) -> None:
    """The root of a container makes links of root there."""
    theirs = tmp_path / "letsencrypt"
    for name in ("live", "archive"):
        (theirs / name).mkdir(parents=True)
    (theirs / "archive" / "key1.pem").write_text("key")
    (tmp_path / "shadow").write_text("root's")
    link = theirs / "live" / "key.pem"
    link.symlink_to("../archive/key1.pem")
    assert read_host_file(str(link), (), "db", [str(theirs)]) == b"key"
    for target in ("../../shadow", str(tmp_path / "shadow"), "/proc/self/environ"):
        link.unlink()
        link.symlink_to(target)
        with pytest.raises(NoHostFile, match=r"leads over .*key\.pem, a link that is not root's alone"):
            read_host_file(str(link), (), "db", [str(theirs)])
    (theirs / "up").symlink_to("..")
    with pytest.raises(NoHostFile, match=r"leads over .*up, a link"):
        read_host_file(str(theirs / "up" / "shadow"), (), "db", [str(theirs)])


def test_what_is_no_small_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    assert "is not there" in refused(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo")
    assert "is not a regular file" in refused(tmp_path / "fifo")
    assert "is not a regular file" in refused(tmp_path)
    assert "is not a regular file" in refused(Path("/dev/zero"))
    large = tmp_path / "large"
    large.write_bytes(bytes(256 << 10))
    assert len(read_host_file(str(large), (), "db")) == 256 << 10
    large.write_bytes(bytes((256 << 10) + 1))
    assert "is larger than 262144 bytes" in refused(large)
    (tmp_path / "circle").symlink_to("circle")
    assert "can't be read: Too many levels of symbolic links" in refused(tmp_path / "circle")
    assert "can't be read: Not a directory" in refused(large / "below")


def test_the_agents_own_files_are_refused_however_they_are_named(tmp_path: Path) -> None:
    own = tmp_path / "data"
    (own / "journal").mkdir(parents=True)
    (own / "journal" / "data.mdb").write_text("x")
    (tmp_path / "other").symlink_to(own)
    for path in (own / "journal" / "data.mdb", tmp_path / "other" / "journal" / "data.mdb"):
        assert f"is one of the agent's own files in {own}" in refused(path, own)


def test_what_is_no_regular_file_is_not_even_opened(tmp_path: Path) -> None:
    # Opening a watchdog starts it; to open a socket is an error of another kind.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "is not a regular file" in refused(tmp_path / "socket")
