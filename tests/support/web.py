"""Fetch pages as a browser would, from whichever network the calling thread is in."""

from __future__ import annotations

import http.client


def fetched(address: str, port: int, path: str = "/", timeout: float = 5.0) -> tuple[int, str]:
    """Return the status and the text of a page; (0, why) if nobody answers."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.connect()
        assert connection.sock is not None
        # The kernel has answered for whoever listens; the server itself may be slow.
        connection.sock.settimeout(60)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()
