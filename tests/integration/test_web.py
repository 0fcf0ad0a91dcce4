"""The page's door with a real agent and real pods: what is told live, and to whom."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import SERVE, Agent, ended, wait_for
from tests.support.canary import Canary
from tests.support.fake_web import TOKEN, OpenStream
from tests.support.lan import stopped_lan_agent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class WebAgent:
    """An agent with [web]."""

    def __init__(self, home: Path, listen: str = "", extra: str = "") -> None:
        self.agent = Agent(home)
        self.port = free_port()
        with self.agent.config.open("a") as config:
            config.write(f'[web]\nlisten = "{listen or f"127.0.0.1:{self.port}"}"\n{extra}')

    def page(self) -> OpenStream:
        return OpenStream("127.0.0.1", self.port)

    def get(self, target: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{target}", timeout=30) as answer:
            content: bytes = answer.read()
            return content

    def threads(self) -> int:
        assert self.agent.process is not None
        return sum(1 for _ in Path(f"/proc/{self.agent.process.pid}/task").iterdir())

    def descriptors(self) -> int:
        assert self.agent.process is not None
        return sum(1 for _ in Path(f"/proc/{self.agent.process.pid}/fd").iterdir())

    def memory(self) -> int:
        """Return the agent's PSS in KiB."""
        assert self.agent.process is not None
        text = Path(f"/proc/{self.agent.process.pid}/smaps_rollup").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebAgent]:
    made = WebAgent(tmp_path)
    with ended(made.agent):
        made.agent.start()
        yield made


def of(name: str, **wanted: Any) -> Any:
    """Match a message `pods` in which a pod has these values."""

    def matches(data: dict[str, Any]) -> bool:
        return any(
            pod["name"] == name and all(pod[key] == value for key, value in wanted.items())
            for pod in data["changed"]
        )

    return matches


def test_a_page_sees_what_happens(web: WebAgent) -> None:
    agent = web.agent
    agent.write("web", agent.pod_text(command=SERVE))
    agent.wait_phase("web", "running")
    with web.page() as page:
        hello = page.wait("hello")
        assert [pod["name"] for pod in hello["pods"]] == ["web"]
        assert hello["host"] == os.uname().nodename
        # A start, until it is ready.
        agent.write("two", agent.pod_text(command=SERVE))
        page.wait("event", lambda event: (event["pod"], event["type"]) == ("two", "started"))
        page.wait("pods", of("two", phase="running", ready=True))
        # A crash.
        agent.write(
            "bad", agent.pod_text(command=["/bin/sh", "-c", "echo no; exit 3"], head='restart = "never"')
        )
        page.wait("pods", of("bad", phase="failed"))
        # Health.
        times = 'interval = "1s"\nstart_period = "0s"\nretries = 1\non_failure = "none"\n'
        health = f'[containers.health]\nexec = ["/bin/ls", "/tmp/well"]\n{times}'
        agent.write("ill", agent.pod_text(command=SERVE, extra=health))
        page.wait("pods", of("ill", health="unhealthy"))
        # A file with an error, which becomes a row of its own.
        agent.write("wrong", "restart = 3\n")
        page.wait("pods", of("wrong", phase="failed"))
        # A removal.
        (agent.pods / "two.toml").unlink()
        page.wait("pods", lambda data: "two" in data["gone"])
        # The sources.
        assert agent.tank("suspend").returncode == 0
        page.wait("sources", lambda sources: sources["suspended"])
    # It is the same as `tank status`, but for process ids and directories.
    shown = json.loads(web.get("/v1/status"))
    asked = {pod["name"]: pod for pod in agent.statuses()}
    for pod in shown:
        assert [one.pop("pid") for one in pod["containers"]] == [None] * len(pod["containers"])
        assert (pod["phase"], pod["health"]) == (asked[pod["name"]]["phase"], asked[pod["name"]]["health"])
    assert {pod["name"] for pod in shown} == asked.keys()


def test_usage_comes_every_30_seconds_and_is_there_for_who_comes_later(web: WebAgent) -> None:
    burn = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do :; done"]
    web.agent.write("web", web.agent.pod_text(command=burn, extra="[containers.limits]\ncpu = 0.2\n"))
    web.agent.wait_phase("web", "running")
    with web.page() as page:
        assert page.wait("hello")["usage"]["interval"] == 30
        page.wait("usage", lambda usage: "web/app" in usage["points"])
        cpu, memory = page.wait("usage")["points"]["web/app"]
        # It gets less than its limit on a machine that is busy, and may get a little more in a period.
        assert 1 < cpu < 40 and memory > 10_000
    with web.page() as page:
        points = page.wait("hello")["usage"]["points"]["web/app"]
        assert points["cpu"][-1] == cpu and points["memory"][-1] == memory


def test_an_agent_that_is_killed_ends_the_stream_and_the_next_one_says_all_anew(web: WebAgent) -> None:
    agent = web.agent
    agent.write("web", agent.pod_text(command=SERVE))
    agent.wait_phase("web", "running")
    with web.page() as page:
        page.wait("hello")
        agent.kill()
        with pytest.raises((ConnectionError, AssertionError)):
            page.wait("never")
    agent.write("two", agent.pod_text(command=SERVE))
    agent.start()
    with web.page() as page:
        wait_for(lambda: len(agent.statuses()) == 2, "both pods are known")
        names = {pod["name"] for pod in page.wait("hello")["pods"]}
        while names != {"web", "two"}:
            names |= {pod["name"] for pod in page.wait("pods")["changed"]}
    agent.wait_phase("two", "running")


def test_a_stop_of_the_agent_is_not_held_up_by_pages(web: WebAgent) -> None:
    pages = [web.page() for _ in range(8)]
    for page in pages:
        page.wait("hello")
    began = time.monotonic()
    assert web.agent.stop() == 0
    assert time.monotonic() - began < 10
    for page in pages:
        with page:
            assert page.next()[0] == "end"


def test_a_log_is_followed_until_its_reader_leaves(web: WebAgent) -> None:
    talk = ["/bin/sh", "-c", "trap 'exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done"]
    web.agent.write("web", web.agent.pod_text(command=talk))
    web.agent.wait_phase("web", "running")
    wait_for(lambda: b"line 3" in web.get("/v1/pods/web/logs"), "it has printed")
    before = web.threads()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", web.port), timeout=30) as caller:
            caller.sendall(b"GET /v1/pods/web/logs?follow=1&tail=2 HTTP/1.0\r\nHost: localhost\r\n\r\n")
            data = b""
            while data.count(b" stdout F app line ") < 4:
                data += caller.recv(65536)
    wait_for(lambda: web.threads() <= before, "the readers' threads have ended")


def test_nothing_of_a_pods_file_that_may_be_secret_is_told(web: WebAgent) -> None:
    agent = web.agent
    in_env, in_argv, in_content, in_header = canaries = [Canary() for _ in range(4)]
    quoted = json.dumps
    extra = (
        f"env = {{ WORD = {quoted(in_env.text)} }}\n"
        f'[[containers.mounts]]\nfile = "conf"\npath = "/etc/conf"\n'
        f'[[files]]\nname = "conf"\ncontent = {quoted(in_content.text)}\n'
    )
    command = ["/bin/sh", "-c", SERVE[-1], in_argv.text]
    agent.write("web", agent.pod_text(command=command, extra=extra))
    agent.wait_phase("web", "running")
    with web.page() as page:
        said = [json.dumps(page.wait("hello"), ensure_ascii=False)]
        headers = f"{{ X = {quoted(in_header.text.split()[1])} }}"
        check = f"[containers.health]\nhttp = {{ port = 1, headers = {headers} }}\n"
        other = [Canary() for _ in range(2)]
        canaries += other
        text = agent.pod_text(
            command=[*command[:3], other[0].text], extra=f"env = {{ A = {quoted(other[1].text)} }}\n{check}"
        )
        agent.write("web", text)
        wait_for(lambda: (agent.status("web") or {}).get("generation") == 2, "the second is known")
        # Pinned, it is not as its file says: why shows what differs.
        assert agent.tank("rollback", "web").returncode == 0
        why = json.loads(web.get("/v1/pods/web/why"))
        keys = [one["key"] for one in why["wanted"]]
        assert any("command" in key for key in keys) and any(".env." in key for key in keys), keys
        for target in ("/", "/v1/status", "/v1/sources", "/v1/info", "/v1/pods/web/why", "/metrics"):
            said.append(web.get(target).decode())
    places = [str(agent.home)]
    for text in said:
        assert not any(canary.is_in(text) for canary in canaries)
        assert not any(place in text for place in places)
    # The search would find them: the socket shows the pod's file.
    assert in_env.is_in(agent.tank("get", "web").stdout)


def test_a_port_that_is_taken_keeps_nothing_from_starting_and_is_tried_again(tmp_path: Path) -> None:
    made = WebAgent(tmp_path)
    with socket.create_server(("127.0.0.1", made.port)) as other, ended(made.agent):
        made.agent.start()
        made.agent.write("web", made.agent.pod_text(command=SERVE))
        made.agent.wait_phase("web", "running")
        failed = [event for event in made.agent.client.events() if event.type == "web-failed"]
        assert len(failed) == 1 and "Address already in use" in failed[0].message
        trouble = f"cannot listen on 127.0.0.1:{made.port}: Address already in use"
        assert f"web: the page is not served: {trouble}; `ss -ltnp" in made.agent.tank("status").stdout
        found = examined(made)
        assert found["result"] == "warn" and trouble in found["found"]
        assert f"(process {os.getpid()}) listens there" in found["found"]
        other.close()
        wait_for(lambda: answers(made), "it listens by now")
        assert "web:" not in made.agent.tank("status").stdout
        assert examined(made)["found"] == f"the agent listens on 127.0.0.1:{made.port}"
        assert [one.type for one in made.agent.client.events()][-1:] == ["web-recovered"]
        assert "web: cannot listen" in made.agent.log.read_text()


def examined(made: WebAgent) -> dict[str, str]:
    """Return what the doctor says of [web]."""
    out = made.agent.tank("doctor", "--config", str(made.agent.config), "-o", "json").stdout
    [found] = [check for check in json.loads(out) if check["name"] == "web"]
    return dict(found)


def answers(made: WebAgent) -> bool:
    try:
        return bool(made.get("/v1/info"))
    except urllib.error.URLError:
        return False


def test_off_loopback_the_token_decides_and_the_name(tmp_path: Path) -> None:
    token = tmp_path / "web.token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    with stopped_lan_agent(tmp_path) as agent:
        agent.host.ip("addr add fd00::2/64 dev eth0 nodad")
        with agent.config.open("a") as config:
            config.write(f'[web]\nlisten = "[::]:9470"\ntoken_file = "{token}"\nhosts = ["edge.lan"]\n')
        agent.start()
        agent.write("web", agent.pod_text(command=SERVE))
        agent.wait_phase("web", "running")

        def asked(host: str, target: str = "/v1/status", *, given: str = "", to: str = "10.0.0.2") -> int:
            family = socket.AF_INET6 if ":" in to else socket.AF_INET
            bearer = f"Authorization: Bearer {given}\r\n" if given else ""

            def ask() -> int:
                with socket.socket(family, socket.SOCK_STREAM) as caller:
                    caller.settimeout(30)
                    caller.connect((to, 9470))
                    caller.sendall(f"GET {target} HTTP/1.0\r\nHost: {host}\r\n{bearer}\r\n".encode())
                    return int(caller.recv(4096).split()[1])

            return agent.lan(ask)

        wait_for(lambda: asked("10.0.0.2", "/") == 200, "it listens")
        assert asked("10.0.0.2:9470") == 401
        assert asked("10.0.0.2:9470", given=TOKEN) == 200
        assert asked("edge.lan", given=TOKEN) == 200
        assert asked("[fd00::2]:9470", given=TOKEN, to="fd00::2") == 200
        assert asked("evil.example", given=TOKEN) == 421
        assert asked("10.0.0.3", given=TOKEN) == 421
        # Who guesses is slowed down; who knows it from this address is not.
        assert {asked("10.0.0.2", given=f"wrong{number}") for number in range(40)} == {401, 429}
        assert asked("10.0.0.2", given=TOKEN) == 200


def test_a_thousand_short_streams_leave_memory_and_descriptors_as_they_were(web: WebAgent) -> None:
    for number in range(5):
        web.agent.write(f"web-{number}", web.agent.pod_text(command=SERVE))
    for number in range(5):
        web.agent.wait_phase(f"web-{number}", "running")

    def streams(count: int) -> None:
        for _ in range(count):
            with web.page() as page:
                if page.status == 200:
                    page.wait("hello")

    streams(200)
    threads, descriptors, memory = web.threads(), web.descriptors(), web.memory()
    streams(1000)
    wait_for(lambda: web.threads() <= threads + 1, "no thread is left")
    wait_for(lambda: web.descriptors() <= descriptors + 1, "no descriptor is left")
    # Of what it forgets, malloc keeps some.
    assert web.memory() < memory + 1024


def test_curl_reads_it_as_the_page_says(web: WebAgent) -> None:
    """The commands of docs/web.md, but for the port."""
    web.agent.write("web", web.agent.pod_text(command=SERVE))
    web.agent.wait_phase("web", "running")
    at = f"http://127.0.0.1:{web.port}"
    status = subprocess.run(["curl", "-sS", f"{at}/v1/status"], capture_output=True, check=True, timeout=60)
    assert json.loads(status.stdout)[0]["name"] == "web"
    stream = subprocess.Popen(["curl", "-sSN", f"{at}/v1/live"], stdout=subprocess.PIPE)
    try:
        assert stream.stdout is not None
        timer = threading.Timer(60, stream.kill)
        timer.start()
        assert stream.stdout.readline() == b"event: hello\n"
        timer.cancel()
    finally:
        stream.kill()
        stream.wait()
        assert stream.stdout is not None
        stream.stdout.close()
