"""Run the agent in the foreground, until SIGTERM or Ctrl-C. Containers go on when it ends."""

from __future__ import annotations

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--config", metavar="F", help="default /etc/tank/agent.toml, if there is one")
    parser.add_argument("--data-dir", metavar="D", help="images, volumes, journal (default /var/lib/tank)")
    parser.add_argument("--run-dir", metavar="D", help="socket, state until reboot (default /run/tank)")
    parser.add_argument("--pods-dir", metavar="D", help="the pod files (default /etc/tank/pods.d)")
    parser.add_argument(
        "--stop-pods", action="store_true", help="stop every pod when the agent is asked to end"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.agent import run as run_agent
    from tank_agent.settings import load_settings

    given = {key: getattr(arguments, key) for key in ("data_dir", "run_dir", "pods_dir")}
    overrides = {key: value for key, value in given.items() if value is not None}
    settings = load_settings(arguments.config, environ=os.environ, overrides=overrides)
    return run_agent(settings, stop_pods=arguments.stop_pods)
