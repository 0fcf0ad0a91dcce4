"""The options `--host` and TANK_HOST: the address that a verb asks, or those of several machines."""

from __future__ import annotations

import argparse
import os
import re

from tank_agent.client.fast import ssh
from tank_agent.errors import TankError

# These read this machine's files, or examine the machine itself.
_HERE = ("agent", "doctor", "help", "import", "schema", "secret", "validate")
_BETWEEN = re.compile(r"[\s,]+")


def settle(arguments: argparse.Namespace) -> None:
    """Put the address of the other machine in the place of the socket; those of several into `hosts`.

    An empty `--host` is this machine, whatever TANK_HOST says.

    Raises:
        TankError: one is no address, or the verb is about this machine, or asks one agent only.
    """
    verb, given = arguments.verb, getattr(arguments, "host", None) or []
    # From here on, the arguments say it all.
    of_environment = os.environ.pop("TANK_HOST", "")
    if verb == "plan" and given and not given[-1].startswith(ssh.SCHEME):
        arguments.machine, arguments.host = given[-1] or None, None
        return
    named = [text for text in given if text]
    if verb in _HERE or getattr(arguments, "here", False):
        if named:
            hint = f"leave --host away, or run it there: ssh HOST tank {verb}"
            raise TankError(
                f"`tank {verb}` is about this machine and its files, and asks no other", hint=hint
            )
        return
    texts = named if given else [text for text in _BETWEEN.split(of_environment) if text]
    socket = arguments.socket or os.environ.get("TANK_SOCKET")
    addresses = [ssh.address(text, socket) for text in dict.fromkeys(texts)]
    if len(addresses) > 1:
        if verb != "status":
            message = f"`tank {verb}` asks one machine, and {len(addresses)} are given"
            raise TankError(message, hint="only `tank status` asks several; name one by --host")
        from tank_agent.cli import many_hosts

        arguments.hosts, arguments.run = addresses, many_hosts.run
    elif addresses:
        arguments.socket = addresses[0]
