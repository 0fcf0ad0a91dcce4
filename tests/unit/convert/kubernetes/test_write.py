"""Pods written as objects of Kubernetes, checked by its own schemas."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from tank_agent.convert.kubernetes.write import write
from tank_agent.convert.leaving import Exported, Leaving
from tank_agent.spec.parse import pod_from_mapping

IMAGE = "docker.io/library/app:1"
FULL: dict[str, Any] = {
    "name": "shop",
    "network": {"bridges": ["front"], "dns": ["10.0.0.1"], "dns_search": ["lan"],
                "dns_options": ["ndots:2", "rotate"],
                "extra_hosts": {"nas.lan": "192.168.1.3"}},
    "ports": ["8080:80", "127.0.0.1:53:53/udp", "9000-9001:9000-9001"],
    "sysctls": {"net.core.somaxconn": "1024"},
    "volumes": [{"name": "data"}, {"name": "dir", "host": "/srv/dir"}, {"name": "all", "shared": True}],
    "files": [{"name": "conf", "content": "a = 1\n"}, {"name": "bytes", "base64": "AP8="}],
    "secrets": [{"name": "pw", "host": "/etc/keys/pw"}],
    "containers": [
        {"name": "migrate", "image": IMAGE, "init": True, "args": ["migrate", "$(X)"]},
        {
            "name": "app", "image": IMAGE, "pull": "always", "command": ["/bin/app"], "args": ["-v"],
            "env": {"A": "1", "B": "$(A)"}, "working_dir": "/srv",
            "user": "1000:2000", "groups": ["44"], "tty": True,
            "stop_grace": "45s", "read_only": True, "shm_size": "128M",
            "limits": {"memory": "256M", "memory_reservation": "64M", "cpu": 0.25},
            "security": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "userns": "auto",
                         "apparmor": "unconfined"},
            "health": {"http": {"port": 80, "path": "/ok", "headers": {"Host": "x"}, "tls": True}},
            "mounts": [
                {"volume": "data", "path": "/data", "subpath": "in"},
                {"volume": "dir", "path": "/dir", "read_only": True},
                {"volume": "all", "path": "/all"}, {"file": "conf", "path": "/etc/conf"},
                {"file": "bytes", "path": "/etc/bytes", "mode": "0600"}, {"secret": "pw"},
                {"tmpfs": "64M", "path": "/cache"},
            ],
        },
        {"name": "side", "image": IMAGE, "health": {"exec": ["true"], "on_failure": "none"},
         "security": {"seccomp": "unconfined"}},
        {"name": "tool", "image": IMAGE, "security": {"privileged": True}, "health": {"tcp": 5432}},
    ],
}  # fmt: skip
PODS = {
    "everything": FULL,
    "plain": {"name": "a", "network": "bridge", "containers": [{"name": "a", "image": IMAGE}]},
    "host": {"name": "a", "network": "host", "containers": [{"name": "a", "image": IMAGE}]},
    "once": {"name": "a", "restart": "never", "containers": [{"name": "a", "image": IMAGE}]},
    "until it succeeds": {
        "name": "a",
        "restart": "on-failure",
        "containers": [{"name": "a", "image": IMAGE}],
    },
    "job": {
        "name": "a",
        "schedule": "0 3 * * *",
        "time_zone": "Europe/Berlin",
        "timeout": "1h",
        "containers": [{"name": "a", "image": IMAGE}],
    },
}


def exported(*pods: dict[str, Any]) -> Exported:
    return write([Leaving(pod=pod_from_mapping(pod), file="x.toml") for pod in pods])


def objects(made: Exported) -> dict[str, dict[str, Any]]:
    found = [one for content in made.files.values() for one in yaml.safe_load_all(content.decode())]
    return {one["kind"]: one for one in found}


@pytest.mark.parametrize("name", list(PODS))
def test_kubernetes_takes_what_is_written(name: str) -> None:
    for content in exported(PODS[name]).files.values():
        for one in yaml.safe_load_all(content.decode()):
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("everything", {"ConfigMap", "Secret", "PersistentVolumeClaim", "Deployment", "Service"}),
        ("plain", {"Deployment", "Service"}),
        ("host", {"Deployment"}),
        ("once", {"Job"}),
        ("until it succeeds", {"Job"}),
        ("job", {"CronJob"}),
    ],
)
def test_a_pod_is_these_objects(name: str, kinds: set[str]) -> None:
    assert objects(exported(PODS[name])).keys() == kinds


def test_a_secret_is_never_plain() -> None:
    made = objects(exported(FULL))
    assert made["Secret"]["stringData"] == {"pw": "REPLACE-ME"}


def test_a_job_keeps_its_time() -> None:
    spec = objects(exported(PODS["job"]))["CronJob"]["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["startingDeadlineSeconds"]) == (
        "0 3 * * *",
        "Europe/Berlin",
        60,
    )
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 3600
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0


def test_the_pod_says_what_ours_says() -> None:
    spec = objects(exported(FULL))["Deployment"]["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 45
    assert spec["hostUsers"] is False
    assert spec["hostAliases"] == [{"ip": "192.168.1.3", "hostnames": ["nas.lan"]}]
    assert spec["securityContext"]["supplementalGroups"] == [44]
    (migrate,) = spec["initContainers"]
    assert migrate["args"] == ["migrate", "$(X)"]
    app, side, tool = spec["containers"]
    assert app["command"] == ["/bin/app"] and app["args"] == ["-v"]
    assert app["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "$$(A)"}]
    assert app["resources"] == {"limits": {"memory": "256Mi", "cpu": "250m"}, "requests": {"memory": "64Mi"}}
    assert [port["hostPort"] for port in app["ports"]] == [8080, 53, 9000, 9001]
    assert app["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    paths = {mount["mountPath"] for mount in app["volumeMounts"]}
    assert paths == {
        "/data", "/dir", "/all", "/etc/conf", "/etc/bytes", "/run/secrets/pw", "/cache", "/dev/shm", "/tmp",
        "/run", "/var/tmp",
    }  # fmt: skip
    assert {mount["name"] for mount in app["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}
    assert "livenessProbe" not in side and "ports" not in side
    assert tool["securityContext"]["privileged"] is True


def test_files_of_one_object_have_paths_of_their_own() -> None:
    """Podman puts all that is mounted of one object into one volume, with the modes of the volumes."""
    spec = objects(exported(FULL))["Deployment"]["spec"]["template"]["spec"]
    volumes = {one["name"]: one.get("configMap") or one.get("secret") for one in spec["volumes"]}
    sources = {name: source for name, source in volumes.items() if source}
    assert {name: (source["items"], source["defaultMode"]) for name, source in sources.items()} == {
        "file-conf-644": ([{"key": "conf", "path": "conf"}], 0o644),
        "file-bytes-600": ([{"key": "bytes", "path": "bytes"}], 0o600),
        "secret-pw-400": ([{"key": "pw", "path": "pw"}], 0o400),
    }
    mounts = {mount["name"]: mount.get("subPath") for mount in spec["containers"][0]["volumeMounts"]}
    assert [mounts[name] for name in sources] == ["conf", "bytes", "pw"]


def kubelet_reads(text: str, env: dict[str, str]) -> str:
    """Return what a container gets: "$$" is a dollar, and a reference to what is not there stays."""
    read, rest = "", text
    while rest:
        name, end, after = rest[2:].partition(")") if rest.startswith("$(") else ("", "", "")
        if rest.startswith("$$"):
            taken, rest = "$", rest[2:]
        elif end:
            taken, rest = env.get(name, f"$({name})"), after
        else:
            taken, rest = rest[0], rest[1:]
        read += taken
    return read


@pytest.mark.parametrize(
    ("text", "written"),
    [
        # Podman fills in nothing, and takes this as it is.
        ("echo $(date) ${A} $1 $", "echo $(date) ${A} $1 $"),
        ("$(A)", "$$(A)"),
        ("$(KUBERNETES_PORT)", "$$(KUBERNETES_PORT)"),
        ("kill $$", "kill $$$$"),
        ("$$(A)", "$$$$(A)"),
        ("$$$(A)", "$$$$$$(A)"),
        ("$(kill $$; echo $(A)) $(A", "$(kill $$; echo $(A)) $(A"),
        ("$(A)$(B\n)$$$", "$$(A)$(B\n)$$$$$"),
    ],
)
def test_a_dollar_stays_one(text: str, written: str) -> None:
    container = {
        "name": "a", "image": IMAGE, "env": {"A": "1", "TEXT": text}, "command": [text], "args": [text],
        "health": {"exec": [text]},
    }  # fmt: skip
    spec = objects(exported({"name": "a", "containers": [container]}))["Deployment"]["spec"]
    (found,) = spec["template"]["spec"]["containers"]
    probe = found["livenessProbe"]["exec"]["command"]
    said = [*found["command"], *found["args"], found["env"][1]["value"], *probe]
    assert said == [written] * 4
    assert kubelet_reads(written, {"A": "1", "TEXT": text, "KUBERNETES_PORT": "2"}) == text


def test_a_shared_volume_is_claimed_once() -> None:
    pod = {
        "volumes": [{"name": "all", "shared": True}],
        "containers": [{"name": "a", "image": IMAGE, "mounts": [{"volume": "all", "path": "/x"}]}],
    }
    made = exported({"name": "a", **pod}, {"name": "b", **pod})
    text = b"".join(made.files.values()).decode()
    assert text.count("kind: PersistentVolumeClaim") == 1
    assert text.count("claimName: all") == 2


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"user": "postgres"}, "containers[0].user"),
        ({"groups": ["render"]}, "containers[0].groups"),
        ({"image": "oci-archive:/srv/a.tar"}, "containers[0].image"),
    ],
)
def test_names_that_only_the_image_knows_are_lost(keys: dict[str, Any], key: str) -> None:
    pod = {"name": "a", "containers": [{"name": "a", "image": IMAGE, **keys}]}
    assert [one.key for one in exported(pod).remarks] == [key]


@pytest.mark.parametrize(
    ("user", "mount", "lost"),
    [
        ("1000:1000", {}, True),
        ("1000", {"mode": "0440"}, True),
        ("1000", {"mode": "0444"}, False),
        ("0:1000", {}, False),
        (None, {}, False),
    ],
)
def test_a_secret_that_is_closed_to_the_user_there_is_lost(
    user: str | None, mount: dict[str, Any], lost: bool
) -> None:
    container = {"name": "a", "image": IMAGE, "mounts": [{"secret": "pw", **mount}]}
    if user is not None:
        container["user"] = user
    pod = {"name": "a", "secrets": [{"name": "pw", "host": "/etc/keys/pw"}], "containers": [container]}
    keys = [one.key for one in exported(pod).remarks]
    assert keys == ["secrets[0].host", *(["containers[0].mounts[0]"] if lost else [])]
