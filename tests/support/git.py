"""A repository that tests fill with the git command, and real git servers on loopback."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ann Author",
    "GIT_AUTHOR_EMAIL": "ann@example.com",
    "GIT_COMMITTER_NAME": "Ann Author",
    "GIT_COMMITTER_EMAIL": "ann@example.com",
}

_JAIL = Path("/run/sshd")


def pod_text(*, command: str = "true", name: str | None = None) -> str:
    lines = [f'name = "{name}"'] if name else []
    lines += ["[[containers]]", 'name = "app"', 'image = "oci:/srv/images/app"', f'command = ["{command}"]']
    return "\n".join(lines) + "\n"


class Work:
    """A work tree and the bare repository that it pushes to."""

    def __init__(self, base: Path) -> None:
        self.path = base / "work"
        self.bare = base / "fleet.git"
        self._clock = int(time.time()) - 1_000_000
        self.path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        # What servers of protocol 0 need to give out a commit that no ref names.
        self.run("git", "-C", str(self.bare), "config", "uploadpack.allowAnySHA1InWant", "true")
        self.git("remote", "add", "origin", str(self.bare))

    def run(self, *argv: str, env: dict[str, str] | None = None, stdin: str | None = None) -> str:
        done = subprocess.run(
            argv,
            cwd=self.path,
            env={**ENVIRONMENT, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
        )
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout.strip()

    def git(self, *argv: str, env: dict[str, str] | None = None, stdin: str | None = None) -> str:
        return self.run("git", *argv, env=env, stdin=stdin)

    def write(self, path: str, text: str | None = None) -> None:
        """Write a pod file."""
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(pod_text() if text is None else text)

    def commit(self, subject: str = "change", *options: str, push: bool = True) -> str:
        """Commit all, a second after the last commit, push, and return the commit's name."""
        self._clock += 1
        at = {"GIT_AUTHOR_DATE": f"{self._clock} +0000", "GIT_COMMITTER_DATE": f"{self._clock} +0000"}
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", subject, *options, env=at)
        if push:
            self.push()
        return self.head()

    def push(self, *options: str) -> None:
        self.git("push", "--quiet", *options, "origin", "HEAD")

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], timeout: float = 20.0, what: str = "it") -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout:g} s"
        time.sleep(0.005)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def server(argv: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in the foreground until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, what=f"{argv[0]} listening on {port}")
        assert process.poll() is None, log.read_text(errors="replace")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def git_daemon(base: Path) -> Iterator[str]:
    """Serve everything below a directory by git://, and yield the address up to the path."""
    port = free_port()
    argv = [
        "/usr/lib/git-core/git-daemon",
        "--reuseaddr",
        "--listen=127.0.0.1",
        f"--port={port}",
        "--export-all",
    ]
    argv += [f"--base-path={base}", "--max-connections=0", str(base)]
    with server(argv, port, base / "git-daemon.log"):
        yield f"git://127.0.0.1:{port}"


def make_certificate(base: Path) -> tuple[Path, Path]:
    """Make a certificate authority and a server certificate for 127.0.0.1; return (ca, server with key)."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (base / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions"]
    for argv in (
        ["req", "-x509", *key, "-days", "2", "-subj", "/CN=Test", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *key, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"],
        ["x509", "-req", "-in", "server.csr", *authority, "-days", "2", "-out", "server.crt"],
    ):
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=base)
    both = base / "server.pem"
    both.write_text((base / "server.key").read_text() + (base / "server.crt").read_text())
    return base / "ca.pem", both


USER, PASSWORD = "fleet", "pa:ss w%rd/ü"


@contextmanager
def https_server(base: Path, certificate: Path) -> Iterator[str]:
    """Serve repositories below a directory by `git http-backend` behind lighttpd with TLS; yield the address.

    Everything below /private/ asks for a password; /redirect/ redirects; /page/ is no git.
    """
    port = free_port()
    (base / "users").write_text(f"{USER}:{PASSWORD}\n")
    (base / "private").mkdir(exist_ok=True)
    (base / "page/info").mkdir(parents=True, exist_ok=True)
    (base / "page/info/refs").write_text("<html>log in</html>")
    config = base / "lighttpd.conf"
    config.write_text(f"""
server.modules = (
  "mod_openssl", "mod_auth", "mod_authn_file", "mod_redirect", "mod_setenv", "mod_alias", "mod_cgi"
)
server.document-root = "{base}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{base}/lighttpd.error"
ssl.engine = "enable"
ssl.pemfile = "{certificate}"
url.redirect = ("^/redirect/(.*)" => "https://127.0.0.1:{port}/$1")
$HTTP["url"] =~ "^/private/" {{
  auth.backend = "plain"
  auth.backend.plain.userfile = "{base}/users"
  auth.require = ("" => ("method" => "basic", "realm" => "git", "require" => "valid-user"))
}}
$HTTP["url"] !~ "^/page/" {{
  alias.url = ("/" => "/usr/lib/git-core/git-http-backend/")
  cgi.assign = ("" => "")
  setenv.set-environment = (
    "GIT_PROJECT_ROOT" => "{base}", "GIT_HTTP_EXPORT_ALL" => "1", "HOME" => "{base}",
    "GIT_CONFIG_COUNT" => "1", "GIT_CONFIG_KEY_0" => "safe.directory", "GIT_CONFIG_VALUE_0" => "*"
  )
}}
""")
    with server(["lighttpd", "-D", "-f", str(config)], port, base / "lighttpd.log"):
        yield f"https://127.0.0.1:{port}"


class Keys:
    """An sshd's and a client's keys in a directory."""

    def __init__(self, base: Path) -> None:
        self.host, self.client, self.other = base / "host_key", base / "client_key", base / "other_key"
        for key in (self.host, self.client, self.other):
            make_key(key)


def make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)],
        check=True,
        capture_output=True,
    )


@contextmanager
def ssh_server(base: Path, keys: Keys) -> Iterator[tuple[str, int]]:
    """Run sshd for the user that we are, with one key, and yield (user, port)."""
    with sshd(base, keys) as (user, port, _):
        yield user, port


@contextmanager
def sshd(base: Path, keys: Keys, *lines: str) -> Iterator[tuple[str, int, int]]:
    """Run sshd as `ssh_server` does, with lines of settings, and yield (user, port, process)."""
    more = "\n".join(lines)
    port = free_port()
    authorized = base / "authorized_keys"
    shutil.copy(f"{keys.client}.pub", authorized)
    authorized.chmod(0o600)
    config = base / "sshd_config"
    config.write_text(f"""
ListenAddress 127.0.0.1
Port {port}
HostKey {keys.host}
AuthorizedKeysFile {authorized}
PidFile none
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
AcceptEnv GIT_PROTOCOL
{more}
""")
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
    with _jail(), server(command, port, base / "sshd.log") as process:
        yield pwd.getpwuid(os.getuid()).pw_name, port, process.pid


@contextmanager
def _jail() -> Iterator[None]:
    """Make the directory that sshd insists on; the last of several users removes it.

    It is one for the machine, and tests run side by side.
    """
    ours = _JAIL / "made-by-tests"
    users = os.open(_JAIL.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)
        with suppress(FileExistsError):
            _JAIL.mkdir()
            ours.touch()
        yield
    finally:
        with suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if ours.exists():
                ours.unlink()
                _JAIL.rmdir()
        os.close(users)


def known_hosts(keys: Keys, port: int, key: Path | None = None) -> str:
    public = Path(f"{key or keys.host}.pub").read_text().split()
    return f"[127.0.0.1]:{port} {public[0]} {public[1]}\n"
