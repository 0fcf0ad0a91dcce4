"""Machines that publish a container's port: ours, podman with netavark, and conmon, crun, ip and nft by hand.

Each has a network namespace of its own with a second machine beside it (tests/support/lan.py). Every podman
that runs here keeps to directories of its own; what it has fixed in /run is covered (`own_run`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench.pods import CONCURRENT, Bare, Fifo, Podman
from tank_agent.network import firewall
from tank_agent.runtime.run import RunRecord
from tests.support.agent import wait_for
from tests.support.lan import Lan, LanAgent, Network

MACHINE = "10.0.0.2"
FIRST_PORT = 8000
HTTPD = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
_NETAVARK = Path("/usr/lib/podman/netavark")
_PATIENCE = 120.0
_REQUEST = b"GET /index.html HTTP/1.0\r\n\r\n"
# Covered by `own_run`: podman keeps leases of addresses, pins and locks there, whatever it is told.
_PODMANS_PLACES = ("/run/containers", "/run/netns", "/run/lock")
_COVERED = "TANK_BENCH_COVERED"


def own_run(module: str) -> None:
    """Run a module of the bench again in a mount namespace, where podman's places in /run are its own."""
    if _COVERED not in os.environ:
        os.environ[_COVERED] = "1"
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", module]
        os.execvp(words[0], words)
    for place in _PODMANS_PLACES:
        Path(place).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)


class Watch:
    """Asks for a page at ports of the machine until each has answered once, from the second machine.

    A new connection is tried every `pause`, while the old ones go on: one may have reached a socket that
    never answers, such as podman's, which only keeps the port.
    """

    def __init__(self, lan: Network, ports: Collection[int], pause: float) -> None:
        self._missing = set(ports)
        self._pause = pause
        self._last = 0.0
        self._failure: BaseException | None = None
        self._open: dict[int, tuple[socket.socket, int, float]] = {}
        self._poll = select.epoll()
        self._thread = threading.Thread(target=lambda: lan(self._run), daemon=True)
        self._thread.start()

    def last(self) -> float:
        """Wait, and return when the last of the ports answered first, as `time.perf_counter` counts."""
        self._thread.join(_PATIENCE)
        assert not self._missing, f"no answer from {sorted(self._missing)}"
        return self._last

    def _run(self) -> None:
        due = time.perf_counter()
        deadline = due + _PATIENCE
        while self._missing and due < deadline:
            now = time.perf_counter()
            if now >= due:
                self._try_all(now)
                due = max(due + self._pause, now)
            for fd, event in self._poll.poll(max(0.0, due - time.perf_counter())):
                self._turn(fd, event)
        for fd in list(self._open):
            self._close(fd)

    def _try_all(self, now: float) -> None:
        for fd in [fd for fd, (_, port, since) in self._open.items() if self._is_over(port, now - since)]:
            self._close(fd)
        for port in self._missing:
            connection = socket.socket()
            connection.setblocking(False)
            self._open[connection.fileno()] = connection, port, now
            self._poll.register(connection, select.EPOLLOUT)
            with contextlib.suppress(OSError):
                connection.connect((MACHINE, port))

    def _is_over(self, port: int, age: float) -> bool:
        return port not in self._missing or age > 1

    def _turn(self, fd: int, event: int) -> None:
        connection, port, _ = self._open[fd]
        try:
            if event & select.EPOLLIN:
                if connection.recv(4096).startswith(b"HTTP/1.") and port in self._missing:
                    self._missing.discard(port)
                    self._last = time.perf_counter()
                self._close(fd)
            elif event & (select.EPOLLERR | select.EPOLLHUP):
                self._close(fd)
            else:
                connection.sendall(_REQUEST)
                self._poll.modify(connection, select.EPOLLIN)
        except OSError:
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._open.pop(fd)[0].close()


def publishing(rootfs: Path) -> None:
    """Put a page into a root file system."""
    (rootfs / "www").mkdir()
    (rootfs / "www" / "index.html").write_text("it works\n")


class Ours:
    """Files renamed into pods.d."""

    def __init__(self, agent: LanAgent) -> None:
        self.machine: Lan = agent
        self._agent = agent
        (agent.home / "new").mkdir(exist_ok=True)

    def text(self, ports: Collection[str], command: list[str] = HTTPD) -> str:
        """Return a pod file."""
        return (
            f'ports = {json.dumps(list(ports))}\n[[containers]]\nname = "app"\n'
            f'rootfs = "{self._agent.rootfs}"\ncommand = {json.dumps(command)}\nstop_grace = "100ms"\n'
        )

    def prepare(self, count: int) -> Callable[[], object]:
        """Return what begins so many pods at once."""
        texts = [self.text([f"{FIRST_PORT + number}:80"]) for number in range(count)]
        new = [self._agent.home / "new" / f"pod-{number}.toml" for number in range(count)]
        for file, text in zip(new, texts, strict=True):
            file.write_text(text)
        return lambda: [file.rename(self._agent.pods / file.name) for file in new]

    def remove(self) -> None:
        """Remove every pod."""
        for file in self._agent.pods.iterdir():
            file.unlink()
        wait_for(lambda: not self._agent.statuses(), "the pods are gone", _PATIENCE)


class ByHand(Bare):
    """conmon and crun on our bundle, in a network that `ip` and `nft` made, each run once a container."""

    def __init__(self, agent: LanAgent, machine: Lan, home: Path) -> None:
        self.machine = machine
        super().__init__(agent, Fifo(home / "fifo"), home)
        self._made: list[tuple[Path, RunRecord]] = []

    def _capture(self, agent: LanAgent, fifo: Fifo) -> dict[str, object]:  # type: ignore[override]
        ours = Ours(agent)
        for _ in range(2):
            ours.prepare(1)()
            agent.wait_phase("pod-0", "running")
            (bundle,) = (agent.run / "containers").iterdir()
            config: dict[str, object] = json.loads((bundle / "config.json").read_text())
            ours.remove()
        return config

    def prepare_many(self, count: int) -> Callable[[], object]:
        """Make the bundles, and return what begins so many containers, some at once."""
        for number in range(count):
            bundle, record = self.prepare()
            file = bundle / "config.json"
            config = json.loads(file.read_text())
            for namespace in config["linux"]["namespaces"]:
                if namespace["type"] == "network":
                    namespace["path"] = f"/run/netns/bare-{number}"
            file.write_text(json.dumps(config))
            self._made.append((bundle, record))

        def begin() -> None:
            self.machine.host(self._bridge)
            with ThreadPoolExecutor(CONCURRENT) as pool:
                list(pool.map(self._begin, range(count)))

        return begin

    def _begin(self, number: int) -> None:
        self.machine.host(self._network, number)
        self.start(*self._made[number])

    def _bridge(self) -> None:
        bridge = "link add b0 type bridge\naddr add 10.89.0.1/24 dev b0\nlink set b0 up\n"
        _feed(["ip", "-batch", "-"], bridge)
        _feed(["nft", "-f", "-"], rules("b0", ()))

    def _network(self, number: int) -> None:
        name, address = f"bare-{number}", f"10.89.0.{number + 2}"
        _feed(["ip", "netns", "add", name], "")
        _feed(
            ["ip", "-batch", "-"],
            f"link add v{number} master b0 type veth peer name eth0 netns {name}\nlink set v{number} up\n",
        )
        _feed(
            ["ip", "-netns", name, "-batch", "-"],
            f"link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n"
            "route add default via 10.89.0.1\n",
        )
        element = f"tcp . {FIRST_PORT + number} : {address} . 80"
        _feed(["nft", "-f", "-"], f"add element {firewall.TABLE} any4 {{ {element} }}\n")

    def close(self) -> None:
        """Remove also what a measurement that was interrupted left."""
        if self._made:
            self.remove_all()
        super().close()

    def remove_all(self) -> None:
        """Remove every container and what is around it."""
        with ThreadPoolExecutor(CONCURRENT) as pool:
            list(pool.map(lambda pair: self.remove(*pair), self._made))
        # Not left to the end of their namespaces, which comes some time later.
        links = [f"link del v{number}\n" for number in range(len(self._made))]
        self.machine.host(_feed, ["ip", "-batch", "-"], "".join([*links, "link del b0\n"]))
        self.machine.host(_feed, ["nft", "flush", "ruleset"], "")
        for number in range(len(self._made)):
            _feed(["ip", "netns", "del", f"bare-{number}"], "")
        self._made.clear()


def rules(interface: str, forwards: Collection[firewall.Forward]) -> str:
    """Return the script of our table for one bridge."""
    bridge = firewall.BridgeNetworks(interface=interface, networks=("10.89.0.0/24",))
    return firewall.script([bridge], forwards)


def _feed(argv: list[str], text: str) -> None:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (argv, done.stderr)


class Netavark(Podman):
    """`podman run --detach --publish`, with netavark, in a machine and directories of its own."""

    def __init__(self, rootfs: Path, machine: Lan, home: Path) -> None:
        super().__init__(rootfs, Fifo(home / "fifo"), home / "podman")
        self.machine = machine
        networks = home / "networks"
        networks.mkdir()
        config = home / "containers.conf"
        config.write_text(
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{networks}"\n'
            '[engine]\nevents_logger = "file"\n'
        )
        self._base += [f"--tmpdir={home / 'tmp'}", f"--network-config-dir={networks}"]
        self._environment = {**os.environ, "CONTAINERS_CONF": str(config)}
        backend = self._podman("info", "--format", "{{.Host.NetworkBackend}}")
        assert backend.strip() == "netavark", backend

    def run(self, name: str, *options: str, command: list[str] = HTTPD) -> None:
        """Begin a container; from a thread in the machine's network."""
        limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
        self._podman_here(
            "run", "--detach", f"--name={name}", *limits, *options, "--rootfs", f"{self._rootfs}:O", *command
        )

    def prepare(self, count: int) -> Callable[[], object]:
        """Return what begins so many containers, some at once."""

        def one(number: int) -> None:
            self.machine.host(lambda: self.run(f"pod-{number}", f"--publish={FIRST_PORT + number}:80"))

        def begin() -> None:
            with ThreadPoolExecutor(CONCURRENT) as pool:
                list(pool.map(one, range(count)))

        return begin

    def remove(self) -> None:
        """Remove every container."""
        self._podman("rm", "--force", "--all", "--time=0")

    def close(self) -> None:
        """Remove also what a measurement that was interrupted left."""
        self.remove()
        super().close()

    def _podman(self, *words: str) -> str:
        return self.machine.host(self._podman_here, *words)

    def _podman_here(self, *words: str) -> str:
        done = subprocess.run(
            [*self._base, *words], capture_output=True, text=True, check=False, env=self._environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class NetavarkAlone:
    """netavark by itself, which podman runs once a container: some ports for one namespace."""

    def __init__(self, machine: Lan, home: Path) -> None:
        self.machine = machine
        self._home = home
        self._count = 0

    def setup(self, ports: int) -> float:
        """Return the milliseconds that so many ports take, without their removal."""
        self._count += 1
        name = f"na-{self._count}"
        _feed(["ip", "netns", "add", name], "")
        request = json.dumps(self._request(name, ports))
        took = self.machine.host(self._call, "setup", name, request)
        self.machine.host(self._call, "teardown", name, request)
        _feed(["ip", "netns", "del", name], "")
        return took

    def _call(self, what: str, name: str, request: str) -> float:
        argv = [str(_NETAVARK), "--config", str(self._home), what, f"/run/netns/{name}"]
        began = time.perf_counter()
        _feed(argv, request)
        return (time.perf_counter() - began) * 1000

    @staticmethod
    def _request(name: str, ports: int) -> dict[str, object]:
        def mapping(number: int) -> dict[str, object]:
            known = {"host_ip": "", "container_port": 80, "host_port": 20000 + number}
            return {**known, "range": 1, "protocol": "tcp"}

        network = {
            "name": "podman",
            "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
            "driver": "bridge",
            "network_interface": "podman0",
            "created": "2026-11-29T00:00:00Z",
            "subnets": [{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}],
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": False,
            "ipam_options": {"driver": "host-local"},
        }
        return {
            "container_id": f"{name:0>64}",
            "container_name": name,
            "port_mappings": [mapping(number) for number in range(ports)],
            "networks": {"podman": {"static_ips": ["10.88.0.2"], "interface_name": "eth0"}},
            "network_info": {"podman": network},
        }


@contextmanager
def machine_at(home: Path) -> Iterator[Lan]:
    """Make a machine that forwards, and a second one beside it."""
    home.mkdir()
    machine = Lan(home)
    try:
        machine.host(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
        yield machine
    finally:
        machine.remove_networks()
