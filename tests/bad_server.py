"""A loopback web server that misbehaves as it is told: stalls, breaks off, lies about sizes, changes its files."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CONTENT = bytes(range(256)) * 400  # 102400 bytes
QUICK = {"timeout_s": 0.2, "backoff_s": 0.001, "attempts": 4}

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Plays the next scripted answer of its site, else serves the file honestly, with ranges."""

    site: Site

    def do_GET(self) -> None:
        self.site.requests.append((self.path, dict(self.headers)))
        answer = next(self.site.script, honest)
        answer(self)

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", send: int | None = None, **headers: str) -> None:
        """Announce the body and send its first `send` bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:send])


class Site(http.server.ThreadingHTTPServer):
    """A loopback server: what it holds, what it will do next, what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), type("Bound", (Handler,), {"site": self}))
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.script: Iterator[Answer] = iter(())
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()

    def will(self, *answers: Answer) -> None:
        self.script = iter(answers)

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


def tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def honest(handler: Handler) -> None:
    body = handler.site.files.get(handler.path)
    if body is None:
        return handler.reply(404)
    wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
    if wanted is None or condition not in (None, tag(body)):
        return handler.reply(200, body, ETag=tag(body))
    first = int(wanted.removeprefix("bytes=").removesuffix("-"))
    span = f"bytes {first}-{len(body) - 1}/{len(body)}"
    return handler.reply(206, body[first:], ETag=tag(body), Content_Range=span)


def cut_after(n: int, **headers: str) -> Answer:
    return lambda handler: handler.reply(200, CONTENT, send=n, **{"ETag": tag(CONTENT), **headers})


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.reply(code, b"no", **headers)


def stall(handler: Handler) -> None:
    handler.reply(200, CONTENT, send=1000, ETag=tag(CONTENT))
    handler.site.over.wait(5)


def linked(location: str, body: bytes = CONTENT, sha256: str | None = None) -> Answer:
    """Redirect as Hugging Face does: the headers are about the file, not about the answer."""
    digest = sha256 or hashlib.sha256(body).hexdigest()
    return status(302, Location=location, X_Linked_Etag=f'"{digest}"', X_Linked_Size=str(len(body)))


@contextmanager
def serving() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
