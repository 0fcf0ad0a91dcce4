"""What people who know another tool type, and what they are told: the table mistakes/pod_files.txt.

The line of a message counts from the first line that is typed. To change words, change the table, or write
it anew with the present ones: `python -m tests.unit.spec.test_mistakes`.
"""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tank_agent.errors import InvalidSpec, Problem
from tank_agent.spec.parse import parse_pod_file, pod_from_mapping
from tests.support.mistakes import Row, read_rows, with_present_words

TABLE = Path(__file__).parent / "mistakes/pod_files.txt"
CONTAINER = '[[containers]]\nname = "app"\nimage = "nginx:1.27"\n'
# The part of a file that a section's rows are of → what stands before and after them.
AROUND = {
    "pod": ("", CONTAINER),
    "container": (CONTAINER, ""),
    "network": (f"{CONTAINER}[network]\n", ""),
    "image": ('[[containers]]\nname = "app"\nimage = ', ""),
    "whole": ("", ""),
}
INDEX = re.compile(r"\[[0-9]+\]")


MISTAKES = read_rows(TABLE)


def text_of(part: str, typed: str) -> str:
    before, after = AROUND[part]
    return f"{before}{typed}\n{after}"


def problems_of(row: Row) -> tuple[Problem, ...]:
    return parse_pod_file(text_of(row.part, row.typed), "web.toml").problems


def told(part: str, typed: str) -> list[str]:
    first = AROUND[part][0].count("\n")
    return [
        f"{problem.line - first}: {f'{problem.key}: ' if problem.key else ''}{problem.message}"
        for problem in problems_of(Row(part, typed, []))
    ]


# The words of a message that say what to write, up to the end or to where it belongs.
ADVICE = re.compile(
    r"(?:write(?: only| it as| one, such as| one such as)?|such as) (?P<right>(?!\[\[)[^;]+?)"
    r"(?: without quotes| in \[(?P<table>[a-z.]+)\]|, or .*| and it.*| for .*| with its port)?$"
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_told_in_these_words(mistake: Row) -> None:
    assert told(mistake.part, mistake.typed) == mistake.told


def test_there_are_over_a_hundred() -> None:
    assert len({(mistake.part, mistake.typed) for mistake in MISTAKES}) == len(MISTAKES) > 190


def path_of(key: str) -> list[str | int]:
    return [
        int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", key.replace("]", "")) if part
    ]


def with_advice(
    document: dict[str, Any], path: list[str | int], advice: str, table: str | None
) -> str | None:
    """Do what a message says, and return the key that must be right now; None where it is told in words."""
    holder: Any = document
    for part in path[:-1]:
        holder = holder[part]
    key = path[-1]
    for text, is_value in ((f"x = {advice}", True), (advice, False)):
        try:
            right = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        if is_value:
            holder[key] = right["x"]
            return ".".join(str(part) for part in path if isinstance(part, str))
        del holder[key]
        for name in (table or "").split(".") if table else ():
            holder = document["containers"][0] if name == "containers" else holder.setdefault(name, {})
        if isinstance(holder, dict):
            holder.update(right)
            return next(iter(right))
    return None


def wrong_keys(document: dict[str, Any]) -> list[str]:
    try:
        pod_from_mapping({"name": "web", **document})
    except InvalidSpec as error:
        return [f"{INDEX.sub('', problem.key)}: {problem.message}" for problem in error.problems]
    return []


def test_what_a_message_says_to_write_is_right() -> None:
    """Each piece of TOML that a message recommends takes the place of what is wrong, and is read again."""
    tried, wrong = 0, {}
    for mistake in MISTAKES:
        for problem in problems_of(mistake):
            found = ADVICE.search(problem.message)
            if found is None or "…" in found["right"] or "in place of" in found["right"] or not problem.key:
                continue
            document = copy.deepcopy(tomllib.loads(text_of(mistake.part, mistake.typed)))
            key = with_advice(document, path_of(problem.key), found["right"], found["table"])
            if key is None:
                continue
            tried += 1
            left = [line for line in wrong_keys(document) if line.partition(":")[0].endswith(key)]
            if left:
                wrong[problem.message] = left
    assert wrong == {}
    assert tried > 70


def test_a_line_that_is_no_toml_is_told_as_it_would_be() -> None:
    tried = 0
    for mistake in MISTAKES:
        found = ADVICE.search(problems_of(mistake)[0].message)
        if found is None or problems_of(mistake)[0].key or not re.match(r"#|[a-z.]+ = [^…]", found["right"]):
            continue
        tomllib.loads(found["right"])
        tried += 1
    assert tried > 8


def test_a_key_that_was_probably_meant_is_known_there() -> None:
    for mistake in MISTAKES:
        for problem in problems_of(mistake):
            meant = re.fullmatch(r"unknown key; did you mean (\w+)\?", problem.message)
            if meant is None:
                continue
            document = tomllib.loads(text_of(mistake.part, mistake.typed))
            holder: Any = document
            path = path_of(problem.key)
            for part in path[:-1]:
                holder = holder[part]
            holder[meant[1]] = holder.pop(path[-1])
            key = ".".join(str(part) for part in (*path[:-1], meant[1]) if isinstance(part, str))
            assert not any(line.startswith(f"{key}: unknown key") for line in wrong_keys(document)), problem


if __name__ == "__main__":
    TABLE.write_text(with_present_words(TABLE, told))
