"""The listener of `[web]`: a door over TCP, by which what goes on here can be read, and not be changed."""

from __future__ import annotations

import ipaddress
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
from msgspec.structs import replace

from tank_agent import __version__
from tank_agent.api import types
from tank_agent.api.acceptor import BACKLOG, Acceptor
from tank_agent.api.door import Door, Timeouts
from tank_agent.api.reports import WebReport
from tank_agent.api.request import Answer, Head, Peer, Refused, Reply, Request, Stream
from tank_agent.api.routes import ROUTES, Handler
from tank_agent.api.types import Call
from tank_agent.api.web import page
from tank_agent.api.web.guards import Guard
from tank_agent.api.web.live import STREAMS, Live
from tank_agent.api.web.opening import bound, cannot_listen, read_token
from tank_agent.api.web.shown import Shown, WebInfo
from tank_agent.api.web.usage import INTERVAL
from tank_agent.control.pods import Service
from tank_agent.errors import TankError, one_line
from tank_agent.journal.records import NewEvent
from tank_agent.settings.settings import Settings
from tank_agent.settings.web import WebSettings

_log = structlog.get_logger()
# Milliseconds after which the kernel gives a caller up who acknowledges nothing (tcp(7)).
_UNACKNOWLEDGED = 30_000
# The user nobody, whose rights are none.
_NOBODY = 65534
# Answers of one kind that are made at once, and seconds that the next one waits: `why` reads all pod files.
_AT_A_TIME = 2
_TURN = 5.0
# Seconds until the thread goes on after a bug.
_AFTER_BUG = 5.0
# For a proxy in front: nginx would keep a part of a stream until it has more.
_AT_ONCE = {"X-Accel-Buffering": "no"}
PAGE = Call("GET /", bytes)
LIVE = Call("GET /v1/live", bytes)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class WebServer(Door):
    """Serves the page and what it shows at a TCP address.

    If it cannot listen there, it says so, and `check` tries again.

    Args:
        service: the agent. Its methods are called from many threads at once.
        settings: the address, and whom to let in.
        limit: connections at once; far below the socket's, whose callers may not notice those from the web.
        patience: seconds that an answer waits for its turn, while others like it are made.
    """

    name = "web"
    busy_hint = "try again, or close some of the pages that are open"
    half_open = False

    def __init__(
        self,
        service: Service,
        settings: Settings,
        web: WebSettings,
        *,
        timeouts: Timeouts | None = None,
        limit: int = 64,
        patience: float = _TURN,
    ) -> None:
        self._patience = patience
        self._page = page.load()
        self._shown = Shown(settings)
        self._resync = settings.reconcile.resync
        self._followers = threading.BoundedSemaphore(STREAMS)
        clock = service.machine.clock
        started = clock.wall() - (clock.monotonic() - service.started)
        self.live = Live(service, self._shown, started=started)
        times = timeouts or Timeouts(idle=15.0, body=5.0)
        super().__init__(service, self._handlers(), times, limit)
        self.settings = web
        self.headers = {**_HEADERS, "Content-Security-Policy": self._page.policy}
        self._guard: Guard | None = None
        self._acceptor: Acceptor | None = None
        self._report = WebReport(listen=web.listen)
        self._checking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def port(self) -> int:
        """Return the port, also if the system chose it; 0 before it listens."""
        return int(self._acceptor.socket.getsockname()[1]) if self._acceptor is not None else 0

    def start(self) -> None:
        """Listen, if that is possible, and answer from now on in threads of its own."""
        self.check()
        self._thread.start()

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                self.live.turn(INTERVAL if self.check() else self._resync)
            except Exception:
                # The last line of defence of this thread: a bug must not end it.
                _log.exception("web: cannot tell pages what changed")
                self.stopping.wait(_AFTER_BUG)

    def check(self) -> bool:
        """Listen if that was not possible yet; return whether it listens now."""
        with self._checking:
            return self._acceptor is not None or self._open()

    def _open(self) -> bool:
        try:
            node = platform.node().lower()
            token = None if self.settings.token_file is None else read_token(self.settings.token_file)
            self._guard = Guard((node, node.partition(".")[0], *self.settings.hosts), token)
            self._acceptor = Acceptor(_listening(self.settings.listen), self)
        except (TankError, RuntimeError, OSError) as error:
            self._tell(error)
            return False
        self._tell(None)
        _log.info("web: listening", address=self.settings.listen, port=self.port)
        return True

    def stop(self, timeout: float = 2.0) -> None:
        """Stop listening, and end every connection within `timeout` seconds."""
        self.stopping.set()
        self.live.close()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor.socket.close()
            self._acceptor.end_connections(time.monotonic() + timeout)
            self._acceptor = None

    def meet(self, connection: socket.socket) -> Peer:
        """Return the addresses of a connection; nothing else is known of a caller, who has no rights."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)
        peer, local = (_plain(name[0]) for name in (connection.getpeername(), connection.getsockname()))
        return Peer(pid=0, uid=_NOBODY, gid=_NOBODY, address=peer, local=local)

    def admit(self, peer: Peer, head: Head) -> str:
        """Let in who reads, and calls us by one of our names, with the token."""
        assert self._guard is not None
        self._guard.check(peer, head)
        return "GET"

    def allow(self, peer: Peer, call: Call[Any]) -> None:
        """Allow every call: there are none here that change anything."""

    def report(self) -> WebReport:
        """Return where it listens, or why it can't; for any thread."""
        return self._report

    def _tell(self, error: Exception | None) -> None:
        """Say once that it can't listen, and once that it can again."""
        message = error.message if isinstance(error, TankError) else str(error) if error else None
        hint = error.hint if isinstance(error, TankError) else None
        before, self._report = self._report, WebReport(listen=self.settings.listen, error=message, hint=hint)
        if self._report == before:
            return
        trouble = one_line(str(error)) if error is not None else ""
        if trouble:
            _log.error("web: cannot listen; trying again at each resync", error=trouble)
        message = f"the web page is not served: {trouble}" if trouble else "the web page is served again"
        kind = "web-failed" if trouble else "web-recovered"
        self.service.journal.try_to_record([NewEvent(pod="", type=kind, message=message)])

    def _handlers(self) -> Mapping[Call[Any], Handler]:
        shown, live = self._shown, self.live

        def info(service: Service, _: Request) -> Reply:
            uptime = service.info().uptime
            return self._json(WebInfo(host=platform.node(), version=__version__, uptime=uptime))

        def why(service: Service, request: Request) -> Reply:
            return self._json(shown.why(service.why(request.params["name"])))

        costly: Mapping[Call[Any], Handler] = {
            types.METRICS: self._metrics,
            types.STATUS: lambda service, _: self._json(shown.pods(service.status())),
            types.PLAIN["sources"]: lambda service, _: self._json(shown.sources(service.sources.report())),
            types.PLAIN["why"]: why,
        }
        return {
            **{call: _in_turn(handler, self._patience) for call, handler in costly.items()},
            PAGE: lambda *_: Answer(body=self._page.html, content_type="text/html; charset=utf-8"),
            types.PLAIN["info"]: info,
            types.LOGS: self._logs,
            LIVE: lambda _, request: Stream(
                chunks=live.open(request.ended),
                content_type="text/event-stream",
                patient=False,
                headers=_AT_ONCE,
            ),
        }

    def _json(self, value: object) -> Answer:
        return Answer(body=self._shown.encode(value))

    def _metrics(self, service: Service, request: Request) -> Reply:
        reply = ROUTES[types.METRICS](service, request)
        assert isinstance(reply, Answer)
        return replace(reply, body=self._shown.metrics(reply.body))

    def _logs(self, service: Service, request: Request) -> Reply:
        """Return the output of containers as the agent's socket does; so many may follow it at once."""
        if request.count("follow", 0) == 0:
            return ROUTES[types.LOGS](service, request)
        if not self._followers.acquire(blocking=False):
            raise Refused(503, f"{STREAMS} logs are followed already", hint="close one of them")
        try:
            reply = ROUTES[types.LOGS](service, request)
        except BaseException:
            self._followers.release()
            raise
        assert isinstance(reply, Stream)
        chunks = _Releasing(reply.chunks, self._followers.release)
        return replace(reply, chunks=chunks, patient=False, headers=_AT_ONCE)


def _in_turn(handler: Handler, patience: float) -> Handler:
    """Return a handler of which so many answer at once, however many ask: the loop needs the time, too."""
    turns = threading.BoundedSemaphore(_AT_A_TIME)

    def answer(service: Service, request: Request) -> Reply:
        if not turns.acquire(timeout=patience):
            raise Refused(503, "too many ask for this at once", headers={"Retry-After": "1"})
        try:
            return handler(service, request)
        finally:
            turns.release()

    return answer


class _Releasing:
    """Passes an iterator on, and calls a function once it is closed, even if it never began."""

    def __init__(self, chunks: Iterator[bytes], release: Callable[[], None]) -> None:
        self._chunks = chunks
        self._release: Callable[[], None] | None = release

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """Close the iterator, and release."""
        release, self._release = self._release, None
        try:
            if close := getattr(self._chunks, "close", None):
                close()
        finally:
            if release is not None:
                release()


def _plain(address: str) -> str:
    """Return an address in one way of writing; one of IPv4 as such, where a socket of IPv6 has both."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _listening(setting: str) -> socket.socket:
    """Return a socket that listens at an address of this machine.

    Raises:
        Retry: that is not possible now.
    """
    made = bound(setting)
    try:
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise cannot_listen(setting, error) from error
    return made
