"""Stand-ins for the public images that examples name, made of Debian's packages.

What the examples lean on, they do. Servers are the real ones: nginx, MariaDB, PostgreSQL, Redis, mosquitto,
PHP, restic. Certbot, Home Assistant, zigbee2mqtt and Nextcloud are not in Debian: small programs that use the
same files, ports, names and passwords.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.debian import OF_AN_IMAGE
from tests.support.images import debian_layout, directory, layer, member
from tests.support.services import derive

_PACKAGES = (
    "mariadb-server",
    "mosquitto",
    "mosquitto-clients",
    "nginx-light",
    "openssl",
    "php-cli",
    "php-mysql",
    "postgresql",
    "procps",
    "python3",
    "redis-server",
    "restic",
)
# Their packages make data that no image has, and tools that nobody calls here.
_WITHOUT = '--customize-hook=cd "$1" && rm -rf var/lib/mysql/* usr/bin/aria_* usr/bin/myisam*'

# As certbot lays its files out. A renewal shows a file at the web server, which is asked by its pod's name.
_CERTBOT = """#!/bin/sh
set -e
live=/etc/letsencrypt/live/site
case $1 in
  certonly) test ! -e $live/fullchain.pem || { echo "not yet due"; exit 0; } ;;
  renew)
    mkdir -p /srv/acme/.well-known/acme-challenge
    echo proof > /srv/acme/.well-known/acme-challenge/token
    python3 - <<'END'
import urllib.request
url = "http://web/.well-known/acme-challenge/token"
assert urllib.request.urlopen(url, timeout=10).read() == b"proof\\n"
END
    ;;
  *) exit 2 ;;
esac
mkdir -p $live
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \\
  -subj /CN=example.org -keyout $live/privkey.pem -out $live/fullchain.pem 2>/dev/null
echo "$1 done"
"""
_HOME_ASSISTANT = """#!/usr/bin/python3
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = pathlib.Path("/config/configuration.yaml").read_text() + os.environ["TZ"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
http.server.ThreadingHTTPServer(("0.0.0.0", 8123), Handler).serve_forever()
"""
# Says that its stick is there, to the broker, by the password of its secret; and serves its page.
_ZIGBEE2MQTT = """#!/bin/sh
set -e
test -c /dev/ttyACM0
grep -q '^  port: /dev/ttyACM0$' /app/data/configuration.yaml
password=$(sed -n 's/^password: //p' /app/data/secret.yaml)
mosquitto_pub -h mosquitto -u zigbee2mqtt -P "$password" -r -t zigbee2mqtt/bridge/state -m online
echo published
exec python3 -m http.server 8080 --bind 0.0.0.0 --directory /srv/empty
"""
_MARIADB = """#!/bin/sh
set -e
database=${MARIADB_DATABASE:-$MYSQL_DATABASE} user=${MARIADB_USER:-$MYSQL_USER}
if ! test -d /var/lib/mysql/mysql; then
  password=${MARIADB_PASSWORD:-$MYSQL_PASSWORD}
  test -n "$password" || password=$(cat "$MARIADB_PASSWORD_FILE")
  mariadb-install-db --user=mysql --datadir=/var/lib/mysql --skip-test-db >/dev/null
  mariadbd --user=mysql --bootstrap <<SQL
FLUSH PRIVILEGES;
CREATE DATABASE $database;
CREATE USER '$user'@'%' IDENTIFIED BY '$password';
GRANT ALL ON $database.* TO '$user'@'%';
SQL
fi
mkdir -p /run/mysqld
chown mysql /run/mysqld
exec mariadbd --user=mysql --bind-address=0.0.0.0 --skip-name-resolve "$@"
"""
_POSTGRES = """#!/bin/sh
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
if ! test -s $data/PG_VERSION; then
  user=${POSTGRES_USER:-postgres} database=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}
  test -n "$POSTGRES_PASSWORD_FILE" || {
    POSTGRES_PASSWORD_FILE=/tmp/password
    echo "$POSTGRES_PASSWORD" > /tmp/password
  }
  $bin/initdb -N -D $data -U "$user" -A scram-sha-256 --pwfile="$POSTGRES_PASSWORD_FILE" >/dev/null
  test "$database" = postgres || echo "CREATE DATABASE $database" | $bin/postgres --single -D $data postgres
  echo 'host all all all scram-sha-256' >> $data/pg_hba.conf
fi
exec $bin/postgres -D $data -k /tmp -c 'listen_addresses=*' -c shared_buffers=8MB "$@"
"""
_NEXTCLOUD = """#!/bin/sh
set -e
cp /srv/status.php /srv/cron.php /srv/common.inc /var/www/html/
chown -R www-data /var/www/html
exec php -S 0.0.0.0:80 -t /var/www/html
"""
# As its real image does: the site is copied into the volume at the first start.
_WORDPRESS = """#!/bin/sh
set -e
test -e index.php || cp /srv/index.php .
exec php -S 0.0.0.0:80 -t /var/www/html
"""
_INDEX_PHP = """<?php
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$db = new mysqli(getenv("WORDPRESS_DB_HOST"), getenv("WORDPRESS_DB_USER"),
  getenv("WORDPRESS_DB_PASSWORD"), getenv("WORDPRESS_DB_NAME"));
$db->query("CREATE TABLE IF NOT EXISTS visits (at timestamp)");
$db->query("INSERT INTO visits VALUES (now())");
echo "visits: ", $db->query("SELECT count(*) FROM visits")->fetch_row()[0];
"""
# A program as people write them: says who it is, asks what its variables name, and what its file names.
_APP = """#!/usr/bin/python3
import http.server, os, re, signal, socket, subprocess, sys, threading, urllib.request
def get(url):
    return urllib.request.urlopen(url, timeout=5).read().decode()
def page():
    name = socket.gethostname()
    if "DATABASE_URL" in os.environ:
        query = ["psql", "-Atc", os.environ.get("QUERY", "SELECT 'connected'"), os.environ["DATABASE_URL"]]
        done = subprocess.run(query, capture_output=True, text=True)
        name += " sql=" + (done.stdout or done.stderr).strip()
    if "REDIS_HOST" in os.environ:
        with socket.create_connection((os.environ["REDIS_HOST"], 6379), 5) as cache:
            cache.sendall(b"INCR hits\\r\\n")
            name += " hits" + cache.recv(100).decode().strip()
    for url in os.environ.get("UPSTREAM", "").split():
        name += f" [{get(url)}]"
    for word in sys.argv[1:]:
        if word.startswith("--config.file="):
            for target in re.findall("- ([a-z_.]+:[0-9]+)", open(word.partition("=")[2]).read()):
                name += f" {target}=[{get('http://' + target)}]"
    return name
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            status, text = 200, page()
        except Exception as error:
            status, text = 500, repr(error)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())
for signal_ in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signal_, lambda number, frame: os._exit(0))
for port in os.environ.get("PORT", "3000").split():
    server = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
    threading.Thread(target=server.serve_forever).start()
print("started", flush=True)
"""
_COMMON = """<?php
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$db = new mysqli(getenv("MYSQL_HOST"), getenv("MYSQL_USER"),
  trim(file_get_contents(getenv("MYSQL_PASSWORD_FILE"))), getenv("MYSQL_DATABASE"));
$db->query("CREATE TABLE IF NOT EXISTS jobs (at timestamp)");
$cache = fsockopen(getenv("REDIS_HOST"), 6379, $number, $message, 2);
fwrite($cache, "PING\\r\\n");
$pong = trim(fgets($cache));
"""
_STATUS_PHP = """<?php
require "common.inc";
$count = $db->query("SELECT count(*) FROM jobs")->fetch_row()[0];
echo "$pong, $count jobs, ", ini_get("upload_max_filesize");
"""
_CRON_PHP = """<?php
require __DIR__ . "/common.inc";
$db->query("INSERT INTO jobs VALUES (now())");
echo "did a job\\n";
"""
_REDIS = """#!/bin/sh
test "$1" != redis-server || shift
exec redis-server --bind 0.0.0.0 --protected-mode no --dir /data "$@"
"""


class _StandIn(Struct, frozen=True, kw_only=True):
    """Files in /srv and directories of an image, and its configuration."""

    files: Mapping[str, str] = {}
    directories: tuple[str, ...] = ()
    config: Mapping[str, Any] = {}


def _started_by(script: str, *directories: str, **config: Any) -> _StandIn:
    return _StandIn(
        files={"start": script}, directories=directories, config={"Entrypoint": ["/srv/start"], **config}
    )


_PHP_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# By the names that examples have.
STAND_INS: Mapping[str, _StandIn] = {
    "docker.io/certbot/certbot:v4.1.1": _started_by(_CERTBOT),
    "docker.io/library/nginx:1.28": _StandIn(config={"Cmd": ["nginx", "-g", "daemon off;"]}),
    "docker.io/library/eclipse-mosquitto:2": _StandIn(
        directories=("mosquitto", "mosquitto/config", "mosquitto/data"),
        config={"Cmd": ["mosquitto", "-c", "/mosquitto/config/mosquitto.conf"], "User": "mosquitto"},
    ),
    "ghcr.io/koenkk/zigbee2mqtt:2": _started_by(_ZIGBEE2MQTT, "srv/empty", StopSignal="SIGINT"),
    "ghcr.io/home-assistant/home-assistant:2026.11": _started_by(_HOME_ASSISTANT, StopSignal="SIGINT"),
    "docker.io/library/nextcloud:32-apache": _StandIn(
        files={
            "start": _NEXTCLOUD,
            "common.inc": _COMMON,
            "status.php": _STATUS_PHP,
            "cron.php": _CRON_PHP,
        },
        config={
            "Cmd": ["/srv/start"],
            "WorkingDir": "/var/www/html",
            "Env": [_PHP_ENV, "PHP_INI_SCAN_DIR=:/usr/local/etc/php/conf.d"],
        },
    ),
    "docker.io/library/wordpress:6": _StandIn(
        files={"start": _WORDPRESS, "index.php": _INDEX_PHP},
        directories=("var/www", "var/www/html"),
        config={"Cmd": ["/srv/start"], "WorkingDir": "/var/www/html", "Volumes": {"/var/www/html": {}}},
    ),
    "example.org/app:1": _started_by(_APP),
    "docker.io/library/mariadb:11": _started_by(_MARIADB),
    "docker.io/library/redis:8": _started_by(_REDIS, "data"),
    "docker.io/library/postgres:17": _started_by(_POSTGRES, User="postgres", StopSignal="SIGINT"),
    "docker.io/restic/restic:0.18.0": _StandIn(config={"Cmd": ["restic"]}),
}


def stand_ins(path: Path) -> dict[str, str]:
    """Write the layout of all stand-ins; return their references by the names that they stand for.

    The packages of this week are fetched once, in about a minute.
    """
    debian_layout(path, name="stand-ins", packages=_PACKAGES, options=(*OF_AN_IMAGE, _WITHOUT))
    found = {}
    for name, made in STAND_INS.items():
        tag = name.rpartition("/")[2].replace(":", "-")
        members = [directory("srv"), *(directory(one) for one in made.directories)]
        members += [member(f"srv/{file}", text, mode=0o755) for file, text in made.files.items()]
        derive(path, tag, [layer(members)], made.config)
        found[name] = f"oci:{path}:{tag}"
    return found
