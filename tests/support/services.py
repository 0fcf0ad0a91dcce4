"""Images of real services in good and in bad versions: Debian's nginx and PostgreSQL, and busybox.

The versions are tags of an OCI layout, `oci:PATH:TAG`. They differ only in a layer of scripts over what they
share, so that another one costs neither time nor space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.images import (
    Member,
    busybox_members,
    compress,
    debian_layout,
    directory,
    layer,
    member,
    tag_descriptor,
    write_blob,
    write_image,
)

NGINX_CONF = """
daemon off;
error_log stderr;
pid /tmp/nginx.pid;
user www-data;
worker_processes 1;
events {{}}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:80;
    location / {{ return {status} "{page}"; }}
  }}
}}
"""
# As the official images do: make the data on the first start, migrate it, and become the server.
_POSTGRES = """#!/bin/sh
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
if ! test -s /srv/data/PG_VERSION; then
  $bin/initdb -N -D /srv/data -A trust >/dev/null
fi
$bin/postgres --single -D /srv/data postgres >/dev/null <<SQL
{sql}
SQL
exec $bin/postgres -D /srv/data -k {sockets} -c listen_addresses= -c shared_buffers=8MB "$@"
"""
_PSQL = '#!/bin/sh\nexec /usr/lib/postgresql/*/bin/psql -X -h /tmp -U postgres -d postgres -At "$@"\n'
# A migration as an init container runs it, while no server does; it ends with the code that is asked for.
_MIGRATION = """#!/bin/sh
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
$bin/postgres --single -D /srv/data postgres >/dev/null <<SQL
$1
SQL
echo "migrated: $1"
exit ${2:-0}
"""
# Five seconds of good work, then an end that nobody asked for.
_CRASH_LATER = (
    '"$@" &\nserver=$!\ntrap "kill -INT $server; wait $server; exit 0" TERM INT QUIT\n(sleep 5) & wait $!\n'
)
_CRASH = f"#!/bin/sh\n{_CRASH_LATER}echo out of luck >&2\nkill -INT $server\nwait $server\nexit 70\n"

# The pods of the services, but for `[update]`, which comes first.
_NGINX_POD = """
[[containers]]
name = "app"
image = "{image}"
args = {args}
stop_grace = "1s"
{extra}
[containers.health]
http = {{ port = 80, path = "/healthz" }}
interval = "1s"
start_interval = "500ms"
timeout = "20s"
retries = 2
"""
_POSTGRES_POD = """
[[volumes]]
name = "data"
snapshot = true
{init}
[[containers]]
name = "app"
image = "{image}"
args = {args}
stop_grace = "5s"
{extra}
[containers.health]
exec = ["/srv/psql", "-c", "SELECT count(*) FROM kept"]
interval = "1s"
start_interval = "500ms"
timeout = "20s"
retries = 2
[[containers.mounts]]
volume = "data"
path = "/srv/data"
"""
_MIGRATION_POD = """
[[containers]]
name = "migrate"
init = true
image = "{image}"
command = ["/srv/migrate"]
args = {args}
user = "postgres"
[[containers.mounts]]
volume = "data"
path = "/srv/data"
"""


def nginx_pod(layout: Path, tag: str, args: Sequence[str] = (), extra: str = "") -> str:
    """Return a pod of a version of nginx; `extra` are lines of its container."""
    image = f"oci:{layout}:nginx-{tag}"
    return _NGINX_POD.format(image=image, args=json.dumps(list(args)), extra=extra)


def postgres_pod(
    layout: Path, tag: str, args: Sequence[str] = (), extra: str = "", migration: Sequence[str] = ()
) -> str:
    """Return a pod of a version of PostgreSQL, which keeps its data in a volume that updates copy.

    `migration`: a statement, and the code that the init container ends with after it.
    """
    image = f"oci:{layout}:postgres-{tag}"
    init = _MIGRATION_POD.format(image=image, args=json.dumps(list(migration))) if migration else ""
    return _POSTGRES_POD.format(image=image, args=json.dumps(list(args)), extra=extra, init=init)


def services_layout(path: Path) -> Path:
    """Write the layout with every version of nginx and PostgreSQL; this week's packages are fetched once."""
    debian_layout(path)
    pages = {"nginx-1": (200, "first"), "nginx-2": (200, "second"), "nginx-sick": (503, "sick")}
    configs = {tag: NGINX_CONF.format(status=status, page=page) for tag, (status, page) in pages.items()}
    configs["nginx-crash"] = configs["nginx-2"]
    configs["nginx-broken"] = configs["nginx-2"].replace(
        "listen 127.0.0.1:80;", "listen 127.0.0.1:http-alt2;"
    )
    for tag, text in configs.items():
        command = ["nginx", "-c", "/srv/nginx.conf"]
        entry = ["/srv/crash", *command] if tag == "nginx-crash" else command
        derive(
            path,
            tag,
            [_scripts({"nginx.conf": text, "crash": _CRASH})],
            {"Entrypoint": entry, "StopSignal": "SIGTERM"},
        )
    make = "CREATE TABLE IF NOT EXISTS kept (x int)"
    migrations = dict.fromkeys(("postgres-1", "postgres-sick", "postgres-crash"), make)
    migrations["postgres-2"] = "ALTER TABLE kept ADD COLUMN IF NOT EXISTS note text"
    # The server runs, and has nothing to serve.
    migrations["postgres-ruin"] = "DROP TABLE kept"
    for tag, sql in migrations.items():
        # It listens where nobody asks.
        sockets = "/srv/data" if tag == "postgres-sick" else "/tmp"
        start = _POSTGRES.format(sql=sql, sockets=sockets)
        files = {"start": start, "psql": _PSQL, "migrate": _MIGRATION, "crash": _CRASH}
        entry = ["/srv/crash", "/srv/start"] if tag == "postgres-crash" else ["/srv/start"]
        config = {"Entrypoint": entry, "User": "postgres", "StopSignal": "SIGINT"}
        derive(path, tag, [_scripts(files)], config)
    return path


def busybox_services(path: Path) -> Path:
    """Write the layout of two small services: `good` serves "/" on port 80, `sick` never does."""
    path.mkdir(parents=True, exist_ok=True)
    write_image(path, [layer(busybox_members())], tag="debian")
    serve = "mkdir -p /srv/www; echo good > /srv/www/index.html; exec httpd -f -p 127.0.0.1:80 -h /srv/www"
    for tag, script in {"good": serve, "sick": "exec sleep 100000"}.items():
        derive(path, tag, [_scripts({"start": f"#!/bin/sh\n{script}\n"})], {"Entrypoint": ["/srv/start"]})
    return path


def derive(
    layout: Path, tag: str, layers: Sequence[bytes], config: Mapping[str, Any], base: str = "debian"
) -> None:
    """Add an image with the layers of another one and more, under a tag that may move."""
    descriptor = _descriptor(layout, base)
    manifest = _read(layout, descriptor["digest"])
    document = _read(layout, manifest["config"]["digest"])
    document["config"] = {**document["config"], "Cmd": [], **config}
    for data in layers:
        document["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        media_type = manifest["layers"][0]["mediaType"]
        manifest["layers"].append({"mediaType": media_type, **write_blob(layout, compress(data, "gzip"))})
    manifest["config"] = {**manifest["config"], **write_blob(layout, json.dumps(document).encode())}
    made = write_blob(layout, json.dumps(manifest).encode())
    tag_descriptor(
        layout, {"mediaType": manifest["mediaType"], **made, "platform": descriptor["platform"]}, tag
    )


def digest_of(layout: Path, tag: str) -> str:
    """Return the digest of a tag's manifest."""
    return str(_descriptor(layout, tag)["digest"])


def _descriptor(layout: Path, tag: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads((layout / "index.json").read_text())["manifests"]
    name = "org.opencontainers.image.ref.name"
    return next(entry for entry in found if entry["annotations"][name] == tag)


def _read(layout: Path, digest: str) -> Any:
    return json.loads((layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_text())


def _scripts(files: Mapping[str, str]) -> bytes:
    members: list[Member] = [directory("srv")]
    members += [member(f"srv/{name}", text, mode=0o755) for name, text in files.items()]
    return layer(members)
