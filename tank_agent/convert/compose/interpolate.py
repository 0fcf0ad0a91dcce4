"""Fill variables into the values of a compose file, by compose's rules: ${A}, ${A:-x}, ${A?}, ${A:+x}, $$."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tank_agent.convert.compose.environment import UNSET
from tank_agent.convert.compose.rules import ITEM, KeyRules
from tank_agent.convert.compose.scalars import Cast, dotted, to_boolean, to_integer, to_mode, to_number
from tank_agent.convert.model import InvalidSource, Plain, Remark, SourcePlace, Value
from tank_agent.spec.findings import show
from tank_agent.spec.references import TooLong, substitute

# References could make gigabytes of a small file.
_ALL_MAX = 8 << 20

# Keys whose values are a number or a boolean, though a variable is a text.
_CASTS: Final[Mapping[str, Cast]] = {
    "services.*.configs.[].mode": to_mode,
    "services.*.cpu_count": to_integer,
    "services.*.cpu_percent": to_number,
    "services.*.cpu_period": to_integer,
    "services.*.cpu_quota": to_integer,
    "services.*.cpu_rt_period": to_integer,
    "services.*.cpu_rt_runtime": to_integer,
    "services.*.cpus": to_number,
    "services.*.cpu_shares": to_integer,
    "services.*.init": to_boolean,
    "services.*.deploy.replicas": to_integer,
    "services.*.deploy.update_config.parallelism": to_integer,
    "services.*.deploy.update_config.max_failure_ratio": to_number,
    "services.*.deploy.rollback_config.parallelism": to_integer,
    "services.*.deploy.rollback_config.max_failure_ratio": to_number,
    "services.*.deploy.restart_policy.max_attempts": to_integer,
    "services.*.deploy.placement.max_replicas_per_node": to_integer,
    "services.*.healthcheck.retries": to_integer,
    "services.*.healthcheck.disable": to_boolean,
    "services.*.oom_kill_disable": to_boolean,
    "services.*.oom_score_adj": to_integer,
    "services.*.pids_limit": to_integer,
    "services.*.ports.[].target": to_integer,
    "services.*.privileged": to_boolean,
    "services.*.read_only": to_boolean,
    "services.*.scale": to_integer,
    "services.*.secrets.[].mode": to_mode,
    "services.*.stdin_open": to_boolean,
    "services.*.tty": to_boolean,
    "services.*.ulimits.*": to_integer,
    "services.*.ulimits.*.hard": to_integer,
    "services.*.ulimits.*.soft": to_integer,
    "services.*.volumes.[].read_only": to_boolean,
    "services.*.volumes.[].volume.nocopy": to_boolean,
    "networks.*.external": to_boolean,
    "networks.*.internal": to_boolean,
    "networks.*.attachable": to_boolean,
    "networks.*.enable_ipv6": to_boolean,
    "volumes.*.external": to_boolean,
    "secrets.*.external": to_boolean,
    "configs.*.external": to_boolean,
}
_RULES: Final = KeyRules(_CASTS)


class Filling:
    """Fills in the variables of one environment; `remarks` are on those that have no value."""

    def __init__(self, known: Mapping[str, str], remarks: list[Remark]) -> None:
        self._known = known
        self._remarks = remarks
        self._said: set[tuple[str, SourcePlace]] = set()
        self._left = _ALL_MAX

    def document(self, entries: Mapping[str, Value]) -> dict[str, Value]:
        """Return the entries of a compose file, but for x- keys, with variables filled in.

        Raises:
            InvalidSource: a reference is damaged, a variable that is needed has no value, or a value is not
                of the kind that its key takes.
        """
        kept = {key: value for key, value in entries.items() if not key.startswith("x-")}
        return {key: self._value(value, (key,), _RULES.at(key)) for key, value in kept.items()}

    def text(self, value: Value, key: str) -> str:
        """Return a text with its variables filled in."""
        filled = self._value(value, (key,), None).plain
        return filled if isinstance(filled, str) else ""

    def _value(self, value: Value, path: tuple[str, ...], rules: KeyRules[Cast] | None) -> Value:
        plain = value.plain
        filled: Plain
        if isinstance(plain, str):
            filled = self._text(plain, value.place, path)
            if rules is not None and rules.rule is not None:
                try:
                    filled = rules.rule(str(filled))
                except ValueError as error:
                    message = f"{dotted(path)}: {show(filled)} {error}"
                    raise InvalidSource(value.place, message) from None
        elif isinstance(plain, dict):
            filled = {
                key: self._value(item, (*path, key), rules.at(key) if rules is not None else None)
                for key, item in plain.items()
            }
        elif isinstance(plain, tuple):
            below = rules.at(ITEM) if rules is not None else None
            filled = tuple(self._value(item, (*path, str(at)), below) for at, item in enumerate(plain))
        else:
            return value
        return Value(filled, value.place)

    def _text(self, text: str, place: SourcePlace, path: tuple[str, ...]) -> str:
        if "$" not in text:
            return text

        def unset(name: str) -> None:
            if (name, place) not in self._said:
                self._said.add((name, place))
                message = f"{name} {UNSET}; set it in .env or --env-file"
                self._remarks.append(Remark(kind="note", place=place, key=dotted(path), message=message))

        try:
            filled = substitute(text, self._known, unset, self._left)
        except TooLong:
            raise InvalidSource(place, f"{dotted(path)}: variables make too much of this project") from None
        except ValueError as error:
            raise InvalidSource(place, f"{dotted(path)}: {error}") from None
        self._left = max(self._left - len(filled), 0)
        return filled
