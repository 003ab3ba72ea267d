"""The function URL's server over real sockets, in front of a real function process: ours, or one of RIE."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from local.function_url import application
from local.http_server import listen
from local.runtimes.limits import MAX_REQUEST_BYTES
from template.model import Function
from tests.conftest import Runtime, StartRuntime
from tests.polling import until


@dataclass
class Url:
    runtime: Runtime
    client: aiohttp.ClientSession
    port: int
    folder: Path

    async def raw(self, request: bytes) -> bytes:
        """Send bytes; return everything that the server sends until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def url(request: pytest.FixtureRequest, tmp_path: Path, start_runtime: StartRuntime) -> AsyncIterator[Url]:
    handler = "tests.conformance.sample_functions.url_handler"
    function = Function("F", "web", handler, timeout_seconds=20, memory_mb=512, environment={}, reserved_concurrency=1)
    runtime = await start_runtime(function)
    # A function that has answered may need a moment before its next request, so the server waits, but only briefly in
    # tests of throttling.
    runner, port = await listen(application(runtime, "web", wait_seconds=getattr(request, "param", 20.0)), 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield Url(runtime, client, port, tmp_path)
    await runner.cleanup()


async def test_the_function_receives_the_request_as_sent(url: Url) -> None:
    request = b"PUT /a%2Fb//../c%zz?x=%20&x=2 HTTP/1.1\r\nHost: here\r\nX-A: 1\r\nx-a: 2\r\nConnection: close\r\n\r\n"
    head, _, body = (await url.raw(request)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    event = json.loads(body)
    assert event["rawPath"] == event["requestContext"]["http"]["path"] == "/a%2Fb//../c%zz"
    assert event["rawQueryString"] == "x=%20&x=2"
    assert event["queryStringParameters"] == {"x": " ,2"}
    assert event["headers"]["x-a"] == "1,2"
    assert event["requestContext"]["http"]["method"] == "PUT"
    assert event["requestContext"]["domainName"] == "here"
    assert re.search(rb"(?im)^x-amzn-requestid: " + event["requestContext"]["requestId"].encode(), head)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_reaches_the_function(url: Url, method: str) -> None:
    async with url.client.request(method, "/") as response:
        assert (await response.json())["requestContext"]["http"]["method"] == method


async def test_the_client_receives_the_response_as_the_function_wrote_it(url: Url) -> None:
    result = {
        "statusCode": 201,
        "headers": {"X-Mine": "1", "Content-Type": "text/plain"},
        "cookies": ["a=1", "b=2"],
        "body": "created",
    }
    async with url.client.post("/result", json=result) as response:
        assert (response.status, await response.text()) == (201, "created")
        assert response.headers["X-Mine"] == "1"
        assert response.headers.getall("Content-Type") == ["text/plain"]
        assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    async with url.client.post("/result", json={"statusCode": 204, "body": "may not be sent"}) as response:
        assert (response.status, await response.read()) == (204, b"")
    async with url.client.head("/") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_compressed_body_stays_compressed(url: Url) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with url.client.post("/", data=b"\x1f\x8bnot really", headers=headers) as response:
        event = await response.json()
        assert event["isBase64Encoded"] is True
        assert event["headers"]["content-encoding"] == "gzip"


@pytest.mark.parametrize("path", ["/fail", "/exit", "/bytes"])
async def test_a_failed_function_is_a_502_and_the_next_request_is_served(url: Url, path: str) -> None:
    async with url.client.get(path) as response:
        assert (response.status, await response.text()) == (502, "Internal Server Error")
        assert response.headers["x-amzn-requestid"]
    async with url.client.post("/result", json="fine") as response:
        assert (response.status, await response.text()) == (200, "fine")


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_a_body_over_6_mb_is_refused_and_the_next_request_is_served(url: Url, announced: bool) -> None:
    body = b"x" * (10 * 1024 * 1024)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    headers = {"Content-Type": "text/plain"}
    async with url.client.post("/", data=body if announced else chunks(), headers=headers) as response:
        assert response.status == 413
        assert (await response.json())["error"] == "too_large"
    async with url.client.get("/") as response:
        assert response.status == 200


async def test_the_size_limit_counts_the_event_with_its_base64(url: Url) -> None:
    for size, kind, status in [
        (MAX_REQUEST_BYTES - 2000, "text/plain", 200),
        (MAX_REQUEST_BYTES * 3 // 4 - 2000, "image/jpeg", 200),
        (MAX_REQUEST_BYTES * 3 // 4 + 1, "image/jpeg", 413),
    ]:
        async with url.client.post("/statusCode-less", data=b"x" * size, headers={"Content-Type": kind}) as response:
            # The function echoes its event, so the event must stay below the limit of a response.
            assert response.status == status


@pytest.mark.parametrize("url", [0.1], indirect=True, ids=["short wait"])
async def test_a_request_to_a_busy_function_gets_a_429_with_the_reason(url: Url) -> None:
    began, go = url.folder / "began", url.folder / "go"
    query = {"began": str(began), "until": str(go)}
    busy = asyncio.create_task(url.client.get("/wait", params=query))
    await until(began.exists)
    async with url.client.get("/") as response:
        assert response.status == 429
        body = await response.json()
        assert body["error"] == "too_many_requests"
        assert "\n" not in body["message"]
    go.touch()
    async with await busy as response:
        assert response.status == 200


@pytest.mark.parametrize("url", [0.1], indirect=True, ids=["short wait"])
async def test_a_client_that_disconnects_does_not_stop_the_function(url: Url) -> None:
    began, go = url.folder / "began", url.folder / "go"
    _, writer = await asyncio.open_connection("127.0.0.1", url.port)
    writer.write(f"GET /wait?began={began}&until={go} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await until(began.exists)
    pids = url.runtime.processes()
    assert len(pids["web"]) == 1
    writer.transport.abort()
    async with url.client.get("/") as response:
        assert response.status == 429, "the function still runs"
    go.touch()
    invocation = await url.runtime.invoke("web", b'{"rawPath": "/"}', wait_seconds=10)
    assert invocation.function_error is None
    assert url.runtime.processes() == pids


@pytest.mark.parametrize(
    "half",
    [
        b"Content-Length: 100\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["length", "chunk", "not a chunk"],
)
async def test_an_incomplete_body_reaches_no_function_and_logs_no_traceback(
    url: Url, half: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", url.port)
    writer.write(b"POST /wait HTTP/1.1\r\nHost: x\r\n" + half)
    await writer.drain()
    writer.write_eof()
    writer.close()
    for _ in range(3):
        async with url.client.get("/") as response:
            assert response.status == 200
    assert "Traceback" not in caplog.text


async def test_a_client_that_expects_100_continue_gets_it(url: Url) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
    writer.write(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
    await reader.readline()
    writer.write(b"{}")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_bytes_that_are_not_http_get_a_400(url: Url) -> None:
    for nonsense in (b"\x16\x03\x01\x00\xa5\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        assert (await url.raw(nonsense)).startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    async with url.client.get("/") as response:
        assert response.status == 200
