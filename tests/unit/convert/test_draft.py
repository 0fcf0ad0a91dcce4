"""A pod file that no pod can be is made one that can, by taking out what is wrong, each with a remark."""

from __future__ import annotations

from typing import Any

from tank_agent.convert.draft import settled
from tank_agent.convert.model import NewPodFile, Remark, SourcePlace

PLACE = SourcePlace("web.container", 3)


def outcome(**pod: Any) -> tuple[NewPodFile | None, list[str]]:
    remarks: list[Remark] = []
    return settled(NewPodFile(name="web", pod=pod, beside={}), PLACE, remarks), [one.key for one in remarks]


def container(**keys: Any) -> dict[str, Any]:
    return {"name": "app", "image": "docker.io/library/app:1", **keys}


def test_what_is_right_is_left_as_it_is() -> None:
    pod = {"containers": [container(env={"A": "1"})]}
    file, remarks = outcome(**pod)
    assert file is not None
    assert (file.pod, remarks) == (pod, [])


def test_only_what_is_wrong_is_taken_out() -> None:
    file, remarks = outcome(
        sysctls={"net.core.somaxconn": "1", "kernel.panic": "1"},
        volumes=[{"name": "data"}],
        containers=[
            container(
                args=["a", "b"],
                env={"A": "1", "": "2"},
                stop_grace="soon",
                mounts=[
                    {"volume": "data", "path": "/data", "subpath": "../x"},
                    {"volume": "data", "path": "no path"},
                    {"volume": "data", "path": "/other"},
                ],
                security={"capabilities": {"add": ["NET_ADMIN", "MAKE_COFFEE"]}},
                health={"http": {"port": 70000}, "interval": "10s"},
            )
        ],
    )
    assert file is not None
    (made,) = file.pod["containers"]
    assert made["mounts"] == [{"volume": "data", "path": "/data"}, {"volume": "data", "path": "/other"}]
    assert (made["args"], made["env"]) == (["a", "b"], {"A": "1"})
    assert made["security"] == {"capabilities": {"add": ["NET_ADMIN"]}}
    assert "stop_grace" not in made
    assert file.pod["sysctls"] == {"net.core.somaxconn": "1"}
    assert {"containers[0].stop_grace", "containers[0].mounts[1]", "containers[0].health.http"} <= set(
        remarks
    )


def test_a_container_without_its_image_is_no_pod() -> None:
    file, remarks = outcome(containers=[{"name": "app", "image": "Not An Image"}])
    assert (file, remarks) == (None, ["containers[0].image", "web"])
