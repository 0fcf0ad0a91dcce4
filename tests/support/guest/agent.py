"""Runs in the test machine: executes what the test sends over a virtio port, and answers.

Requests and answers are JSON objects, one a line. Only the standard library; started by systemd, early.
"""

# The machine would import pathlib at each boot.
# ruff: noqa: PTH104, PTH120, PTH208

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any, BinaryIO

_write_lock = threading.Lock()


def main(device: str) -> None:
    """Serve the port for ever."""
    port = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    with os.fdopen(os.dup(port), "rb", buffering=0) as reader, os.fdopen(port, "wb", buffering=0) as writer:
        _answer(writer, {"id": 0, "boot": _boot_id()})
        pending = b""
        while True:
            chunk = reader.read(65536)
            if not chunk:
                # Nobody is connected on the other side for now.
                threading.Event().wait(0.05)
                continue
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                if line:
                    request = json.loads(line)
                    threading.Thread(target=_serve, args=(request, writer), daemon=True).start()


def _serve(request: dict[str, Any], writer: BinaryIO) -> None:
    if request["argv"] == ["hello"]:
        _answer(writer, {"id": request["id"], "code": 0, "out": _boot_id(), "err": ""})
        return
    if request["argv"][0] == "http-get":
        _answer(writer, {"id": request["id"], **_http_get(*request["argv"][1:])})
        return
    if request["argv"][0] == "write-file":
        _answer(writer, {"id": request["id"], **_write_file(request["argv"][1], request["stdin"])})
        return
    if request["argv"] == ["leftovers"]:
        _answer(writer, {"id": request["id"], "code": 0, "out": "\n".join(_leftovers()), "err": ""})
        return
    try:
        done = subprocess.run(
            request["argv"],
            input=request["stdin"].encode(),
            capture_output=True,
            timeout=request["timeout"],
            check=False,
        )
        answer = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
    except subprocess.TimeoutExpired as error:
        answer = {"code": 124, "out": error.stdout or b"", "err": b"timed out in the test machine"}
    except OSError as error:
        answer = {"code": 127, "out": b"", "err": str(error).encode()}
    decoded = {key: v.decode(errors="replace") if isinstance(v, bytes) else v for key, v in answer.items()}
    _answer(writer, {"id": request["id"], **decoded})


def _http_get(path: str, resource: str) -> dict[str, Any]:
    """Ask a server behind a socket: a new interpreter for each question would take a second in here."""
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(path)
        connection.request("GET", resource)
        response = connection.getresponse()
        return {"code": 0 if response.status == 200 else 1, "out": response.read().decode(), "err": ""}
    except OSError as error:
        return {"code": 1, "out": "", "err": str(error)}
    finally:
        connection.close()


def _leftovers() -> list[str]:
    """Return every trace of containers, one a line: ten programs would take a second."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            comm, words = (_content(f"/proc/{pid}/{name}") for name in ("comm", "cmdline"))
        except OSError:
            continue
        command = words.replace("\0", " ")
        if "conmon" in comm or "while :; do" in command:
            found.append(f"{pid} {command}")
    mounts = _content("/proc/mounts").splitlines()
    found += [line for line in mounts if " /run/tank" in line or " /var/lib/tank" in line]
    top = "/sys/fs/cgroup/tank.slice/tank-pods.service/tank"
    found += [f"{at}/{name}" for at, directories, _ in os.walk(top) for name in directories]
    for directory in ("netns", "containers", "crun"):
        try:
            names = os.listdir(f"/run/tank/{directory}")
        except FileNotFoundError:
            continue
        found += [name for name in names if not name.startswith(".") and ":" not in name]
    return found + [name for name in os.listdir("/sys/class/net") if name.startswith("tank-")]


def _content(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


def _write_file(path: str, encoded: str) -> dict[str, Any]:
    """Write a file, whole or not at all, and sync it: four programs would take half a second in here."""
    try:
        with open(f"{path}.new", "wb") as file:
            file.write(base64.b64decode(encoded))
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return {"code": 0, "out": "", "err": ""}
    except OSError as error:
        return {"code": 1, "out": "", "err": str(error)}


def _answer(writer: BinaryIO, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    with _write_lock:
        while data:
            data = data[writer.write(data) or 0 :]


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


if __name__ == "__main__":
    main(sys.argv[1])
