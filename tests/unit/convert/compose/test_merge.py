"""Values of several files merged; an integration test asks compose about each rule."""

from __future__ import annotations

import pytest

from tank_agent.convert.compose.merge import merge, port_parts, unique, volume_parts, without
from tank_agent.convert.compose.tree import read_documents
from tank_agent.convert.model import InvalidSource, Value

pytest.importorskip("yaml")


def read(text: str, file: str = "f") -> Value:
    (document,) = read_documents(text.encode(), file)
    return document.value


def plain(value: Value) -> object:
    if isinstance(value.plain, dict):
        return {key: plain(item) for key, item in value.plain.items()}
    return [plain(item) for item in value.plain] if isinstance(value.plain, tuple) else value.plain


@pytest.mark.parametrize(
    ("base", "other", "result"),
    [
        ("{user: a, tty: true}", "{user: b}", {"user": "b", "tty": True}),
        ("{ports: [80]}", "{ports: ['80', 81]}", {"ports": ["80", 81]}),
        ("{environment: {A: 1.50, B: yes}}", "{environment: [A=2]}", {"environment": ["A=2", "B=yes"]}),
        ("{command: [a, b]}", "{command: c}", {"command": "c"}),
        ("{build: .}", "{build: {target: x}}", {"build": {"context": ".", "target": "x"}}),
        ("{networks: [a]}", "{networks: {b: {}}}", {"networks": {"a": None, "b": {}}}),
        ("{volumes: ['aa:/x/', 'bb:/y']}", "{volumes: ['cc:/x']}", {"volumes": ["cc:/x", "bb:/y"]}),
        ("{x-own: {a: 1}}", "{x-own: {b: 1}}", {"x-own": {"b": 1}}),
        ("{logging: {driver: a, options: {b: 1}}}", "{logging: {driver: c}}", {"logging": {"driver": "c"}}),
    ],
)
def test_services(base: str, other: str, result: dict[str, object]) -> None:
    path = ("services", "web")
    assert plain(unique(merge(read(base), read(other), path), path)) == result


def test_what_can_not_be_merged_names_both_places() -> None:
    with pytest.raises(InvalidSource) as found:
        merge(read("cap_add: [a]", "a"), read("\ncap_add: {b: 1}", "b"), ("services", "web"))
    assert str(found.value) == (
        "b:2: services.web.cap_add is a mapping here and a list at a:1; write both in the same form"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volumes: [':/x']", '":/x" is no volume; write source:target'),
        ("volumes: [{source: a}]", "a mapping needs target, the path in the container"),
        ("ports: [{published: 1}]", "a mapping needs target, the port in the container"),
        ("env_file: [{required: false}]", "a mapping needs path"),
        ("environment: [{A: 1}]", "an item must be one value, not a mapping or list"),
    ],
)
def test_items_that_say_nothing(text: str, message: str) -> None:
    with pytest.raises(InvalidSource) as found:
        unique(read(f"\n{text}"), ("services", "web"))
    assert str(found.value).startswith("f:2: services.web.")
    assert message in str(found.value)


def test_without() -> None:
    value = read("{a: {b: 1, c: 2}, d: 3}")
    assert plain(without(value, (("a", "b"), ("d",), ("e", "f")))) == {"a": {"c": 2}}
    assert plain(without(value, ())) == plain(value)


def test_short_forms() -> None:
    assert volume_parts("aa:/b:ro,z") == ["aa", "/b", "ro,z"]
    assert volume_parts("C:\\x:/b") == ["C:\\x", "/b"]
    assert volume_parts("/b") == ["/b"]
    assert port_parts("[::1]:80:8080/udp") == ("::1", "80", "8080", "udp")
    assert port_parts("8080") == (None, None, "8080", None)
