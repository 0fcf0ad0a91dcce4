"""A plan without an agent: the hash of a change is that of a machine where all is as it was declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.control.offline import plan_trees, without_removals
from tank_agent.reconcile.core.proof import proof
from tank_agent.spec.model import content_hash
from tank_agent.spec.parse import parse_pod_file

WEB = 'restart = "always"\n[[containers]]\nname = "app"\nimage = "oci:/srv/app"\n'


def planned(before: dict[str, str] | None, after: dict[str, str]) -> dict[str, str]:
    trees = [
        None if tree is None else {f"{name}.toml": text.encode() for name, text in tree.items()}
        for tree in (before, after)
    ]
    assert trees[1] is not None
    report = plan_trees(Path(), trees[1], trees[0], None)
    return {"": report.proof, **{pod.name: pod.proof for pod in report.pods}}


def test_each_change_has_a_hash_and_all_together_another() -> None:
    changed = WEB.replace("/srv/app", "/srv/new")
    found = planned({"web": WEB, "old": WEB, "same": WEB}, {"web": changed, "new": WEB, "same": WEB})
    assert found.keys() == {"", "web", "old", "new"}
    assert len({*found.values()}) == 4
    assert found == planned({"web": WEB, "old": WEB, "same": WEB}, {"web": changed, "new": WEB, "same": WEB})
    assert planned({"web": WEB}, {"web": WEB}) == {"": ""}


@pytest.mark.parametrize(
    "other",
    [
        WEB.replace("/srv/app", "/srv/other"),
        WEB + '[containers.limits]\nmemory = "1G"\n',
        WEB + '[[containers]]\nname = "side"\nimage = "oci:/srv/app"\n',
    ],
)
def test_another_change_has_another_hash(other: str) -> None:
    one = planned({"web": WEB}, {"web": WEB.replace("/srv/app", "/srv/new")})
    assert planned({"web": WEB}, {"web": other})["web"] != one["web"]


def test_the_plan_of_one_file_takes_no_pod_away() -> None:
    report = plan_trees(Path(), {"new.toml": WEB.encode()}, {"old.toml": WEB.encode()}, None)
    alone = without_removals(report)
    assert [pod.name for pod in alone.pods] == ["new"]
    assert alone.proof == planned(None, {"new": WEB})[""] != report.proof


def test_an_init_container_that_is_gone_had_ended() -> None:
    first = '[[containers]]\nname = "first"\nimage = "oci:/srv/app"\ninit = true\n'
    assert planned({"web": WEB + first}, {"web": WEB}).keys() == {"", "web"}
    report = plan_trees(Path(), {"web.toml": WEB.encode()}, {"web.toml": (WEB + first).encode()}, None)
    hashes = [content_hash(parse_pod_file(text, "web.toml").pods[0].pod) for text in (WEB + first, WEB)]
    # A changed or removed init container restarts the others.
    assert report.pods[0].proof == proof("web", *hashes, ["start app"])


def test_a_snapshot_is_part_of_a_plan_without_an_agent() -> None:
    volume = '[[volumes]]\nname = "data"\nsnapshot = true\n'
    mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    text = WEB.removeprefix('restart = "always"\n')
    before, after = (f"{volume}{one}{mount}" for one in (text, text.replace("app", "new")))
    found = plan_trees(Path(), {"web.toml": after.encode()}, {"web.toml": before.encode()}, None).pods[0]
    hashes = [content_hash(parse_pod_file(text, "web.toml").pods[0].pod) for text in (before, after)]
    assert found.proof == proof("web", *hashes, ["stop app", "snapshot data", "start new"])
