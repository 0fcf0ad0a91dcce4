"""Pages of the documentation that are typed as they stand: their blocks as steps, and what they printed.

A block `sh` is lines to type. A block `console` has lines to type after "$ ", and below each what it prints.
A block whose first line is a comment with a path is a file. A line to type may end in a comment that says
"ends with N".
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from msgspec import Struct

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
_CODE = re.compile(r"# .*ends with (\d+)$")
_VARYING = re.compile(r"([0-9a-f]{12,64}|\d+(?:\.\d+)?|…)")
_MARK = "--8<--"


class Step(Struct, frozen=True, kw_only=True):
    """Something to type, or (with a `file`) to save; `shown` is what it prints by the page, or None."""

    text: str
    file: str = ""
    shown: tuple[str, ...] | None = None
    code: int = 0


def steps_of(page: str) -> list[Step]:
    """Return the steps of a page's blocks, in order; AssertionError for a block that is none."""
    found: list[Step] = []
    for language, text in _BLOCK.findall(page):
        named = _FILE.match(text)
        if language == "sh":
            # A here-document is one command.
            found += [_typed(text)] if "<<" in text else [_typed(line) for line in text.splitlines() if line]
        elif language == "console":
            found += _session(text)
        else:
            assert named is not None, f"the page does not say where this block belongs:\n{text}"
            found.append(Step(text=text, file=named[1]))
    return found


def _typed(line: str) -> Step:
    code = _CODE.search(line)
    return Step(text=line, code=int(code[1]) if code else 0)


def _session(text: str) -> list[Step]:
    found: list[Step] = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, *shown = part.splitlines()
        typed = _typed(line)
        found.append(Step(text=typed.text, code=typed.code, shown=tuple(shown)))
    return found


def script_of(steps: list[Step]) -> str:
    """Return a shell script that takes all steps; it ends with 99 at one that ends otherwise than shown."""
    lines = ["set +e"]
    for number, step in enumerate(steps):
        lines.append(f"printf '%s\\n' {shlex.quote(f'{_MARK} {number}')}")
        if step.file:
            lines.append(f"mkdir -p {shlex.quote(str(Path(step.file).parent))}")
            lines.append(f"printf %s {shlex.quote(step.text)} > {shlex.quote(step.file)}")
        else:
            lines.append(f"{{ {step.text}\n}} 2>&1")
            lines.append(f"code=$?; [ $code = {step.code} ] || {{ echo ended with $code; exit 99; }}")
    return "\n".join([*lines, f"printf '\\n%s\\n' '{_MARK} end'\n"])


def differences(steps: list[Step], printed: str) -> list[str]:
    """Return, for each step that printed something else than its page shows, both."""
    parts = dict(
        re.findall(rf"^{_MARK} (\w+)\n(.*?)(?=^{_MARK} |\Z)", f"{printed}\n", re.DOTALL | re.MULTILINE)
    )
    found = []
    for number, step in enumerate(steps):
        told = parts.get(str(number))
        if told is None:
            return [*found, f"$ {step.text}\nwas not typed; before it:\n{printed[-2000:]}"]
        if step.shown is not None and not _matches(step.shown, told):
            found.append("\n".join([f"$ {step.text}", *step.shown, "printed:", told]))
    return found if "end" in parts else [*found, f"it ended early:\n{printed[-2000:]}"]


def _matches(shown: tuple[str, ...], told: str) -> bool:
    """Compare without regard to blanks and to numbers; a line "…" is any lines, and a "…" in one any text."""
    pattern = "".join(r"(?:.*\n)*" if line == "…" else f"{_line(line)}\n" for line in shown)
    lines = "".join(f"{' '.join(line.split())}\n" for line in told.splitlines() if line.strip())
    return re.fullmatch(pattern, lines) is not None


def _line(line: str) -> str:
    parts = _VARYING.split(" ".join(line.split()))
    return "".join(_varying(part) if index % 2 else re.escape(part) for index, part in enumerate(parts))


def _varying(part: str) -> str:
    if part == "…":
        return ".*"
    return "[0-9a-f]+" if len(part) >= 12 else r"\d+(?:\.\d+)?"
