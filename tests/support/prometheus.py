"""A real Prometheus of Debian's on loopback, for as long as a test needs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import yaml

from tests.support.agent import wait_for
from tests.support.git import free_port
from tests.support.web import fetched


class Prometheus:
    """Answers queries over what it scraped; a sample is its labels, as JSON, and its value."""

    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, expression: str) -> dict[str, float]:
        """Return the samples of an instant query, by their labels without those of the scrape."""
        status, text = fetched("127.0.0.1", self.port, f"/api/v1/query?query={quote(expression)}")
        assert status == 200, text
        found = json.loads(text)["data"]["result"]
        return {
            json.dumps(
                {k: v for k, v in one["metric"].items() if k not in ("instance", "job")}, sort_keys=True
            ): float(one["value"][1])
            for one in found
        }

    def value(self, expression: str) -> float | None:
        """Return the value of the one sample of a query; None if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return next(iter(found.values()), None)

    def targets(self) -> list[tuple[str, str]]:
        """Return health and last error of each target."""
        _, text = fetched("127.0.0.1", self.port, "/api/v1/targets")
        return [(one["health"], one["lastError"]) for one in json.loads(text)["data"]["activeTargets"]]


@contextmanager
def prometheus(home: Path, target: str, *, rules: Path | None = None) -> Iterator[Prometheus]:
    """Run one that scrapes a target as job "tank" each second, and wait until it has."""
    port = free_port()
    config = home / "prometheus.yml"
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [{"job_name": "tank", "static_configs": [{"targets": [target]}]}],
        "rule_files": [str(rules)] if rules is not None else [],
    }
    config.write_text(yaml.safe_dump(document))
    log = home / "prometheus.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={home / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        server = Prometheus(port)

        def scraped() -> bool:
            assert process.poll() is None, log.read_text()
            return fetched("127.0.0.1", port, "/-/ready")[0] == 200 and server.value("up") == 1

        wait_for(scraped, f"Prometheus scrapes {target}")
        yield server
    finally:
        process.kill()
        process.wait(60)
