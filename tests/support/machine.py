"""A whole Debian 13 machine, emulated by QEMU: booted, told what to do, rebooted, cut off from its power.

Commands reach it through a virtio port, so it needs neither network nor login. Its network card is a tap
device in a network namespace that only this machine and the test are in.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.debian import locked, scratch_parent
from tests.support.image import OUTSIDE, image

# Emulated, on cores that other things use too: a quarter of a minute when nothing else runs.
BOOT_DEADLINE = 600.0
COMMAND_DEADLINE = 120.0
_MEMORY = 1280
# QEMU 7.2 with a thread for each processor now and then goes on with what it translated of code that the
# kernel has meanwhile patched, and so runs into a breakpoint that is no longer there. The kernel patches
# itself while it boots, hardly ever after. One thread for all would not, but takes twice as long.
_EMULATOR_FAULT = "Oops: int3"
_BOOTS = 4
# What udev would load for devices that nobody uses; the kernel then tries each of its ciphers, for seconds.
_UNUSED_MODULES = (
    "aesni_intel",
    "ccp",
    "crc32_pclmul",
    "crct10dif_pclmul",
    "evdev",
    "ghash_clmulni_intel",
    "kvm_amd",
    "polyval_clmulni",
    "psmouse",
    "sha1_ssse3",
    "sha256_ssse3",
    "sha512_ssse3",
)
# What a machine is made of is named after the process of its test.
_PREFIX = "tank-vm-"
_NAMESPACES = Path("/run/netns")


class Result(NamedTuple):
    """How a command in the machine ended."""

    code: int
    out: str
    err: str


class EmulatorFault(AssertionError):
    """The machine died of QEMU, not of anything that it ran."""


class Machine:
    """One machine with a disk of its own in `directory`."""

    def __init__(self, directory: Path) -> None:
        built = image()
        self.directory = directory
        self.console = directory / "console.log"
        self._kernel = built.kernel
        self._disk = directory / "disk.qcow2"
        self._namespace = f"{_PREFIX}{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._console_start = 0
        self._port: socket.socket | None = None
        self._reader: threading.Thread | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = threading.Condition()
        self._connected = False
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(built.disk), str(self._disk))
        self._make_network()

    # --- power ------------------------------------------------------------------------------------------

    def start(self) -> float:
        """Switch the machine on, wait until it takes commands, and return how many seconds that took."""
        began = time.monotonic()
        for boot in range(1, _BOOTS + 1):
            try:
                self._boot()
                break
            except EmulatorFault as fault:
                self._disconnect()
                if boot == _BOOTS:
                    raise
                # Past pytest's capture: a retry is nobody's secret.
                print(f"\nboot {boot} of {_BOOTS} failed: {fault}", file=sys.__stderr__, flush=True)
        return time.monotonic() - began

    def switch_on(self) -> None:
        """Start the machine if it is off, as it is after a test that failed half-way."""
        if self._process is None or self._process.poll() is not None:
            self._disconnect()
            self.start()

    def reboot(self) -> None:
        """Restart the machine in order, and wait until it takes commands."""
        self._shut_down("reboot")
        self.start()

    def power_off(self) -> None:
        """Shut the machine down in order and wait until it is off."""
        self._shut_down("poweroff")

    def cut_power(self) -> None:
        """Take the machine's power away. What it had not flushed to its disk is lost."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)
        self._disconnect()

    def on_disk(self, path: str) -> bytes:
        """Return the content that a file would have after a power cut in this moment."""
        assert self._process is not None
        with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=scratch_parent()) as name:
            overlay, disk, found = (Path(name) / each for each in ("overlay", "disk", "found"))
            self._process.send_signal(signal.SIGSTOP)
            try:
                shutil.copy2(self._disk, overlay)
            finally:
                self._process.send_signal(signal.SIGCONT)
            _run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(overlay), str(disk))
            # As the kernel does it at the next boot.
            _run("e2fsck", "-y", "-E", "journal_only", str(disk), fine=(0, 1))
            _run("debugfs", "-R", f"dump {path} {found}", str(disk))
            return found.read_bytes()

    def close(self) -> None:
        """Switch the machine off, however it stands, and remove its network."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(30)
            self._disconnect()
        _run("ip", "netns", "delete", self._namespace)

    # --- commands ---------------------------------------------------------------------------------------

    def run(
        self, *argv: str, stdin: str = "", check: bool = True, timeout: float = COMMAND_DEADLINE
    ) -> Result:
        """Run a command in the machine; a status other than 0 fails the test unless `check` is false."""
        result = self._ask(list(argv), stdin, timeout)
        if result is None:
            self._check_alive()
            raise AssertionError(f"no answer within {timeout:g} s to {argv}:\n{self.console_tail()}")
        if check and result.code != 0:
            raise AssertionError(
                f"{argv} ended with {result.code}:\n{result.out[-6000:]}\n{result.err[-6000:]}"
            )
        return result

    def sh(self, script: str, *, check: bool = True, timeout: float = COMMAND_DEADLINE) -> str:
        """Run a shell script in the machine and return what it printed."""
        return self.run("sh", "-euc", script, check=check, timeout=timeout).out.strip()

    def tank(self, *arguments: str, check: bool = True, timeout: float = COMMAND_DEADLINE) -> Result:
        """Run the command line in the machine."""
        return self.run("tank", *arguments, check=check, timeout=timeout)

    def write(self, path: str, content: str | bytes) -> None:
        """Write a file in the machine, whole or not at all, synced."""
        data = content.encode() if isinstance(content, str) else content
        self.run("write-file", path, stdin=base64.b64encode(data).decode())

    def status(self, pod: str) -> dict[str, Any] | None:
        """Return a pod's status; None if there is none, or no agent."""
        result = self.tank("status", "-o", "json", check=False)
        pods = json.loads(result.out) if result.code == 0 else []
        return next((found for found in pods if found["name"] == pod), None)

    def outside(self, *argv: str, timeout: float = 30.0) -> Result:
        """Run a command on the other side of the machine's network."""
        done = subprocess.run(
            ["ip", "netns", "exec", self._namespace, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def listening_outside(self, port: int) -> Iterator[Callable[[], str]]:
        """Listen for one connection on the other side of the network; what is given returns all it said."""
        command = ["ip", "netns", "exec", self._namespace, "busybox", "nc", "-l", "-p", str(port)]
        listener = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            yield lambda: listener.communicate(timeout=30)[0]
        finally:
            listener.kill()
            listener.communicate()

    def console_tail(self) -> str:
        """Return the end of what the machine printed on its serial console."""
        return self.console.read_text(errors="replace")[-3000:]

    # --- inside -----------------------------------------------------------------------------------------

    def _boot(self) -> None:
        began = time.monotonic()
        channel = self.directory / "port"
        channel.unlink(missing_ok=True)
        # Ends with the test, however that ends: it would keep two cores and two gigabytes busy for ever.
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._namespace]
        with self.console.open("ab") as log:
            self._console_start = log.tell()
            self._process = subprocess.Popen(
                [*command, "qemu-system-x86_64", *self._options(channel)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._port = self._connect(channel)
        self._connected = True
        self._reader = threading.Thread(target=self._read, args=(self._port,), daemon=True)
        self._reader.start()
        while self._ask(["hello"], "", 2.0) is None:
            self._check_alive()
            if time.monotonic() - began > BOOT_DEADLINE:
                raise AssertionError(
                    f"no boot within {BOOT_DEADLINE:g} s; its console:\n{self.console_tail()}"
                )

    def _shut_down(self, verb: str) -> None:
        assert self._process is not None
        # The answer may be lost on the way down.
        self._ask(["systemctl", verb], "", 20.0)
        self._process.wait(BOOT_DEADLINE)
        self._disconnect()

    def _options(self, channel: Path) -> list[str]:
        append = "root=/dev/nvme0n1 rw console=ttyS0 net.ifnames=0 quiet panic=-1 systemd.show_status=0"
        append += f" udev.children_max=2 modprobe.blacklist={','.join(_UNUSED_MODULES)}"
        text = (
            "-machine q35,sata=off,smbus=off -accel tcg,thread=multi"
            f" -cpu max,-cx16,-la57 -smp 2 -m {_MEMORY}"
            # A restart ends QEMU, too: a kernel that panics is seen at once, and QEMU 7.2 takes minutes
            # for a second boot that takes seconds as the first.
            " -no-reboot -nodefaults -display none -serial stdio -monitor none"
            # QEMU's NVMe disk takes no notice of FUA, with which a file system writes the last block of its
            # journal. With "writeback", where that lies in the overlay is noted at the next flush only: of a
            # part that is new there, a power cut would lose what the machine had been told to be on its disk.
            f" -drive if=none,id=disk,file={self._disk},format=qcow2,cache=writethrough,discard=unmap"
            " -device nvme,drive=disk,serial=1"
            f" -chardev socket,id=port,path={channel},server=on,wait=off"
            " -device virtio-serial-pci -device virtserialport,chardev=port,name=tank.test"
            " -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng"
            " -netdev tap,id=net,ifname=vm0,script=no,downscript=no"
            " -device virtio-net-pci,netdev=net,mac=52:54:00:77:00:02"
        )
        return [*text.split(), "-kernel", str(self._kernel), "-append", append]

    def _make_network(self) -> None:
        _run("ip", "netns", "add", self._namespace)
        inside = ("ip", "-n", self._namespace)
        _run(*inside, "tuntap", "add", "vm0", "mode", "tap")
        _run(*inside, "address", "add", f"{OUTSIDE}/24", "dev", "vm0")
        for device in ("lo", "vm0"):
            _run(*inside, "link", "set", device, "up")

    def _connect(self, channel: Path) -> socket.socket:
        end = time.monotonic() + 30
        while True:
            self._check_alive()
            port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                port.connect(str(channel))
                return port
            except OSError:
                port.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def _disconnect(self) -> None:
        self._process = None
        if self._port is not None:
            self._port.shutdown(socket.SHUT_RDWR)
            if self._reader is not None:
                self._reader.join(10)
            self._port.close()
            self._port = None

    def _read(self, port: socket.socket) -> None:
        pending = b""
        while chunk := _receive(port):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                try:
                    answer = json.loads(line)
                except ValueError:
                    # Half a line, cut off by a reset.
                    continue
                with self._answered:
                    self._answers[answer["id"]] = answer
                    self._answered.notify_all()
        with self._answered:
            # Nobody waits for the answers of a machine that is off.
            self._connected = False
            self._answered.notify_all()

    def _ask(self, argv: list[str], stdin: str, timeout: float) -> Result | None:
        port = self._port
        if port is None:
            return None
        number = next(self._numbers)
        request = {"id": number, "argv": argv, "stdin": stdin, "timeout": timeout}
        with suppress(OSError):
            port.sendall(json.dumps(request).encode() + b"\n")
        with self._answered:
            # Beyond the timeout in the machine, so that its answer says which command hung.
            self._answered.wait_for(
                lambda: number in self._answers or not self._connected, timeout + (15 if timeout > 5 else 0)
            )
            answer = self._answers.pop(number, None)
        return Result(answer["code"], answer["out"], answer["err"]) if answer else None

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            said = self.console.read_bytes()[self._console_start :].decode(errors="replace")
            if _EMULATOR_FAULT in said:
                raise EmulatorFault(f"QEMU's fault ended the machine; its console:\n{said[-3000:]}")
            raise AssertionError(f"the machine is off; its console:\n{said[-3000:]}")


def _receive(port: socket.socket) -> bytes:
    """Return what came, nothing once the connection is over."""
    try:
        return port.recv(65536)
    except OSError:
        return b""


def _run(*argv: str, fine: Collection[int] = (0,)) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in fine, f"{argv}: {done.stderr}"


@contextmanager
def running_machine() -> Iterator[Machine]:
    """Give a machine that is on, and leave nothing of it."""
    _sweep()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=scratch_parent()))
    try:
        machine = Machine(directory)
        try:
            machine.start()
            yield machine
        finally:
            machine.close()
    finally:
        shutil.rmtree(directory)


def _sweep() -> None:
    """Remove what tests left that were killed themselves: their QEMU died with them, the rest did not."""
    # Two processes that begin at once may both find it.
    with locked(scratch_parent() / "tank-vm.lock"):
        for namespace in _NAMESPACES.glob(f"{_PREFIX}*"):
            if not _is_alive(namespace.name):
                _run("ip", "netns", "delete", namespace.name)
        for directory in scratch_parent().glob(f"{_PREFIX}*"):
            if not _is_alive(directory.name):
                shutil.rmtree(directory)


def _is_alive(name: str) -> bool:
    return Path("/proc", name.removeprefix(_PREFIX).partition("-")[0]).is_dir()
