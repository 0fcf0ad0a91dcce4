"""Forges on loopback, which take the status of a commit as the documents of the real ones say.

GitHub: docs.github.com/rest/commits/statuses. GitLab: docs.gitlab.com/api/commits.
Gitea and Forgejo: routers/api/v1/repo/status.go, and the scopes of their tokens.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

Answer = tuple[int, dict[str, str], Any]
TOKEN = "s3cret-token-of-a-forge"
STATES = {
    "github": {"error", "failure", "pending", "success"},
    "gitlab": {"pending", "running", "success", "failed", "canceled", "skipped"},
    "gitea": {"pending", "success", "error", "failure", "warning"},
    "forgejo": {"pending", "success", "error", "failure", "warning"},
}
PREFIX = {"github": "", "gitlab": "/api/v4", "gitea": "/api/v1", "forgejo": "/api/v1"}
OURS = {"failed": "failure"}
LIMIT = 1000


class Forge:
    """One forge with one project.

    Attributes:
        statuses: what it took, as (commit, context, state in our words, description), oldest first.
        asked: every request, as (path, state in our words).
        commits: those that it knows; None: all.
        rule: called with each request before all else; an answer of it is given in place of the usual one.
        limit: how many statuses it takes of a commit under one context.
    """

    def __init__(self, kind: str, project: str = "acme/fleet") -> None:
        self.kind, self.project = kind, project
        self.statuses: list[tuple[str, str, str, str]] = []
        self.links: list[str | None] = []
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.commits: set[str] | None = None
        self.token = TOKEN
        self.may_write = True
        self.rule: Callable[[], Answer | None] = lambda: None
        self.limit = LIMIT
        self.lock = threading.Lock()

    def of(self, commit: str, context: str | None = None) -> list[str]:
        """Return the states that it took of a commit, oldest first."""
        with self.lock:
            found = [one for one in self.statuses if one[0] == commit and context in (None, one[1])]
        return [state for _, _, state, _ in found]

    def last(self, commit: str, context: str | None = None) -> str:
        """Return the description of the last status of a commit."""
        with self.lock:
            return [one for one in self.statuses if one[0] == commit and context in (None, one[1])][-1][3]

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answer a POST request as this kind of forge does."""
        fields = json.loads(body)
        with self.lock:
            state = str(fields.get("state"))
            self.asked.append((path, OURS.get(state, state)))
            self.bodies.append(body)
            ruled = self.rule()
            if ruled is not None:
                return ruled
            return (
                self._gitlab(path, headers, fields)
                if self.kind == "gitlab"
                else self._github(path, headers, fields)
            )

    def _github(self, path: str, headers: dict[str, str], fields: dict[str, Any]) -> Answer:
        word = "Bearer" if self.kind == "github" else "token"
        if headers.get("authorization") != f"{word} {self.token}":
            return 401, {}, {"message": "Bad credentials", "status": "401"}
        found = re.fullmatch(rf"{PREFIX[self.kind]}/repos/([^/]+/[^/]+)/statuses/([0-9a-f]{{40}})", path)
        if found is None or found[1] != self.project:
            return 404, {}, {"message": "Not Found"}
        if not self.may_write:
            return 403, {}, {"message": "Resource not accessible by personal access token"}
        sha, context, state = found[2], fields.get("context", "default"), fields["state"]
        if state not in STATES[self.kind]:
            return 422, {}, {"message": "Validation Failed", "errors": [{"field": "state"}]}
        if self.commits is not None and sha not in self.commits:
            if self.kind == "github":
                return 422, {}, {"message": f"No commit found for SHA: {sha}"}
            return 500, {}, {"message": f"CreateCommitStatus: object does not exist [id: {sha}, rel_path: ]"}
        if self.kind == "github" and len(fields["description"]) > 140:
            return 422, {}, {"message": "Validation Failed", "errors": [{"field": "description"}]}
        if (
            self.kind == "github"
            and len([one for one in self.statuses if one[:2] == (sha, context)]) >= self.limit
        ):
            said = "This SHA and context has reached the maximum number of statuses."
            return 422, {}, {"message": "Validation Failed", "errors": [{"code": "custom", "message": said}]}
        return self._take(sha, context, state, fields)

    def _gitlab(self, path: str, headers: dict[str, str], fields: dict[str, Any]) -> Answer:
        if headers.get("private-token") != self.token:
            return 401, {}, {"message": "401 Unauthorized"}
        found = re.fullmatch(r"/api/v4/projects/([^/]+)/statuses/([0-9a-f]{40})", path)
        if found is None or unquote(found[1]) != self.project:
            return 404, {}, {"message": "404 Project Not Found"}
        if not self.may_write:
            return 403, {}, {"message": "403 Forbidden"}
        sha, context, state = found[2], fields.get("name", "default"), fields["state"]
        if self.commits is not None and sha not in self.commits:
            return 404, {}, {"message": "404 Commit Not Found"}
        if state not in STATES["gitlab"]:
            return 400, {}, {"error": "state does not have a valid value"}
        before = [one[2] for one in self.statuses if one[:2] == (sha, context)]
        if before and before[-1] == OURS.get(state, state):
            verb = {"pending": "enqueue", "success": "success", "failed": "drop"}[state]
            return 400, {}, {"message": f"Cannot transition status via :{verb} from :{state}"}
        return self._take(sha, context, OURS.get(state, state), fields)

    def _take(self, sha: str, context: str, state: str, fields: dict[str, Any]) -> Answer:
        self.statuses.append((sha, context, state, fields["description"]))
        self.links.append(fields.get("target_url"))
        return 201, {}, {"id": len(self.statuses), "state": state}


class Served:
    """A forge that is served at `url`, which ends with the root of its API; it can be stopped and started."""

    def __init__(self, forge: Forge) -> None:
        self.forge = forge
        self._server: http.server.ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PREFIX[self.forge.kind]}"

    def start(self, port: int = 0) -> None:
        """Listen, on the port of before if there was one."""
        forge = self.forge

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, fields, answer = forge.answer(self.path, headers, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", port or getattr(self, "port", 0)), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def stop(self) -> None:
        """Be gone."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextmanager
def forge(kind: str, project: str = "acme/fleet") -> Iterator[Served]:
    """Serve a forge."""
    served = Served(Forge(kind, project))
    try:
        yield served
    finally:
        served.stop()
