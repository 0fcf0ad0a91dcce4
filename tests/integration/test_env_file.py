"""Env files mean what they mean to compose: each of these is read by the real program, too."""

from __future__ import annotations

import random

import pytest

from tank_agent.spec.env_file import parse_env_file
from tests.support.compose import compose_1, compose_2, variables

# Packages are fetched once, by one test at a time.
pytestmark = pytest.mark.timeout(900)

SAME = [
    b"A=1\nB=2\n",
    b"# c\n\n  A=1\n  # c\n",
    b"export A=1\nexport\tB = 2\nexportC=3\nexport=4\n",
    b"A: 1\nB:=2\nC==3\n",
    b"A-b.c[0]=1\n1A=2\n\xc3\xa9=3\n",
    b"A=\nB= \nC=1\n",
    b"A=x # c\nB=x# c\nC=#c\nD= #c\nE=x\t#c\n",
    b"A='x' # c\nB=\"x\"#c\nC=''\nD=\"\"\n",
    b'A=\'it\\\'s $B \\n\'\nB="say \\"hi\\""\n',
    b'A="\\a\\b\\f\\n\\r\\t\\v\\\\\\$\\x\\0101\\0007"\nB=\\n\\t\n',
    b"A='a\nb' # c\nB=\"c\n#d\n\"\nC=1\n",
    b"A=1\nB=$A-${A}-${A:-x}-${A-x}-${A:+y}-${A+y}\n",
    b"E=\nA=${E:-x}${E-y}${E:+p}${E+q}${U:-u}${U-v}${U+w}\n",
    b'A=1\nB=${U:-${A}}e}f\nC=${U:-{x}}\nD="${U:-\\"q\\"}"\n',
    b"A=${U:-a b} # c\n",
    b'A=1\nB=${A:-{x}}\nC=${U:-{}}\nD=${U:-{"x": 1}}\nE=${A:-}}\n',
    b"A=a$$b$1$\nB=100%\nC=x\"y\"'z'\nD=1;2\n",
    b"A=1\nA=2\nB=$A\n",
    b'A=x\r\nB="1\r\n2"\r\n',
    b"\xef\xbb\xbfA=1",
    b"A=\xc2\xa0x\xc2\xa0\n",
]
REFUSED = [
    b"A=1\nA B=1\n",
    b"A+=1\n",
    b"A$B=1\n",
    b'A="x\nB=1\n',
    b"A=${\n",
    b"A=${}\n",
    b"A=${1}\n",
    b"A=${B\n",
    b"A=${B:=x}\n",
    b"A=${B:-a #b}\n",
    b"A=${B?}\n",
    b"A=\nB=${A:?none}\n",
]
# What compose makes of what is an error here.
STRICTER: list[tuple[bytes, dict[str, str | None], str]] = [
    (b"A=$U\n", {"A": ""}, "f:1: U has no value in this file"),
    (b"A=$HOMES\n", {"A": ""}, "f:1: HOMES has no value in this file"),
    (b"A=1\nB\n", {"A": "1"}, 'f:2: "B" has no value, and none is taken from elsewhere; write B='),
    (b"A='x'y\n", {"A": "x"}, "f:1: there is something after the value; put all of it between two '"),
    (b'A="x"B=2\n', {"A": "x", "B": "2"}, "f:1: there is something after the value"),
    (b'A="\\07"\n', {"A": "\\7"}, "f:1: \\07 is no character; write \\0 and three octal digits"),
    (b"=x\n", {"": "x"}, 'f:1: "" is no name of a variable'),
    (b"A=\xff\n", {"A": "\ufffd"}, "f:1: is not UTF-8"),
    (b"\n\nA=a\x00b\n", {"A": "a\0b"}, "f:3: has a NUL character in it"),
]
# What the Python program, 1.29, makes of what is the same in version 2 and here.
OLDER: list[tuple[bytes, dict[str, str | None]]] = [
    (b"A=a$$b\n", {"A": "a$$b"}),
    (b"A: 1\n", {}),
    (b"A=x\t#c\n", {"A": "x"}),
]
PARTS = (
    *("A", "B", "=", "=", "=", ":", " ", "\t", "#", " #", "\n", "\n", "'", '"', "\\", "\\n", "\\\\", "\\$"),
    *("$", "$$", "${A}", "$B", "${C:-x}", "${A-", "${B:+y}", "}", "${A?e}", "export ", "x", "y z", "\r\n"),
)


def ours(*files: bytes) -> dict[str, str] | str:
    found: dict[str, str] = {}
    try:
        for content in files:
            found |= parse_env_file(content, "f", found)
    except ValueError as error:
        return str(error)
    return found


@pytest.mark.parametrize("content", SAME)
def test_it_is_read_as_compose_reads_it(content: bytes) -> None:
    found = ours(content)
    assert isinstance(found, dict)
    assert found == variables(compose_2(), content)


def test_a_file_sees_those_before_it() -> None:
    files = (b"A=1\nB=1\n", b"B=2$A$B\nC=$B\n")
    assert ours(*files) == variables(compose_2(), *files) == {"A": "1", "B": "211", "C": "1"}


@pytest.mark.parametrize("content", REFUSED)
def test_what_compose_refuses_is_refused_with_its_line(content: bytes) -> None:
    assert isinstance(variables(compose_2(), content), str)
    found = ours(content)
    assert isinstance(found, str)
    assert found.startswith("f:")


@pytest.mark.parametrize(("content", "theirs", "message"), STRICTER)
def test_what_is_a_mistake_here_only(content: bytes, theirs: dict[str, str | None], message: str) -> None:
    assert variables(compose_2(), content) == theirs
    assert message in str(ours(content))


@pytest.mark.parametrize(("content", "theirs"), OLDER)
def test_what_the_older_program_does_differently(content: bytes, theirs: dict[str, str | None]) -> None:
    program = compose_1()
    if program is None:
        pytest.skip("this machine's docker-compose is not the Python one")
    assert variables(program, content) == theirs
    assert ours(content) == variables(compose_2(), content) != theirs


def test_nothing_that_is_taken_is_taken_differently() -> None:
    rng = random.Random(20261129)
    taken = 0
    for _ in range(150):
        quote = rng.choice(["", "'", '"'])
        value = "".join(rng.choice(PARTS) for _ in range(rng.randrange(7)))
        content = f"A=1\nB=\nC={quote}{value}{quote}\n".encode()
        found = ours(content)
        if isinstance(found, dict):
            assert found == variables(compose_2(), content), content
            taken += 1
    assert taken > 30
