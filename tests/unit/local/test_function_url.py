"""The conversion between HTTP and payload format 2.0. The expected events are in tests/events/function_url_*.json."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.function_url import FUNCTION_FAILED, HttpRequest, HttpResponse, Json, to_event, to_response

EVENTS = Path(__file__).parents[2] / "events"
HOST = ("Host", "127.0.0.1:8000")
JSON_TYPE = [("content-type", "application/json")]


def event_of(
    method: str = "POST", target: str = "/", headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
) -> dict[str, Json]:
    return to_event(
        HttpRequest(method, target, [HOST, *headers], body, source_ip="127.0.0.1", port=8000),
        url_id="abc123",
        request_id="request-1",
        trace_id="Root=1-0-1",
        now=datetime(2020, 3, 12, 19, 3, 58, tzinfo=UTC),
    )


def expected(name: str) -> object:
    return json.loads((EVENTS / f"function_url_{name}.json").read_text())


# Events


def test_a_plain_get_has_neither_body_nor_cookies_nor_query() -> None:
    assert event_of("GET") == expected("get")


def test_repeated_parameters_and_headers_are_joined_and_the_raw_path_stays_encoded() -> None:
    headers = (
        ("User-Agent", "Camera/1.0"),
        ("X-Multi", "one"),
        ("x-multi", "Two, three"),
        ("Cookie", "session=1; theme=dark"),
    )
    target = "/pa2%Fth/1?multiQuery=foo&multiQuery=%2Fbar&empty&plus=a+b"
    assert event_of("GET", target, headers) == expected("query_and_cookies")


def test_json_is_text() -> None:
    body = '{"name": "Zo\u00eb"}'.encode()
    assert event_of(headers=(("Content-Type", "application/json"),), body=body) == expected("post_json")


def test_an_image_is_base64() -> None:
    body = bytes.fromhex("ffd8ffe00010")
    assert event_of(target="/frames", headers=(("Content-Type", "image/jpeg"),), body=body) == expected("post_image")


@pytest.mark.parametrize(
    ("content_type", "body", "is_base64"),
    [
        ("application/json", b"{}", False),
        ("application/json; charset=utf-8", b"{}", False),
        ("application/vnd.api+json", b"{}", False),
        ("TEXT/Plain", b"hello", False),
        ("application/xml", b"<a/>", False),
        ("image/svg+xml", b"<svg/>", False),
        ("application/json", b"\xff\xfe", True),
        ("application/x-www-form-urlencoded", b"a=1", True),
        ("multipart/form-data; boundary=x", b"--x--", True),
        ("application/octet-stream", b"hello", True),
        (None, b"hello", True),
    ],
)
def test_the_content_type_decides_about_base64(content_type: str | None, body: bytes, is_base64: bool) -> None:
    headers = () if content_type is None else (("Content-Type", content_type),)
    assert event_of(headers=headers, body=body)["isBase64Encoded"] is is_base64


def test_the_server_replaces_the_clients_x_forwarded_for() -> None:
    headers = event_of(headers=(("X-Forwarded-For", "10.0.0.1"),))["headers"]
    assert isinstance(headers, dict)
    assert headers["x-forwarded-for"] == "127.0.0.1"


# Responses


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        (b'{"hello":"world"}', b'{"hello":"world"}'),
        (b'{"body":"no statusCode, so no response"}', b'{"body":"no statusCode, so no response"}'),
        (b"[1, 2]", b"[1, 2]"),
        (b"3", b"3"),
        (b"3.1", b"3.1"),
        (b"true", b"true"),
        (b"null", b"null"),
        (b'"hello"', b"hello"),
        (b'""', b""),
        (b'"\\u00e9\\ud800"', b"\xc3\xa9?"),
    ],
)
def test_a_result_without_status_code_is_the_body_of_a_200(payload: bytes, body: bytes) -> None:
    assert to_response(payload) == HttpResponse(200, JSON_TYPE, body)


@pytest.mark.parametrize(
    ("result", "response"),
    [
        ({"statusCode": 204}, HttpResponse(204, JSON_TYPE, b"")),
        ({"statusCode": "418", "body": "tea"}, HttpResponse(418, JSON_TYPE, b"tea")),
        ({"statusCode": 200, "body": None, "headers": None}, HttpResponse(200, JSON_TYPE, b"")),
        ({"statusCode": 200, "body": "done"}, HttpResponse(200, JSON_TYPE, b"done")),
        (
            {"statusCode": 200, "headers": {"Content-Type": "image/png"}, "body": "iVBO", "isBase64Encoded": True},
            HttpResponse(200, [("Content-Type", "image/png")], b"\x89PN"),
        ),
        (
            {"statusCode": 200, "cookies": ["a=1; Secure", "b=2"], "headers": {"X-Count": 3, "X-None": None}},
            HttpResponse(
                200, [("X-Count", "3"), *JSON_TYPE, ("set-cookie", "a=1; Secure"), ("set-cookie", "b=2")], b""
            ),
        ),
        (
            {"statusCode": 200, "headers": {"Content-Length": "5", "Transfer-Encoding": "chunked"}},
            HttpResponse(200, JSON_TYPE, b""),
        ),
    ],
)  # fmt: skip
def test_a_result_with_status_code_is_a_response(result: object, response: HttpResponse) -> None:
    assert to_response(json.dumps(result).encode()) == response


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"not json", b"\xff", b"NaN", b'{"a": Infinity}',
        b'{"statusCode": "abc"}', b'{"statusCode": null}', b'{"statusCode": true}', b'{"statusCode": 99}',
        b'{"statusCode": 1000}', b'{"statusCode": 101}', b'{"statusCode": 200.5}',
        b'{"statusCode": 200, "headers": []}', b'{"statusCode": 200, "headers": ["a"]}',
        b'{"statusCode": 200, "headers": {"a\\r\\nb": "c"}}', b'{"statusCode": 200, "headers": {"a": "b\\r\\nc: d"}}',
        b'{"statusCode": 200, "headers": {"": "a"}}', b'{"statusCode": 200, "cookies": "a=1"}',
        b'{"statusCode": 200, "cookies": ["a\\n"]}', b'{"statusCode": 200, "body": {}}',
        b'{"statusCode": 200, "body": 1}', b"[" * 100_000,
        b'{"statusCode": 200, "body": "%", "isBase64Encoded": true}',
        b'{"statusCode": 200, "body": "\\u00e9", "isBase64Encoded": true}',
    ],
)  # fmt: skip
def test_a_malformed_result_is_a_502(payload: bytes) -> None:
    assert to_response(payload) == FUNCTION_FAILED
    assert (FUNCTION_FAILED.status, FUNCTION_FAILED.body) == (502, b"Internal Server Error")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"statusCode": json_values},
        optional={"headers": json_values, "body": json_values, "cookies": json_values, "isBase64Encoded": json_values},
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_result_gives_a_response(payload: bytes) -> None:
    response = to_response(payload)
    assert 200 <= response.status <= 599


@given(st.text(max_size=30), st.text(max_size=20), st.text(max_size=40), st.binary(max_size=100))
def test_any_request_gives_an_event_that_is_json(target: str, name: str, value: str, body: bytes) -> None:
    event = event_of(target=target, headers=((name, value), ("Cookie", value), ("Content-Type", "text/x")), body=body)
    assert json.loads(json.dumps(event)) == event
