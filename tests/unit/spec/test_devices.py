"""Devices in a pod file: paths, mapped paths, permissions, and CDI names."""

from __future__ import annotations

import pytest

from tank_agent.spec.devices import DeviceRequest, device, distinct, is_cdi_name, parse_cdi_name, parse_device

BY_ID = "/dev/serial/by-id/usb-ITEAD_SONOFF_Zigbee_3.0_USB-if00-port0"
BY_PATH = "/dev/serial/by-path/pci-0000:00:14.0-usb-0:2:1.0-port0"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/dev/fuse", DeviceRequest("/dev/fuse", "/dev/fuse")),
        ("/dev/dri", DeviceRequest("/dev/dri", "/dev/dri")),
        (f"{BY_ID}:/dev/ttyACM0", DeviceRequest(BY_ID, "/dev/ttyACM0")),
        (BY_PATH, DeviceRequest(BY_PATH, BY_PATH)),
        (f"{BY_PATH}:/dev/zigbee:rw", DeviceRequest(BY_PATH, "/dev/zigbee", "rw")),
        ("/dev/sda:/dev/x:mr", DeviceRequest("/dev/sda", "/dev/x", "rm")),
        ("/dev/null:/dev/null:r", DeviceRequest("/dev/null", "/dev/null", "r")),
        (r"/dev/disk/by-label/My\x20Disk", DeviceRequest(*[r"/dev/disk/by-label/My\x20Disk"] * 2)),
    ],
)
def test_what_is_asked_for(text: str, wanted: DeviceRequest) -> None:
    assert parse_device(text) == wanted


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("/dev/x:/dev/x:rwm", "/dev/x"),
        ("/dev/x:/dev/x:wmr", "/dev/x"),
        ("/dev/x:/dev/y:rwm", "/dev/x:/dev/y"),
        ("/dev/x:/dev/x:wr", "/dev/x:/dev/x:rw"),
        ("nvidia.com/gpu=all", "nvidia.com/gpu=all"),
    ],
)
def test_entries_that_mean_the_same_are_the_same(text: str, shortest: str) -> None:
    assert device(text) == device(shortest) == shortest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fuse", "below /dev"),
        ("/etc/passwd", "below /dev"),
        ("/dev/../etc", "below /dev"),
        ("/dev", "below /dev"),
        ("/dev/x:/tmp/y", "below /dev"),
        ("/dev/x:/dev/y:/dev/z:", "below /dev"),
        ("/dev/x:/dev/y:rx", "r, w and m"),
        ("/dev/x:rw", 'write "/dev/x:/dev/x:rw"'),
        ("/dev/x:/dev/pts/0", "container's own"),
        ("/dev/shm/x", "container's own"),
        ("/dev/x:/dev/null", "choose another path"),
        ("nvidia.com/gpu", "vendor/class=name"),
        ("gpu=all", "vendor/class=name"),
        ("nvidia.com/gpu=", "vendor/class=name"),
        ("nvidia.com/gpu/x=0", "vendor/class=name"),
        ("1vendor/gpu=0", "vendor/class=name"),
        (f"a/b={'x' * 600}", "vendor/class=name"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        device(text)


def test_names_of_cdi() -> None:
    assert parse_cdi_name("nvidia.com/gpu=0:1") == ("nvidia.com/gpu", "0:1")
    assert is_cdi_name("nvidia.com/gpu=0")
    assert not is_cdi_name("/dev/a=b")


def test_two_devices_at_one_path_are_refused() -> None:
    assert distinct(("/dev/b", "/dev/a", "/dev/b", "a/b=c")) == ("/dev/a", "/dev/b", "a/b=c")
    with pytest.raises(ValueError, match='"/dev/a:/dev/x" and "/dev/b:/dev/x" are both /dev/x'):
        distinct(("/dev/a:/dev/x", "/dev/b:/dev/x"))
