"""Apply the tables of keys to a unit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tank_agent.convert.quadlet import keys, podman_args, systemd_keys
from tank_agent.convert.quadlet.draft import ContainerDraft
from tank_agent.convert.quadlet.keys import Named, Rule
from tank_agent.convert.quadlet.read import Units
from tank_agent.convert.quadlet.unit import Entry, Unit, unquoted, words_of
from tank_agent.spec.findings import closest

_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z0-9_]+)\}|(?<!\S)\$([A-Za-z_][A-Za-z0-9_]*)(?!\S)")


class Runner:
    """Applies tables to one unit; what they make goes into a draft."""

    def __init__(self, draft: ContainerDraft, units: Units) -> None:
        self.draft = draft
        self.unit = draft.unit
        self._variables = _variables_of(draft.unit, units.user.home)

    def run(self, section: str, table: Mapping[str, Rule | Named]) -> None:
        """Apply the table of a section; keys that it has not are said."""
        for key, rule in table.items():
            entries = self.unit.all(section, key)
            if entries and isinstance(rule, Named):
                self._name(entries, rule)
            elif isinstance(rule, Rule):
                for entry, text in self._taken(entries, rule):
                    self._act(rule.action, entry, text)
        for key in dict.fromkeys(one.key for one in self.unit.entries if one.section == section):
            if key not in table:
                self._unknown(section, self.unit.all(section, key), table)

    def podman_args(self, section: str) -> None:
        """Do what the flags of PodmanArgs= ask for, each as its key does."""
        for entry in self.unit.all(section, "PodmanArgs"):
            try:
                words = words_of(self._filled(entry).text)
            except ValueError as error:
                self.draft.lost(entry, str(error))
                continue
            for name, value in podman_args.flags_of(words):
                found = podman_args.FLAGS.get(name, podman_args.UNKNOWN)
                one = Entry(section=section, key=f"PodmanArgs {name}", text=value, place=entry.place)
                if isinstance(found, Named):
                    self._name([one], found)
                else:
                    self._act(found, one, value)

    def other_sections(self, own: str) -> None:
        """Say which sections of the unit are none of systemd's or of Quadlet's."""
        known = {own, "Quadlet", *systemd_keys.SECTIONS}
        for section in dict.fromkeys(one.section for one in self.unit.entries):
            if section not in known and not section.startswith("X-"):
                first = next(one for one in self.unit.entries if one.section == section)
                self.draft.remarks.lost(first, f"a .{self.unit.kind} has no section [{section}]")

    def _taken(self, entries: Sequence[Entry], rule: Rule) -> Iterator[tuple[Entry, str]]:
        for entry in entries[-1:] if rule.take == "last" else entries:
            filled = self._filled(entry)
            if rule.take != "words":
                yield filled, unquoted(filled.text)
                continue
            try:
                yield from ((filled, word) for word in words_of(filled.text))
            except ValueError as error:
                self.draft.lost(entry, str(error))

    def _act(self, action: keys.Action, entry: Entry, text: str) -> None:
        try:
            action(self.draft, entry, text)
        except (ValueError, IndexError) as error:
            self.draft.lost(entry, f"is left out, since it can't be read: {error}")

    def _name(self, entries: Sequence[Entry], named: Named) -> None:
        more = f" (so are {len(entries) - 1} more)" if len(entries) > 1 else ""
        say = self.draft.lost if named.kind == "lost" else self.draft.note
        say(entries[0], f"{named.message}{more}")

    def _unknown(self, section: str, entries: Sequence[Entry], table: Mapping[str, Rule | Named]) -> None:
        if not entries:
            return
        if section in systemd_keys.SECTIONS:
            self._name(entries, systemd_keys.of_condition(entries[0].key) or systemd_keys.OTHER)
            return
        guess = closest(entries[0].key, tuple(table))
        meant = f"; did you mean {guess}?" if guess else "; write what it means into the pod file"
        self.draft.lost(entries[0], f"is no key of podman 5.4's{meant}")

    def _filled(self, entry: Entry) -> Entry:
        """Fill in the variables of the service's environment, as systemd does in a command line."""
        if "$" not in entry.text or entry.section not in keys.SECTIONS:
            return entry

        def value(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if name is None:
                return "$"
            if name not in self._variables:
                self.draft.lost(
                    entry,
                    f"${{{name}}} is a variable of [Service] Environment=, which has none of this name: "
                    "systemd puts nothing there, and so does this; write the value",
                )
            return self._variables.get(name, "")

        text = _VARIABLE.sub(value, entry.text)
        return Entry(section=entry.section, key=entry.key, text=text, place=entry.place)


def _variables_of(unit: Unit, home: str) -> dict[str, str]:
    """Return the variables that systemd has for the command line of a service, those of environment.d too."""
    found: dict[str, str] = {}
    for file in sorted(Path(home, ".config/environment.d").glob("*.conf")):
        found |= _variables_in(file)
    for entry in unit.all("Service", "Environment"):
        try:
            words = words_of(entry.text)
        except ValueError:
            continue
        found |= {name: value for word in words for name, _, value in [word.partition("=")]}
    for entry in unit.all("Service", "EnvironmentFile"):
        found |= _variables_in(Path(unquoted(entry.text).removeprefix("-")))
    return found


def _variables_in(file: Path) -> dict[str, str]:
    try:
        if not file.is_file():
            return {}
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.partition("=") for line in lines if "=" in line and line[0] not in "#;"]
    return {name.strip(): unquoted(value.strip()) for name, _, value in pairs}
