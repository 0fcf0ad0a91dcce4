"""Words for the user of a session that does not begin yet: its pod is still about to start."""

from __future__ import annotations

from collections.abc import Callable

from tank_agent.api.reports import PodReport
from tank_agent.client.client import Client
from tank_agent.client.fast.http import Asked
from tank_agent.errors import TankError

_EVERY = 1.0
_PHASES = {
    "pending": "waits to start",
    "pulling": "waits for its image, which is being pulled",
    "starting": "is being started",
    "stopping": "is being stopped, and starts again",
}


def tell_what(path: str, name: str, asked: Asked, tell: Callable[[str], object]) -> None:
    """Tell what a pod waits for, once and when it changes, until the answer to a request comes."""
    client, pod, told = Client(path), name.partition("/")[0], ""
    while True:
        try:
            text = sentence(client.status(pod))
        except TankError:
            text = ""
        if text and text != told:
            tell(f"{text}; Ctrl-C leaves")
            told = text
        if asked.comes(_EVERY):
            return


def sentence(pod: PodReport) -> str:
    """Return what a pod that does not run waits for; empty if it runs."""
    if pod.waits:
        what = pod.waits[0]
        return f"{pod.name} {what}" if what.startswith("waits ") else f"{pod.name}: {what}"
    return f"{pod.name} {_PHASES[pod.phase]}" if pod.phase in _PHASES else ""
