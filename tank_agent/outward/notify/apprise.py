"""The receivers of urls_file: each message is sent by the program apprise, as a child without privileges.

One URL is one receiver, and one child: what a receiver took is not sent to it again because another one was
out of reach. apprise is never imported: it would cost 27 MB of memory all the time.
"""

from __future__ import annotations

import os
import re

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.linux.paths import Closing, NotReadableError
from tank_agent.linux.process import find, run_apart
from tank_agent.outward.notify.channels import Body, Delivery, unreadable, without_address
from tank_agent.runtime.secrets.identities import read_key

DEADLINE = 30.0
# More than anybody has, and few enough to send to in turn.
MOST = 20
# No other process has this user (see `runtime.secrets.age`): it reads addresses that are secrets.
_USER = 65522
# Of util-linux: ends the child with the thread that waits for it, so also with an agent that is killed.
_BOUND = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")
_URL = re.compile(r"(?:[^=/]*=\s*)?(?P<url>(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://\S.*)")
# The head of a line of its log.
_LOGGED = re.compile(r"[-\d]+ [:,.\d]+ - \w+ - ")
_STATES = {"bad": "failure", "good": "success", "info": "info"}
NOT_INSTALLED = "apprise is not installed, so nobody in urls_file is told"
_HINT = "`apt install apprise`"


class Apprise:
    """Sends to one URL."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self._url = name, url

    def send(self, body: Body) -> Delivery:
        """Send a message: what it says goes through standard input, since all users can read arguments."""
        try:
            program = find("apprise")
        except Stalled:
            return Delivery(error=f"{NOT_INSTALLED}; {_HINT}")
        with Closing(os.memfd_create("tank-notify", os.MFD_CLOEXEC)) as config:
            os.write(config, f"{self._url}\n".encode())
            kind = _STATES.get(body.state, "info")
            # Once verbose: it says what went wrong.
            options = ("-v", "-i", "text", "-n", kind, "-t", body.title, "-c", f"/proc/self/fd/{config}")
            try:
                code, out, err = run_apart(
                    (*_BOUND, program, *options),
                    timeout=DEADLINE,
                    stdin=(body.message or body.title).encode(),
                    user=_USER if os.geteuid() == 0 else None,
                    pass_fds=(config,),
                )
            except Retry:
                return Delivery(error=f"apprise did not end within {DEADLINE:g} s")
            except TankError as error:
                return Delivery(error=f"apprise can't be run: {error.message}")
        if code == 0:
            return Delivery()
        said = f"{err.decode(errors='replace')}\n{out.decode(errors='replace')}"
        if "Unparseable URL" in said:
            return Delivery(error="apprise can make nothing of this URL")
        return Delivery(error=without_address(_words(said), [self._url]) or f"apprise ended with {code}")


def _words(output: str) -> str:
    """Return what apprise says of a failure: its lines without time and level, each once."""
    lines = (_LOGGED.sub("", line).strip() for line in output.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))


def receivers(file: str) -> tuple[list[Apprise], list[str]]:
    """Return the receivers of a file of URLs, and what is wrong with it, as sentences without its secrets."""
    try:
        text = read_key(file).decode()
    except (OSError, NotReadableError, UnicodeDecodeError) as error:
        return [], [unreadable(error, file)]
    return parse(text, file)


def parse(text: str, file: str) -> tuple[list[Apprise], list[str]]:
    """Return as `receivers`, of a text in apprise's form: one URL a line, tags before it, and comments."""
    found, wrong = list[Apprise](), list[str]()
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith(("#", ";")):
            continue
        match = _URL.fullmatch(line)
        if match is None:
            wrong.append(
                f"{file}:{number}: is no URL of apprise; write one such as ntfy://ntfy.example/topic"
            )
            continue
        found.append(Apprise(f"{match['scheme'].lower()} (line {number})", match["url"]))
    if len(found) > MOST:
        wrong.append(f"{file}: has {len(found)} URLs; the first {MOST} count")
    if not found and not wrong:
        wrong.append(f"{file}: has no URL in it")
    return found[:MOST], wrong
