"""Pipes and sockets, as the kernel describes them."""

from __future__ import annotations

import fcntl
import os
import socket

from tank_agent.linux.channels import enlarge_pipe, peer_credentials, peer_groups, readable, unread


def test_a_pipe_that_cannot_grow_stays_as_it_is() -> None:
    reader, writer = os.pipe()
    try:
        before = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
        # No pipe has this size, whoever asks.
        enlarge_pipe(writer, -1)
        assert fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) == before
        enlarge_pipe(writer, before * 2)
        assert fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) == before * 2
    finally:
        os.close(reader)
        os.close(writer)


def test_what_a_reader_has_not_taken_is_unread() -> None:
    reader, writer = os.pipe()
    assert not unread(writer)
    assert not readable(reader, 0)
    os.write(writer, b"x")
    assert unread(writer)
    assert readable(reader, 0)
    os.close(reader)
    os.close(writer)


def test_the_other_end_of_a_socket_is_this_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_credentials(ours) == (os.getpid(), os.geteuid(), os.getegid())
        assert peer_groups(ours) == frozenset(os.getgroups())
