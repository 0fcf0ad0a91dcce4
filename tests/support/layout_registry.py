"""A registry of one OCI image layout, on loopback: for the test machine, whose Python runs this file alone.

systemd-run --service-type=notify python3 layout_registry.py LAYOUT PORT
"""

from __future__ import annotations

import json
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Give the layout's only image, whatever its name and tag, and its blobs."""

    protocol_version = "HTTP/1.1"
    layout = Path()

    def do_GET(self) -> None:
        """Answer with a manifest or a blob; to anything else, that this is a registry."""
        *_, kind, name = self.path.split("/")
        blobs = self.layout / "blobs" / "sha256"
        if kind == "manifests" and ":" not in name:
            name = json.loads((self.layout / "index.json").read_bytes())["manifests"][0]["digest"]
        data = (
            (blobs / name.removeprefix("sha256:")).read_bytes() if kind in ("manifests", "blobs") else b"{}"
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        media_type = json.loads(data)["mediaType"] if kind == "manifests" else "application/octet-stream"
        self.send_header("Content-Type", media_type)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET


def main() -> None:
    """Serve, and tell systemd from when on."""
    Handler.layout = Path(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        server.serve_forever()


if __name__ == "__main__":
    main()
