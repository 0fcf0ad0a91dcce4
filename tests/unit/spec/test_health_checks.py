"""Health checks, order and updates of pod files: what is right, what is wrong, and what the message says."""

# ruff: noqa: E501
# A case stays on as few lines as a table's row may have.

from __future__ import annotations

import math
import time

import pytest
from msgspec.structs import replace

from tank_agent.spec.file import PodTable
from tank_agent.spec.model import Container, HealthCheck, HttpProbe, Pod, Update
from tank_agent.spec.other_tools.pod_keys import OTHER_TOOLS
from tank_agent.spec.parse import parse_pod_file
from tank_agent.spec.render import render_pod
from tests.unit.spec.test_problems import HEAD, ROOTFS, problems
from tests.unit.test_completeness import declared_in

HEALTH = HEAD + "[containers.health]\n"
HTTP = HEAD + "[containers.health]\nhttp = { port = 8080, "
TWO = HEAD + HEAD.replace("app", "db", 1)
INIT = HEAD.replace("app", "migrate", 1) + "init = true\n"
UPDATE = "[update]\n"
JOB = 'restart = "never"\n'
VOLUME = '[[volumes]]\nname = "data"\n'


def health(text: str, *, root: str = HEAD) -> HealthCheck | None:
    found = parse_pod_file(f"{root}[containers.health]\n{text}\n", "web.toml")
    assert found.problems == (), found.problems
    return found.pods[0].pod.containers[0].health


def pod(text: str) -> Pod:
    found = parse_pod_file(text, "web.toml")
    assert found.problems == (), found.problems
    return found.pods[0].pod


def test_each_probe_in_its_normal_form() -> None:
    assert health("tcp = 5432") == HealthCheck(tcp=5432)
    assert health('exec = ["pg_isready", "-q"]') == HealthCheck(exec=("pg_isready", "-q"))
    assert health("http = { port = 80 }") == HealthCheck(http=HttpProbe(port=80))
    assert health(
        '[containers.health.http]\nport = 443\npath = "/a?b=c%20d"\ntls = true\nheaders.Host = "w.lan"'
    ) == HealthCheck(http=HttpProbe(port=443, path="/a?b=c%20d", tls=True, headers={"Host": "w.lan"}))
    assert health(
        'tcp = 1\ninterval = "1m"\ntimeout = 0.5\nretries = 1\nstart_period = 0\nstart_interval = "500ms"\non_failure = "none"'
    ) == HealthCheck(
        tcp=1, interval=60.0, timeout=0.5, retries=1, start_period=0.0, start_interval=0.5, on_failure="none"
    )


def test_what_means_the_same_is_the_same() -> None:
    assert health("") is None
    assert health("image = true") is None
    assert health("image = false") == HealthCheck(image=False)
    assert health("retries = 5") == HealthCheck(retries=5)
    # With a probe in the file, what the image says does not count anyway.
    assert health("tcp = 1\nimage = false") == health("tcp = 1")
    assert health("tcp = 1", root=ROOTFS + 'command = ["/bin/app"]\n') == HealthCheck(tcp=1)


def test_an_update_and_its_defaults() -> None:
    assert pod(HEAD).update == Update() == pod(UPDATE + HEAD).update
    given = (
        UPDATE + 'min_healthy = 0\ndeadline = "24h"\nmax_restarts = 0\nrollback = false\nimage = "digest"\n'
    )
    assert pod(given + HEAD).update == Update(
        min_healthy=0.0, deadline=86_400.0, max_restarts=0, rollback=False, image="digest"
    )
    assert pod(JOB + HEAD).update == Update() == pod(UPDATE + "rollback = true\n" + HEAD).update
    assert pod(JOB + UPDATE + "rollback = false\n" + HEAD).update == Update(rollback=False)


def test_order_and_snapshots() -> None:
    text = (
        'after = ["db", "cache"]\n'
        + VOLUME
        + 'snapshot = "reflink"\n'
        + INIT
        + TWO.replace("app", "web", 1)
        + 'after = ["web"]\n'
    )
    found = pod(text)
    assert found.after == ("db", "cache")
    assert found.volumes[0].snapshot == "reflink"
    assert [(one.name, one.init, one.after) for one in found.containers] == [
        ("migrate", True, ()), ("web", False, ()), ("db", False, ("web",)),
    ]  # fmt: skip
    assert pod(VOLUME + "snapshot = false\nhost = '/srv'\n" + HEAD).volumes[0].snapshot is False


CASES: list[tuple[str, str, list[str]]] = [
    # Which probe.
    ("two probes", HEALTH + 'tcp = 1\nhttp = { port = 1 }\n', ["5: containers[0].health.tcp: a container has one probe, and http is given"]),
    ("no probe of a rootfs", ROOTFS + 'command = ["a"]\nhealth.retries = 2\n', ["containers[0].health: a rootfs says nothing about health; give http, tcp or exec"]),
    ("no image's probe of a rootfs", ROOTFS + 'command = ["a"]\nhealth.image = false\n', ["containers[0].health: a rootfs says nothing about health"]),
    ("no probe, but its keys", HEALTH + 'image = false\nretries = 2\n', ["5: containers[0].health.image: leaves nothing that the other keys could be about"]),
    ("no port", HEALTH + 'http = { path = "/" }\n', ["5: containers[0].health.http.port: is missing; write port = 8080"]),
    ("port 0", HEALTH + "tcp = 0\n", ["5: containers[0].health.tcp: must be from 1 to 65535"]),
    ("port 65536", HEALTH + "http.port = 65536\n", ["5: containers[0].health.http.port: must be from 1 to 65535"]),
    ("huge port", HEALTH + f"tcp = 0x{'f' * 9999}\n", ["5: containers[0].health.tcp: must be from 1 to 65535"]),
    ("true as port", HEALTH + "tcp = true\n", ["5: containers[0].health.tcp: must be a whole number, not true or false; write 5432, for example"]),
    ("port as text", HEALTH + 'tcp = "5432"\n', ["5: containers[0].health.tcp: must be a whole number, not text; write 5432"]),
    ("address", HEALTH + 'tcp = "db.lan:5432"\n', ["5: containers[0].health.tcp: ", "probes go to the pod itself; write 5432"]),
    ("tcpSocket's table", HEALTH + "tcp = { port = 5432 }\n", ["5: containers[0].health.tcp: must be a whole number, not a table; write 5432"]),
    ("URL", HEALTH + 'http = "https://localhost:8443/healthz"\n',
     ["5: containers[0].health.http: must be a table, not text; probes go to the pod itself; write", '{ port = 8443, path = "/healthz", tls = true }']),
    ("URL without a port", HEALTH + 'http = "http://[::1]"\n', ['write { port = 80, path = "/" }']),
    ("http as port", HEALTH + "http = 8080\n", ["5: containers[0].health.http: must be a table, not a whole number; write { port = 8080 }"]),
    ("http as path", HEALTH + 'http = "/healthz"\n', ['write { port = 8080, path = "/healthz" } with its port']),
    ("several http", HEALTH + "http = [{ port = 1 }]\n", ["5: containers[0].health.http: must be one table, not a list"]),
    ("host", HTTP + 'host = "db" }\n', ["5: containers[0].health.http.host: unknown key; probes go to the pod itself; remove it, or write headers"]),
    ("host of the check", HEALTH + 'tcp = 1\nhost = "db"\n', ["6: containers[0].health.host: unknown key; probes go to the pod itself"]),
    # Requests.
    ("relative path", HTTP + 'path = "healthz" }\n', ['5: containers[0].health.http.path: "healthz" must start with "/"']),
    ("empty path", HTTP + 'path = "" }\n', ['5: containers[0].health.http.path: "" must start with "/"']),
    ("URL as path", HTTP + 'path = "http://x:1/a" }\n', ['5: containers[0].health.http.path: is a path', 'write "/a"']),
    ("space in path", HTTP + 'path = "/a b" }\n', ['5: containers[0].health.http.path: has a space', 'write "/a%20b"']),
    ("letter in path", HTTP + 'path = "/ä" }\n', ["5: containers[0].health.http.path: has a space or another", 'write "/%C3%A4"']),
    ("split request", HTTP + 'path = "/a\\r\\nX: y" }\n', ["5: containers[0].health.http.path: has a space or another"]),
    ("NUL in path", HTTP + 'path = "/\\u0000" }\n', ["5: containers[0].health.http.path: has a space or another"]),
    ("fragment", HTTP + 'path = "/a#b" }\n', ['5: containers[0].health.http.path: what follows a # is never sent; write "/a"']),
    ("long path", HTTP + f'path = "/{"a" * 2000}" }}\n', ["5: containers[0].health.http.path: is longer than 2000 bytes"]),
    ("no such header", HTTP + 'headers = { "a b" = "c" } }\n', ['5: containers[0].health.http.headers."a b": "a b" is not the name of a header']),
    ("empty header", HTTP + 'headers = { "" = "c" } }\n', ['headers."": "" is not the name of a header']),
    ("split header", HTTP + 'headers = { Host = "a\\r\\nb: c" } }\n', ["headers.Host: has a character that no header can have"]),
    ("tab in a header", HTTP + 'headers = { A = "a\\tb" } }\n', ["headers.A: has a character that no header can have"]),
    ("letter in a header", HTTP + 'headers = { A = "ä" } }\n', ["headers.A: has a character that no header can have"]),
    ("own header", HTTP + 'headers = { Content-Length = "4" } }\n', ["headers.Content-Length: says how the request is sent, and the agent does that"]),
    ("own header in another case", HTTP + 'headers = { CONNECTION = "close" } }\n', ["headers.CONNECTION: says how the request is sent"]),
    ("header twice", HTTP + 'headers = { Host = "a", host = "b" } }\n', ["5: containers[0].health.http.headers: a header is given twice, in another case"]),
    ("long headers", HTTP + f'headers = {{ A = "{"b" * 4000}" }} }}\n', ["headers: are longer than 4000 bytes"]),
    ("number in a header", HTTP + "headers = { A = 1 } }\n", ['headers.A: must be text, not a whole number; write "1"']),
    ("Kubernetes' headers", HTTP + 'headers = [{ name = "Host", value = "a" }] }\n', ['headers: must be a table, not a list; write { "Host" = "a" }']),
    # Commands.
    ("empty exec", HEALTH + "exec = []\n", ["5: containers[0].health.exec: there is no program in it; write exec ="]),
    ("empty program", HEALTH + 'exec = ["", "a"]\n', ["5: containers[0].health.exec: there is no program in it"]),
    ("exec as text", HEALTH + 'exec = "pg_isready -q"\n', ['5: containers[0].health.exec: must be a list, not text; write ["pg_isready", "-q"]']),
    ("Kubernetes' exec", HEALTH + 'exec = { command = ["cat", "/tmp/ok"] }\n', ['exec: must be a list, not a table; write exec = ["cat", "/tmp/ok"]']),
    ("Dockerfile's CMD", HEALTH + 'exec = ["CMD", "pg_isready"]\n', ["5: containers[0].health.exec: CMD is a Dockerfile's word; write exec = [\"pg_isready\"]"]),
    ("Dockerfile's CMD-SHELL", HEALTH + 'exec = ["CMD-SHELL", "a || b"]\n', ['write exec = ["/bin/sh", "-c", "a || b"]']),
    ("Dockerfile's NONE", HEALTH + 'exec = ["NONE"]\n', ["write image = false in place of exec"]),
    ("NUL in exec", HEALTH + 'exec = ["a", "\\u0000"]\n', ["5: containers[0].health.exec[1]: has a NUL character"]),
    # Times and counts.
    ("short interval", HEALTH + 'tcp = 1\ninterval = "900ms"\n', ['6: containers[0].health.interval: "900ms" is out of range; it must be at least 1s and at most 24h']),
    ("long interval", HEALTH + 'tcp = 1\ninterval = "25h"\n', ["interval: ", "at most 24h"]),
    ("no timeout", HEALTH + "tcp = 1\ntimeout = 0\n", ["timeout: 0 is out of range; it must be at least 100ms and at most 1h"]),
    ("timeout in words", HEALTH + 'tcp = 1\ntimeout = "5 s"\n', ['timeout: "5 s" is not a length of time']),
    ("true as a time", HEALTH + "tcp = 1\ninterval = true\n", ["interval: must be text or a number, not true or false"]),
    ("nan as a time", HEALTH + "tcp = 1\nstart_period = nan\n", ["start_period: nan is out of range; it must be at least 0s and at most 1h"]),
    ("huge time", HEALTH + f"tcp = 1\ninterval = 0x{'f' * 9999}\n", ["interval: the number is out of range"]),
    ("start_interval", HEALTH + "tcp = 1\nstart_interval = 0.4\n", ["start_interval: 0.4 is out of range; it must be at least 500ms"]),
    ("no retries", HEALTH + "tcp = 1\nretries = 0\n", ["retries: must be from 1 to 100; 3 is usual"]),
    ("many retries", HEALTH + "tcp = 1\nretries = 101\n", ["retries: must be from 1 to 100"]),
    ("part of a retry", HEALTH + "tcp = 1\nretries = 1.5\n", ["retries: must be a whole number, not a number"]),
    ("on_failure", HEALTH + 'tcp = 1\non_failure = "kill"\n', ['on_failure: must be one of "none", "restart", not "kill"']),
    # Updates.
    ("deadline before min_healthy", UPDATE + 'min_healthy = "10m"\n' + HEAD, ['2: update.min_healthy: a deadline of "5m" leaves no time for a min_healthy of "10m"']),
    ("short deadline", UPDATE + "deadline = 10\n" + HEAD, ["2: update.deadline: a deadline of 10 leaves no time for a min_healthy of"]),
    ("deadline of nothing", UPDATE + "deadline = 1e-300\n" + HEAD, ["2: update.deadline: 1e-300 is out of range"]),
    ("long deadline", UPDATE + 'deadline = "2d"\n' + HEAD, ['2: update.deadline: "2d" is out of range; it must be at least 1s and at most 24h']),
    ("negative min_healthy", UPDATE + "min_healthy = -1\n" + HEAD, ["2: update.min_healthy: -1 is out of range"]),
    ("many restarts", UPDATE + "max_restarts = 101\n" + HEAD, ["2: update.max_restarts: must be from 0 to 100"]),
    ("negative restarts", UPDATE + "max_restarts = -1\n" + HEAD, ["2: update.max_restarts: must be from 0 to 100"]),
    ("rollback of a job", JOB + UPDATE + "rollback = true\n" + HEAD, ["3: update.rollback: re-running the job of an older revision is never right"]),
    ("rollback as text", UPDATE + 'rollback = "no"\n' + HEAD, ["2: update.rollback: must be true or false, not text; write false"]),
    ("image of an update", UPDATE + 'image = "latest"\n' + HEAD, ['2: update.image: must be one of "digest", "pinned", not "latest"']),
    ("window", UPDATE + 'window = "Sat,Sun 02:00-04:00"\n' + HEAD, ["2: update.window: unknown key; known here: deadline, image, max_restarts, min_healthy, rollback"]),
    ("update of a container", HEAD + "[containers.update]\nrollback = false\n", ["4: containers[0].update: unknown key here; update belongs to the pod itself"]),
    # Snapshots.
    ("snapshot of the host", VOLUME + "host = '/srv'\nsnapshot = true\n" + HEAD, ["4: volumes[0].snapshot: a directory of the host is never copied or put back"]),
    ("snapshot as text", VOLUME + 'snapshot = "yes"\n' + HEAD, ['3: volumes[0].snapshot: must be "reflink", not "yes"; write true']),
    ("snapshot of another kind", VOLUME + 'snapshot = "btrfs"\n' + HEAD, ['3: volumes[0].snapshot: ', 'write true, false or "reflink"']),
    ("snapshot as a number", VOLUME + "snapshot = 1\n" + HEAD, ['3: volumes[0].snapshot: must be "reflink" or true or false, not a whole number']),
    # Init containers.
    ("only init", INIT, ["1: containers: all containers are init, which run before the others; one must be left that is not"]),
    ("health of init", INIT + "health.tcp = 1\n" + HEAD, ["5: containers[0].health: an init container runs to its end, and is never asked"]),
    ("after of init", INIT + 'after = ["app"]\n' + HEAD, ["5: containers[0].after: init containers run one by one, in the order of the file"]),
    ("after an init", INIT + HEAD + 'after = ["migrate"]\n', ['8: containers[1].after[0]: "migrate" is an init container, and those run first anyway']),
    ("init as text", HEAD + 'init = "true"\n', ["4: containers[0].init: must be true or false, not text; write true"]),
    # Order.
    ("after itself", HEAD + 'after = ["app"]\n', ["4: containers[0].after[0]: a container can't wait for itself"]),
    ("after nobody", HEAD + 'after = ["zebra"]\n', ['4: containers[0].after[0]: no container of this pod has the name "zebra"; other pods go into']),
    ("after a mistyped one", TWO.replace('"db"', '"cache"', 1) + 'after = ["ap"]\n', ['no container of this pod has the name "ap"; did you mean "app"?']),
    ("after an empty name", HEAD + 'after = [""]\n', ['4: containers[0].after[0]: no container of this pod has the name ""']),
    ("after twice", TWO + 'after = ["app",\n"app"]\n', ['8: containers[1].after[1]: "app" is given twice']),
    ("after as text", TWO + 'after = "app"\n', ['7: containers[1].after: must be a list, not text; write ["app"]']),
    ("depends_on with conditions", TWO + 'after = { app = { condition = "service_healthy" } }\n', ['7: containers[1].after: must be a list, not a table; write ["app"]']),
    ("depends_on an end", TWO + 'after = { app = { condition = "service_completed_successfully" } }\n',
     ['write ["app"], or init = true in "app", which runs to its end first']),
    ("circle of two", HEAD + 'after = ["db"]\n' + HEAD.replace("app", "db", 1) + 'after = ["app"]\n',
     ["4: containers[0].after: app → db → app: each waits for the next one, so none would start; remove one"]),
    ("circle of three", "".join(HEAD.replace("app", name, 1) + f"after = ['{to}']\n" for name, to in ("ea", "ab", "bc", "ca")),
     ["8: containers[1].after: a → b → c → a: each waits"]),
    ("pod after itself", 'after = ["web"]\n' + HEAD, ["1: after[0]: a pod can't wait for itself"]),
    ("pod after no name", 'after = ["My_Pod"]\n' + HEAD, ['1: after[0]: "My_Pod" is not a name', 'such as "my-pod"']),
    ("pod after an empty name", 'after = [""]\n' + HEAD, ['1: after[0]: "" is not a name']),
    ("pod after twice", 'after = ["db", "db"]\n' + HEAD, ['1: after[1]: "db" is given twice']),
    ("pod after a number", "after = [5]\n" + HEAD, ['1: after[0]: must be text, not a whole number; write "5"']),
    # Words of other tools.
    *(
        (word, HEAD + f"[containers.{word}]\n", [f"4: containers[0].{word}: unknown key; did you mean health?"])
        for word in ("healthcheck", "livenessProbe", "readinessProbe", "startupProbe", "check", "health-check", "liveness_probe")
    ),
    *(
        (word, HEALTH + f"image = true\n{word} = 1\n", [f"6: containers[0].health.{word}: unknown key; did you mean {ours}?"])
        for word, ours in {
            "test": "exec", "httpGet": "http", "tcpSocket": "tcp", "periodSeconds": "interval", "timeoutSeconds": "timeout",
            "failureThreshold": "retries", "initialDelaySeconds": "start_period", "check_restart": "on_failure",
        }.items()
    ),
    *(
        (word, HEAD + f"{word} = 1\n", [f"4: containers[0].{word}: unknown key; it is called {ours}, and belongs in [containers.health]"])
        for word, ours in {
            "HealthCmd": "exec", "HealthInterval": "interval", "HealthRetries": "retries", "HealthTimeout": "timeout",
            "HealthStartPeriod": "start_period", "HealthOnFailure": "on_failure", "health_cmd": "exec",
        }.items()
    ),
    *(
        (word, UPDATE + f"{word} = 1\n" + HEAD, [f"2: update.{word}: unknown key; did you mean {ours}?"])
        for word, ours in {
            "min_healthy_time": "min_healthy", "healthy_deadline": "deadline", "progress_deadline": "deadline",
            "auto_revert": "rollback", "failure_action": "rollback", "monitor": "min_healthy", "max_failures": "max_restarts",
        }.items()
    ),
    *(
        (f"{table}.{word}", text + f"{word} = 1\n" + tail, [f"{word}: unknown key; {right}"])
        for table, text, tail, words in (
            ("health", HEALTH, "", {"disable": "write image = false", "grpc": "there is no probe by gRPC", "port": "write http = { port = 8080 } or tcp",
                                    "successThreshold": "one success is enough", "command": "write exec =", "type": "write http, tcp or exec"}),
            ("http", HEALTH + "http.port = 1\nhttp.", "", {"scheme": "write tls = true", "method": "a probe is a GET request", "httpHeaders": "did you mean headers?"}),
            ("update", UPDATE, HEAD, {"parallelism": "a machine has one of each pod", "canary": "a machine has one", "max_parallel": "a machine has one"}),
            ("pod", "", HEAD, {"initContainers": "write init = true in one of the", "update_config": "did you mean update?", "depends_on": "did you mean after?",
                               "rollback_config": "an update that failed is undone", "deploy": "write limits", "healthcheck": "it is called health, and belongs in [[containers]]"}),
            ("container", HEAD, "", {"depends_on": "did you mean after?", "Exec": "arguments are called args", "lifecycle": "there are no hooks",
                                     "no_healthcheck": "write health = { image = false }", "AutoUpdate": 'write image = "digest" in [update]',
                                     "auto_revert": "it is called rollback, and belongs in [update]"}),
        )
        for word, right in words.items()
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_mistake_gives_one_problem_at_its_line(text: str, expected: list[str]) -> None:
    found = problems(text)
    assert len(found) == 1, found
    for part in expected:
        assert part in found[0]
    if expected[0][0].isdigit():
        assert found[0].startswith(expected[0])


def test_no_word_of_another_tool_is_one_of_ours() -> None:
    ours = {declared.name for _, declared in declared_in(PodTable)}
    # The one of a probe; where there is none, the ports of the pod are meant.
    assert OTHER_TOOLS.keys() & ours == {"port"}
    assert {key for keys in OTHER_TOOLS.values() for key in keys} <= ours


def test_every_problem_of_a_check_is_told() -> None:
    found = problems(
        HEALTH
        + 'http = { port = 0, path = "x", headers = { Te = "a" } }\ninterval = 0\nexec = []\nretries = 0\n'
    )
    assert [line.partition(": ")[2].partition(":")[0] for line in found] == [
        "containers[0].health.http.port",
        "containers[0].health.http.path",
        "containers[0].health.http.headers.Te",
        "containers[0].health.interval",
        "containers[0].health.exec",
        "containers[0].health.exec",
        "containers[0].health.retries",
    ]  # fmt: skip


def test_a_container_without_a_name_may_be_the_one_that_is_waited_for() -> None:
    assert problems(HEAD + 'after = ["db"]\n[[containers]]\nimage = "db"\n') == [
        '5: containers[1].name: is missing; write name = "postgres"'
    ]


def test_a_check_is_written_as_a_person_would() -> None:
    app = Container(
        name="app",
        image="nginx",
        after=("cache",),
        health=HealthCheck(
            http=HttpProbe(port=80, path="/a", headers={"Host": "b"}),
            interval=90.0,
            timeout=0.25,
            start_period=1e-7,
        ),
    )
    cache = Container(name="cache", image="redis", health=HealthCheck(image=False))
    found = Pod(
        name="web", containers=(app, cache), after=("db",), update=Update(deadline=60.0, rollback=False)
    )
    text = render_pod(found)
    assert 'after = ["db"]\n' in text
    assert '\n[update]\ndeadline = "1m"\nrollback = false\n' in text
    assert (
        '\n[containers.health]\nhttp = {port = 80, path = "/a", headers = {Host = "b"}}\ninterval = "1m30s"\ntimeout = "250ms"\n'
        "start_period = 1e-07\n" in text
    )
    assert "\n[containers.health]\nimage = false\n" in text
    assert pod(text) == found


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan, -1.0, 1e300, 1e16])
def test_a_time_that_no_file_could_say_is_refused_in_one_sentence(seconds: float) -> None:
    app = Container(name="app", image="nginx")
    for container, update in (
        (replace(app, stop_grace=seconds), Update()),
        (replace(app, health=HealthCheck(tcp=80, interval=seconds)), Update()),
        (app, Update(deadline=seconds)),
    ):
        text = render_pod(Pod(name="web", containers=(container,), update=update))
        (problem,) = parse_pod_file(text, "web.toml").problems
        assert "out of range" in problem.message or "not a length of time" in problem.message


@pytest.mark.parametrize("closed", [False, True])
def test_a_thousand_containers_in_a_row_take_no_time_to_speak_of(closed: bool) -> None:
    tables = [HEAD.replace("app", f"c{number}", 1) + f'after = ["c{number + 1}"]\n' for number in range(999)]
    last = HEAD.replace("app", "c999", 1) + ('after = ["c0"]\n' if closed else "")
    begun = time.process_time()
    found = problems("".join(tables) + last)
    # Tens of milliseconds; a square of it would be minutes.
    assert time.process_time() - begun < 5
    assert (found == []) is not closed
    if closed:
        (line,) = found
        assert line.startswith(
            "4: containers[0].after: c0 → c1 → c2 → c3 → c4 → c5 → c6 → … (993 more) → c0: each"
        )


def test_a_thousand_names_that_are_not_there_are_told_once_each() -> None:
    names = ", ".join(f'"x{number}"' for number in range(900))
    begun = time.process_time()
    assert len(problems(TWO + f"after = [{names}]\n")) == 900
    assert time.process_time() - begun < 5
