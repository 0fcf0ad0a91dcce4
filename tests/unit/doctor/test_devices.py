"""What the doctor says of the devices of pods."""

from __future__ import annotations

from tank_agent.doctor.devices import of_pods
from tank_agent.spec.model import Container, Pod, Security


def pod(*devices: str) -> Pod:
    app = Container(name="app", rootfs="/srv", security=Security(devices=devices))
    return Pod(name="web", containers=(app,))


def test_devices_of_pods() -> None:
    found = of_pods([pod("/dev/null", "/dev/zero:/dev/x:r"), pod("/dev/full")])
    assert (found.result, found.found) == ("ok", "all 3 are there")
    found = of_pods([pod("/dev/null", "/dev/none-such", "none.test/such=all")] * 2)
    assert found.result == "fail"
    assert found.found.startswith(
        "pod web: device /dev/none-such: No such file or directory; "
        "`ls /dev` shows those that are there; is its kernel module loaded?; "
        "pod web: no CDI device none.test/such=all is known; "
    )
    assert found.found.endswith("; and 1 more")
