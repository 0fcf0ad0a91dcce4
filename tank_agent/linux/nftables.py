"""Change and list rules of the kernel's packet filter (nft(8)), by libnftables or else by the program `nft`.

The library takes a tenth of a millisecond where the program takes five. Its Python package, which Debian has
and PyPI has not, is a thin layer over the same six calls, so they are made here.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import socket
import struct
from contextlib import ExitStack

from tank_agent.errors import Retry, one_line
from tank_agent.linux import process

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, NFT_MSG_GETGEN = 10, 1, 16
NFTA_TABLE_NAME, NFTA_GEN_ID = 1, 1
NFPROTO_INET = 1
NLM_F_REQUEST = 1
NLMSG_ERROR = 2

_LIBRARY = "libnftables.so.1"
_DEADLINE = 10.0
_HEADER = struct.Struct("=IHHII")


class PacketFilter:
    """Talks to nftables in the network namespace of the thread that calls first; one may call at a time.

    Its sockets stay open: whoever closes one soon after a change waits until the kernel has freed what the
    change replaced, which takes 8 to 16 ms.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._context: int | None = None
        self._netlink: socket.socket | None = None

    def close(self) -> None:
        """Close the sockets; the next call opens others, in its thread's namespace."""
        self._context = self._netlink = None
        self._open.close()

    def run(self, commands: str) -> str:
        """Run commands of nft(8) as one transaction and return their output.

        Raises:
            Retry: nftables or the kernel refuses them, with its own words.
            Stalled: this machine has neither libnftables nor nft.
        """
        # Not earlier: a machine without bridges never loads it.
        library = _library()
        return _run_program(commands) if library is None else self._run_library(library, commands)

    def generation(self) -> int | None:
        """Return the number that any change of rules raises; None if there is no nftables."""
        answer = self._ask(NFT_MSG_GETGEN, bytes(4))
        # struct nfgenmsg, then attributes; the first is the number, in network order.
        if answer is None or struct.unpack_from("=HH", answer, 4) != (8, NFTA_GEN_ID):
            return None
        return int.from_bytes(answer[8:12], "big")

    def has_table(self, name: str) -> bool:
        """Return whether there is a table of the family inet by that name."""
        named = name.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(named), NFTA_TABLE_NAME) + named + bytes(-len(named) % 4)
        return self._ask(NFT_MSG_GETTABLE, struct.pack("=BBH", NFPROTO_INET, 0, 0) + attribute) is not None

    def _ask(self, question: int, body: bytes) -> bytes | None:
        """Return the body of the kernel's answer, None where that is an error."""
        if self._netlink is None:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            opened = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
            self._netlink = self._open.enter_context(opened)
            self._netlink.settimeout(_DEADLINE)
        kind = NFNL_SUBSYS_NFTABLES << 8 | question
        try:
            self._netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST, 1, 0) + body)
            data = self._netlink.recv(4096)
        except OSError:
            # A late answer must not be taken for the next one's.
            self.close()
            raise
        _, answer, _, _, _ = _HEADER.unpack_from(data)
        return None if answer == NLMSG_ERROR else data[_HEADER.size :]

    def _run_library(self, library: ctypes.CDLL, commands: str) -> str:
        if self._context is None:
            self._context = library.nft_ctx_new(0)
            if not self._context:
                raise Retry("cannot talk to the kernel's nftables")
            self._open.callback(library.nft_ctx_free, self._context)
            library.nft_ctx_buffer_output(self._context)
            library.nft_ctx_buffer_error(self._context)
        failed = library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Read each time, which also empties them.
        output = library.nft_ctx_get_output_buffer(self._context) or b""
        errors = library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            self.close()
            raise _refused(errors.decode(errors="replace"))
        return bytes(output).decode(errors="replace")


def means() -> str | None:
    """Return what rules are written by: "libnftables", or "nft", the program; None if there is neither."""
    if _library() is not None:
        return "libnftables"
    return "nft" if shutil.which("nft", path=process.ENVIRONMENT["PATH"]) else None


def run(commands: str) -> str:
    """Run commands once, as `PacketFilter.run` does, in the namespace of the calling thread."""
    nft = PacketFilter()
    try:
        return nft.run(commands)
    finally:
        nft.close()


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def _run_program(commands: str) -> str:
    done = process.run(["nft", "-f", "-"], timeout=_DEADLINE, stdin=commands.encode())
    if done.code:
        raise _refused(done.stderr)
    return done.stdout


def _refused(text: str) -> Retry:
    return Retry(f"nftables refuses the rules: {one_line(text) or 'no reason given'}")
