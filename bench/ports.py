"""Published ports: ours beside podman with netavark, and beside bare conmon, crun, ip and nft.

The client is a second machine, in a network namespace of its own. The server is busybox httpd from one root
file system for all.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench._measure import Table, add_all, alternate, milliseconds
from bench._published import (
    FIRST_PORT,
    MACHINE,
    ByHand,
    Netavark,
    NetavarkAlone,
    Ours,
    Watch,
    machine_at,
    own_run,
    publishing,
    rules,
)
from tank_agent.linux import nftables
from tank_agent.network.firewall import Firewall, Forward
from tests.support.agent import wait_for
from tests.support.lan import Lan, LanAgent, Network, stopped_lan_agent

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "30"))
MANY = int(os.environ.get("TANK_BENCH_MANY", "100"))
PORTS = 500
SECONDS = float(os.environ.get("TANK_BENCH_SECONDS", "3"))
OURS, PODMAN, BARE = "tank", "podman with netavark", "bare conmon, crun, ip, nft"


@contextmanager
def agent_at(home: Path) -> Iterator[LanAgent]:
    """Run an agent on a machine of its own, which forwards."""
    home.mkdir()
    with stopped_lan_agent(home, resync="10s") as agent:
        agent.host(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")
        publishing(agent.rootfs)
        agent.start()
        yield agent


def until_answers(count: int, lan: Network, begin: Callable[[], object], pause: float) -> float:
    """Return the seconds from `begin` until each of the ports has answered."""
    watch = Watch(lan, range(FIRST_PORT, FIRST_PORT + count), pause)
    # The first tries are before anything is there, and cost the same for all.
    time.sleep(0.05)
    began = time.perf_counter()
    begin()
    return watch.last() - began


def answers(home: Path) -> None:
    """Measure one pod, then many at once, to the answer of the last of them."""
    with ExitStack() as stack:
        agent = stack.enter_context(agent_at(home / "a"))
        ours = Ours(agent)
        bare = ByHand(agent, stack.enter_context(machine_at(home / "b")), home / "b")
        stack.callback(bare.close)
        podman = Netavark(agent.rootfs, stack.enter_context(machine_at(home / "p")), home / "p")
        stack.callback(podman.close)

        def measured(count: int, pause: float) -> Mapping[str, Callable[[], float]]:
            def one_of_ours() -> float:
                took = until_answers(count, agent.lan, ours.prepare(count), pause)
                ours.remove()
                return took

            def one_by_hand() -> float:
                took = until_answers(count, bare.machine.lan, bare.prepare_many(count), pause)
                bare.remove_all()
                return took

            def one_of_podman() -> float:
                took = until_answers(count, podman.machine.lan, podman.prepare(count), pause)
                podman.remove()
                return took

            return {OURS: one_of_ours, BARE: one_by_hand, PODMAN: one_of_podman}

        single = {
            name: [1000 * took for took in given]
            for name, given in alternate(ROUNDS, measured(1, 0.001), warm_up=2).items()
        }
        table = Table("A pod with a port, to the first answer that a second machine gets", "ms")
        add_all(table, single, {OURS: PODMAN, BARE: PODMAN})
        table.print()
        many = alternate(max(3, ROUNDS // 6), measured(MANY, 0.02), warm_up=0)
        table = Table(f"{MANY} such pods at once, to the answer of the last", "s")
        add_all(table, many, {OURS: PODMAN, BARE: PODMAN})
        table.print()


def forwards(first: int) -> list[Forward]:
    """Return ports for fifty pods, ten for each."""
    return [
        Forward(
            protocol="tcp",
            address=None,
            port=first + number,
            target=f"10.89.0.{2 + number // 10}",
            target_port=80 + number % 10,
        )
        for number in range(PORTS)
    ]


def five_hundred(home: Path) -> None:
    """Measure rules for 500 ports, none of which was there before."""
    with ExitStack() as stack:
        agent = stack.enter_context(agent_at(home / "a"))
        netavark = NetavarkAlone(stack.enter_context(machine_at(home / "n")), home / "n")
        transactions(netavark.machine.host)
        from_outside(agent, netavark)


def transactions(host: Network) -> None:
    """Measure the transaction alone, and as the agent does it, beside the program nft."""
    ports: list[Forward] = []
    writer, packets = Firewall(lambda: rules("b0", ports)), nftables.PacketFilter()

    def move() -> None:
        # Not the same twice in a row: nothing would be written.
        ports[:] = forwards(20000 if ports and ports[0].port == 30000 else 30000)

    def timed(function: Callable[[str], object]) -> float:
        move()
        script = rules("b0", ports)
        # Around what happens in the machine's network, so that to enter it is not measured.
        took: float = host(lambda: milliseconds(lambda: function(script)))
        return took

    def as_the_agent() -> float:
        move()
        took: float = host(lambda: milliseconds(writer.write))
        return took

    def by_program(script: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=script.encode(), check=True)

    alone, whole, program = "tank: the transaction", "tank: script, transaction and a list of it", "nft -f"
    measured: dict[str, Callable[[], float]] = {
        alone: partial(timed, packets.run),
        whole: as_the_agent,
        program: partial(timed, by_program),
    }
    table = Table(f"{PORTS} ports anew, each time the whole table", "ms")
    add_all(table, alternate(max(10, ROUNDS), measured), {alone: program, whole: program})
    table.print()


def from_outside(agent: LanAgent, netavark: NetavarkAlone) -> None:
    """Measure an edit of a pod that runs to the answer by its new ports, beside netavark's setup."""
    ours = Ours(agent)
    agent.write("web", ours.text(["7999:80"]))
    agent.wait_phase("web", "running")
    table = Table(f"{PORTS} ports anew, from outside", "ms")
    many = f"netavark setup of a container with {PORTS} ports"
    for number in range(max(10, ROUNDS // 3)):
        first = 9000 if number % 2 else FIRST_PORT
        last = first + PORTS - 1
        new = agent.home / "web.new"
        new.write_text(ours.text([f"{port}:80" for port in range(first, last + 1)]))
        watch = Watch(agent.lan, [last], 0.001)
        began = time.perf_counter()
        new.rename(agent.pods / "web.toml")
        edit = "tank: file of a running pod renamed, to the answer by its last new port"
        table.add(edit, 1000 * (watch.last() - began), peer=many)
        if number < 3:
            table.add(many, netavark.setup(PORTS))
        table.add("netavark setup of a container with 1 port", netavark.setup(1))
    table.print()
    ours.remove()


def with_programs(rootfs: Path, *programs: str) -> None:
    """Copy programs of this machine and their libraries into a root file system."""
    for program in programs:
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        files = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
        for name in (program, *files):
            target = rootfs / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, target)


def configuration(root: str) -> str:
    """Return lighttpd's configuration; the page is below `root`."""
    return f'server.document-root = "{root}www"\nserver.port = 80\nserver.max-keep-alive-requests = 100000\n'


SERVERS = [
    "/bin/sh",
    "-c",
    "PATH=/usr/bin:/usr/sbin:/bin; iperf3 -s & exec lighttpd -D -f /etc/lighttpd.conf",
]


class ByVeth:
    """The same servers behind a routed veth and one rule of nft: no bridge, no container."""

    def __init__(self, rootfs: Path, machine: Lan, home: Path) -> None:
        self.machine = machine
        self.machine.host(self._make)
        inner = Network(Path("/run/netns/server"))
        file = home / "lighttpd.conf"
        file.write_text(configuration(f"{rootfs}/"))
        commands = (["iperf3", "-s"], ["lighttpd", "-D", "-f", str(file)])
        self._servers = inner(
            lambda: [subprocess.Popen(words, stdout=subprocess.DEVNULL) for words in commands]
        )

    def _make(self) -> None:
        for command in (
            "ip netns add server",
            "ip link add v0 type veth peer name eth0 netns server",
            "ip addr add 10.89.0.1/24 dev v0",
            "ip link set v0 up",
            "ip -netns server link set lo up",
            "ip -netns server addr add 10.89.0.2/24 dev eth0",
            "ip -netns server link set eth0 up",
            "ip -netns server route add default via 10.89.0.1",
            "nft add table ip nat",
            "nft add chain ip nat pre { type nat hook prerouting priority dstnat ; }",
            f"nft add rule ip nat pre tcp dport {FIRST_PORT} dnat to 10.89.0.2:80",
            f"nft add rule ip nat pre tcp dport {FIRST_PORT + 1} dnat to 10.89.0.2:5201",
        ):
            subprocess.run(command.split(), check=True)

    def close(self) -> None:
        """End the servers and remove the machine."""
        for server in self._servers:
            server.kill()
            server.wait()
        subprocess.run(["ip", "netns", "del", "server"], check=True)


def iperf(*options: str) -> float:
    """Return the Gbit/s that arrive."""
    argv = ["iperf3", "-c", MACHINE, "-p", str(FIRST_PORT + 1), "-t", str(round(SECONDS)), "-J", *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def requests(*options: str) -> float:
    """Return the thousands of requests a second that are answered."""
    page = f"http://{MACHINE}:{FIRST_PORT}/index.html"
    argv = ["wrk", "-t1", "-c16", f"-d{round(SECONDS)}s", *options, page]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("Requests/sec:"))
    assert "Non-2xx" not in done.stdout, done.stdout
    return float(line.split()[1]) / 1000


def throughput(home: Path) -> None:
    """Measure what goes through a published port."""
    with ExitStack() as stack:
        agent = stack.enter_context(agent_at(home / "a"))
        with_programs(agent.rootfs, "/usr/bin/iperf3", "/usr/sbin/lighttpd")
        (agent.rootfs / "etc" / "lighttpd.conf").write_text(configuration("/"))
        (agent.rootfs / "tmp").mkdir(exist_ok=True)
        podman = Netavark(agent.rootfs, stack.enter_context(machine_at(home / "p")), home / "p")
        stack.callback(podman.close)
        veth = ByVeth(agent.rootfs, stack.enter_context(machine_at(home / "v")), home / "v")
        stack.callback(veth.close)
        ports = {FIRST_PORT: 80, FIRST_PORT + 1: 5201}
        agent.write("web", Ours(agent).text([f"{host}:{pod}" for host, pod in ports.items()], SERVERS))
        agent.wait_phase("web", "running")
        podman.machine.host(
            lambda: podman.run(
                "web", *(f"--publish={host}:{pod}" for host, pod in ports.items()), command=SERVERS
            )
        )
        bare = "bare veth and nft"
        lans = {OURS: agent.lan, PODMAN: podman.machine.lan, bare: veth.machine.lan}
        for name, lan in lans.items():
            Watch(lan, [FIRST_PORT], 0.05).last()
            wait_for(partial(lan, _is_open), f"iperf3 of {name} listens")
        kinds: dict[tuple[str, str], Callable[[], float]] = {
            ("iperf3 into the pod, one stream", "Gbit/s"): iperf,
            ("iperf3 out of the pod, one stream", "Gbit/s"): lambda: iperf("-R"),
            ("wrk, 16 connections that stay", "thousand requests/s"): requests,
            ("wrk, a connection for each request", "thousand requests/s"): lambda: requests(
                "-H", "Connection: close"
            ),
        }
        for (title, unit), function in kinds.items():
            samples = alternate(
                max(3, ROUNDS // 3),
                {name: partial(lan, function) for name, lan in lans.items()},
            )
            table = Table(f"Through a published port: {title}", unit)
            add_all(table, samples, {OURS: PODMAN, bare: PODMAN})
            table.print()


def _is_open() -> bool:
    try:
        socket.create_connection((MACHINE, FIRST_PORT + 1), 1).close()
    except OSError:
        return False
    return True


def main() -> None:
    """Run every benchmark of this module."""
    assert os.geteuid() == 0, "run it as root: it makes containers"
    for program in ("podman", "iperf3", "wrk", "nft", "/usr/lib/podman/netavark", "lighttpd"):
        assert shutil.which(program), f"{program} is not installed; ./dev bench does it"
    own_run("bench.ports")
    chosen = os.environ.get("TANK_BENCH_PARTS", "answers,five_hundred,throughput").split(",")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tb-") as name:
        for benchmark in (answers, five_hundred, throughput):
            if benchmark.__name__ in chosen:
                home = Path(name) / benchmark.__name__[0]
                home.mkdir()
                benchmark(home)


if __name__ == "__main__":
    main()
