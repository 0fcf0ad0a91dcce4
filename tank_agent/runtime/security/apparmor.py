"""The AppArmor profile of a container: the default one, none, or one that the host has loaded.

The package and AppArmor's own service load the default one at each boot; after an installation by pip, the
agent loads it from the file beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from tank_agent.errors import Stalled, TankError
from tank_agent.linux.process import run
from tank_agent.spec.model import Security

_log = structlog.get_logger()
DEFAULT = "tank-default"
# An administrator disables a file by its name, in /etc/apparmor.d/disable: so it has the profile's name.
DEFAULT_FILE = Path(__file__).with_name(DEFAULT)
INSTALLED_FILE = Path("/etc/apparmor.d") / DEFAULT
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_PROFILES = Path("/sys/kernel/security/apparmor/profiles")
_PROFILES_LIMIT = 4 << 20
_PARSER_DEADLINE = 20.0
_WITHOUT = "containers run without an AppArmor profile: tank-default cannot be loaded"

Profiles = Mapping[str, str]


def loaded_profiles(enabled: Path = _ENABLED, profiles: Path = _PROFILES) -> Profiles | None:
    """Return the profiles that the kernel has loaded, with their modes; None where AppArmor is off.

    Raises:
        OSError: AppArmor is on, but its list cannot be read: securityfs is not mounted, or this is not root.
    """
    try:
        if enabled.read_text().strip() != "Y":
            return None
    except FileNotFoundError:
        return None
    with profiles.open(errors="replace") as file:
        listed = file.read(_PROFILES_LIMIT)
    parts = (line.rpartition(" (") for line in listed.splitlines())
    return {name: mode.removesuffix(")") for name, _, mode in parts}


def profile_of(security: Security, loaded: Callable[[], Profiles | None] = loaded_profiles) -> str | None:
    """Return the profile of a container for `process.apparmorProfile`; None for no profile.

    The default one is a second wall: where it is not available, as `tank doctor` shows, it is left out. A
    profile that the pod's file names is never left out.
    """
    wanted = security.apparmor
    if wanted == "unconfined" or (wanted == "default" and security.privileged):
        return None
    try:
        profiles = loaded()
    except OSError as error:
        if wanted == "default":
            return None
        message = f"AppArmor profile {wanted}: cannot read which profiles are loaded: {error.strerror}"
        raise Stalled(message, hint="mount -t securityfs securityfs /sys/kernel/security") from error
    if wanted == "default":
        return DEFAULT if profiles is not None and DEFAULT in profiles else None
    if profiles is None:
        message = f"AppArmor profile {wanted}: AppArmor is off on this machine, so it would hold nothing"
        hint = "boot a kernel with AppArmor, or leave apparmor out of [containers.security]"
        raise Stalled(message, hint=hint)
    if wanted not in profiles:
        hint = "load it with `apparmor_parser -r FILE`"
        raise Stalled(f"AppArmor profile {wanted} is not loaded", hint=hint)
    return wanted


def load_default(
    loaded: Callable[[], Profiles | None] = loaded_profiles, installed: Path = INSTALLED_FILE
) -> None:
    """Load the default profile where AppArmor is on and the package did not; never fails.

    An administrator may change or disable the one in /etc/apparmor.d. Without that, the profile is loaded at
    each start, since an older agent's may be there.
    """
    try:
        profiles = loaded()
        if profiles is None or (DEFAULT in profiles and installed.exists()):
            return
        file = installed if installed.exists() else DEFAULT_FILE
        done = run(["apparmor_parser", "--replace", "--skip-cache", str(file)], timeout=_PARSER_DEADLINE)
        if DEFAULT not in (loaded() or {}):
            _log.warning(_WITHOUT, file=str(file), code=done.code, said=done.stderr.strip())
    except (OSError, TankError) as error:
        _log.warning(_WITHOUT, error=str(error))
