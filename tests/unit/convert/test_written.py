"""The text of a new pod file: it reads back as what it was made of, and looks as a person writes it."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tank_agent.convert.model import NewPodFile
from tank_agent.convert.written import text_of

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.one_of(texts, st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False))
flat = st.dictionaries(texts, scalars, max_size=4)
values = st.one_of(
    scalars,
    flat,
    st.lists(scalars, max_size=40),
    st.lists(flat, min_size=1, max_size=3),
    st.dictionaries(texts, flat),
)
pods = st.dictionaries(st.one_of(texts, st.sampled_from(["network", "env", "containers", "limits"])), values)


@given(pod=pods, comments=st.lists(texts, max_size=3))
def test_it_reads_back(pod: dict[str, Any], comments: list[str]) -> None:
    text = text_of(NewPodFile(name="web", pod=pod, comments=tuple(comments)))
    assert tomllib.loads(text) == pod


def test_it_looks_as_a_person_writes_it() -> None:
    pod = {
        "containers": [
            {
                "image": "nginx:1.27",
                "mounts": [{"volume": "data", "path": "/data", "read_only": True}],
                "name": "web",
                "env": {"A": "b", "dotted.name": 'say "so"'},
                "security": {"capabilities": {"add": ["NET_ADMIN"]}},
                "args": [f"--{'word' * 5}={number}" for number in range(5)],
            }
        ],
        "files": [{"name": "conf", "content": 'one\n"""two"""\n\ttab \\ "'}],
        "network": {"bridges": ["front"], "extra_hosts": {"nas.lan": "192.168.1.3"}},
        "ports": ["8080:80"],
        "name": "web",
    }
    text = text_of(NewPodFile(name="web", pod=pod, comments=("From compose.yaml.", "lost: two\nlines")))
    assert tomllib.loads(text) == pod
    assert text == EXPECTED


EXPECTED = r'''# From compose.yaml.
# lost: two
# lines

name = "web"
ports = ["8080:80"]

[network]
bridges = ["front"]
extra_hosts = { "nas.lan" = "192.168.1.3" }

[[files]]
name = "conf"
content = """
one
"\""two"\""
\ttab \\ \""""

[[containers]]
name = "web"
image = "nginx:1.27"
args = [
  "--wordwordwordwordword=0",
  "--wordwordwordwordword=1",
  "--wordwordwordwordword=2",
  "--wordwordwordwordword=3",
  "--wordwordwordwordword=4",
]
env = { A = "b", "dotted.name" = "say \"so\"" }

[[containers.mounts]]
volume = "data"
path = "/data"
read_only = true

[containers.security]
capabilities = { add = ["NET_ADMIN"] }
'''
