"""`[git.status]`: where statuses go, as git.url says it, and the mistakes in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.errors import InvalidSpec
from tank_agent.settings.git import GitSettings, problems
from tank_agent.settings.git_status import Forge, GitStatusSettings, target
from tank_agent.settings.settings import load_settings

FILE = "/etc/tank/status.token"


@pytest.mark.parametrize(
    ("forge", "url", "api", "project"),
    [
        ("github", "https://github.com/acme/fleet.git", "https://api.github.com", "acme/fleet"),
        ("github", "https://GitHub.com/acme/fleet/", "https://api.github.com", "acme/fleet"),
        ("github", "git@github.com:acme/fleet.git", "https://api.github.com", "acme/fleet"),
        ("github", "ssh://git@ssh.github.com:443/acme/fleet", "https://api.github.com", "acme/fleet"),
        ("github", "https://git.example/acme/fleet.git", "https://git.example/api/v3", "acme/fleet"),
        ("gitlab", "https://gitlab.com/acme/fleet.git", "https://gitlab.com/api/v4", "acme/fleet"),
        ("gitlab", "git@gitlab.com:a/b/c/d.git", "https://gitlab.com/api/v4", "a/b/c/d"),
        ("gitlab", "ssh://git@altssh.gitlab.com:443/a/b.git", "https://gitlab.com/api/v4", "a/b"),
        ("gitlab", "https://git.example:8443/a/b.git", "https://git.example:8443/api/v4", "a/b"),
        # The port of ssh is none of the API.
        ("gitlab", "ssh://git@git.example:2222/a/b.git", "https://git.example/api/v4", "a/b"),
        ("gitea", "git@git.example:acme/fleet.git", "https://git.example/api/v1", "acme/fleet"),
        ("gitea", "git.example:/acme/fleet", "https://git.example/api/v1", "acme/fleet"),
        ("forgejo", "https://codeberg.org/acme/fleet.git", "https://codeberg.org/api/v1", "acme/fleet"),
        ("forgejo", "git://git.example/acme/fleet.git", "https://git.example/api/v1", "acme/fleet"),
        ("forgejo", "https://[2001:db8::1]:3000/a/b", "https://[2001:db8::1]:3000/api/v1", "a/b"),
        # Plain http is for this machine only.
        ("gitea", "http://127.0.0.1:3000/a/b", "http://127.0.0.1:3000/api/v1", "a/b"),
        ("gitea", "http://git.example/a/b", "https://git.example/api/v1", "a/b"),
        ("gitea", "https://ann@git.example/a/b%2Dc.git", "https://git.example/api/v1", "a/b-c"),
    ],
)
def test_where_statuses_go(forge: Forge, url: str, api: str, project: str) -> None:
    found = target(GitStatusSettings(forge=forge, token_file=FILE), url)
    assert (found.api, found.project) == (api, project)


@pytest.mark.parametrize(
    ("forge", "url", "key"),
    [
        ("github", "/srv/fleet.git", "api"),
        ("github", "file:///srv/fleet.git", "api"),
        ("github", "https://github.com/fleet.git", "project"),
        ("github", "https://github.com/a/b/c.git", "project"),
        ("gitea", "https://git.example/prefix/a/b.git", "project"),
        ("gitlab", "https://gitlab.com/fleet.git", "project"),
        ("gitlab", "https://gitlab.com/a%20b/c", "project"),
        ("gitlab", "https://gitlab.com/a/%2e/c", "project"),
        ("github", "https://github.com/a/b%3Fx=1", "project"),
        ("github", "https://github.com/a/b%23c", "project"),
        ("github", "https://github.com/a/ü", "project"),
        ("github", "https://github.com/a//b", "project"),
        ("github", "git@github.com:~ann/b", "project"),
    ],
)
def test_what_an_address_does_not_say_is_asked_for(forge: Forge, url: str, key: str) -> None:
    settings = GitStatusSettings(forge=forge, token_file=FILE)
    with pytest.raises(ValueError, match="is needed") as caught:
        target(settings, url)
    assert caught.value.args[0] == key and "; write " in caught.value.args[1]
    found = problems(GitSettings(url=url, status=settings))
    assert [name for name, _ in found] == [f"status.{key}"]
    # What both keys say does not depend on the address.
    said = GitStatusSettings(forge=forge, token_file=FILE, api="https://h/api", project="acme/fleet")
    assert target(said, url).project == "acme/fleet"
    assert problems(GitSettings(url=url, status=said)) == ()


@given(st.text(max_size=40), st.sampled_from(["github", "gitlab", "gitea", "forgejo"]))
def test_a_hostile_path_never_leads_elsewhere(text: str, forge: Any) -> None:
    settings = GitStatusSettings(forge=forge, token_file=FILE)
    for url in (f"https://git.example/{text}", f"git@git.example:{text}", f"ssh://git@git.example/a/{text}"):
        try:
            found = target(settings, url)
        except ValueError as error:
            assert len(error.args) == 2
            continue
        assert found.api.startswith("https://git.example/api/v")
        assert found.project.replace("/", "").isascii()
        assert not set(found.project) & set("?#%&@:\\ \n\r\0") and ".." not in found.project.split("/")


def loaded(tmp_path: Path, *lines: str, url: str = "https://github.com/acme/fleet") -> list[str]:
    file = tmp_path / "agent.toml"
    head = [f'git.url = "{url}"', "[git.status]", 'forge = "github"', f'token_file = "{FILE}"']
    file.write_text("\n".join((*head, *lines)) + "\n")
    try:
        load_settings(file, environ={})
    except InvalidSpec as error:
        return [str(problem).removeprefix(f"{file}:") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "api",
    [
        "https://h/api/v4", "https://h/api/v4/", "http://127.0.0.1:3000/api/v1", "http://[::1]/x", "http://localhost/x",
    ],
)  # fmt: skip
def test_addresses_of_an_api_that_will_do(tmp_path: Path, api: str) -> None:
    assert loaded(tmp_path, f'api = "{api}"') == []


@pytest.mark.parametrize(
    ("api", "words"),
    [
        ("h/api", "is not a URL; write one such as"),
        ("ftp://h/api", "is not a URL"),
        ("https://", "is not a URL"),
        ("https://h:0/x", "is not a URL"),
        ("https://h:99999/x", "is not a URL"),
        ("https://h/a b", "is not a URL"),
        ("https://h/\\u0000", "is not a URL"),
        ("https://[::1/x", "is not a URL"),
        ("https://ü/x", "is not a URL"),
        ("https://ann:hunter2@h/x", "holds a user or a password; a token is in a file"),
        ("https://h/x?token=hunter2", "has a ? or a #"),
        ("https://h/x#y", "has a ? or a #"),
        ("http://h/x", "the token could be read on the way over http://; write https://"),
        ("http://127.0.0.1.evil.example/x", "the token could be read on the way"),
    ],
)
def test_addresses_of_an_api_that_will_not_do(tmp_path: Path, api: str, words: str) -> None:
    (told,) = loaded(tmp_path, f'api = "{api}"')
    assert told.startswith("5: git.status.api: ") and words in told and "hunter2" not in told


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('context = ""', "git.status.context: "),
        (f'context = "{"x" * 256}"', "write 1 to 255 characters"),
        ('context = "a\\nb"', "is not the name of a status"),
        ('context = "tank/{host}"', "{host} stands for nothing; only {hostname} is replaced"),
        ('link = "edge-1.lan"', 'is not a URL; write one such as "https://edge-1.lan/"'),
        ('link = "javascript:alert(1)"', "is not a URL"),
        ('link = "https://{name}/"', "{name} stands for nothing"),
        (f'link = "https://h/{"x" * 255}"', "is longer than 255 characters"),
        ('project = "a b/c"', 'is not a project; write one such as "acme/fleet"'),
        ('project = "../c"', "is not a project"),
        ('project = "fleet"', '"fleet" is not OWNER/REPOSITORY'),
        ('token = "hunter2"', "unknown key; a token is in a file: write token_file in [git.status]"),
    ],
)
def test_mistakes_in_the_other_keys(tmp_path: Path, line: str, words: str) -> None:
    told = loaded(tmp_path, line)
    assert len(told) == 1 and words in told[0] and told[0].startswith("5: ")


def test_the_links_and_names_that_will_do(tmp_path: Path) -> None:
    assert (
        loaded(tmp_path, 'context = "tank/{hostname} ü"', 'link = "http://{hostname}.lan:9470/#token"') == []
    )
    assert loaded(tmp_path, 'project = "/a/b.git"') == []
    gitlab = ['forge = "gitlab"', 'project = "4711"', 'token_file = "/x"']
    file = tmp_path / "agent.toml"
    file.write_text("\n".join(['git.url = "git@h:fleet"', "[git.status]", *gitlab]))
    settings = load_settings(file, environ={})
    assert settings.git is not None and settings.git.status is not None
    assert target(settings.git.status, settings.git.url).project == "4711"


def test_the_token_for_reading_is_another_one(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    lines = [
        "[git]",
        'url = "https://github.com/a/b"',
        'token_file = "/x"',
        "[git.status]",
        'forge = "github"',
    ]
    file.write_text("\n".join([*lines, 'token_file = "/x"']))
    with pytest.raises(
        InvalidSpec, match=r"6: git\.status\.token_file: is git\.token_file, which should only read"
    ):
        load_settings(file, environ={})


def test_the_samples_of_the_page_are_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "commit-status.md").read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    file = tmp_path / "agent.toml"
    found = []
    for block in blocks:
        file.write_text(block)
        settings = load_settings(file, environ={})
        assert settings.git is not None and settings.git.status is not None
        found.append(target(settings.git.status, settings.git.url).project)
    assert found == ["acme/fleet", "acme/infra/fleet"]
