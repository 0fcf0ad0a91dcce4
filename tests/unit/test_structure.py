"""One name a thing, no import circle, and a unit test where its module is."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.unit.test_layers import PACKAGE, imports, modules, tree_of

UNIT = Path(__file__).parent

# Tests of what several modules of a room do together, or of what is no module: the file → the reason.
NAMED_FOR_THEIR_SUBJECT = {
    "cli/test_hostile_text.py": "every verb, with answers that hold control characters",
    "cli/test_image.py": "`tank image`: the verb, the client and the display of a pull",
    "cli/test_mistakes.py": "the table of what people type, and what they are told",
    "cli/test_streams.py": "every verb, with closed and full standard streams",
    "cli/test_updates.py": "every verb, with pods that have health checks and updates",
    "client/test_public.py": "what `tank_agent` lists",
    "client/test_structs.py": "pods that programs build of the public structs",
    "convert/quadlet/test_generator.py": "imported units beside what podman's own generator makes of them",
    "linux/test_layer.py": "the rule that only linux/ calls the kernel",
    "linux/test_trash.py": "the class Trash of trees, from within a subprocess",
    "reconcile/test_by_hand.py": "pods that a person stops and restarts, by the real loop, with kills",
    "reconcile/core/test_stops.py": "plans for pods that are stopped, or restarted, from any situation",
    "reconcile/test_rollouts.py": "whole rollouts by the real loop, over anything that may happen",
    "reconcile/test_scale.py": "counts of what the loop does for many pods",
    "reconcile/core/test_purity.py": "the rule that the core touches no machine",
    "runtime/security/test_seccomp_peers.py": "the table of syscalls beside that of podman and docker",
    "runtime/session/test_exec_complaint.py": "the failures of a command that never ran",
    "settings/test_mistakes.py": "the table of what people type, and what they are told",
    "source/test_watch_limits.py": "watch, when inotify has no room",
    "source/test_watch_writers.py": "watch, for every way to write a file",
    "spec/test_fuzz.py": "any text, through the whole parser",
    "spec/test_fuzz_texts.py": "a few seconds of tests/fuzz",
    "spec/test_mistakes.py": "the table of what people type, and what they are told",
    "spec/test_problems.py": "every rule of a pod file and its message",
    "spec/test_security.py": "[containers.security], from the text to the capabilities",
    "test_completeness.py": "every key and setting, through all rooms",
    "test_completions.py": "packaging/completions.py",
    "test_contributing.py": "CONTRIBUTING.md",
    "test_examples.py": "examples/",
    "test_habit_pages.py": "docs/coming-from.md, docs/not-running.md and docs/not-for.md",
    "test_fuzz.py": "tests/fuzz: its driver, and a few seconds of its parsers of images",
    "test_layers.py": "the imports of all rooms",
    "test_lint.py": "ruff, mypy and shellcheck",
    "test_packaging.py": "packaging/",
    "test_prometheus.py": "packaging/prometheus/: alert rules and a dashboard",
    "test_security_page.py": "docs/security.md",
    "test_configuration_page.py": "docs/configuration.md",
    "test_jobs_page.py": "docs/jobs.md",
    "test_updates_page.py": "docs/updates.md",
    "test_schema_files.py": "schema/",
    "test_structure.py": "the names and places of all modules",
}


def test_a_public_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for module in modules():
        for node in tree_of(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            for node in graph[left.pop()] - seen:
                seen.add(node)
                left.append(node)
        return seen

    reach = {node: reached(node) for node in graph}
    groups = {tuple(sorted(other for other in reach[node] if node in reach[other])) for node in graph}
    return [list(group) for group in sorted(groups) if group]


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]


def test_no_module_imports_itself_over_others() -> None:
    """Imports inside functions and for types only count, too: they hide a circle and don't undo it."""
    # The package's own __init__ holds the version and gives the public names; everything may import it.
    graph = {
        module: {target for _, target in imports(module) if target not in {"__init__", module}}
        for module in modules()
        if module != "__init__"
    }

    assert circles(graph) == []


# The main thread has imported them before another one begins.
_LOADED_EARLY = {"msgspec", "structlog"}


@functools.cache
def imports_its_parts(package: str) -> bool:
    """Return whether a package of others imports modules of its own with itself."""
    found = importlib.util.find_spec(package)
    if package in sys.stdlib_module_names | {"tank_agent"} or found is None or found.origin is None:
        return False
    nodes = ast.walk(ast.parse(Path(found.origin).read_text()))
    return any(
        isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(f"{package}."))
        for node in nodes
    )


def parts_before_packages(tree: ast.AST, seen: frozenset[str] = frozenset()) -> list[str]:
    """Return modules of packages that are imported where the package itself is not yet."""
    wrong = list[str]()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            package, dot, _ = name.partition(".")
            if dot and package not in seen | _LOADED_EARLY and imports_its_parts(package):
                wrong.append(name)
            elif not dot:
                seen |= {name}
        wrong += parts_before_packages(node, seen)
    return wrong


def test_a_package_is_imported_before_its_parts() -> None:
    """Two threads end in a deadlock if one imports a package, which imports its part, and one the part.

    For a part, Python takes the part's lock and then the package's; for a package, the other way round.
    """
    assert parts_before_packages(ast.parse("def f():\n from requests.utils import x")) == ["requests.utils"]
    assert parts_before_packages(ast.parse("import requests\ndef f():\n import requests.utils")) == []
    found = {module: parts_before_packages(tree_of(module)) for module in modules()}
    assert {module: parts for module, parts in found.items() if parts} == {}


@pytest.mark.parametrize("module", modules())
def test_a_module_says_first_what_it_is(module: str) -> None:
    words = ast.get_docstring(tree_of(module)) or ""
    assert words, "a module has a docstring"
    assert not re.match(r"(What|Who|Whose|How|Which|When|Where|Why)\b", words)


def test_unit_tests_are_where_their_modules_are() -> None:
    strays = set()
    for path in UNIT.rglob("test_*.py"):
        name = path.relative_to(UNIT)
        module = PACKAGE / name.parent / name.stem.removeprefix("test_")
        if not (module.is_dir() or module.with_suffix(".py").is_file()):
            strays.add(str(name))
    assert strays == NAMED_FOR_THEIR_SUBJECT.keys()


def test_the_package_runs_tests_that_exist() -> None:
    listed = (UNIT.parents[1] / "packaging/debian/unit-tests").read_text().split()
    assert [name for name in listed if not (UNIT / name).is_file()] == []
