"""[Unit], [Service] and [Install] of a container or a pod, and the timer beside it."""

from __future__ import annotations

from collections.abc import Callable

from tank_agent.convert.quadlet import calendar
from tank_agent.convert.quadlet.amounts import seconds, truth
from tank_agent.convert.quadlet.draft import PodDraft, Remarks
from tank_agent.convert.quadlet.read import Units
from tank_agent.convert.quadlet.unit import Entry, Unit, words_of
from tank_agent.errors import TankError
from tank_agent.spec.quantities import format_duration

_RESTARTS = {
    "no": "never",
    "always": "always",
    "on-failure": "on-failure",
    "unless-stopped": "always",
    "on-abnormal": "on-failure",
    "on-abort": "on-failure",
    "on-watchdog": "on-failure",
    "on-success": "always",
}
_NEARBY = {
    "unless-stopped": 'is docker\'s word, which systemd ignores; the pod has "always"',
    "on-abnormal": 'has no counterpart; it has "on-failure", which an exit code counts for, too',
    "on-abort": 'has no counterpart; it has "on-failure", which an exit code counts for, too',
    "on-watchdog": 'has no counterpart; it has "on-failure"',
    "on-success": 'has no counterpart; it has "always"',
}
# Of systemd: the agent starts after them, or they are there whenever it runs.
_ALWAYS_THERE = (".target", ".mount", ".automount", ".slice", ".socket", ".swap", ".path")
_SERVICES_THERE = ("podman", "network", "NetworkManager", "systemd-", "dbus", "docker", "nss-", "chrony")
_SERVICE_SUFFIX = {"container": "", "pod": "-pod", "volume": "-volume", "network": "-network",
                   "image": "-image", "build": "-build", "kube": ""}  # fmt: skip

Owner = Callable[[Unit], "tuple[PodDraft, str] | None"]


class Services:
    """The pods that a set becomes by the names of their services, for the order between them."""

    def __init__(self, units: Units, owner: Owner, remarks: Remarks) -> None:
        self.units = units
        self.remarks = remarks
        self._owner = owner

    def _unit(self, name: str) -> Unit | None:
        for unit in self.units.found:
            service = unit.text(unit.kind.capitalize(), "ServiceName")
            service = service or f"{unit.name}{_SERVICE_SUFFIX.get(unit.kind, '')}"
            if name in (f"{service}.service", f"{unit.name}.{unit.kind}"):
                return unit
        return None

    def order(self, unit: Unit) -> None:
        """Let a unit's pod start after those that it names, and those before which it is come after it."""
        own = self._owner(unit)
        if own is None:
            return
        for entry in [entry for entry in unit.entries if entry.section == "Unit"]:
            if entry.key in ("After", "Requires", "Wants", "BindsTo", "PartOf", "Requisite", "Upholds"):
                self._named(unit, entry, after=True)
            elif entry.key == "Before":
                self._named(unit, entry, after=False)

    def _named(self, unit: Unit, entry: Entry, *, after: bool) -> None:
        for name in words_of(entry.text):
            other = self._unit(name)
            if other is None:
                self._unknown(entry, name)
                continue
            found, own = self._owner(other), self._owner(unit)
            if found is None or own is None or found == own:
                continue
            first, then = (found, own) if after else (own, found)
            if first[0] is then[0]:
                container = next((one for one in then[0].containers if one.name == then[1]), None)
                if container is not None and first[1]:
                    container.add("after", first[1])
            else:
                then[0].add("after", first[0].name)
            if entry.key in ("BindsTo", "PartOf", "Requires", "Requisite"):
                message = f"it starts after {first[0].name}; when that stops or restarts later, it goes on"
                self.remarks.note(entry, message)

    def _unknown(self, entry: Entry, name: str) -> None:
        if name.endswith(_ALWAYS_THERE) or name.startswith(_SERVICES_THERE):
            return
        message = f"{name} is none of these units; the pod doesn't wait for it, nor start it"
        self.remarks.lost(entry, message)


def restart(unit: Unit, remarks: Remarks) -> str:
    """Return the policy of a unit; systemd's own default is to start nothing again."""
    entry = unit.last("Service", "Restart")
    if entry is None:
        return "never"
    if entry.text in _NEARBY:
        kind = remarks.note if entry.text == "unless-stopped" else remarks.lost
        kind(entry, f"{entry.text} {_NEARBY[entry.text]}")
    if entry.text not in _RESTARTS:
        remarks.lost(entry, f"{entry.text} is no policy of systemd's; the pod is not restarted")
    return _RESTARTS.get(entry.text, "never")


def at_boot(unit: Unit, remarks: Remarks, *, has_timer: bool, in_pod: bool) -> None:
    """Say that a pod starts at boot which its unit doesn't."""
    wanted = any(unit.all("Install", key) for key in ("WantedBy", "RequiredBy", "UpheldBy"))
    if not wanted and not has_timer and not in_pod:
        message = (
            "is not there, so that systemd starts it by hand only; a pod file is always started: "
            "leave it out, or hold the pod by `tank stop`"
        )
        remarks.note(unit.place, message, "Install.WantedBy")


def schedule(pod: PodDraft, timer: Unit, remarks: Remarks) -> None:
    """Make a job of a pod, if its timer can be said in cron's five fields."""
    times = timer.all("Timer", "OnCalendar")
    found = ""
    try:
        if len(times) == 1:
            found, zone = calendar.cron(times[0].text)
            pod.keys |= {"time_zone": zone} if zone else {}
        elif times:
            raise ValueError("there are several; a pod has one schedule, so write a pod for each")
        else:
            found = _interval(timer, remarks)
    except (ValueError, TankError) as error:
        entry = times[0] if times else None
        place = entry or timer.place
        message = f"{error}; write schedule, and the pod runs then, but without one it runs all the time"
        remarks.lost(place, message, "" if entry else "Timer.OnCalendar")
    if not found:
        return
    pod.keys["schedule"] = found
    if truth(timer.text("Timer", "Persistent") or "no"):
        pod.keys["catch_up"] = True
    if pod.keys.get("restart") == "always":
        pod.keys["restart"] = "on-failure"


def _interval(timer: Unit, remarks: Remarks) -> str:
    """Return the schedule of a timer that counts from the last run, if it divides an hour or a day."""
    for key in ("OnUnitActiveSec", "OnUnitInactiveSec"):
        entry = timer.last("Timer", key)
        if entry is None:
            continue
        minutes = seconds(entry.text) / 60
        for least, most, form in ((1, 60, "*/{} * * * *"), (60, 1440, "0 */{} * * *")):
            count = minutes / least
            if count == int(count) and 1 <= count <= most / least and (most / least) % count == 0:
                remarks.note(entry, "counts by the clock here, not from the run before")
                every = form.format(int(count))
                return "0 0 * * *" if minutes == 1440 else "0 * * * *" if minutes == 60 else every
        raise ValueError(f"{entry.text} divides neither an hour nor a day, which cron's fields need")
    raise ValueError("has no OnCalendar")


def timeout(unit: Unit, pod: PodDraft) -> None:
    """Limit how long the run of a job takes, by the time that systemd gives a unit of type oneshot."""
    text = unit.text("Service", "TimeoutStartSec") or unit.text("Service", "RuntimeMaxSec")
    if "schedule" in pod.keys and text and text not in ("infinity", "0"):
        pod.keys["timeout"] = format_duration(seconds(text))
