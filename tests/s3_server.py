"""A real S3 server on loopback (moto's) for slow tests: every request goes over HTTP, keys are
dummies.

A real server decides a conditional write in one step; moto looks and then writes, so writes are let
in one at a time. It can be told to know no conditional writes (as older servers of other makers) or
to be busy now and then.
"""

import random
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

LOOPBACK = "127.0.0.1"
BUCKET = "bucket"
_XML = (
    '<?xml version="1.0"'
    ' encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
)


@dataclass
class Server:
    """A server at `endpoint`. `conditional`: whether it knows ``If-None-Match``; `busy`: the share
    of writes that it answers 503.
    """

    endpoint: str = ""
    conditional: bool = True
    busy: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    num_busy: int = 0
    statuses: list[str] = field(default_factory=list)  # of conditional writes

    def environment(self) -> dict[str, str]:
        """Return the variables that a process needs to use this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "*",
        }


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Start a server with one bucket, point this process to it, and end it."""
    pytest.importorskip("s3fs", reason="needs pip install 'phasegrid[s3]'")
    moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="needs 'moto[server]'")
    from werkzeug.serving import make_server

    server = Server()
    app = _guarded(moto.DomainDispatcherApplication(moto.create_backend_app), server)

    class Quiet(moto.MotoRequestHandler):  # type: ignore[misc, name-defined]
        def log(self, *_: object) -> None:
            """Say nothing of each request."""

    real = make_server(LOOPBACK, 0, app, True, request_handler=Quiet)
    server.endpoint = f"http://{LOOPBACK}:{real.server_port}"
    thread = threading.Thread(target=real.serve_forever, daemon=True)
    thread.start()
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    try:
        _forget_clients()
        _reset(server.endpoint)
        _filesystem().mkdir(BUCKET)
        yield server
    finally:
        _forget_clients()
        real.shutdown()
        thread.join()
        real.server_close()


def _guarded(app: Callable[..., Any], server: Server) -> Callable[..., Iterable[bytes]]:
    one_at_a_time = threading.Lock()

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def answered(status: str, *rest: Any) -> Any:
            if environ.get("HTTP_IF_NONE_MATCH") == "*":
                server.statuses.append(status)
            return start_response(status, *rest)

        if environ["REQUEST_METHOD"] != "PUT":
            return list(app(environ, answered))
        with one_at_a_time:
            refused = _refusal(environ, server)
            if refused is None:
                return list(app(environ, answered))
        code, name = refused
        body = _XML.format(code=name, message=f"{name} of a test").encode()
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        answered(code, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
        return [body]

    return call


def _refusal(environ: dict[str, Any], server: Server) -> tuple[str, str] | None:
    if not server.conditional and environ.get("HTTP_IF_NONE_MATCH"):
        return "501 Not Implemented", "NotImplemented"
    if server.chance.random() < server.busy:
        server.num_busy += 1
        return "503 Slow Down", "SlowDown"
    return None


def _reset(endpoint: str) -> None:
    """Empty the server: moto keeps its buckets as long as the process lives."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(f"{endpoint}/moto-api/reset", data=b"", timeout=30).close()


def _filesystem() -> Any:
    import fsspec

    return fsspec.filesystem("s3", skip_instance_cache=True)


def _forget_clients() -> None:
    """Clients are kept by fsspec and would speak to the server of the test before."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
