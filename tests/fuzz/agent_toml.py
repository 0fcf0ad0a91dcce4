"""agent.toml, from any text to settings or problems with their lines."""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

from tank_agent.errors import InvalidSpec
from tank_agent.settings.settings import Settings, load_settings
from tests.fuzz.pod_files import mutate
from tests.fuzz.rounds import repeat

_FULL = """\
data_dir = "/srv/tank"
run_dir = "/run/other"
pods_dir = "/srv/pods.d"
seed_dir = "/srv/seed.d"
[git]
url = "https://git.example/fleet.git"
branch = "main"
path = "hosts/edge-1"
poll = "90s"
depth = 50
[git.verify]
mode = "commits"
keys = "/etc/tank/keys"
[host]
adapter = "static"
uplink = "eno1"
dns = ["10.0.0.1", "fd00::1"]
[network.bridge]
pool = "10.88.0.0/16"
prefix = 22
ipv6 = "fd12:3456:789a::/48"
publish = "127.0.0.1"
[reconcile]
resync = "5s"
backoff_base = "100ms"
backoff_cap = "1m"
stable_after = 30
workers = 8
[logs]
max_size = "10M"
max_files = 3
[image]
pull = "always"
parallel = 3
[registry."docker.io"]
mirrors = ["mirror.example/hub"]
insecure = true
[labels]
site = "edge-1"
[[pods]]
name = "first"
[[pods.containers]]
name = "app"
image = "oci:/srv/app"
"""


def once(rng: random.Random, directory: Path) -> None:
    """Load one mutated file."""
    file = directory / "agent.toml"
    data = mutate(_FULL, rng).encode(errors="surrogatepass")
    if rng.random() < 0.05:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(3) + data[at:]
    file.write_bytes(data)
    try:
        assert isinstance(load_settings(file, environ={}), Settings)
    except InvalidSpec as error:
        assert error.problems
        for problem in error.problems:
            assert problem.message and problem.line >= 0
            assert str(problem).isprintable(), problem


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Fuzz agent.toml."""
    with tempfile.TemporaryDirectory(prefix="tank-fuzz-") as directory:
        repeat(seed, seconds, rounds, partial(once, directory=Path(directory)))
