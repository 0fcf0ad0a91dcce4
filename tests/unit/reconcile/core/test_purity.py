"""The core decides only: it imports nothing that could touch the machine, wait, or ask for the time."""

from __future__ import annotations

import pytest

from tests.unit.test_layers import imports, modules, tree_of

ALLOWED = {
    "errors", "image.config", "journal.records", "retry", "runtime.run", "spec",
}  # fmt: skip
IMPURE = {"os", "socket", "subprocess", "threading", "time", "pathlib", "random", "shutil"}
CORE = [module for module in modules() if module.startswith("reconcile.core.")]


@pytest.mark.parametrize("module", CORE)
def test_the_core_is_pure(module: str) -> None:
    for line, target in imports(module):
        inside = target.startswith("reconcile.core")
        assert inside or target in ALLOWED or target.split(".")[0] in ALLOWED, f"line {line}: {target}"
    names = {
        name.split(".")[0]
        for node in tree_of(module).body
        for name in [getattr(node, "module", None) or "", *(a.name for a in getattr(node, "names", ()))]
    }
    assert not names & IMPURE
