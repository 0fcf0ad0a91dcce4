"""Sets of units made into pod files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tank_agent.convert.model import Conversion
from tank_agent.convert.quadlet.convert import convert
from tank_agent.errors import TankError
from tank_agent.spec.beside import BesideError
from tank_agent.spec.parse import pod_from_mapping

APP = "Image=docker.io/library/app:1"
BOOT = "[Install]\nWantedBy=default.target\n"


@pytest.fixture
def units(tmp_path: Path) -> Any:
    """Return a function that writes units and converts their directory."""

    def made(**files: str) -> Conversion:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found = convert([tmp_path], str(tmp_path / "home"))
        for file in found.files:

            def beside(path: str, given: dict[str, bytes] = file.beside) -> bytes:
                if path not in given:
                    raise BesideError("is not there")
                return given[path]

            pod_from_mapping({"name": file.name, **file.pod}, beside=beside)
        return found

    return made


def container(*lines: str, more: str = BOOT) -> str:
    return "\n".join(["[Container]", APP, *lines, more])


def pods(found: Conversion) -> dict[str, dict[str, Any]]:
    return {file.name: file.pod for file in found.files}


def lost(found: Conversion) -> list[str]:
    return [f"{one.key}: {one.message}" for one in found.remarks if one.kind == "lost"]


def test_a_path_of_the_host_is_that_behind_its_links(tmp_path: Path) -> None:
    zone, unit = tmp_path / "Berlin", tmp_path / "app.container"
    for link in ("local", "data"):
        (tmp_path / link).symlink_to(zone)
    zone.touch()
    (tmp_path / "store.volume").write_text(f"[Volume]\nDevice={tmp_path}/data\nType=none\nOptions=bind\n")
    for lines in (
        f"Volume={tmp_path}/local:/etc/localtime:ro",
        "Volume=./data:/srv",
        f"Mount=type=bind,src={tmp_path}/local,dst=/srv",
        "Volume=store.volume:/srv",
        "Timezone=local",
        "Timezone=Europe/Berlin",
    ):
        unit.write_text(container(lines))
        found = convert(
            [tmp_path],
            "/root",
            lambda path: os.fspath(zone) if path.startswith(("/etc", "/usr")) else os.path.realpath(path),
        )
        (volume,) = pods(found)["app"]["volumes"]
        assert volume["host"] == os.fspath(zone)
        assert lost(found) == []
        assert f"leads to {zone}, which is written" in "".join(one.message for one in found.remarks)


def test_a_host_name_is_no_alias_too(units: Any) -> None:
    found = units(web_container=container("HostName=Nas.lan", "NetworkAlias=nas.lan", "NetworkAlias=files"))
    assert lost(found) == []
    assert (pods(found)["web"]["hostname"], pods(found)["web"]["network"]) == (
        "Nas.lan",
        {"aliases": ["files"]},
    )


def test_a_container_is_a_pod(units: Any) -> None:
    found = units(web_container=container("PublishPort=8080:80", more="[Service]\nRestart=always\n" + BOOT))
    assert not found.remarks
    assert pods(found) == {
        "web": {
            "restart": "always",
            "network": "bridge",
            "ports": ["8080:80"],
            "containers": [{"name": "web", "image": "docker.io/library/app:1"}],
        }
    }


def test_containers_of_one_pod_are_in_one_file(units: Any) -> None:
    found = units(
        shop_pod="[Pod]\nPublishPort=8080:80\nNetwork=front\nVolume=/srv/shop:/shop\n" + BOOT,
        a_container=container("Pod=shop.pod", "ContainerName=shop_web", more=""),
        b_container=container("Pod=shop.pod", more="[Unit]\nAfter=a.service\n"),
    )
    assert not found.remarks
    pod = pods(found)["shop"]
    assert pod["ports"] == ["8080:80"] and pod["network"] == {"bridges": ["front"]}
    first, second = pod["containers"]
    assert (first["name"], second["name"]) == ("web", "b")
    assert first["mounts"] == second["mounts"] == [{"volume": "shop", "path": "/shop"}]
    assert second["after"] == ["web"]


def test_long_names_of_containers_of_one_pod_stay_apart(units: Any) -> None:
    long = "a" * 63
    files = {f"{long}{end}_container": container("Pod=web.pod") for end in "xyz"}
    found = units(web_pod="[Pod]\n", **files)
    names = [one["name"] for one in pods(found)["web"]["containers"]]
    assert names == [long, f"{long[:61]}-2", f"{long[:61]}-3"]


def test_a_container_in_the_network_of_another_is_in_its_pod(units: Any) -> None:
    found = units(
        a_container=container("Network=vpn.container"),
        b_container=container("Network=container:vpn"),
        vpn_container=container("PublishPort=1:1"),
    )
    assert [one["name"] for one in pods(found)["vpn"]["containers"]] == ["vpn", "a", "b"]


def test_units_of_the_set_come_first(units: Any) -> None:
    found = units(
        db_container=container(),
        web_container=container(
            more="[Unit]\nAfter=db.service network-online.target\nRequires=db.service\n" + BOOT
        ),
        late_container=container(more="[Unit]\nBefore=db.service\nAfter=other.service\n" + BOOT),
    )
    assert pods(found)["web"]["after"] == ["db"]
    assert pods(found)["db"]["after"] == ["late"]
    assert lost(found) == [
        "Unit.After: other.service is none of these units; the pod doesn't wait for it, nor start it"
    ]


def test_a_volume_of_several_pods_is_shared(units: Any) -> None:
    found = units(
        data_volume="[Volume]\nVolumeName=big_data\n",
        a_container=container("Volume=data.volume:/data"),
        b_container=container("Volume=data.volume:/in:ro"),
        c_container=container("Volume=own:/data"),
    )
    volumes = {name: pod["volumes"] for name, pod in pods(found).items()}
    assert volumes["a"] == volumes["b"] == [{"name": "big-data", "shared": True}]
    assert volumes["c"] == [{"name": "own"}]
    assert pods(found)["b"]["containers"][0]["mounts"] == [
        {"volume": "big-data", "read_only": True, "from_image": True, "path": "/in"}
    ]


def test_volumes_begin_with_what_the_image_has_unless_told_otherwise(units: Any) -> None:
    found = units(
        plain_volume="[Volume]\nCopy=false\n",
        host_volume="[Volume]\nDevice=/srv/data\nType=none\nOptions=bind\n",
        a_container=container(
            *(
                f"Volume={one}"
                for one in ("one:/1", "two:/2:nocopy", "plain.volume:/3", "host.volume:/4", "/5")
            ),
            "Mount=type=volume,source=six,destination=/6,subpath=x",
        ),
    )
    mounts = pods(found)["a"]["containers"][0]["mounts"]
    assert [one["path"] for one in mounts if one.get("from_image")] == ["/1", "/5"]


def test_a_volume_that_is_a_directory_is_one_here(units: Any) -> None:
    found = units(
        data_volume="[Volume]\nDevice=/srv/data\nType=none\nOptions=bind\n",
        nfs_volume="[Volume]\nDevice=nas:/x\nType=nfs\n",
        a_container=container("Volume=data.volume:/data", "Volume=nfs.volume:/nfs"),
    )
    assert pods(found)["a"]["volumes"] == [{"name": "data", "host": "/srv/data"}, {"name": "nfs"}]
    assert len(lost(found)) == 1 and "fstab" in lost(found)[0]


def test_a_directory_of_devices_is_devices(units: Any) -> None:
    found = units(a_container=container("Volume=/dev/dri:/dev/dri", "AddDevice=/dev/fuse"))
    one = pods(found)["a"]["containers"][0]
    assert one["security"] == {"devices": ["/dev/dri", "/dev/fuse"]}
    assert "mounts" not in one


def test_networks_are_bridges_and_macvlan_is_an_interface(units: Any) -> None:
    found = units(
        front_network="[Network]\nNetworkName=edge_net\n",
        lan_network=(
            "[Network]\nDriver=macvlan\nOptions=parent=eno1\nSubnet=10.0.0.0/24\nGateway=10.0.0.1\n"
        ),
        a_container=container("Network=front.network"),
        b_container=container("Network=lan.network:ip=10.0.0.5", "PublishPort=80:80"),
    )
    assert pods(found)["a"]["network"] == {"bridges": ["edge-net"]}
    assert pods(found)["b"]["network"] == {
        "nics": [{"name": "eth0", "parent": "eno1", "ip": "10.0.0.5/24", "gateway": "10.0.0.1"}]
    }
    assert "ports" not in pods(found)["b"]


def test_secrets_are_files_of_the_host_and_variables_have_a_place(units: Any) -> None:
    found = units(
        db_container=container("Secret=db_pw", "Secret=root_pw,type=env,target=ROOT_PASSWORD"),
    )
    (file,) = found.files
    assert file.pod["secrets"] == [{"name": "db-pw", "host": "/etc/tank/secrets/db-pw"}]
    one = file.pod["containers"][0]
    assert one["mounts"] == [
        {"secret": "db-pw", "mode": "0444", "owner": "0:0", "path": "/run/secrets/db_pw"}
    ]
    assert one["env_file"] == ["db-db.secret.env"]
    assert b"# ROOT_PASSWORD=\n" in file.beside["db-db.secret.env"]
    assert len(lost(found)) == 1 and "ROOT_PASSWORD_FILE" in lost(found)[0]


def test_files_of_variables_are_copied_in_our_form(units: Any) -> None:
    found = units(
        a_container=container("EnvironmentFile=./a.env", "EnvironmentFile=./no.env"),
        a_env='# kept\nPLAIN=x\nQUOTED="as it is"\nBOTH=it\'s $HOME\n',
    )
    (file,) = found.files
    assert file.pod["containers"][0]["env_file"] == ["a.env", "a-no.env"]
    assert file.beside["a.env"] == (b'# kept\nPLAIN=x\nQUOTED=\'"as it is"\'\nBOTH="it\'s \\$HOME"\n')
    assert len(lost(found)) == 1 and "a-no.env" in lost(found)[0]


def test_a_device_or_a_pipe_is_never_read(units: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found = units(a_container=container("EnvironmentFile=/dev/zero", "EnvironmentFile=./pipe"))
    assert ["is not a regular file" in text for text in lost(found)] == [True, True]
    os.mkfifo(tmp_path / "b.container")
    with pytest.raises(TankError, match="not a regular file"):
        units(a_container=container())


def test_a_timer_makes_a_job(units: Any) -> None:
    found = units(
        backup_container=container(more="[Service]\nType=oneshot\nTimeoutStartSec=1h\n"),
        backup_timer="[Timer]\nOnCalendar=*-*-* 03:00:00\nPersistent=true\n",
        odd_container=container(more="[Service]\nType=oneshot\n"),
        odd_timer="[Timer]\nOnCalendar=*-*-* 03:00:30\n",
        often_container=container(more=""),
        often_timer="[Timer]\nOnBootSec=5min\nOnUnitActiveSec=30min\n",
    )
    assert {key: pods(found)["backup"][key] for key in ("schedule", "catch_up", "timeout", "restart")} == {
        "schedule": "0 3 * * *",
        "catch_up": True,
        "timeout": "1h",
        "restart": "never",
    }
    assert pods(found)["often"]["schedule"] == "*/30 * * * *"
    assert [text.partition(":")[0] for text in lost(found)] == ["Timer.OnCalendar", "Timer.OnBootSec"]


def test_drop_ins_and_templates(units: Any, tmp_path: Path) -> None:
    (tmp_path / "sleep@.container").write_text(container("Exec=sleep %i"))
    (tmp_path / "sleep@10.container").symlink_to("sleep@.container")
    found = units(
        a_container=container("Exec=old", "Environment=A=1"),
        **{"a_container.d__10-x_conf": "[Container]\nExec=new\nEnvironment=B=2\n"},
        **{"container.d__20-all_conf": "[Container]\nEnvironment=C=3\n"},
    )
    assert pods(found)["a"]["containers"][0]["args"] == ["new"]
    assert pods(found)["a"]["containers"][0]["env"] == {"A": "1", "B": "2", "C": "3"}
    assert pods(found)["sleep-10"]["containers"][0]["args"] == ["sleep", "10"]
    assert ["template" in text for text in lost(found)] == [True]


def test_variables_of_the_service_are_filled_in(units: Any) -> None:
    found = units(
        a_container=container(
            "Environment=URL=https://${HOST}/ PRICE=$$5",
            "Volume=${NOWHERE}/x:/x",
            more="[Service]\nEnvironment=HOST=a.lan\n" + BOOT,
        ),
    )
    assert pods(found)["a"]["containers"][0]["env"] == {"URL": "https://a.lan/", "PRICE": "$5"}
    assert len(lost(found)) == 1 and "NOWHERE" in lost(found)[0]


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("UserNS=nomap", "Container.UserNS", "UID:GID"),
        ("PublishPort=80:80/sctp", "Container.PublishPort", "only tcp and udp"),
        ("RunInit=true", "Container.RunInit", "tini"),
        ("Notify=true", "Container.Notify", "health check"),
        ("Volume=/run/podman/podman.sock:/x", "Container.Volume", "API"),
        ("PodmanArgs=--device-cgroup-rule=x", "Container.PodmanArgs --device-cgroup-rule", "no counterpart"),
        ("Imagee=x", "Container.Imagee", "did you mean Image"),
        ("HealthCmd='a", "Container.HealthCmd", ""),
        ("Exec='a", "Container.Exec", "not closed"),
        ("ShmSize=lots", "Container.ShmSize", "no size"),
        ("StopSignal=SIGWHAT", "containers[0].stop_signal", "left out"),
    ],
)
def test_what_is_lost_is_named(units: Any, line: str, key: str, words: str) -> None:
    found = units(a_container=container(line))
    assert found.files
    if words:
        assert [text.partition(": ")[0] for text in lost(found)] == [key]
        assert words in lost(found)[0]


def test_remarks_have_file_and_line(units: Any, tmp_path: Path) -> None:
    found = units(a_container=container("RunInit=true"))
    assert [str(one).partition(": Container")[0] for one in found.remarks] == [f"{tmp_path}/a.container:3"]


def test_a_pod_that_systemd_starts_by_hand_is_said(units: Any) -> None:
    found = units(a_container=container(more=""))
    assert [(one.kind, one.key) for one in found.remarks] == [("note", "Install.WantedBy")]


def test_kube_is_refused(units: Any) -> None:
    found = units(a_kube="[Kube]\nYaml=a.yaml\n")
    assert not found.files
    assert [text.partition(":")[0] for text in lost(found)] == ["Kube.Yaml"]


def test_where_is_no_unit_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TankError, match="no unit of Quadlet"):
        convert([tmp_path], "/root")
    with pytest.raises(TankError, match="is no unit of Quadlet"):
        convert([tmp_path / "a.txt"], "/root")
    with pytest.raises(TankError, match="no such file"):
        convert([tmp_path / "b.container.txt"], "/root")
    with pytest.raises(TankError, match="cannot read"):
        convert([tmp_path / "b.container"], "/root")


def test_the_user_of_rootless_units_is_the_home_directory(tmp_path: Path) -> None:
    directory = tmp_path / "ann/.config/containers/systemd"
    directory.mkdir(parents=True)
    (directory / "a.container").write_text(container("Volume=%h/x:/x", "Volume=%E/y:/y"))
    found = convert([directory], "/root")
    hosts = [volume["host"] for volume in found.files[0].pod["volumes"]]  # type: ignore[union-attr,index]
    assert hosts == [f"{tmp_path}/ann/x", f"{tmp_path}/ann/.config/y"]
