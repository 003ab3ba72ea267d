"""The driver and the client in the container understand each other, and mistake nothing else for their messages."""

import base64
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.runtimes.limits import LOG_TAIL_BYTES, MAX_RESPONSE_BYTES
from local.runtimes.rie_protocol import (
    ERROR,
    OK,
    Order,
    fits_with_head,
    read_head,
    read_order,
    with_head,
)

ID = str(uuid.uuid4())


@given(st.text(), st.booleans(), st.none() | st.text(), st.none() | st.text())
def test_an_order_arrives_as_it_was_sent(
    function: str, warm_up: bool, trace_id: str | None, client_context: str | None
) -> None:
    order = Order(ID, function, warm_up, trace_id, client_context)
    assert read_order(base64.b64decode(order.header()).decode("ascii")) == order


@pytest.mark.parametrize(
    "context",
    [
        None, "", "null", "[]", "3", '"faceq"', "{}", "{", '{"faceq": 1}',
        '{"faceq": {}}', '{"faceq": {"a": 1}}', '{"custom": {"faceq": {}}}',
    ],
)  # fmt: skip
def test_other_client_contexts_contain_no_order(context: str | None) -> None:
    assert read_order(context) is None


@given(st.binary(), st.binary(max_size=LOG_TAIL_BYTES), st.sampled_from([OK, ERROR]))
def test_an_answer_arrives_as_it_was_sent(body: bytes, log_tail: bytes, outcome: str) -> None:
    assert read_head(ID, with_head(ID, outcome, body, log_tail)) == (outcome, body, log_tail)


@given(st.binary())
def test_content_without_a_head_line_of_this_request_is_no_answer_of_the_client(content: bytes) -> None:
    assert read_head(ID, content) is None
    assert read_head(ID, with_head(str(uuid.uuid4()), OK, content)) is None


@pytest.mark.parametrize("room", [0, 1, 44, 45, 46, 1000, 10_000])
def test_a_body_near_the_limit_is_sent_without_its_log_or_without_a_head_line(room: int) -> None:
    body = b"x" * (MAX_RESPONSE_BYTES - room)
    content = with_head(ID, ERROR, body, b"y" * LOG_TAIL_BYTES)
    assert len(content) <= MAX_RESPONSE_BYTES
    assert fits_with_head(body) == (room >= 45) == (content != body)
    if content != body:
        assert read_head(ID, content) == (ERROR, body, b"y" * LOG_TAIL_BYTES if room == 10_000 else b"")
