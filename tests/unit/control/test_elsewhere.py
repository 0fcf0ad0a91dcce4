"""Pods for other machines in answers, also those of a fleet."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path

import msgspec

from tank_agent.control import elsewhere
from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.source.directory import DirectorySource
from tank_agent.source.files import parser_for
from tank_agent.source.snapshot import Elsewhere
from tank_agent.spec.model import Host, Selector
from tests.unit.journal.builders import FakeClock

FLEET = 2000
TEXT = """\
hosts = ["edge-{number}"]
[[containers]]
name = "app"
image = "docker.io/library/nginx:1.27"
env = {{ NUMBER = "{number}" }}
"""


def one(name: str, file: str = "", why: str = "hosts: no", **selector: object) -> Elsewhere:
    return Elsewhere(
        name=name,
        owner=f"dir:/p/{file or name}.toml",
        file=f"/p/{file or name}.toml",
        line=1,
        selector=msgspec.convert({"hosts": ["x"], **selector}, Selector),
        by="labels" if "labels" in selector else "hosts",
        why=why,
    )


def test_few_are_named_and_many_counted() -> None:
    few = elsewhere.not_here([one("b"), one("a", labels={"traefik.enable": "true"}), one("web")], {"web"})
    found = elsewhere.summary(few, "lab")
    assert (found.host, found.count, found.by) == ("lab", 2, {"hosts": 1, "labels": 1})
    assert [(pod.name, pod.file, pod.why) for pod in found.pods] == [
        ("a", "/p/a.toml", "hosts: no"),
        ("b", "/p/b.toml", "hosts: no"),
    ]
    assert "traefik.enable looks like a label of a container" in (found.pods[0].warning or "")
    many = elsewhere.not_here([one(f"p{number}") for number in range(6)], ())
    assert elsewhere.summary(many, "lab").pods == ()
    assert elsewhere.summary(many, "lab").by == {"hosts": 6}
    assert elsewhere.lines(many)[-1] == "1 more pods are for other machines"


def test_a_name_that_several_files_have_for_several_machines() -> None:
    files = [one("web", f"edge-{number}") for number in range(5)]
    found = elsewhere.pod_report("web", elsewhere.not_here(files, ())["web"])
    assert (found.phase, found.owner) == ("elsewhere", "dir:/p/edge-0.toml")
    assert found.elsewhere == (
        "/p/edge-0.toml:1: hosts: no",
        "/p/edge-1.toml:1: hosts: no",
        "/p/edge-2.toml:1: hosts: no",
        "and 2 more files",
    )


def test_a_fleet_of_pods_for_others_is_cheap(tmp_path: Path) -> None:
    for number in range(FLEET):
        (tmp_path / f"web-{number}.toml").write_text(TEXT.format(number=number))
    journal = Journal(MemoryStore(), clock=FakeClock())
    source = DirectorySource(
        tmp_path,
        remember=journal.remember,
        recall=journal.recall,
        parse=parser_for(Host(name="edge-1")),
    )
    tracemalloc.start()
    snapshot = source.snapshot()
    journal.merge(snapshot)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    began = time.process_time()
    found = elsewhere.of_journal(journal, journal.desired())
    summary = elsewhere.summary(found, "edge-1")
    spent = time.process_time() - began
    assert (len(journal.desired()), summary.count, summary.pods) == (1, FLEET - 1, ())
    answer = msgspec.json.encode(summary)
    print(f"{FLEET} files: {size >> 10} KiB, {spent * 1000:.1f} ms, {len(answer)} bytes", file=sys.stderr)
    # What every `tank status` pays for a fleet; generous, since other tests run beside.
    assert (size < 12 << 20, spent < 0.2, len(answer) < 500) == (True, True, True)
    assert journal.merge(source.snapshot()).changed == ()
