"""Imports point one way (DESIGN section 2), and modules and functions stay small enough to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tank_agent"
MODULE_LINES = 500
FUNCTION_LINES = 60

GROUND = {"errors", "retry"}
FOR_ALL = GROUND | {"spec", "linux"}
WORKERS = {"source", "journal", "runtime", "network", "image"}
BELOW_API = FOR_ALL | WORKERS | {"settings", "intake", "reconcile"}

# Room → the rooms that it may import, besides itself.
ROOMS = {
    "errors": set(),
    "retry": set(),
    "spec": GROUND,
    "linux": GROUND,
    "settings": FOR_ALL,
    **dict.fromkeys(WORKERS, FOR_ALL | {"settings"}),
    "intake": FOR_ALL | WORKERS | {"settings"},
    "reconcile": FOR_ALL | WORKERS | {"intake"},
    "control": BELOW_API,
    "api": BELOW_API | {"control"},
    # What this machine tells others by itself: notifications, and the status of a commit.
    "outward": BELOW_API | {"control"},
    # Everything meets here, once.
    "agent": BELOW_API | {"api", "control", "outward"},
    "client": FOR_ALL,
    "convert": FOR_ALL,
    "doctor": FOR_ALL | WORKERS | {"settings"},
    # `tank agent` and `tank doctor` need no agent behind a socket; nor does what `control.offline` does.
    "cli": FOR_ALL | {"client", "agent", "doctor", "control", "convert", "settings"},
    "__main__": {"cli"},
    # The public names.
    "__init__": {"client", "spec", "errors"},
}

# What two rooms agree on: modules of types and pure functions → the other rooms that may import them.
SEAMS = {
    "source.snapshot": {"journal"},
    # The register of source kinds: whose pods go when they are no longer declared, and how to name an owner.
    "source.kinds": {"journal"},
    "source.git.address": {"settings"},
    "image.platform": {"settings", "cli"},
    "image.registry.url": {"settings"},
    "journal.records": {"runtime"},
    # The form of readers of files beside a pod file, which the kernel's calls of them have.
    "spec.beside": {"linux"},
    # The image's HEALTHCHECK, which the record of a run holds.
    "image.config": {"runtime"},
    "image.parameters": {"runtime"},
    "api.frames": {"client"},
    # The token and the address of [web], which can be looked at without an agent.
    "api.web.opening": {"doctor"},
    "api.types": {"control", "client", "cli", "__init__"},
    "api.reports": {"control", "outward", "client", "cli", "__init__"},
    "api.storage": {"control", "client", "cli", "__init__"},
    "api.wire": {"client", "cli"},
}


def modules() -> list[str]:
    return sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


def path_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_bytes())


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Yield line and name, below tank_agent, of every module that is imported, inside functions, too."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "tank_agent":
                yield node.lineno, existing_module(name.split(".")[1:])


def existing_module(parts: list[str]) -> str:
    """Cut a dotted name down to the module in it; a package stands for its __init__."""
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file():
            return ".".join(parts[:length])
        if path.is_dir():
            return ".".join([*parts[:length], "__init__"])
    return "__init__"


def room_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def may_import(room: str, target: str) -> bool:
    other = room_of(target)
    # The package's own __init__ holds the version and imports nothing by itself.
    return other in {room, "__init__"} or other in ROOMS[room] or room in SEAMS.get(target, set())


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in modules()} <= ROOMS.keys()


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module: str) -> None:
    room = room_of(module)
    wrong = [f"line {line}: {target}" for line, target in imports(module) if not may_import(room, target)]
    assert not wrong


def test_every_seam_is_used() -> None:
    used = {(target, room_of(module)) for module in modules() for _, target in imports(module)}
    assert {(seam, room) for seam, rooms in SEAMS.items() for room in rooms} <= used


@pytest.mark.parametrize("module", modules())
def test_modules_and_functions_are_short(module: str) -> None:
    assert len(path_of(module).read_text().splitlines()) <= MODULE_LINES
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("module", [name for name in modules() if name.endswith("__init__")])
def test_every_directory_explains_itself(module: str) -> None:
    assert ast.get_docstring(tree_of(module))
