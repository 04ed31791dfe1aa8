"""Real servers of Debian for images: what is in them, and how they are started."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clients.debian import Recipe, write_tar
from tests.clients.peers import Cli

_USERS = "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n"
_GROUPS = "root:x:0:\npostgres:x:999:\nwww-data:x:33:\n"
_ACCOUNTS = {"/etc/passwd": _USERS, "/etc/group": _GROUPS}

_PG = "/usr/lib/postgresql/15/bin"
_PGDATA = "/var/lib/postgresql/data"

POSTGRES = Recipe(
    ("postgresql-15",), owned={_PGDATA: 999, "/var/lib/postgresql": 999},
    files=_ACCOUNTS | {"/usr/bin/prepare-postgres": f"""#!/bin/sh
set -e
chmod 700 {_PGDATA}
{_PG}/initdb -D {_PGDATA} --username postgres --auth trust --wal-segsize 1 --no-locale --encoding UTF8
echo 'host all all all trust' >> {_PGDATA}/pg_hba.conf
"""}, prepare=("/bin/sh", "/usr/bin/prepare-postgres"))
"""With a database that is empty; a volume begins with a copy of it."""
POSTGRES_SETTINGS = (
    f"ENV PATH=/usr/bin:{_PG}", "USER postgres", "RUN postgres --version", f"VOLUME {_PGDATA}", "EXPOSE 5432",
    "STOPSIGNAL SIGINT",
    f'CMD ["postgres", "-D", "{_PGDATA}", "-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c",'
    ' "jit=off"]')

REDIS = Recipe(("redis-server",), files=_ACCOUNTS, owned={"/data": 0})
REDIS_SETTINGS = ("RUN redis-server --version", "WORKDIR /data", "VOLUME /data", "EXPOSE 6379",
                  'CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode",'
                  ' "no", "--appendonly", "yes", "--appendfsync", "always", "--save", ""]')

NGINX = Recipe(("nginx-light", "wrk"), owned={"/var/www": 0}, files=_ACCOUNTS | {"/etc/nginx/nginx.conf": """
user www-data;
worker_processes 1;
error_log /dev/stderr;
events { worker_connections 256; }
http {
    access_log off;
    server { listen 80; root /var/www; }
}
"""})
NGINX_SETTINGS = ("RUN nginx -t", "EXPOSE 80", 'VOLUME ["/var/www"]', "STOPSIGNAL SIGQUIT",
                  'CMD ["nginx", "-g", "daemon off;"]')

SHOP = Recipe(("redis-tools", "postgresql-client-15"), files=_ACCOUNTS | {"/www/cgi-bin/visit": """#!/bin/sh
visits=$(redis-cli -h cache incr visits)
order='insert into orders default values; select count(*) from orders'
orders=$(/usr/lib/postgresql/15/bin/psql -h database -U postgres -qtA -c "$order")
printf 'Content-Type: text/plain\\r\\n\\r\\nvisit %s order %s by %s\\n' "$visits" "$orders" "$(hostname)"
""", "/usr/bin/start-shop": """#!/bin/sh
until /usr/lib/postgresql/15/bin/psql -h database -U postgres -c 'create table if not exists orders (id serial)'; do
    sleep 0.2
done
echo open
exec httpd -f -vv -p 80 -h /www
"""})
"""A web site that counts in a cache and writes to a database, both found by name."""
SHOP_SETTINGS = ("EXPOSE 80", "STOPSIGNAL SIGKILL", 'CMD ["start-shop"]')


@dataclass(frozen=True)
class Images:
    postgres: str
    redis: str
    nginx: str
    shop: str


def make_images(cli: Cli) -> Images:
    """By names that `clean` does not take for a test's own."""
    return Images(postgres=_make(cli, "served/postgres:15", POSTGRES, POSTGRES_SETTINGS),
                  redis=_make(cli, "served/redis:7", REDIS, REDIS_SETTINGS),
                  nginx=_make(cli, "served/nginx:1", NGINX, NGINX_SETTINGS),
                  shop=_make(cli, "served/shop:1", SHOP, SHOP_SETTINGS))


def _make(cli: Cli, name: str, recipe: Recipe, settings: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory(prefix="hs-image-") as directory:
        write_tar(recipe, Path(directory, "root.tar"))
        Path(directory, "Dockerfile").write_text("\n".join(["FROM scratch", "ADD root.tar /", *settings]) + "\n")
        cli("build", "-q", "-t", name, directory)
    return name
