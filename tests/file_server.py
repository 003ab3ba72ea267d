"""A server of one file, for tests of downloads: it answers requests in any way, also wrongly."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = os.urandom(600_000)

#: Answers one request; the second argument is the first byte that it asks for.
Answer = Callable[[BaseHTTPRequestHandler, int], None]


def whole(content: bytes = CONTENT) -> Answer:
    """Send everything, whatever the request asks for."""

    def answer(request: BaseHTTPRequestHandler, start: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def ranged(count: int | None = None, content: bytes = CONTENT) -> Answer:
    """Send from the byte that the request asks for, and close the connection after `count` bytes."""

    def answer(request: BaseHTTPRequestHandler, start: int) -> None:
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start:][:count])

    return answer


def endless(request: BaseHTTPRequestHandler, start: int) -> None:
    """Send more than the file has, without announcing how much."""
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(CONTENT)
    except OSError:
        return


def dripping(request: BaseHTTPRequestHandler, start: int) -> None:
    """Send the next byte of the content and close the connection."""
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
    request.end_headers()
    request.wfile.write(CONTENT[start : start + 1])


def status(code: int) -> Answer:
    return lambda request, start: request.send_error(code)


@dataclass(frozen=True)
class FileServer:
    """A running server.

    Parameters
    ----------
    port : int
    starts : list of int
        The first byte that each request asked for.

    """

    port: int
    starts: list[int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/weights.pt"


@contextmanager
def serving(*answers: Answer) -> Iterator[FileServer]:
    """Start a server that gives one answer after the other, and the last one again and again."""
    left = list(answers)
    starts: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            starts.append(start)
            (left.pop(0) if len(left) > 1 else left[0])(self, start)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield FileServer(server.server_address[1], starts)
        finally:
            server.shutdown()
            thread.join()
