"""Files beside pod files in a repository: blobs of the same commit, by both transports, from any tree."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tank_agent.source.git import child
from tests.integration.test_git_source import Machine, signers, verifying, write_bomb
from tests.support.git import Work, git_daemon, pod_text


def pod(*sources: str, word: str = "true") -> str:
    """Return a pod file that names files beside it."""
    named = "".join(f'[[files]]\nname = "f{at}"\nsource = "{source}"\n' for at, source in enumerate(sources))
    mounts = "".join(
        f'[[containers.mounts]]\nfile = "f{at}"\npath = "/etc/f{at}"\n' for at in range(len(sources))
    )
    return named + pod_text(command=word) + mounts


def push(work: Work, subject: str = "change", **files: str | None) -> str:
    """Write files below pods (`__` is a slash, `_` a dot; None removes one), commit and push."""
    for key, text in files.items():
        path = f"pods/{key.replace('__', '/').replace('_', '.')}"
        if text is None:
            (work.path / path).unlink()
        else:
            work.write(path, text)
    return work.commit(subject)


def contents(machine: Machine, name: str = "web") -> list[bytes]:
    """Return the content of each file of a pod, as it was published last."""
    (found,) = (one.pod for one in machine.published[-1].pods if one.pod.name == name)
    return [file.content for file in found.files]


def problems(machine: Machine) -> list[str]:
    return [str(problem) for problem in machine.published[-1].problems]


__all__ = ["signers"]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(tmp_path)
    made.write("pods/db.toml")
    made.write("README.md", "not beside any")
    made.commit("begin")
    return made


@pytest.fixture(params=["dulwich", "git"])
def machine(request: pytest.FixtureRequest, work: Work, tmp_path: Path) -> Machine:
    return Machine(work, tmp_path / "data", request.param)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Return the blobs that helpers are asked for, one entry a request."""
    requests: list[tuple[str, ...]] = []
    blobs = child.HelperSession.blobs

    def note(session: child.HelperSession, ids: list[str], largest: int):  # type: ignore[no-untyped-def]
        requests.append(tuple(ids))
        return blobs(session, ids, largest)

    monkeypatch.setattr(child.HelperSession, "blobs", note)
    return requests


def test_files_come_from_the_same_commit_and_only_what_is_new_is_read(
    machine: Machine, work: Work, asked: list[tuple[str, ...]]
) -> None:
    machine.sync()
    assert asked == []
    push(work, web_toml=pod("nginx.conf", "conf/deep.conf"), nginx_conf="one", conf__deep_conf="deep")
    machine.sync()
    assert (machine.source.status.state, problems(machine)) == ("in-sync", [])
    assert contents(machine) == [b"one", b"deep"]
    assert [len(ids) for ids in asked] == [2]
    before = machine.desired["web"]
    # Nothing new: nothing is asked.
    machine.sync()
    assert len(asked) == 1
    head = push(work, "only the file", conf__deep_conf="other")
    machine.sync()
    assert contents(machine) == [b"one", b"other"]
    assert machine.desired["web"] != before
    (web,) = (one for one in machine.published[-1].pods if one.pod.name == "web")
    assert (web.revision, web.author, web.subject) == (head, "Ann Author", "only the file")
    assert [len(ids) for ids in asked] == [2, 1]
    # A commit that is about others parses and asks nothing for this one.
    push(work, db_toml=pod_text(command="false"))
    machine.sync()
    assert (contents(machine), len(asked)) == ([b"one", b"other"], 2)


def test_a_file_named_later_is_found_though_its_commit_is_old(machine: Machine, work: Work) -> None:
    push(work, web_toml=pod(), conf__deep_conf="deep")
    machine.sync()
    push(work, web_toml=pod("conf/deep.conf"))
    machine.sync()
    assert (problems(machine), contents(machine)) == ([], [b"deep"])


def test_a_name_with_escapes_is_found_too(machine: Machine, work: Work) -> None:
    machine.sync()
    text = pod("nginx.conf").replace('"nginx.conf"', '"nginx\\u002econf"')
    push(work, web_toml=text, nginx_conf="one")
    machine.sync()
    assert (problems(machine), contents(machine)) == ([], [b"one"])


@pytest.mark.parametrize("transport", ["dulwich", "git"])
@pytest.mark.parametrize("depth", [0, 2])
def test_they_are_in_a_copy_of_any_depth(transport: str, depth: int, work: Work, tmp_path: Path) -> None:
    # The limit of pod files is not theirs.
    for number in range(3):
        push(work, web_toml=pod("nginx.conf"), nginx_conf=f"{number} " * 2000)
    machine = Machine(work, tmp_path / "data", transport, depth=depth, max_file=1024)
    machine.sync()
    assert (problems(machine), contents(machine)) == ([], [b"2 " * 2000])
    push(work, nginx_conf="last")
    machine.sync()
    assert contents(machine) == [b"last"]


@pytest.mark.parametrize("transport", ["dulwich", "git"])
def test_they_come_from_a_server_too(transport: str, work: Work, tmp_path: Path) -> None:
    push(work, web_toml=pod("conf/nginx.conf"), conf__nginx_conf="one")
    with git_daemon(tmp_path) as address:
        machine = Machine(work, tmp_path / "data", transport, url=f"{address}/fleet.git")
        machine.sync()
        assert contents(machine) == [b"one"]
        push(work, conf__nginx_conf="two")
        machine.sync()
        assert contents(machine) == [b"two"]


def test_a_missing_file_keeps_the_pod_and_lets_the_others_pass(machine: Machine, work: Work) -> None:
    push(work, web_toml=pod("nginx.conf"), nginx_conf="one")
    machine.sync()
    push(work, nginx_conf=None, db_toml=pod_text(command="false"))
    before = machine.desired["web"], machine.desired["db"]
    machine.sync()
    assert problems(machine) == ['pods/web.toml:3: files[0].source: "nginx.conf" is not in this commit']
    assert machine.desired["web"] == before[0] and machine.desired["db"] != before[1]
    push(work, nginx_conf="back")
    machine.sync()
    assert (problems(machine), contents(machine)) == ([], [b"back"])


def test_hostile_trees_lead_nowhere(machine: Machine, work: Work) -> None:
    odd: Mapping[str, str] = {
        "link.conf": "is a symbolic link or behind one",
        "dangling.conf": "is a symbolic link or behind one",
        "up/passwd": "is a symbolic link or behind one",
        "module/pods/db.toml": "is in a submodule",
        "directory": "is a directory",
        "large.conf": "has 262145 bytes; a file beside a pod file has at most 262144",
        "lfs.conf": "is a Git LFS pointer",
        "plain.conf/below": "is not in this commit",
    }
    (work.path / "pods/link.conf").symlink_to("/etc/passwd")
    (work.path / "pods/dangling.conf").symlink_to("../README.md")
    (work.path / "pods/up").symlink_to("/etc")
    work.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(work.bare), "pods/module")
    work.write("pods/directory/x.conf", "x")
    work.write("pods/large.conf", "x" * (256 * 1024 + 1))
    work.write("pods/lfs.conf", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    work.write("pods/plain.conf", "x")
    for at, path in enumerate(odd):
        work.write(f"pods/p{at}.toml", pod(path))
    # Paths that lead out are refused before anything is looked up.
    work.write("pods/out.toml", pod("../README.md"))
    work.write("pods/fine.toml", pod("plain.conf"))
    work.commit("hostile")
    status = machine.sync()
    assert (status.state, machine.runs) == ("in-sync", "db fine")
    found = problems(machine)
    for at, (path, words) in enumerate(odd.items()):
        (own,) = (problem for problem in found if problem.startswith(f"pods/p{at}.toml:3: "))
        assert f'"{path}" {words}' in own
    (out,) = (problem for problem in found if problem.startswith("pods/out.toml:3: "))
    assert "leads out of the pod file's directory" in out
    assert len(found) == len(odd) + 1
    assert b"root:" not in b"".join(contents(machine, "fine"))


def test_a_file_that_unpacks_to_gigabytes_is_a_problem_of_its_pod(machine: Machine, work: Work) -> None:
    machine.sync()
    limits = machine.source._clone.limits
    machine.source._clone.limits = child.HelperLimits(**{**_fields(limits), "memory": 300 << 20})
    work.write("pods/web.toml", pod("bomb.conf"))
    work.git("add", "pods/web.toml")
    write_bomb(work, "pods/bomb.conf", 320 << 20)
    status = machine.sync()
    assert (status.state, status.error, machine.runs) == ("in-sync", None, "db")
    (found,) = problems(machine)
    assert 'pods/web.toml:3: files[0].source: "bomb.conf" ' in found and "at most 262144" in found


def _fields(limits: child.HelperLimits) -> dict[str, int | float]:
    return {name: getattr(limits, name) for name in limits.__struct_fields__}


def test_a_helper_that_sends_other_bytes_is_not_believed(
    machine: Machine, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.sync()
    push(work, web_toml=pod("nginx.conf"), nginx_conf="one")
    stream = child.HelperSession._stream

    def forged(session: child.HelperSession, request: child.Request):  # type: ignore[no-untyped-def]
        for item in stream(session, request):
            is_blob = isinstance(request, child.ReadBlobs) and isinstance(item, child.Object)
            yield child.Object("blob", b"evil") if is_blob else item

    monkeypatch.setattr(child.HelperSession, "_stream", forged)
    machine.sync()
    assert machine.runs == "db"
    assert 'files[0].source: "nginx.conf"' in problems(machine)[0]


def test_a_file_with_a_pod_files_name_is_one_only_if_it_is_valid(machine: Machine, work: Work) -> None:
    routes = '[entryPoints.web]\naddress = ":80"\n'
    push(work, web_toml=pod("conf/traefik.toml", "db.toml"), conf__traefik_toml=routes)
    machine.sync()
    assert (problems(machine), machine.runs) == ([], "db web")
    assert contents(machine) == [routes.encode(), pod_text().encode()]
    # A mistake in a pod file is one, whatever names it, and its pod stays.
    push(work, db_toml="colour = 1\n" + pod_text())
    machine.sync()
    assert machine.runs == "db web"
    assert problems(machine)[0].startswith("pods/db.toml:1: colour")
    push(work, web_toml=pod(), db_toml=pod_text())
    machine.sync()
    assert {problem.split(":")[0] for problem in problems(machine)} == {"pods/conf/traefik.toml"}


def test_any_commit_is_read_with_its_files(machine: Machine, work: Work) -> None:
    first = push(work, web_toml=pod("nginx.conf"), nginx_conf="one")
    push(work, nginx_conf="two")
    machine.sync()
    (web,) = (one for one in machine.source.read(first).pods if one.pod.name == "web")
    assert [file.content for file in web.pod.files] == [b"one"]
    assert contents(machine) == [b"two"]
    # A branch that was never fetched.
    work.git("checkout", "--quiet", "-b", "other")
    push(work, nginx_conf="three")
    (web,) = (one for one in machine.source.read("other").pods if one.pod.name == "web")
    assert [file.content for file in web.pod.files] == [b"three"]
    work.git("checkout", "--quiet", "main")


def test_after_a_restart_without_the_remote_the_copy_has_them(work: Work, tmp_path: Path) -> None:
    for transport in ("dulwich", "git"):
        machine = Machine(work, tmp_path / transport, transport)
        machine.sync()
        push(work, web_toml=pod("nginx.conf"), nginx_conf=transport)
        machine.sync()
        shutil.move(work.bare, tmp_path / "away")
        machine.start()
        machine.sync()
        assert contents(machine) == [transport.encode()]
        shutil.move(tmp_path / "away", work.bare)


def test_of_a_commit_that_is_refused_no_file_is_read(
    machine: Machine,
    work: Work,
    signers: Path,
    asked: list[tuple[str, ...]],
) -> None:
    verifying(machine, signers)
    work.write("pods/web.toml", pod("nginx.conf"))
    work.write("pods/nginx.conf", "one")
    work.commit("unsigned")
    assert "is not signed" in (machine.sync().error or "")
    assert asked == []
    work.commit("signed", "--gpg-sign")
    machine.sync()
    assert "is not signed" not in (machine.sync().error or "")
    assert contents(machine) == [b"one"] and len(asked) == 1
    push(work, "unsigned again", nginx_conf="evil")
    assert "is not signed" in (machine.sync().error or "")
    assert contents(machine) == [b"one"] and len(asked) == 1
