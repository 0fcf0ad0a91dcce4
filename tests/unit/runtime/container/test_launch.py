"""Bundles: the image's links, its user, its working directory, and the tools' choices."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tank_agent.errors import Stalled
from tank_agent.image.config import ImageHealthcheck
from tank_agent.image.parameters import RunParameters
from tank_agent.runtime.container.launch import Launch, Tools, make_bundle, open_rootfs, record_of
from tank_agent.runtime.container.oci import SECCOMP_ANNOTATION, BindMount, Seccomp
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.runtime.run import RunRecord
from tank_agent.spec.model import Container, Limits, Mount, Security, Volume
from tests.support.fake_runtime import FakeRuntime, launch

OWN = f"{os.getuid()}:{os.getgid()}"


class Binder(Volumes):
    """Binds nothing, and keeps what it was asked to."""

    def bind(self, pod: str, volumes: Any, wanted: Any, bundle: Path, **options: Any) -> Any:
        self.wanted, self.options = list(wanted), options
        return tuple(
            BindMount(source=bundle / mount.volume, target=mount.path, read_only=mount.read_only)
            for mount in wanted
        )


class Bundle:
    """A bundle with an image in it."""

    def __init__(self, tmp_path: Path) -> None:
        self.runtime = FakeRuntime(tmp_path)
        self.binder = Binder(self.runtime.data, self.runtime.run)
        self.path = tmp_path / "bundle"
        self.root = self.path / "rootfs"
        self.path.mkdir()
        self.made = False

    @property
    def tools(self) -> Tools:
        return msgspec.structs.replace(self.runtime.tools, volumes=self.binder)

    def image(self) -> Path:
        """Return the image's root directory, before the bundle is made."""
        self.runtime.root_filesystems.mount = lambda *_: self.root  # type: ignore[method-assign]
        self.root.mkdir(exist_ok=True)
        return self.root

    def config(self, wanted: Launch) -> dict[str, Any]:
        self.image()
        record = record_of(wanted, identifier="web-app-1", cgroup="/tank/web/web-app-1", created_at=0.0)
        make_bundle(wanted, record, self.path, self.tools)
        return dict(json.loads((self.path / "config.json").read_bytes()))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


def parameters(**changes: Any) -> RunParameters:
    values = {"argv": ("/bin/app",), "env": {}, "cwd": "/", "user": OWN, "stop_signal": "SIGTERM"}
    return RunParameters(**{**values, **changes})


def mounting(*mounts: Mount, **changes: Any) -> Launch:
    names = sorted({mount.volume for mount in mounts})
    return launch(
        container=Container(name="app", mounts=mounts, **changes),
        parameters=parameters(),
        volumes=tuple(Volume(name=name) for name in names),
    )


def test_the_configuration_is_of_the_launch(bundle: Bundle) -> None:
    wanted = launch(
        container=Container(
            name="app", limits=Limits(memory=1 << 26), security=Security(read_only_root=True)
        ),
        parameters=parameters(argv=("/bin/app", "-x"), env={"A": "b"}),
        netns=Path("/run/netns/web"),
    )
    config = bundle.config(wanted)
    assert config["hostname"] == "web"
    assert config["root"] == {"path": str(bundle.root), "readonly": True}
    process = config["process"]
    assert process["args"] == ["/bin/app", "-x"]
    assert sorted(process["env"]) == ["A=b", "HOME=/", "HOSTNAME=web"]
    assert (process["user"]["uid"], process["user"]["gid"]) == (os.getuid(), os.getgid())
    assert process["terminal"] is False
    assert config["linux"]["resources"]["memory"]["limit"] == 1 << 26
    assert {"type": "network", "path": "/run/netns/web"} in config["linux"]["namespaces"]
    files = {
        mount["destination"]: mount for mount in config["mounts"] if mount["destination"].startswith("/etc")
    }
    assert files.keys() == {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    assert all("ro" in mount["options"] for mount in files.values())
    assert files["/etc/hosts"]["source"] == "/files/hosts"


def test_a_host_name_is_seen_by_the_kernel_and_in_the_environment(bundle: Bundle) -> None:
    config = bundle.config(launch(parameters=parameters(), hostname="nas.lan"))
    assert config["hostname"] == "nas.lan"
    assert "HOSTNAME=nas.lan" in config["process"]["env"]


def test_the_filter_is_written_once_or_by_its_compiled_form(bundle: Bundle) -> None:
    config = bundle.config(launch(parameters=parameters()))
    assert config["linux"]["seccomp"] == bundle.runtime.seccomp.profile
    assert SECCOMP_ANNOTATION not in config["annotations"]
    bundle.runtime.seccomp = Seccomp(profile=bundle.runtime.seccomp.profile, compiled="QUJD")
    config = bundle.config(launch(parameters=parameters()))
    assert "seccomp" not in config["linux"]
    assert config["annotations"] == {SECCOMP_ANNOTATION: "QUJD"}


def test_the_apparmor_profile_is_the_chosen_one(bundle: Bundle) -> None:
    assert "apparmorProfile" not in bundle.config(launch(parameters=parameters()))["process"]
    bundle.runtime.tools = msgspec.structs.replace(bundle.runtime.tools, apparmor=lambda _: "tank-default")
    assert bundle.config(launch(parameters=parameters()))["process"]["apparmorProfile"] == "tank-default"


def test_a_terminal_has_a_name(bundle: Bundle) -> None:
    config = bundle.config(launch(container=Container(name="app", tty=True), parameters=parameters()))
    assert "TERM=xterm" in config["process"]["env"]
    assert config["process"]["terminal"] is True


def test_a_mount_is_made_where_links_of_the_image_lead(bundle: Bundle) -> None:
    root = bundle.image()
    (root / "srv").mkdir()
    (root / "data").symlink_to("/srv")
    (root / "escape").symlink_to("../../../../srv")
    bundle.config(mounting(Mount(volume="a", path="/data/x"), Mount(volume="b", path="/escape/y")))
    assert [mount.path for mount in bundle.binder.wanted] == ["/srv/x", "/srv/y"]


def test_links_below_another_mount_are_not_the_images(bundle: Bundle) -> None:
    root = bundle.image()
    (root / "data").mkdir()
    (root / "data" / "in").symlink_to("/proc")
    bundle.config(mounting(Mount(volume="a", path="/data/in"), Mount(volume="b", path="/data")))
    assert [mount.path for mount in bundle.binder.wanted] == ["/data/in", "/data"]


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/sys/fs", "/dev", "/", "/etc/hosts"])
def test_a_link_to_what_is_reserved_is_refused(bundle: Bundle, target: str) -> None:
    (bundle.image() / "data").symlink_to(target)
    with pytest.raises(Stalled, match="which is reserved"):
        bundle.config(mounting(Mount(volume="a", path="/data")))


def test_two_mounts_that_links_make_one_are_refused(bundle: Bundle) -> None:
    (bundle.image() / "data").symlink_to("srv")
    with pytest.raises(Stalled, match="make two mounts one"):
        bundle.config(mounting(Mount(volume="a", path="/data"), Mount(volume="b", path="/srv")))


def test_a_parent_is_mounted_before_what_is_in_it(bundle: Bundle) -> None:
    mounts = [
        Mount(volume="a", path="/a/b/c"),
        Mount(volume="b", path="/a", read_only=True),
        Mount(volume="c", path="/z/y"),
    ]
    config = bundle.config(mounting(*mounts))
    bound = [mount for mount in config["mounts"] if mount["destination"] in {"/a", "/a/b/c", "/z/y"}]
    assert [mount["destination"] for mount in bound] == ["/a", "/z/y", "/a/b/c"]
    assert ["ro" in mount["options"] for mount in bound] == [True, False, False]


def test_a_working_directory_is_made_for_its_user(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    bundle.config(launch(parameters=parameters(cwd="/srv/app", user="7:8")))
    assert given == [(7, 8), (7, 8)]
    assert stat.S_IMODE((bundle.root / "srv" / "app").stat().st_mode) == 0o755


@pytest.mark.parametrize("target", ["missing", "loop"])
def test_a_working_directory_through_what_is_none_is_refused(bundle: Bundle, target: str) -> None:
    (bundle.image() / "loop").symlink_to(target)
    (bundle.root / "file").touch()
    with pytest.raises(Stalled, match="/loop is not a directory in the image"):
        bundle.config(launch(parameters=parameters(cwd="/loop/app")))
    with pytest.raises(Stalled, match="/file is not a directory in the image"):
        bundle.config(launch(parameters=parameters(cwd="/file/app")))


def test_a_working_directory_is_never_made_outside_of_the_image(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.image() / "out").symlink_to(tmp_path)
    with pytest.raises(Stalled, match="/out is not a directory"):
        bundle.config(launch(parameters=parameters(cwd="/out/made")))
    assert not (tmp_path / "made").exists()


def test_a_device_of_the_host_is_described(bundle: Bundle) -> None:
    security = Security(devices=("/dev/null",))
    config = bundle.config(
        launch(container=Container(name="app", security=security), parameters=parameters())
    )
    (device,) = config["linux"]["devices"]
    assert (device["path"], device["type"], device["major"], device["minor"]) == ("/dev/null", "c", 1, 3)
    assert config["linux"]["resources"]["devices"][-1] == {
        "allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/none-such", "No such file"),
        ("/dev/stdin", "leads through /proc"),
        ("/dev/x:y:rw", "no path for the container"),
    ],
)
def test_what_is_no_device_is_refused(bundle: Bundle, path: str, message: str) -> None:
    container = Container(name="app", security=Security(devices=(path,)))
    with pytest.raises(Stalled, match=message):
        bundle.config(launch(container=container, parameters=parameters()))


def test_a_rootfs_of_the_host_is_the_only_layer(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    layers: list[Path] = []

    def mount(_: str, given: Any, *rest: Any) -> Path:
        layers.extend(path.resolve() for path in given)
        return bundle.root

    wanted = launch(
        container=Container(name="app", rootfs=str(tmp_path / "tree")),
        parameters=parameters(),
        layers=(Path("/not/used"),),
    )
    bundle.image()
    bundle.runtime.root_filesystems.mount = mount  # type: ignore[method-assign]
    record = record_of(wanted, identifier="web-app-1", cgroup="/tank/web/web-app-1", created_at=0.0)
    make_bundle(wanted, record, bundle.path, bundle.tools)
    assert layers == [tmp_path / "tree"]


def record(**changes: Any) -> RunRecord:
    return record_of(launch(**changes), identifier="web-app-1", cgroup="/tank/web/web-app-1", created_at=5.0)


def test_a_record_is_of_its_launch() -> None:
    container = Container(
        name="app",
        stop_grace=3.0,
        tty=True,
        limits=Limits(pids=5),
        mounts=(Mount(volume="a", path="/a/b"), Mount(volume="b", path="/a")),
    )
    made = record(
        container=container,
        parameters=parameters(stop_signal="SIGUSR1"),
        image_stop_signal="SIGQUIT",
        digest="sha256:1",
        healthcheck=ImageHealthcheck(command=("/bin/check",), retries=2),
    )
    assert (made.stop_signal, made.image_stop_signal) == (10, 3)
    assert (made.stop_grace, made.terminal, made.limits) == (3.0, True, Limits(pids=5))
    assert made.volumes == ("/a", "/a/b")
    assert (made.hash, made.revision, made.settings) == ("hash-1", "revision-1", "settings-1")
    assert (made.image, made.created_at, made.ids, made.root) == ("app:1", 5.0, None, None)
    assert made.digest == "sha256:1"
    # Also as it is stored.
    stored = msgspec.json.decode(msgspec.json.encode(made), type=RunRecord)
    assert stored.healthcheck == ImageHealthcheck(command=("/bin/check",), retries=2)


@pytest.mark.parametrize("name", [None, "", "SIGNONSENSE"])
def test_an_image_without_a_usable_stop_signal_has_the_usual_one(name: str | None) -> None:
    assert record(image_stop_signal=name).image_stop_signal == 15


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(tmp_path / "data", tmp_path / "run")


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    (tmp_path / "shared" / "one").mkdir(parents=True)
    (tmp_path / "shared" / "one" / "marker").touch()
    link = tmp_path / "shared" / "newest"
    link.symlink_to("one")
    return link


def test_a_link_that_is_swapped_after_the_look_is_not_followed(
    tmp_path: Path, newest: Path, volumes: Volumes
) -> None:
    with open_rootfs(str(newest), volumes) as layer:
        newest.unlink()
        newest.symlink_to(tmp_path / "data" / "volumes")
        assert [entry.name for entry in layer.iterdir()] == ["marker"]
    with pytest.raises(Stalled, match="the agent's own files"), open_rootfs(str(newest), volumes):
        pass


@pytest.mark.parametrize(
    "target", ["/proc/1/root", "/proc/self/cwd", "/proc/self/fd", "/sys", "/", "nowhere"]
)
def test_links_to_what_no_container_may_have_are_refused(newest: Path, volumes: Volumes, target: str) -> None:
    newest.unlink()
    newest.symlink_to(target)
    with pytest.raises(Stalled, match="rootfs: "), open_rootfs(str(newest), volumes):
        pass


def test_a_file_where_the_image_has_a_directory_is_said_in_our_words(bundle: Bundle) -> None:
    bundle.image()
    (bundle.root / "etc" / "app").mkdir(parents=True)
    wanted = launch(
        container=Container(name="app", mounts=(Mount(file="conf", path="/etc/app"),)),
        parameters=parameters(),
    )
    with pytest.raises(Stalled, match="mount /etc/app: the image has a directory there") as caught:
        bundle.config(wanted)
    assert caught.value.hint == "name the file, too, such as /etc/app/conf"
