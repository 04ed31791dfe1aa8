"""Images, registries and builds."""

from __future__ import annotations

import io
import tarfile

from tests.clients.alike import NOBODY, Row
from tests.images import BUSYBOX

_REPOSITORY = BUSYBOX.rpartition(":")[0]
_NONE = "0" * 64
_MALFORMED = ("BADNAME", "bad:name:x", "-x", "x:", "x:a%20b", "localhost:5000/UP", "a%20b", "nope@sha256:abc",
              f"nope@sha256:{'ab' * 31}", "a" * 300)
_PLATFORM = 'platform={"os":"linux","architecture":"s390x"}'

_NOBODY_S_LOGIN = {"X-Registry-Auth": "e30="}
"""Without the header, Docker 26 has no push."""
_FROM = f"FROM {BUSYBOX}\n"


def build(dockerfile: str, query: str = "", **files: str) -> Row:
    """A build of this Dockerfile in a context of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in {"Dockerfile": dockerfile, **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return Row(f"POST /build?{query}", out.getvalue(), headers={"Content-Type": "application/x-tar"}, since=28,
               same=True)


BUILDS = (
    *(build(text) for text in (
        "", "# x\n", "RUN x\n", "ENV a=b\nFROM x\n", "FROM\n", "FROM a b\n", f"FROM {BUSYBOX} AS 1x\n",
        "FROM BADNAME\n", "FROM $x\n", "FROM 127.0.0.1:5000/hs-none\n", f"FROM --foo=x {BUSYBOX}\n", "FROM scratch\n",
        "# escape=x\nFROM x\n", "# escape=`\n# escape=`\nFROM x\n", _FROM)),
    *(build(f"{_FROM}{text}\n") for text in (
        "FOO bar", "RUNN echo", "ENV", "ENV a", "ENV a=b c", "ENV =b", "LABEL", "LABEL a", "ARG", "ARG =x", "EXPOSE",
        "EXPOSE x", "EXPOSE 99999", "EXPOSE 80/foo", "VOLUME", 'VOLUME [""]', "USER", "WORKDIR", "STOPSIGNAL",
        "STOPSIGNAL FOO", "SHELL", "SHELL sh", "SHELL []", "HEALTHCHECK", "HEALTHCHECK FOO", "HEALTHCHECK CMD",
        "HEALTHCHECK NONE x",
        "HEALTHCHECK --interval=x CMD a", "HEALTHCHECK --interval=1us CMD a", "HEALTHCHECK --retries=-1 CMD a",
        "HEALTHCHECK --retries=x CMD a", "HEALTHCHECK --foo=1 CMD a", "ONBUILD", "ONBUILD ONBUILD RUN x",
        "ONBUILD FROM x",
        "MAINTAINER", 'CMD ["a",1]', "RUN --foo=1 x", "RUN <<EOF\nx", "COPY", "COPY a", "COPY --chown a /x",
        "COPY --chown=1 --chown=2 a /x", "ADD --from=x a /x", "ENV a=${x:?need}", "ENV a=${x!y}", 'ENV a="b')),
    *(build(f"{_FROM}{text}\n", a="1", b="2") for text in (
        "COPY nope /x", "COPY no* /x", "COPY ../a /x", "COPY a b /x", "COPY --from=7 a /x", "COPY --from=BAD a /x",
        "COPY --chown=nosuch a /x", "COPY --chown=a:b:c a /x", "COPY --chown=root:nosuch a /x", "ADD nope /x")),
    *(build(_FROM, query) for query in (
        "target=zzz", "target=5", "buildargs=x", "labels=x", "cachefrom=x", "ulimits=x", "version=3",
        "platform=!!", "q=1")),
)

ROWS = (
    # References that are none, wherever they are named, and such as name nothing.
    *(Row(f"{method} /images/{name}{rest}") for name in _MALFORMED
      for method, rest in (("GET", "/json"), ("GET", "/history"), ("DELETE", ""))),
    *(Row("POST /containers/create", {"Image": name}) for name in ("BAD", "-x", "x:y:z", "nope@sha256:abc", "hs-none")),
    *(Row(f"GET /distribution/{name}/json") for name in ("BAD", "-x", "x:y:z")),
    *(Row(f"POST /images/create?fromImage={query}") for query in (
        "BAD", "-x&tag=a", "x&tag=a:b", "x&tag=a%20b", "x:y:z", _NONE, "x@sha256:abc", "scratch&tag=latest")),
    *(Row(f"POST /images/create?fromSrc=-&repo={query}") for query in ("BAD", "x&tag=a:b", f"x@sha256:{_NONE}")),
    *(Row(f"POST /images/{BUSYBOX}/tag?repo={query}") for query in (
        "BAD", "-a", "a&tag=b:c", _NONE, f"a@sha256:{_NONE}", "sha256")),
    *(Row(f"POST /commit?{query}") for query in (
        "", "container=", "container=hs-none", "container=hs-none&repo=BAD", "container=hs-none&repo=x&tag=a:b",
        "container=hs-none&tag=x")),
    *(Row(f"GET /images/{name}/json") for name in ("hs-none", "hs-none:tag", _NONE, f"sha256:{_NONE}",
                                                   f"hs-none@sha256:{_NONE}", "sha256:abc")),
    Row("DELETE /images/hs-none"), Row(f"DELETE /images/sha256:{_NONE}"), Row("POST /images/hs-none/tag?repo=hs-x"),
    # Names.
    Row(f"POST /images/{BUSYBOX}/tag?repo=hs-alike:1&tag=2"), Row("GET /images/hs-alike:2/json"),
    Row("GET /images/hs-alike:1/json"), Row("DELETE /images/hs-alike:2", same=True),
    # Platforms.
    *(Row(f"GET /v1.49/images/{BUSYBOX}/{what}", since=28) for what in (
        f"json?{_PLATFORM}", f"history?{_PLATFORM}", "json?platform=linux", 'json?platform={"variant":"v7"}',
        'json?platform={"os":"linux"}')),
    *(Row(f"POST /images/create?fromImage=x&tag=1&platform={text}", since=28) for text in ("!!", "a/b/c/d", "nowhere")),
    # Registries: none there, nothing there.
    *(Row(request) for host, name in ((NOBODY, "x"), (_REPOSITORY.partition("/")[0], "hs-none")) for request in (
        f"POST /images/create?fromImage={host}/{name}&tag=latest", f"POST /images/create?fromImage={host}/{name}",
        f"GET /distribution/{host}/{name}/json")),
    Row(f"POST /images/create?fromImage={_REPOSITORY}&tag=hs-none"),
    Row(f"GET /distribution/{_REPOSITORY}:hs-none/json"),
    *(Row("POST /auth", {"username": "a", "password": "b", "serveraddress": host})
      for host in (NOBODY, _REPOSITORY.partition("/")[0])),
    # Pulls and pushes.
    Row(f"POST /images/create?fromImage={_REPOSITORY}&tag=latest", same=True),
    Row(f"POST /images/create?fromImage={_REPOSITORY}&tag=latest&platform=linux/s390x", same=True, since=28),
    Row(f"POST /images/create?fromImage={_REPOSITORY}&tag=latest", headers={"X-Registry-Auth": "nonsense"}, same=True),
    *(Row(f"POST /images/{name}/push{tag}", headers=_NOBODY_S_LOGIN)
      for name in ("hs-none", "hs-none:tag", f"hs-none@sha256:{_NONE}")
      for tag in ("", "?tag=x")),
    *(Row(f"POST /images/{name}", headers=_NOBODY_S_LOGIN)
      for name in ("BAD/push", "BAD/push?tag=x", "-x/push", "hs-none/push?tag=x:y")),
    Row(f"POST /images/{_REPOSITORY}/push?tag=hs-none", headers=_NOBODY_S_LOGIN, same=True),
    # Lists.
    *(Row(f"GET /v{version}/images/json", since=28) for version in ("1.24", "1.42", "1.43", "1.51")),
    *(Row(f"GET /images/json?filters={text}") for text in (
        "x", '{"x":["y"]}', '{"dangling":["maybe"]}', '{"before":["hs-none"]}',
        '{"since":["hs-none"]}', '{"before":["BAD"]}', '{"until":["1","2"]}', '{"until":["2001-01-01"]}')),
    *(Row(f"POST /images/prune?filters={text}") for text in ("x", '{"x":["y"]}', '{"dangling":["maybe"]}')),
    *(Row(f"GET /v{version}/images/{BUSYBOX}/json", since=28) for version in ("1.43", "1.44", "1.49", "1.51")),
    Row(f"GET /images/{BUSYBOX}/history"),
    # Searches, as far as they ask nobody.
    *(Row(f"GET /images/search?term=a&{query}") for query in (
        "limit=1000", "limit=x", "filters=x", 'filters={"x":["y"]}', 'filters={"is-official":["maybe"]}',
        'filters={"stars":["maybe"]}')),
    *(Row(f"POST /build/prune?{query}", since=28) for query in (
        "keep-storage=x", 'filters={"x":["y"]}', 'filters={"until":["x"]}', "filters=x")),
    *BUILDS,
    Row("POST /build/prune?all=1", status_only=True),  # what the rows of others do not expect
)
