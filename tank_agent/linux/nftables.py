"""Change and list rules of the kernel's packet filter (nft(8)), by libnftables or else by the program `nft`.

The library takes a tenth of a millisecond where the program takes five. Its Python package, which Debian has
and PyPI has not, is a thin layer over the same six calls, so they are made here.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import socket
import struct
from contextlib import ExitStack, suppress

from tank_agent.errors import Retry, Stalled, one_line, shortage
from tank_agent.linux import process
from tank_agent.linux.paths import Closing

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, NFT_MSG_GETGEN = 10, 1, 16
NFTA_TABLE_NAME, NFTA_GEN_ID = 1, 1
NFPROTO_INET = 1
NLM_F_REQUEST = 1
NLMSG_ERROR = 2

_LIBRARY = "libnftables.so.1"
_DEADLINE = 10.0
# Of a line of rules that is refused, what is shown before and after the place of the error.
_BEFORE, _AFTER, _LONGEST = 40, 80, 500
# More than other threads can open at the moment when libnftables opens its own.
_SPARE = 8
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
            Stalled: this machine has neither libnftables nor nft, or its kernel no nf_tables.
        """
        require()
        # Not earlier: a machine without bridges never loads it.
        library = _library()
        if library is None:
            failed, output, errors = _run_program(commands)
        else:
            failed, output, errors = self._run_library(library, commands)
        if not failed:
            return output
        if self.generation() is None:
            raise _no_kernel()
        raise Retry(f"nftables refuses the rules: {_reason(errors)}")

    def generation(self) -> int | None:
        """Return the number that any change of rules raises; None if the kernel has no nf_tables.

        Raises:
            Retry: the machine has no more descriptors, or the kernel does not answer.
            Stalled: the kernel has no netfilter.
        """
        answer = self._ask(NFT_MSG_GETGEN, bytes(4))
        # struct nfgenmsg, then attributes; the first is the number, in network order.
        if answer is None or struct.unpack_from("=HH", answer, 4) != (8, NFTA_GEN_ID):
            return None
        return int.from_bytes(answer[8:12], "big")

    def has_table(self, name: str) -> bool:
        """Return whether there is a table of the family inet by that name; Retry as `generation`."""
        named = name.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(named), NFTA_TABLE_NAME) + named + bytes(-len(named) % 4)
        with suppress(Stalled):
            return (
                self._ask(NFT_MSG_GETTABLE, struct.pack("=BBH", NFPROTO_INET, 0, 0) + attribute) is not None
            )
        return False

    def _ask(self, question: int, body: bytes) -> bytes | None:
        """Return the body of the kernel's answer, None where that is an error; else as `generation`."""
        netlink = self._open_netlink()
        kind = NFNL_SUBSYS_NFTABLES << 8 | question
        try:
            netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST, 1, 0) + body)
            data = netlink.recv(4096)
        except OSError as error:
            # A late answer must not be taken for the next one's.
            self.close()
            raise Retry(f"the kernel's nftables does not answer: {error.strerror or error}") from error
        _, answer, _, _, _ = _HEADER.unpack_from(data)
        if answer != NLMSG_ERROR:
            return data[_HEADER.size :]
        if struct.unpack_from("=i", data, _HEADER.size) == (-errno.EPERM,):
            raise Retry(f"the kernel's nftables refuses to answer: {os.strerror(errno.EPERM)}")
        return None

    def _open_netlink(self) -> socket.socket:
        if self._netlink is None:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            try:
                opened = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
            except OSError as error:
                raise shortage(error) or _no_kernel() from error
            opened.settimeout(_DEADLINE)
            self._netlink = self._open.enter_context(opened)
        return self._netlink

    def _run_library(self, library: ctypes.CDLL, commands: str) -> tuple[int, str, str]:
        if self._context is None:
            self._see_that_there_are_descriptors()
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
        return int(failed), output.decode(errors="replace"), errors.decode(errors="replace")

    def _see_that_there_are_descriptors(self) -> None:
        """Raise Retry or Stalled where libnftables gets no socket: it would end this process."""
        self._open_netlink()
        try:
            with ExitStack() as spare:
                for _ in range(_SPARE):
                    spare.enter_context(Closing(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)))
        except OSError as error:
            raise shortage(error) or Retry(f"cannot open {os.devnull}: {error.strerror}") from error


def require() -> None:
    """Raise Stalled where neither libnftables nor the program nft is installed."""
    if means() is None:
        raise Stalled(
            "pods in bridges and ports need nftables, which is not installed", hint="apt install nftables"
        )


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


def _run_program(commands: str) -> tuple[int, str, str]:
    done = process.run(["nft", "-f", "-"], timeout=_DEADLINE, stdin=commands.encode())
    return done.code, done.stdout, done.stderr


def _reason(errors: str) -> str:
    """Return the first error with the words that it is about: of a table of ports, nft repeats all."""
    lines = errors.splitlines()
    at = next((number for number, line in enumerate(lines) if "Error: " in line), None)
    if at is None:
        return one_line(errors[:_LONGEST]) or "no reason given"
    message = lines[at].partition("Error: ")[2]
    line, mark = [*lines[at + 1 : at + 3], "", ""][:2]
    start = mark.find("^")
    words = line[max(0, start - _BEFORE) : start + _AFTER].strip() if start >= 0 else ""
    return f"{message}: {words}" if words else message


def _no_kernel() -> Stalled:
    return Stalled(
        "pods in bridges and ports need nf_tables, which this kernel has not",
        hint="`modprobe nf_tables`, or a kernel with CONFIG_NF_TABLES, such as Debian's",
    )
