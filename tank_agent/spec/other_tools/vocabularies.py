"""The vocabulary of each of our files."""

from __future__ import annotations

from tank_agent.spec.other_tools import agent_keys, pod_keys, pod_reasons
from tank_agent.spec.other_tools.form import Vocabulary

POD_FILE = Vocabulary(
    pod_keys.OTHER_TOOLS, pod_reasons.WITHOUT_KEY, "to the pod itself, before all its [tables]", "tank-pod"
)
AGENT_FILE = Vocabulary(
    agent_keys.OTHER_TOOLS, agent_keys.WITHOUT_KEY, "at the top, before all [tables]", "tank-agent.toml"
)
