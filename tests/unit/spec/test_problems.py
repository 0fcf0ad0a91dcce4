"""Every rule of a pod file: which line, which key, and what the message says."""

# ruff: noqa: E501
# A case stays on as few lines as a table's row may have.

from __future__ import annotations

import re

import pytest

from tank_agent.spec.parse import parse_pod_file

HEAD = '[[containers]]\nname = "app"\nimage = "oci:/srv/app"\n'
ROOTFS = '[[containers]]\nname = "app"\nrootfs = "/srv/app"\n'
NIC = '[network]\n[[network.nics]]\nname = "eth0"\n'


def problems(text: str, file: str = "web.toml") -> list[str]:
    """Return the problems of a file without its name: `line: key: message`."""
    return [str(problem).removeprefix(f"{file}:").strip() for problem in parse_pod_file(text, file).problems]


CASES: list[tuple[str, str, list[str]]] = [
    # What the file as a whole is.
    ("empty", "", ["1: there is no pod in this file"]),
    ("only comments", "# nothing\n\n", ["1: there is no pod in this file"]),
    ("no containers", 'restart = "never"\n', ["1: containers: is missing; add [[containers]]"]),
    ("empty list of containers", "containers = []\n", ["1: containers: a pod needs at least one"]),
    ("not a list of pods", "pods = 1\n", ["1: pods: must be a list of tables; write [[pods]]"]),
    ("empty list of pods", "\npods = []\n", ["2: pods: there is no pod in this list"]),
    ("pods and other keys", "name = 'a'\n[[pods]]\nname = 'b'\n[[pods.containers]]\nname = 'c'\nimage = 'c'\n",
     ["1: name: a file with [[pods]] has no other keys"]),
    ("a pod that is no table", "pods = [1]\n", ["1: pods[0]: must be a table, not a whole number"]),
    # Names.
    ("capital letters", 'name = "My_Pod"\n' + HEAD, ['1: name: "My_Pod" is not a name', 'such as "my-pod"']),
    ("dash at the end", 'name = "a-"\n' + HEAD, ['1: name: "a-" is not a name']),
    ("too long", f'name = "{"a" * 64}"\n' + HEAD, ["1: name: "]),
    ("empty name", 'name = ""\n' + HEAD, ['1: name: "" is not a name']),
    ("container name", HEAD.replace("app", "App", 1), ['2: containers[0].name: "App" is not a name']),
    ("container name missing", "\n[[containers]]\nimage = 'a'\n", ["2: containers[0].name: is missing; write name ="]),
    ("container names twice", HEAD + "\n" + HEAD,
     ['6: containers[1].name: two containers have the name "app" (the first is containers[0])']),
    ("volume name", '[[volumes]]\nname = "a/b"\n' + HEAD, ['2: volumes[0].name: "a/b" is not a name']),
    ("volume names twice", '[[volumes]]\nname = "a"\n[[volumes]]\nname = "a"\n' + HEAD,
     ['4: volumes[1].name: two volumes have the name "a"']),
    # Types and keys.
    ("unknown key", 'frobnicate = 3\n' + HEAD, ["1: frobnicate: unknown key; known here: after, catch_up, containers, files, hostname, hosts, labels, name"]),
    ("mistyped key", HEAD + 'comand = ["x"]\n', ["4: containers[0].comand: unknown key; did you mean command?"]),
    ("key of compose", HEAD + "environment = {}\n", ["4: containers[0].environment: unknown key; did you mean env?"]),
    ("key in the wrong table", HEAD + '[containers.limits]\nmemory = "1G"\nuser = "0"\n',
     ["6: containers[0].limits.user: unknown key here; user belongs in [[containers]]"]),
    ("pod key in a container", HEAD + 'restart = "never"\n',
     ["4: containers[0].restart: unknown key here; restart belongs to the pod itself"]),
    ("wrong type", "restart = 1\n" + HEAD, ['1: restart: must be "always", "never" or "on-failure", not a whole number']),
    ("restart", 'restart = "on_failure"\n' + HEAD, ["1: restart: must be one of", 'write "on-failure"']),
    ("restart of compose", 'restart = "unless-stopped"\n' + HEAD, ["1: restart: must be one of", 'write "always"']),
    ("restart that YAML reads as false", "restart = false\n" + HEAD, ["1: restart: must be", 'write "never"']),
    ("number for text", HEAD + "user = 1000\n", ['4: containers[0].user: must be text, not a whole number; write "1000"']),
    ("number in env", HEAD + "env = { PORT = 80 }\n", ['4: containers[0].env.PORT: must be text', 'write "80"']),
    ("text for a list", HEAD + 'command = "/bin/sh -c x"\n',
     ['4: containers[0].command: must be a list, not text; write ["/bin/sh", "-c", "x"]']),
    ("text for true", HEAD + 'tty = "yes"\n', ["4: containers[0].tty: must be true or false, not text; write true"]),
    ("text for a number", HEAD + 'limits.pids = "9"\n',
     ["4: containers[0].limits.pids: must be a whole number, not text; write 9 without quotes"]),
    ("fraction for a whole number", HEAD + "limits.pids = 1.0\n", ["4: containers[0].limits.pids: must be a whole"]),
    ("date for text", HEAD + "user = 2020-01-01\n", ["4: containers[0].user: must be text, not a date or time"]),
    ("one bracket", '[containers]\nname = "a"\n', ["1: containers: must be a list of tables; write [[containers]]"]),
    ("two brackets", HEAD + "[[containers.limits]]\npids = 1\n",
     ["4: containers[0].limits: must be one table, not a list; write [containers.limits] with one bracket"]),
    ("variables as a list", HEAD + 'env = ["A=b=c", "D=e"]\n',
     ['4: containers[0].env: must be one table, not a list; write env = { A = "b=c" }']),
    ("no such network", 'network = "bridged"\n' + HEAD,
     ['1: network: must be one of "bridge", "host", "none", not "bridged"']),
    ("network of a wrong type", "network = 5\n" + HEAD, ['1: network: must be "bridge", "host", "none" or a table, not a whole']),
    # Volumes and mounts.
    ("relative host", '[[volumes]]\nname = "a"\nhost = "etc"\n' + HEAD,
     ['3: volumes[0].host: "etc" is not an absolute path; it must start with "/"']),
    ("host with dots", '[[volumes]]\nname = "a"\nhost = "/etc/../x"\n' + HEAD, ['3: volumes[0].host: ', 'write "/x"']),
    ("the host's root", '[[volumes]]\nname = "a"\nhost = "/"\n' + HEAD, ["3: volumes[0].host: a volume can't be the"]),
    ("mount of no volume", HEAD + '[[containers.mounts]]\nvolume = "dta"\npath = "/d"\n',
     ['5: containers[0].mounts[0].volume: no volume has the name "dta"; define it with [[volumes]]']),
    ("mount of a mistyped volume",
     '[[volumes]]\nname = "data"\n' + HEAD + '[[containers.mounts]]\nvolume = "dta"\npath = "/d"\n',
     ['7: containers[0].mounts[0].volume: no volume has the name "dta"; did you mean "data"?']),
    ("host without a name", '[[volumes]]\nhost = "/a"\n' + HEAD + '[[containers.mounts]]\nvolume = "d"\npath = "/d"\n',
     ["1: volumes[0].name: is missing"]),
    # Image, root file system and argv.
    ("neither image nor rootfs", '[[containers]]\nname = "app"\n', ["1: containers[0]: there is nothing to run"]),
    ("both image and rootfs", HEAD + 'rootfs = "/x"\n', ["4: containers[0].rootfs: image and rootfs can't both"]),
    ("relative rootfs", '[[containers]]\nname = "a"\nrootfs = "x"\ncommand = ["a"]\n',
     ['3: containers[0].rootfs: "x" is not an absolute path']),
    ("the kernel's files as rootfs", '[[containers]]\nname = "a"\nrootfs = "/proc/1/root"\ncommand = ["a"]\n',
     ['3: containers[0].rootfs: "/proc/1/root" is in a kernel file system']),
    ("host's root as rootfs", '[[containers]]\nname = "a"\nrootfs = "/"\ncommand = ["a"]\n',
     ["3: containers[0].rootfs: the host's own root directory"]),
    ("pull with rootfs", '[[containers]]\nname = "a"\nrootfs = "/x"\ncommand = ["a"]\npull = "always"\n', ["5: containers[0].pull: a rootfs is never pulled"]),
    ("bad pull", HEAD + 'pull = "sometimes"\n', ['4: containers[0].pull: ']),
    ("bad image", '[[containers]]\nname = "a"\nimage = "Nginx"\n', ['3: containers[0].image: "Nginx" has capital']),
    ("rootfs without a command", ROOTFS, ["1: containers[0].command: a rootfs does not say what to run"]),
    ("empty command", HEAD + "command = []\n", ["4: containers[0].command: there is no program in it"]),
    ("empty program", HEAD + 'command = [\n  "",\n]\n', ["5: containers[0].command[0]: the program's name is empty"]),
    ("empty program in args", ROOTFS + 'args = [""]\n', ["4: containers[0].args[0]: the program's name is empty"]),
    ("NUL in args", HEAD + 'args = ["a", "b\\u0000"]\n', ["4: containers[0].args[1]: has a NUL character"]),
    ("too long an argument", HEAD + f'args = ["{"a" * 131072}"]\n', ["4: containers[0].args[0]: is longer than"]),
    # Environment, user, signals, times.
    ("= in a variable", HEAD + 'env = { "A=B" = "c" }\n',
     ['4: containers[0].env."A=B": a variable\'s name can\'t have "=" in it; write "A"']),
    ("empty variable", HEAD + '[containers.env]\n"" = "c"\n', ['5: containers[0].env."": a variable needs a name']),
    ("NUL in a value", HEAD + 'env.A = "\\u0000"\n', ["4: containers[0].env.A: has a NUL character"]),
    ("NUL in a variable", HEAD + 'env."A\\u0000" = "b"\n', ['4: containers[0].env."A\\x00": has a NUL character']),
    ("working_dir in /proc", HEAD + 'working_dir = "/proc/self/fd/3"\n',
     ['4: containers[0].working_dir: "/proc/self/fd/3" is in a kernel file system']),
    ("relative working_dir", HEAD + 'working_dir = "srv"\n', ["4: containers[0].working_dir: ", "absolute"]),
    ("huge uid", HEAD + 'user = "4294967296"\n', ["4: containers[0].user: the user id is out of range"]),
    ("uid -1", HEAD + 'user = "4294967295"\n', ["4: containers[0].user: the user id is out of range"]),
    ("huge gid", HEAD + f'user = "0:{"9" * 99}"\n', ["4: containers[0].user: the group id is out of range"]),
    ("negative uid", HEAD + 'user = "-1"\n', ['4: containers[0].user: "-1" is not a user']),
    ("empty group", HEAD + 'user = "a:"\n', ['4: containers[0].user: "a:" is not a user; write a user or user:group']),
    ("empty user", HEAD + 'user = ":0"\n', ['4: containers[0].user: ":0" is not a user']),
    ("two groups", HEAD + 'user = "a:b:c"\n', ['4: containers[0].user: "b:c" is not a group']),
    ("no such signal", HEAD + 'stop_signal = "SIGTREM"\n',
     ['4: containers[0].stop_signal: "SIGTREM" is not a signal; did you mean SIGTERM?']),
    ("signal of libc", HEAD + "stop_signal = 32\n", ["4: containers[0].stop_signal: there is no such signal"]),
    ("signal 0", HEAD + "stop_signal = 0\n", ["4: containers[0].stop_signal: there is no such signal"]),
    ("grace in words", HEAD + 'stop_grace = "10 seconds"\n',
     ['4: containers[0].stop_grace: "10 seconds" is not a length of time; write "10s"']),
    ("negative grace", HEAD + "stop_grace = -1\n", ["4: containers[0].stop_grace: -1 is out of range"]),
    ("grace of two hours", HEAD + 'stop_grace = "2h"\n', ['4: containers[0].stop_grace: "2h" is out of range', "1h"]),
    ("endless grace", HEAD + "stop_grace = inf\n", ["4: containers[0].stop_grace: inf is out of range"]),
    # Limits.
    ("MB", HEAD + 'limits.memory = "512MB"\n',
     ['4: containers[0].limits.memory: "512MB" is not an amount of memory', '"512M"']),
    ("fraction", HEAD + 'limits.memory = "1.5G"\n', ['4: containers[0].limits.memory: "1.5G" is not', '"1536M"']),
    ("little memory", HEAD + "limits.memory = 4096\n", ["4: containers[0].limits.memory: 4096 is too little"]),
    ("much memory", HEAD + 'limits.memory = "9000000000T"\n', ["4: containers[0].limits.memory: ", "more than"]),
    ("huge memory", HEAD + f"limits.memory = 0x{'f' * 9999}\n", ["4: containers[0].limits.memory: the number is more"]),
    ("no pids", HEAD + "limits.pids = 0\n", ["4: containers[0].limits.pids: must be from 1 to 4194304"]),
    ("no cpu", HEAD + "limits.cpu = 0\n", ["4: containers[0].limits.cpu: 0 is not a number of cores"]),
    ("nan cpu", HEAD + "limits.cpu = nan\n", ["4: containers[0].limits.cpu: nan is not a number of cores"]),
    ("little cpu", HEAD + "limits.cpu = 0.001\n", ["4: containers[0].limits.cpu: 0.001 cores is less than"]),
    ("cpu as text", HEAD + 'limits.cpu = "2"\n',
     ["4: containers[0].limits.cpu: must be a number or a table, not text; write 2 without quotes"]),
    ("little quota", HEAD + "[containers.limits]\ncpu = { quota = 999 }\n",
     ["5: containers[0].limits.cpu.quota: must be at least 1000 microseconds"]),
    ("no quota", HEAD + "limits.cpu = { period = 100000 }\n",
     ["4: containers[0].limits.cpu.quota: is missing; write quota = 50000"]),
    ("long period", HEAD + "limits.cpu = { quota = 1000, period = 1000001 }\n",
     ["4: containers[0].limits.cpu.period: must be from 1000 to 1000000"]),
    # Network.
    ("interfaces and bridges", "[network]\nbridges = ['a']\n[[network.nics]]\nname = 'eth0'\nip = '10.0.0.5/24'\n" + HEAD,
     ["3: network.nics: a pod has either interfaces on the LAN or bridges; remove one of them"]),
    ("no interface name", "[network]\n[[network.nics]]\nip = '10.0.0.5/24'\n" + HEAD,
     ["2: network.nics[0].name: is missing"]),
    ("long interface name", NIC.replace("eth0", "e" * 16) + HEAD, ["3: network.nics[0].name: ", "1 to 15 letters"]),
    ("slash in interface name", NIC.replace("eth0", "a/b") + HEAD, ['3: network.nics[0].name: "a/b" is not']),
    ("interface named like an option", NIC.replace("eth0", "-eth0") + HEAD, ["3: network.nics[0].name: "]),
    ("interface lo", NIC.replace("eth0", "lo") + HEAD, ['3: network.nics[0].name: "lo" is the kernel\'s own']),
    ("interfaces twice", NIC + '[[network.nics]]\nname = "eth0"\n' + HEAD,
     ['5: network.nics[1].name: two interfaces have the name "eth0"']),
    ("mode", NIC + 'mode = "bridge"\n' + HEAD, ['4: network.nics[0].mode: must be "macvlan", not "bridge"']),
    ("parent", NIC + 'parent = "a b"\n' + HEAD, ['4: network.nics[0].parent: "a b" is not an interface name']),
    ("no prefix", NIC + 'ip = "10.0.0.5"\n' + HEAD,
     ['4: network.nics[0].ip: "10.0.0.5" has no prefix length; write it as "10.0.0.5/24"']),
    ("netmask", NIC + 'ip = "10.0.0.5/255.255.255.0"\n' + HEAD, ["4: network.nics[0].ip: ", "is not an address"]),
    ("no address", NIC + 'ip = "10.0.0.999/24"\n' + HEAD, ['4: network.nics[0].ip: "10.0.0.999/24" is not an address']),
    ("the network itself", NIC + 'ip = "10.0.0.0/24"\n' + HEAD, ["4: network.nics[0].ip: ", "network itself"]),
    ("broadcast", NIC + 'ip = "10.0.0.255/24"\n' + HEAD, ["4: network.nics[0].ip: ", "broadcast address"]),
    ("multicast", NIC + 'ip = "224.0.0.1/24"\n' + HEAD, ["4: network.nics[0].ip: ", "one host"]),
    ("loopback", NIC + 'ip = "127.0.0.2/8"\n' + HEAD, ["4: network.nics[0].ip: ", "loopback"]),
    ("mapped", NIC + 'ip = "::ffff:1.2.3.4/120"\n' + HEAD, ["4: network.nics[0].ip: ", "IPv4 address in it"]),
    ("everything is local", NIC + 'ip = "10.0.0.5/0"\n' + HEAD, ["4: network.nics[0].ip: ", "the whole internet"]),
    ("address twice", NIC + 'ip = ["10.0.0.5/24",\n"10.0.0.5/16"]\n' + HEAD, ["5: network.nics[0].ip[1]: ", "twice"]),
    ("gateway outside", NIC + 'ip = "10.0.0.5/24"\ngateway = "10.0.1.1"\n' + HEAD,
     ["5: network.nics[0].gateway: 10.0.1.1 is not in 10.0.0.0/24, so the pod could not reach it"]),
    ("gateway of the other family", NIC + 'ip = "10.0.0.5/24"\ngateway = "fd00::1"\n' + HEAD,
     ["5: network.nics[0].gateway: fd00::1 is not in any IPv6 network of ip"]),
    ("gateway is the pod", NIC + 'ip = "10.0.0.5/24"\ngateway = "10.0.0.5"\n' + HEAD,
     ["5: network.nics[0].gateway: 10.0.0.5 is the pod's own address"]),
    ("gateway with prefix", NIC + 'ip = "10.0.0.5/24"\ngateway = "10.0.0.1/24"\n' + HEAD,
     ['5: network.nics[0].gateway: "10.0.0.1/24" has a prefix length; write only "10.0.0.1"']),
    ("two gateways", NIC + 'ip = "10.0.0.5/24"\ngateway = ["10.0.0.1", "10.0.0.2"]\n' + HEAD,
     ["5: network.nics[0].gateway[1]: eth0 already has the default route of IPv4"]),
    ("two default routes",
     NIC + "ip = '10.0.0.5/24'\ngateway = '10.0.0.1'\n[[network.nics]]\nname = 'eth1'\nip = '10.1.0.5/24'\n"
     "gateway = '10.1.0.1'\n" + HEAD,
     ["9: network.nics[1].gateway: eth0 already has the default route of IPv4"]),
    ("bad dns", "[network]\ndns = ['dns.example']\n[[network.nics]]\nname = 'a'\n" + HEAD,
     ['2: network.dns[0]: "dns.example" is not an IP address']),
    ("dns twice", "[network]\ndns = [\n'1.1.1.1',\n'1.1.1.1']\n[[network.nics]]\nname = 'a'\n" + HEAD,
     ['4: network.dns[1]: "1.1.1.1" is given twice']),
    ("four name servers", "[network]\ndns = ['1.1.1.1', '1.1.1.2', '1.1.1.3', '1.1.1.4']\n[[network.nics]]\nname = 'a'\n"
     + HEAD, ["2: network.dns: programs read only the first 3"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_mistake_gives_one_problem_at_its_line(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == 1, found
    assert found[0].startswith(expected[0])
    for part in expected[1:]:
        assert part in found[0]


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/sys", "/sys", "/dev", "/dev/shm", "/etc/hosts", "/etc/hostname",
                                  "/etc/resolv.conf"])  # fmt: skip
def test_reserved_paths_cannot_be_mounted_over(path: str) -> None:
    text = '[[volumes]]\nname = "d"\n' + HEAD + f'[[containers.mounts]]\nvolume = "d"\npath = "{path}"\n'
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(f'8: containers[0].mounts[0].path: "{path}" is reserved; ')


@pytest.mark.parametrize("path", ["/processes", "/device", "/system", "/etc", "/etc/hosts.d", "/a"])
def test_other_paths_can_be_mounted_over(path: str) -> None:
    text = '[[volumes]]\nname = "d"\n' + HEAD + f'[[containers.mounts]]\nvolume = "d"\npath = "{path}"\n'
    assert problems(text) == []


@pytest.mark.parametrize(
    "path", ["", "data", "./data", "/data/", "//data", "/a//b", "/a/./b", "/a/../b", "/a\\nb"]
)
def test_mount_paths_are_absolute_and_normalised(path: str) -> None:
    text = '[[volumes]]\nname = "d"\n' + HEAD + f'[[containers.mounts]]\nvolume = "d"\npath = "{path}"\n'
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith("8: containers[0].mounts[0].path: ")


def test_the_same_path_twice_in_one_container() -> None:
    mount = '[[containers.mounts]]\nvolume = "d"\npath = "/d"\n'
    text = '[[volumes]]\nname = "d"\n' + HEAD + mount + mount + HEAD.replace("app", "b", 1) + mount
    assert problems(text) == [
        '11: containers[0].mounts[1].path: two mounts are at "/d" (the first is mounts[0]); move one'
    ]


def test_a_bad_quota_is_told_beside_a_bad_period() -> None:
    found = problems(HEAD + "[containers.limits]\ncpu = { quota = 9, period = 1 }\n")
    assert [line.partition(": must be ")[0] for line in found] == [
        "5: containers[0].limits.cpu.period",
        "5: containers[0].limits.cpu.quota",
    ]


def test_all_problems_are_reported_by_line_also_behind_structural_ones() -> None:
    text = (
        'nam = "x"\nrestart = 5\n[[volumes]]\nname = "Data"\nhots = "rel"\n'
        + HEAD
        + 'user = 7\nstop_grace = "x"\n[containers.limits]\nmemory = "1MB"\npids = "x"\n[[containers]]\nimage = 1\n'
    )
    found = [re.sub(r"^(\d+): ([^:]*).*", r"\1 \2", line) for line in problems(text)]
    assert found == [
        "1 nam",
        "2 restart",
        "4 volumes[0].name",
        "5 volumes[0].hots",
        "9 containers[0].user",
        "10 containers[0].stop_grace",
        "12 containers[0].limits.memory",
        "13 containers[0].limits.pids",
        "14 containers[1].name",
        "15 containers[1].image",
    ]


SYNTAX = [
    ("name = db\n", '1: text needs quotes; write name = "db"'),
    ('a = "x"\nstop_grace = 10s\n', '2: text needs quotes; write stop_grace = "10s"'),
    ("ip = 10.0.0.5/24\n", '1: text needs quotes; write ip = "10.0.0.5/24"'),
    ("tty = True\n", "1: True is not a value; write tty = true"),
    ("tty = no # comment\n", "1: no is not a value; write tty = false"),
    ("\nname =\n", '2: name has no value; write name = "…", or remove the line'),
    ("name: db\n", '1: TOML has "=" where YAML has ":"; write name = "db"'),
    ("name\n", '1: expected "=" after the key; the form is key = value'),
    ('name = "a"\nname = "b"\n', "2: name is given twice in this table; keep one of them"),
    ("[network]\n[network]\n", "2: [network] is defined twice; put its keys in one table, or write [[network]] for a "
     "list of tables"),
    ('name = "a\n', "1: a text is not closed on its line; for several lines use three quotes"),
    ('name = "a', "1: a text is not closed; end it with the quotes that it starts with"),
    ('a = 1\nname = """a\n\n', "2: a text is not closed; end it with the quotes that it starts with"),
    ("name = '''a\n", "1: a text in three quotes is not closed; end it with three quotes"),
    ("args = [1\n", '1: a list is not closed; its elements need "," between them and "]" at the end'),
    ("env = { A = 'b'\n", '1: an inline table is not closed; it needs "," between its keys and "}" on the same line'),
    ('a = "\\d"\n', "1: a backslash in a text must be doubled, or the text put in single quotes"),
    ("a = 1\n\n\nb = 'x' c = 1\n", "4: there is something after the end of the value; start a new line"),
    ("name = 'x'\n".encode("utf-16-le").decode(), "the text is UTF-16 or UTF-32; save the file as UTF-8"),
    ("name = 'x'\n".encode("utf-16-be").decode(), "the text is UTF-16 or UTF-32; save the file as UTF-8"),
    ("name = 'x'\n".encode("utf-32-le").decode(), "the text is UTF-16 or UTF-32; save the file as UTF-8"),
    ("name = 'x'\n".encode("utf-32-be").decode(), "the text is UTF-16 or UTF-32; save the file as UTF-8"),
    (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n",
        "this is a Git LFS pointer, and LFS is not fetched; take the file out of .gitattributes",
    ),
    ("a = 1\n\0\n", "2: there is a control character in the text; write it as an escape such as \\t or \\u0000"),
    ("[a\n", '1: expected "]" at the end of the table\'s header'),
    ("a = { b = 1 }\na.c = 1\n", "2: a table in braces can't be extended; write all its keys in one place"),
    ("a = " + "[" * 5000, "lists or tables are nested too deep; a few levels are enough for any pod"),
    ("a = 1\nb = " + "9" * 5000, "2: a number has too many digits"),
    ("a = 1\n" + ".".join("b" * 600) + " = 1\n", "2: a key has over 500 parts"),
    ("a = 1\nb = '\ud800'\n", "2: the text is not UTF-8; save the file as UTF-8"),
    ("#" * 1048577, "the file has 1048577 bytes; at most 1048576 are read"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SYNTAX)
def test_text_that_is_not_toml(text: str, expected: str) -> None:
    # The last line of an unclosed text is where tomllib gives up; the first is where a person looks.
    assert problems(text) == [expected]


@pytest.mark.parametrize("odd", ["\ufeff", "\u202e", "\u200b", "\u00a0", "\U000e0041", "\x85"])
@pytest.mark.parametrize(
    "text", ['"a{}" =\n', '"a{}" = no\n', "a: {}\n", 'a = 1\n["{}"]\n["{}"]\n', "a = b{}\n", "{}a = x\n"]
)
def test_a_line_that_is_repeated_in_a_message_is_printable(text: str, odd: str) -> None:
    (found,) = problems(text.replace("{}", odd))
    assert found.isprintable()


def test_a_byte_order_mark_is_no_part_of_the_key_that_is_shown() -> None:
    assert problems("\ufeffname =\n") == ['1: name has no value; write name = "…", or remove the line']


def test_windows_line_ends_and_byte_order_mark_are_fine() -> None:
    text = "\ufeff" + HEAD.replace("\n", "\r\n")
    assert problems(text) == []
    assert problems(text + 'usr = "a"\r\n') == ["4: containers[0].usr: unknown key; did you mean user?"]


def test_problems_of_one_pod_name_it() -> None:
    text = "[[pods]]\nname = 'a'\n[[pods]]\nname = 'b'\n[[pods.containers]]\nname = 'c'\nimage = 'c'\n[[pods]]\nx = 1\n"
    parsed = parse_pod_file(text, "web.toml")
    assert [(pod.pod.name, pod.line) for pod in parsed.pods] == [("b", 3)]
    assert [(problem.line, problem.pod) for problem in parsed.problems] == [
        (1, "a"),
        (8, None),
        (8, None),
        (9, None),
    ]


def test_two_pods_of_one_name_are_both_refused() -> None:
    pod = "[[pods]]\nname = 'a'\n[[pods.containers]]\nname = 'c'\nimage = 'c'\n"
    parsed = parse_pod_file(pod + pod + pod.replace("'a'", "'b'"), "web.toml")
    assert [pod.pod.name for pod in parsed.pods] == ["b"]
    assert [(problem.line, problem.key, problem.pod) for problem in parsed.problems] == [
        (2, "pods[0].name", "a"),
        (7, "pods[1].name", "a"),
    ]
