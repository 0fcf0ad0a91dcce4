"""Files, secrets, mounts, limits, kernel parameters and jobs: each rule, its line, its key, its sentence."""

# ruff: noqa: E501
# A case stays on as few lines as a table's row may have.

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from tank_agent.spec.beside import FILE_MAX, BesideError
from tank_agent.spec.contents import named_beside
from tank_agent.spec.model import Pod, RestartPolicy, Schedule, Secret, Ulimit
from tank_agent.spec.parse import parse_pod_file, pod_from_mapping

HEAD = '[[containers]]\nname = "app"\nimage = "nginx"\n'
AGE = b"age-encryption.org/v1\n-> X25519 abc\nxyz\n--- mac\n\x00\x01\xff" + b"x" * 100
ARMOR = "-----BEGIN AGE ENCRYPTED FILE-----\n{}-----END AGE ENCRYPTED FILE-----\n".format(
    "".join(
        f"{base64.b64encode(AGE).decode()[at : at + 64]}\n" for at in range(0, len(base64.b64encode(AGE)), 64)
    )
)
PASSWORD = "hunter2-is-no-secret-any-more"
BESIDE = {
    "nginx.conf": b"worker_processes 4;\n",
    "db.age": AGE,
    "db.asc": ARMOR.replace("\n", "\r\n").encode(),
    "plain.txt": PASSWORD.encode(),
    "empty.age": b"\n",
    "pgp.asc": b"-----BEGIN PGP MESSAGE-----\n",
    "torn.age": ARMOR.encode()[:80],
    "odd.age": ARMOR.replace(ARMOR[60:64], "????").encode(),
    "large.conf": b"x" * (FILE_MAX + 1),
    **{f"{n}.conf": b"x" * FILE_MAX for n in range(5)},
}


def beside(path: str) -> bytes:
    if path not in BESIDE:
        raise BesideError("is not there")
    return BESIDE[path]


def problems(text: str) -> list[str]:
    found = parse_pod_file(text, "web.toml", beside=beside).problems
    return [str(problem).removeprefix("web.toml:") for problem in found]


def pod(text: str) -> Pod:
    assert problems(text) == []
    return parse_pod_file(text, "web.toml", beside=beside).pods[0].pod


def with_file(rest: str) -> str:
    return f'[[files]]\nname = "conf"\n{rest}\n{HEAD}'


def with_secret(rest: str) -> str:
    return f'[[secrets]]\nname = "key"\n{rest}\n{HEAD}'


def with_mount(rest: str) -> str:
    named = '[[volumes]]\nname = "data"\n[[files]]\nname = "conf"\ncontent = "x"\n'
    return f'{named}[[secrets]]\nname = "key"\nhost = "/k"\n{HEAD}[[containers.mounts]]\n{rest}\n'


def with_limits(rest: str) -> str:
    return f"{HEAD}[containers.limits]\n{rest}\n"


CASES: list[tuple[str, str]] = [
    # Files.
    (with_file(""), '1: files[0]: has no content; write source = "nginx.conf", a file beside this one'),
    (with_file('source = "nginx.conf"\ncontent = ""'), "4: files[0].content: source is given, too; remove one"),
    (with_file('source = "nginx.con"'), '3: files[0].source: "nginx.con" is not there'),
    (with_file('source = "/etc/nginx.conf"'), '3: files[0].source: "/etc/nginx.conf" is no path from the pod file'),
    (with_file('source = "../nginx.conf"'), '3: files[0].source: "../nginx.conf" leads out of the pod file'),
    (with_file('source = "a//b"'), 'write "a/b"'),
    (with_file('source = ".git/config"'), "starts with a dot"),
    (with_file('source = "large.conf"'), "3: files[0].source: 262145 bytes are too much; a file has at most 256K"),
    (with_file('base64 = "%"'), "3: files[0].base64: is not base64; write what the program base64 makes"),
    (with_file("content = 1"), "3: files[0].content: must be text"),
    (with_file('content = "x"').replace("conf", "Conf"), '2: files[0].name: "Conf" is not a name'),
    (with_file('content = "x"\n[[files]]\nname = "conf"\ncontent = "y"'), '5: files[1].name: two files have the name "conf"'),
    (with_file('template = "x"\ncontent = "x"'), "3: files[0].template: unknown key; there are no templates"),
    (with_file('content = "x"\nmode = "0400"'), "4: files[0].mode: unknown key; it belongs into [[containers.mounts]]"),
    ("".join(f'[[files]]\nname = "f{n}"\nsource = "{n}.conf"\n' for n in range(5)) + HEAD,
     "1: files: 1310720 bytes are too much; a pod has at most 1M; put more in a volume"),
    # Secrets.
    (with_secret(""), '1: secrets[0]: has no content; write source = "password.age", a file beside this one'),
    (with_secret('source = "db.age"\nhost = "/k"'), "4: secrets[0].host: source is given, too"),
    (with_secret('source = "plain.txt"'), "3: secrets[0].source: is not encrypted by age; encrypt it with `tank secret encrypt`, and change it if others could read this"),
    (with_secret(f'age = "{PASSWORD}"'), "3: secrets[0].age: is not encrypted by age"),
    (with_secret('source = "empty.age"'), "3: secrets[0].source: is empty; encrypt"),
    (with_secret('source = "pgp.asc"'), "3: secrets[0].source: is encrypted by PGP"),
    (with_secret('source = "torn.age"'), "3: secrets[0].source: the armor of age is damaged"),
    (with_secret('source = "odd.age"'), "3: secrets[0].source: the armor of age is damaged"),
    (with_secret('host = "keys/x"'), '3: secrets[0].host: "keys/x" is not an absolute path'),
    (with_secret('host = "/k"\ncontent = "x"'), "4: secrets[0].content: unknown key; a secret is encrypted"),
    (with_secret('external = true\nhost = "/k"'), '3: secrets[0].external: unknown key; write host = "/etc/keys/x"'),
    # Mounts.
    (with_mount('path = "/x"'), '12: containers[0].mounts[0]: mounts nothing; write volume = "data", file, secret or tmpfs'),
    (with_mount('volume = "data"\nfile = "conf"\npath = "/x"'), "14: containers[0].mounts[0].file: volume is given, too"),
    (with_mount('file = "conf"'), '12: containers[0].mounts[0].path: is missing; write path = "/etc/app.conf"'),
    (with_mount('file = "conf"\npath = "/f"\non_change = "SIGHUP"'), 'write "signal:SIGHUP"'),
    (with_mount('tmpfs = "/run"\npath = "/run"'), 'is a path, and this is its size; write tmpfs = "64M" and path = "/run"'),
    (with_mount('tmpfs = "0"\npath = "/run"'), "is out of range; it must be at least 4K"),
    (HEAD + 'mounts = ["./a.conf:/etc/a.conf:ro"]\n',
     '[[containers.mounts]] with volume = "a-conf", path = "/etc/a.conf" and read_only = true'),
    (HEAD + 'mounts = ["data:/srv"]\n', 'write [[containers.mounts]] with volume = "data", path = "/srv"'),
    (HEAD + 'env = { PASSWORD = { secret = "key" } }\n', "must be text, not a table; secrets are files, never variables"),
    (HEAD + 'ulimits = { nofile = "1024:2048" }\n', "write { soft = 1024, hard = 2048 }"),
    (HEAD + 'ulimits = { nofile = "1024:1024" }\n', "write 1024 without quotes"),
    (HEAD + 'ulimits = { memlock = "infinity" }\n', 'write "unlimited"'),
    (HEAD + "ulimits = { memlock = -1 }\n", 'write "unlimited"'),
    (HEAD + 'ulimits = ["nofile:1024:2048"]\n', "write { nofile = { soft = 1024, hard = 2048 } }"),
    (HEAD + '[containers.security]\ndevices = [{ source = "/dev/snd" }]\n', 'must be text, not a table; write "/dev/snd"'),
    (HEAD + 'runtime = "nvidia"\n', "for a GPU write devices ="),
    (with_secret('source = "key.age"'), '"key.age" is not there; make it with `tank secret encrypt -o key.age`'),
    ("version = '3'\n" + HEAD, "1: version: unknown key; a pod file has no version; remove it"),
    (HEAD + "group_add = ['dialout']\n", "unknown key; did you mean groups?"),
    (HEAD + "supplementalGroups = [44]\n", "unknown key; did you mean groups?"),
    (HEAD + "groups = 'video'\n", "groups: must be a list, not text"),
    (HEAD + "groups = ['audio:video']\n", '"audio:video" is not a group; write a name or a number'),
    (HEAD + "groups = ['']\n", '"" is not a group; write a name or a number'),
    (HEAD + "groups = ['a b']\n", '"a b" is not a group; use letters, digits and . _ -, or a number'),
    (HEAD + "groups = [4294967295]\n", "groups[0]: the group id is out of range"),
    (HEAD + "groups = ['44', 'x', 44]\n", 'groups[2]: "44" is given twice'),
    (HEAD + "pull_policy = 'always'\n", 'unknown key; did you mean pull?'),
    (HEAD + "logging = {}\n", "unknown key; the agent keeps what is printed"),
    (HEAD + "cpu_quota = 50000\n", "unknown key; write cpu = { quota = 50000, period = 100000 }"),
    ("mailto = 'me'\n" + HEAD, "nothing is mailed: a failed run is in tank status"),
    ("suspend = true\n" + HEAD, "take the file away"),
    ("schedule = ['0 3 * * *', '0 4 * * *']\n" + HEAD, 'write schedule = "0 3 * * *", and a pod of its own for another'),
    ("schedule = '@daily'\ntimeout = '2 hours'\n" + HEAD, 'write "2h"'),
    (with_mount('file = "cofn"\npath = "/x"'), '13: containers[0].mounts[0].file: no file has the name "cofn"; did you mean "conf"?'),
    (with_mount('secret = "ky"'), '13: containers[0].mounts[0].secret: no secret has the name "ky"; did you mean "key"?'),
    (with_mount('file = "key"\npath = "/x"'), 'no file has the name "key"; there is a secret of this name; write secret = "key"'),
    (with_mount('secret = "nothing"'), "define it with [[secrets]] and name ="),
    (with_mount('tmpfs = "64M"\npath = "/x"\nsubpath = "a"'), "15: containers[0].mounts[0].subpath: is a directory in a volume, and this is a tmpfs"),
    (with_mount('file = "conf"\npath = "/x"\nsubpath = "a"'), "subpath: is a directory in a volume, and this is a file"),
    (with_mount('tmpfs = "64M"\npath = "/x"\nfrom_image = true'), "from_image: is what a tmpfs does anyway, at each start; remove it"),
    (with_mount('file = "conf"\npath = "/x"\nfrom_image = true'), "from_image: is for a volume, and this is a file; remove it"),
    (with_mount('volume = "data"\npath = "/x"\nsubpath = "a"\nfrom_image = true'), "from_image: is for a whole volume; remove it, or subpath"),
    (with_mount('volume = "data"\npath = "/x"\nfrom_image = true').replace('name = "data"', 'name = "data"\nhost = "/srv"'), "from_image: is for a managed volume, and data is a path of the machine; remove it"),
    (with_mount('volume = "data"\npath = "/x"\nsubpath = "../a"'), 'subpath: "../a" leads out of the volume'),
    (with_mount('volume = "data"\npath = "/x"\nsubpath = "/a"'), 'subpath: "/a" is not in the volume'),
    (with_mount('volume = "data"\npath = "/x"\nsubpath = "."'), 'subpath: "." is not in the volume'),
    (with_mount('volume = "data"\npath = "/x"\non_change = "nothing"'), "on_change: is for a file or a secret, and this is a volume: nobody watches"),
    (with_mount('volume = "data"\npath = "/x"\nmode = "0400"'), "mode: is for a file or a secret, and this is a volume"),
    (with_mount('tmpfs = "64M"\npath = "/x"\nowner = "1"'), "owner: is for a file or a secret, and this is a tmpfs"),
    (with_mount('tmpfs = "64M"\npath = "/x"\nread_only = true'), "read_only: would let nobody write to it"),
    (with_mount('tmpfs = 0\npath = "/x"'), "tmpfs: 0 is out of range; it must be at least 4K"),
    (with_mount('file = "conf"\npath = "/x"\non_change = "reload"'), 'on_change: "reload" is no answer to a change; write "signal:HUP"'),
    (with_mount('file = "conf"\npath = "/x"\non_change = "signal:HPU"'), 'on_change: "HPU" is not a signal'),
    (with_mount('file = "conf"\npath = "/x"\non_change = "signal:KILL"'), 'SIGKILL is nothing that a program can answer; write "restart"'),
    (with_mount('file = "conf"\npath = "/x"\nmode = "0800"'), 'mode: "0800" are no permissions; write three octal digits'),
    (with_mount('file = "conf"\npath = "/x"\nmode = 0o400'), 'mode: must be text, not a whole number; write octal digits in quotes, such as "0400"'),
    (with_mount('file = "conf"\npath = "/x"\nmode = "4755"'), 'mode: "4755" are no permissions'),
    (with_mount('file = "conf"\npath = "/x"\nowner = "a b"'), 'owner: "a b" is not a user'),
    (with_mount('file = "conf"\npath = "/etc/hosts"'), "path: "),
    (with_mount('secret = "key"\n[[containers.mounts]]\nsecret = "key"'), '14: containers[0].mounts[1].path: two mounts are at "/run/secrets/key"'),
    (with_mount('type = "tmpfs"\ntmpfs = "1M"\npath = "/x"'), "type: unknown key; what is mounted is told by volume, file, secret or tmpfs"),
    # Volumes.
    ('[[volumes]]\nname = "m"\nshared = true\nhost = "/srv"\n' + HEAD, "3: volumes[0].shared: a directory of the host is the same for all pods anyway"),
    ('[[volumes]]\nname = "m"\nshared = true\nsnapshot = true\n' + HEAD, "4: volumes[0].snapshot: putting back a copy would undo what other pods wrote"),
    # Limits.
    (with_limits('memory = "64M"\nmemory_reservation = "65M"'), "6: containers[0].limits.memory_reservation: is more than memory, which is 64M"),
    (with_limits('swap = "64M"'), "5: containers[0].limits.swap: counts beside a limit of memory, and there is none"),
    (with_limits("cpu_weight = 0"), "5: containers[0].limits.cpu_weight: must be from 1 to 10000"),
    (with_limits('cpus = "0.5"'), 'cpus: "0.5" is no list of CPUs; write one such as "0-3,6"; write cpu = 0.5 for an amount'),
    (with_limits("cpus = 0.5"), "cpus: must be text, not a number; write cpu = 0.5 for an amount of CPU time"),
    (with_limits('cpus = "3-1"'), 'cpus: "3-1" is no range of CPUs'),
    (with_limits('cpus = ""'), 'cpus: "" is no list of CPUs'),
    (with_limits('cpus = "0-99999"'), "is no range of CPUs"),
    (HEAD + "cpus = 0.5\n", "4: containers[0].cpus: unknown key; write cpu = 0.5 in [containers.limits] for an amount"),
    (HEAD + 'mem_limit = "1G"\n', "it is called memory, and belongs in [containers.limits]"),
    (HEAD + 'memswap_limit = "1G"\n', "write swap, which is the swap alone"),
    (HEAD + "cpu_shares = 512\n", "write cpu_weight in [containers.limits], where 100 is what 1024 shares are"),
    (HEAD + 'cpuset = "0"\n', "it is called cpus, and belongs in [containers.limits]"),
    (HEAD + 'tmpfs = ["/run"]\n', 'write [[containers.mounts]] with tmpfs = "64M"'),
    (HEAD + 'secrets = ["key"]\n', 'write [[containers.mounts]] with secret = "…"'),
    (HEAD + 'configs = ["key"]\n', 'write [[containers.mounts]] with file = "…"'),
    (HEAD + "sysctls = {}\n", "sysctls belongs to the pod itself"),
    (HEAD + 'cap_add = ["NET_ADMIN"]\n', "write capabilities = { add ="),
    (HEAD + 'gpus = "all"\n', 'write devices = ["nvidia.com/gpu=all"]'),
    (HEAD + 'envfile = ["a"]\n', "unknown key; did you mean env_file?"),
    (HEAD + "ulimit = {}\n", "unknown key; did you mean ulimits?"),
    (HEAD + 'shmsize = "1M"\n', "unknown key; did you mean shm_size?"),
    (HEAD + "ulimits = { nofiles = 1 }\n", "4: containers[0].ulimits.nofiles: there is no such limit; did you mean nofile?"),
    (HEAD + "ulimits = { nofile = { soft = 2, hard = 1 } }\n", "ulimits.nofile: soft is above hard"),
    (HEAD + 'ulimits = { core = { soft = "unlimited", hard = 1 } }\n', "ulimits.core: soft is above hard"),
    (HEAD + "ulimits = { core = -1 }\n", 'ulimits.core: must be a number from 0 up, or "unlimited"'),
    (HEAD + 'ulimits = { nofile = "unlimited" }\n', "the kernel has a limit of open files always"),
    (HEAD + 'ulimits = { core = "infinity" }\n', "4: containers[0].ulimits.core: must be"),
    (HEAD + "ulimits = { core = { soft = 1 } }\n", "ulimits.core.hard: is missing"),
    (HEAD + 'ulimits = ["nofile=1024:2048"]\n', "write { nofile = { soft = 1024, hard = 2048 } }"),
    (HEAD + "shm_size = 1\n", "4: containers[0].shm_size: 1 is out of range"),
    # Kernel parameters.
    ('sysctls = { "vm.swappiness" = "1" }\n' + HEAD, "1: sysctls."),
    ('sysctls = { "kernel.hostname" = "x" }\n' + HEAD, "it has a key of its own; write hostname"),
    ('sysctls = { "kernel.domainname" = "x" }\n' + HEAD, "write dns_search in [network]"),
    ('sysctls = { "net.core.somaxconn" = 1024 }\n' + HEAD, 'must be text, not a whole number; write "1024"'),
    ('sysctls = { "net.core.somaxconn" = "" }\n' + HEAD, "is not a value"),
    ("sysctls.net.core.somaxconn = '1'\n" + HEAD, 'write the whole name in quotes: "net.core.somaxconn" = "1024"'),
    ('sysctls = ["net.core.somaxconn=1024"]\n' + HEAD, 'write { "net.core.somaxconn" = "1024" }'),
    ('network = "host"\nsysctls = { "net.core.somaxconn" = "1" }\n' + HEAD, '2: sysctls."net.core.somaxconn": would be the machine\'s with network = "host"'),
    ('sysctls = { "net.core.somaxconn" = "1", "net/core/somaxconn" = "2" }\n' + HEAD, '"net.core.somaxconn" is given twice'),
    # Jobs.
    ('schedule = "0 3 * * *"\nrestart = "always"\n' + HEAD, '2: restart: a job would never end; write "never", or "on-failure"'),
    ('schedule = "0 3 * * *"\n' + HEAD + "[update]\nrollback = true\n", "6: update.rollback: re-running the job of an older revision is never right"),
    ('schedule = "0 0 3 * * *"\n' + HEAD, "1: schedule: \"0 0 3 * * *\" has 6 fields"),
    ('schedule = "@reboot"\n' + HEAD, "1: schedule: @reboot is no time"),
    ('schedule = "0 0 30 2 *"\n' + HEAD, "1: schedule: \"0 0 30 2 *\" never comes"),
    ('time_zone = "Europe/Berlin"\n' + HEAD, '1: time_zone: is for a job; give schedule = "0 3 * * *", or remove it'),
    ("catch_up = false\n" + HEAD, "1: catch_up: is for a job"),
    ('timeout = "2h"\n' + HEAD, "1: timeout: is for a job"),
    ('schedule = "@daily"\ntime_zone = "Europe/Berln"\n' + HEAD, 'did you mean "Europe/Berlin"?'),
    ('schedule = "@daily"\ntimeout = "0s"\n' + HEAD, "2: timeout: \"0s\" is out of range"),
    ('cron = "@daily"\n' + HEAD, "unknown key; did you mean schedule?"),
    ('schedule = "@daily"\nconcurrencyPolicy = "Forbid"\n' + HEAD, "a job never runs twice at once"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES, ids=range(len(CASES)))
def test_one_mistake_gives_one_problem_at_its_line(text: str, expected: str) -> None:
    found = problems(text)
    assert len(found) == 1, found
    assert found[0].startswith(expected) if expected[0].isdigit() else expected in found[0], found[0]
    assert PASSWORD not in found[0]


def test_a_file_is_the_same_wherever_it_is_written() -> None:
    content = BESIDE["nginx.conf"]
    forms = [
        'source = "nginx.conf"',
        'content = "worker_processes 4;\\n"',
        f'base64 = "{base64.b64encode(content).decode()}"',
    ]
    (one,) = {pod(with_file(form)).files for form in forms}
    assert [(file.name, file.content) for file in one] == [("conf", content)]


def test_a_secret_is_the_same_in_each_form_of_age() -> None:
    forms = ['source = "db.age"', 'source = "db.asc"', f"age = '''\n  {ARMOR}'''"]
    (one,) = {pod(with_secret(form)).secrets for form in forms}
    assert one == (Secret(name="key", age=ARMOR),)


def test_every_file_beside_is_asked_for_whatever_else_is_wrong() -> None:
    asked = []

    def gone(path: str) -> bytes:
        asked.append(path)
        raise BesideError("is not there")

    text = (
        'nonsense = 1\n[[files]]\nname = "a"\nsource = "a"\n[[files]]\nname = "a"\nsource = "b"\n'
        '[[secrets]]\nname = "c"\nsource = "c"\n' + HEAD + 'env_file = ["d", "e"]\n'
    )
    assert len(parse_pod_file(text, "web.toml", beside=gone).problems) == 7
    assert asked == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"files": [{"source": "a"}, {"source": "x/b"}], "secrets": [{"source": "a"}, {"age": "x"}]}, ["a", "x/b"]),
        ({"containers": [{"env_file": "a"}, {"env_file": ["b", "a", 1]}]}, ["a", "b"]),
        ({"pods": [{"files": [{"source": "a"}]}, 1, {"secrets": [{"source": "b"}]}]}, ["a", "b"]),
        ({"files": [{"source": "/a"}, {"source": "../b"}, {"source": ".c"}, {"source": 1}, 2]}, []),
        ({"files": "x", "secrets": {"source": "a"}, "containers": 1}, []),
        ([], []),
        (None, []),
    ],
)  # fmt: skip
def test_what_a_document_names_is_known_before_it_is_read(document: Any, names: list[str]) -> None:
    assert named_beside(document) == names


def test_what_is_normalised() -> None:
    found = pod(
        'schedule = "@daily"\nsysctls = { "net/core/somaxconn" = " 1  2 " }\n'
        + with_mount('file = "conf"\npath = "/x"\non_change = "signal:hup"\nmode = "400"\nread_only = true')
    )
    (mount,) = found.containers[0].mounts
    assert (mount.on_change, mount.mode, mount.read_only) == ("signal:SIGHUP", 0o400, False)
    assert found.schedule == Schedule(cron="0 0 * * *")
    assert found.restart is RestartPolicy.NEVER
    assert found.sysctls == {"net.core.somaxconn": "1 2"}
    container = pod(
        HEAD
        + 'read_only = true\nulimits = { nofile = 5, core = "unlimited", nproc = { soft = 1, hard = 2 } }\n'
        '[containers.limits]\ncpus = "6, 0-2,3,2"\nmemory = "8M"\nswap = 0\n'
    ).containers[0]
    assert container.ulimits == {
        "nofile": Ulimit(soft=5, hard=5),
        "core": Ulimit(soft=-1, hard=-1),
        "nproc": Ulimit(soft=1, hard=2),
    }
    assert (container.limits.cpus, container.limits.swap) == ("0-3,6", 0)
    assert container.security.read_only_root
    assert (
        pod(HEAD + "security.read_only_root = true\n").containers[0]
        == pod(HEAD + "read_only = true\n").containers[0]
    )


def test_a_secret_is_at_its_usual_place_unless_told() -> None:
    assert pod(with_mount('secret = "key"')).containers[0].mounts[0].path == "/run/secrets/key"
    assert pod(with_mount('secret = "key"\npath = "/x"')).containers[0].mounts[0].path == "/x"


def test_a_mapping_of_python_can_name_files_beside() -> None:
    fields = {
        "name": "web",
        "files": [{"name": "conf", "source": "nginx.conf"}],
        "containers": [{"name": "app", "image": "nginx"}],
    }
    assert pod_from_mapping(fields, beside=beside).files[0].content == BESIDE["nginx.conf"]


def test_a_job_may_be_tried_again_after_a_failure() -> None:
    assert pod('schedule = "@daily"\nrestart = "on-failure"\n' + HEAD).restart is RestartPolicy.ON_FAILURE


def test_a_few_lines_of_an_env_file_are_not_gigabytes_of_variables() -> None:
    lines = b"A0=" + b"x" * 10_000 + b"\n" + b"".join(b"A%d=$A0\n" % number for number in range(1, 50))
    BESIDE["many.env"] = lines
    text = 'name = "web"\n'
    for number in range(1000):
        text += f'[[containers]]\nname = "c{number}"\nimage = "x"\nenv_file = "many.env"\n'
    found = parse_pod_file(text, "web.toml", beside=beside)
    assert found.pods == ()
    # Two containers have room for theirs.
    assert len(found.problems) == 998
    first = (
        "web.toml:13: containers[2].env_file: the env files of a pod give its containers at most 1M together"
    )
    assert str(found.problems[0]).startswith(first)


def test_a_list_of_cpus_that_names_them_again_and_again_is_read_at_once() -> None:
    before = time.process_time()
    found = pod(with_limits(f'cpus = "{"0-8191," * 50_000}0"'))
    assert time.process_time() - before < 2
    assert found.containers[0].limits.cpus == "0-8191"


def test_a_container_has_no_more_mounts_than_the_runtime_has_descriptors() -> None:
    secrets = "".join(f'[[secrets]]\nname = "s{number}"\nhost = "/etc/s{number}"\n' for number in range(501))
    mounts = "".join(f'[[containers.mounts]]\nsecret = "s{number}"\n' for number in range(501))
    (found,) = problems(f"{secrets}{HEAD}{mounts}")
    assert "containers[0].mounts: there are 501; a container has at most 500" in found


@pytest.mark.parametrize("key", ["sysctls", "ulimits"])
def test_many_wrong_names_are_answered_at_once(key: str) -> None:
    one = '"kernel.n{}" = "1"' if key == "sysctls" else "n{} = 1"
    names = ", ".join(map(one.format, range(40_000)))
    text = f"{key} = {{ {names} }}\n"
    before = time.process_time()
    found = problems(text + HEAD if key == "sysctls" else HEAD + text)
    assert time.process_time() - before < 2.5
    assert len(found) == 1001
