"""What a plan says of files and secrets that are another: sizes, lines, effects, and nothing of a secret."""

# ruff: noqa: E501
# A case stays on as few lines as a table's row may have.
from __future__ import annotations

import pytest
from msgspec.structs import replace

from tank_agent.reconcile.core.changes import changes, restarts_nothing
from tank_agent.reconcile.core.content_changes import texts
from tank_agent.spec.model import ConfigFile, Container, Mount, Pod, Secret

CANARY = "canary-in-the-ciphertext"
ENCRYPTED = f"-----BEGIN AGE ENCRYPTED FILE-----\n{CANARY}\n-----END AGE ENCRYPTED FILE-----\n"


def pod(
    *mounts: Mount, content: bytes = b"a\nb\nc\n", secret: Secret | None = None, init: bool = False
) -> Pod:
    app = Container(name="app", image="nginx", mounts=mounts, init=init)
    return Pod(
        name="web",
        containers=(app, Container(name="side", image="side")),
        files=(ConfigFile(name="conf", content=content),),
        secrets=(secret or Secret(name="key", age=ENCRYPTED),),
    )


def lines(old: Pod, new: Pod) -> list[str]:
    return list(texts(changes(old, new)))


@pytest.mark.parametrize(
    ("on_change", "effect", "idle"),
    [
        ("restart", "restarts container app", False),
        ("signal:SIGHUP", "changed live, nothing restarts; SIGHUP to container app", False),
        ("nothing", "changed live, nothing restarts", False),
        (None, "nothing restarts", True),
    ],
)
def test_a_file_is_shown_by_its_size_and_its_lines(on_change: str | None, effect: str, idle: bool) -> None:
    mounts = () if on_change is None else (Mount(file="conf", path="/c", on_change=on_change),)
    old, new = pod(*mounts), pod(*mounts, content=b"a\nB\x1b[31m\nc\n")
    first, *rest = lines(old, new)
    assert first.startswith("files[conf].content: 6 bytes (")
    assert first.endswith(f"({effect})")
    assert rest == ["  @@ -1,3 +1,3 @@", "   a", "  -b", "  +B\\x1b[31m", "   c"]
    assert restarts_nothing(old, new) is idle


def test_what_all_containers_do_is_said() -> None:
    old = pod(Mount(file="conf", path="/c"), init=True)
    live = Mount(file="conf", path="/c", on_change="signal:SIGUSR1")
    old = replace(old, containers=(old.containers[0], replace(old.containers[1], mounts=(live,))))
    new = replace(old, files=(ConfigFile(name="conf", content=b"x"),))
    assert lines(old, new)[0].endswith(
        "(restarts container app, and all that are not init; changed live in others; SIGUSR1 to container side)"
    )


def test_bytes_and_much_text_have_no_lines() -> None:
    assert len(lines(pod(), pod(content=b"\xff"))) == 1
    assert len(lines(pod(), pod(content=b"x\n" * 3_000))) == 1
    found = lines(pod(), pod(content="".join(f"{n} {'x' * 300}\n" for n in range(50)).encode()))
    assert len(found) == 12
    assert found[-1].strip() == "… 44 more"
    assert max(map(len, found[1:])) < 110


def test_files_and_secrets_come_and_go() -> None:
    bare = replace(pod(), files=(), secrets=())
    assert lines(bare, pod()) == [
        'files[conf]: none → "present" (nothing restarts)',
        'secrets[key]: none → "present" (nothing restarts)',
    ]
    assert lines(pod(), bare)[0] == 'files[conf]: "present" → none (nothing restarts)'


SEALED = Secret(name="key", age=ENCRYPTED, digest="1" * 64)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (SEALED, replace(SEALED, age="other", digest="2" * 64), "secrets[key].age: a secret → another (restarts container app)"),
        (SEALED, replace(SEALED, age="other"), "secrets[key].age: encrypted → encrypted anew, with the same content (nothing restarts)"),
        (Secret(name="key", age=ENCRYPTED), Secret(name="key", age="other"),
         "secrets[key].age: a secret → encrypted anew (restarts container app)"),
        (Secret(name="key", host="/a"), Secret(name="key", host="/b"), 'secrets[key].host: "/a" → "/b" (restarts container app)'),
        (Secret(name="key", host="/a", digest="1" * 64), Secret(name="key", host="/b", digest="1" * 64),
         'secrets[key].host: "/a" → "/b" (nothing restarts)'),
        (Secret(name="key", host="/a", digest="1" * 64), Secret(name="key", host="/a", digest="2" * 64),
         "secrets[key]: a secret → another (restarts container app)"),
    ],
)  # fmt: skip
def test_a_secret_is_only_said_to_be_another(old: Secret, new: Secret, expected: str) -> None:
    mount = Mount(secret="key", path="/run/secrets/key")
    (found,) = lines(pod(mount, secret=old), pod(mount, secret=new))
    assert found == expected
    assert CANARY not in found


def test_sealing_alone_is_no_change() -> None:
    assert lines(pod(secret=Secret(name="key", age=ENCRYPTED)), pod(secret=SEALED)) == []


def test_a_variable_may_be_called_name() -> None:
    def named(value: str) -> Pod:
        return Pod(name="web", containers=(Container(name="app", image="x", env={"name": value}),))

    (found,) = lines(named("a"), named("b"))
    assert found == 'containers[app].env.name: "a" → "b" (restarts container app)'
