"""Runs in the test machine: executes what the test sends over a virtio port, and answers.

Requests and answers are JSON objects, one a line. Only the standard library; started by systemd, early.
"""

from __future__ import annotations

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
