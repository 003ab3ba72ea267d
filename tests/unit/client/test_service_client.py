"""The client, against an HTTP server on this machine and a response queue in memory."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from client.frames import Frame
from client.service_client import FORBIDDEN, Failure, Outcome, ServiceClient
from pipeline.errors import BadInput
from pipeline.messages import FrameRequest, RecognitionResult
from tests.fakes import MemorySqs, function_url
from tests.memory_queue import MemoryQueue
from tests.polling import eventually

#: How the service reacts to a frame: it may send answers to the queue, and returns HTTP status and body.
Reaction = Callable[[FrameRequest, MemoryQueue], tuple[int, str]]

ACCEPTED = (200, "Face detection completed")


def answer(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
    """Answer with the frame's own name, so that a test notices an answer to another frame."""
    queue.send(RecognitionResult(request.request_id, f"name of {request.filename}", request.filename).to_json())
    return ACCEPTED


def service(queue: MemoryQueue, react: Reaction = answer) -> AbstractContextManager[str]:
    """Serve a function URL that reacts to a frame, and may send answers to the queue."""
    return function_url(lambda request: react(request, queue))


def client(url: str, queue: MemoryQueue) -> ServiceClient:
    return ServiceClient(url, "queue", MemorySqs(queue))


def some(count: int, prefix: str = "") -> list[Frame]:
    return [Frame(f"{prefix}{number}.jpg", b"picture") for number in range(count)]


def by_name(outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    found = list(outcomes)
    named = {outcome.frame.filename: outcome for outcome in found}
    assert len(named) == len(found)
    return named


def test_every_frame_gets_its_own_answer() -> None:
    queue = MemoryQueue()
    with service(queue) as url:
        outcomes = by_name(client(url, queue).send(some(30), concurrency=5, timeout_seconds=30))
    assert len(outcomes) == 30
    for name, outcome in outcomes.items():
        assert outcome.result == f"name of {name}"
        assert outcome.problem is None
        assert outcome.answer is not None
        assert outcome.answer["request_id"] == outcome.request_id
        assert 0 < outcome.milliseconds < 30_000
    assert len({outcome.request_id for outcome in outcomes.values()}) == 30
    assert len(queue) == 0


def test_clients_that_share_a_queue_each_get_all_their_answers() -> None:
    queue = MemoryQueue(visibility_timeout=0.1)
    with service(queue) as url, ThreadPoolExecutor(3) as pool:
        sending = {
            prefix: pool.submit(lambda prefix=prefix: by_name(client(url, queue).send(some(20, prefix))))
            for prefix in ("a", "b", "c")
        }
        for prefix, outcomes in sending.items():
            assert {name: outcome.result for name, outcome in outcomes.result().items()} == {
                frame.filename: f"name of {frame.filename}" for frame in some(20, prefix)
            }
    assert len(queue) == 0


def test_a_finished_client_returns_the_messages_of_its_last_poll() -> None:
    """Its last long poll outlives `send`. The next client does not have to wait for the visibility timeout."""
    queue = MemoryQueue(visibility_timeout=60)
    with service(queue) as url:
        by_name(client(url, queue).send(some(1), timeout_seconds=30))
        queue.send("for another client")
        eventually(lambda: [message.body for message in queue.receive()] == ["for another client"])


def test_an_interrupted_send_does_not_wait_for_answers() -> None:
    """As by Ctrl-C. The unanswered frame would have a minute left."""
    queue = MemoryQueue()

    def react(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        return answer(request, queue) if request.filename == "0.jpg" else ACCEPTED

    with service(queue, react) as url:
        sending = client(url, queue).send(some(2), concurrency=2, timeout_seconds=60)
        assert next(sending).frame.filename == "0.jpg"
        closing = threading.Thread(target=sending.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()


def test_an_interrupted_send_takes_answers_that_still_come_off_the_queue() -> None:
    """Otherwise other clients would find them, again and again."""
    queue = MemoryQueue()
    held = threading.Event()

    def react(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        if request.filename == "1.jpg":
            threading.Thread(target=lambda: (held.wait(20), answer(request, queue)), daemon=True).start()
            return ACCEPTED
        return answer(request, queue)

    with service(queue, react) as url:
        sender = ServiceClient(url, "queue", MemorySqs(queue), late_answer_seconds=20)
        sending = sender.send(some(2), concurrency=2, timeout_seconds=60)
        assert next(sending).frame.filename == "0.jpg"
        eventually(lambda: sender.unanswered == 1)
        closing = threading.Thread(target=sending.close, daemon=True)
        closing.start()
        held.set()
        closing.join(20)
        assert not closing.is_alive()
    assert sender.unanswered == 0
    assert len(queue) == 0


def test_an_interrupted_send_says_how_many_answers_may_still_come() -> None:
    queue = MemoryQueue()
    with service(queue, lambda request, q: ACCEPTED if request.filename != "0.jpg" else answer(request, q)) as url:
        sender = ServiceClient(url, "queue", MemorySqs(queue), late_answer_seconds=0.1)
        sending = sender.send(some(3), concurrency=3, timeout_seconds=60)
        assert next(sending).frame.filename == "0.jpg"
        eventually(lambda: sender.unanswered == 2)
        sending.close()
    assert sender.unanswered == 2


def test_an_interrupted_send_does_not_post_throttled_frames_again() -> None:
    """The busy service would have a minute to take the frame."""
    queue = MemoryQueue()
    busy = threading.Event()

    def react(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        if request.filename == "0.jpg":
            return answer(request, queue)
        busy.set()
        return 503, "{}"

    with service(queue, react) as url:
        sending = client(url, queue).send(some(2), concurrency=2, timeout_seconds=60)
        assert next(sending).frame.filename == "0.jpg"
        assert busy.wait(20)
        closing = threading.Thread(target=sending.close, daemon=True)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()


def test_messages_for_other_clients_stay_on_the_queue() -> None:
    queue = MemoryQueue(visibility_timeout=0.05)
    foreign = [
        RecognitionResult("of another client", "Ada").to_json(),
        "no JSON",
        "[]",
        "7",
        "null",
        '{"result": "nobody\'s"}',
        '{"request_id": ["a list"], "result": "x"}',
        '{"request_id": null, "result": "x"}',
        "[" * 100_000,
    ]
    for body in foreign:
        queue.send(body)
    with service(queue) as url:
        outcomes = by_name(client(url, queue).send(some(5), timeout_seconds=30))
    assert [outcome.problem for outcome in outcomes.values()] == [None] * 5
    assert len(queue) == len(foreign)


def test_an_answer_that_is_delivered_twice_counts_once_and_is_deleted_twice() -> None:
    def twice(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        answer(request, queue)
        return answer(request, queue)

    queue = MemoryQueue(visibility_timeout=0.05)
    with service(queue, twice) as url:
        sender = client(url, queue)
        assert len(by_name(sender.send(some(10), timeout_seconds=30))) == 10
        # duplicates that arrive after their frame was answered are deleted while the next frames are sent
        assert len(by_name(sender.send(some(2, "later"), timeout_seconds=30))) == 2
        eventually(lambda: len(queue) <= 2)


def test_outcomes_have_the_place_of_their_frame() -> None:
    queue = MemoryQueue()
    with service(queue) as url:
        outcomes = by_name(client(url, queue).send(some(9), concurrency=3, timeout_seconds=30))
    assert {name: outcome.index for name, outcome in outcomes.items()} == {f"{n}.jpg": n for n in range(9)}


@pytest.mark.parametrize("status", [429, 503])
def test_a_throttled_frame_is_sent_again_with_the_same_id(status: int) -> None:
    tries: Counter[str] = Counter()

    def busy_once(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        tries[request.request_id] += 1
        return answer(request, queue) if tries[request.request_id] > 1 else (status, "{}")

    queue = MemoryQueue()
    with service(queue, busy_once) as url:
        outcomes = by_name(client(url, queue).send(some(3), timeout_seconds=30))
    assert {outcome.result for outcome in outcomes.values()} == {f"name of {number}.jpg" for number in range(3)}
    assert tries == dict.fromkeys((outcome.request_id for outcome in outcomes.values()), 2)


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (400, '{"error": "not_an_image", "message": "This is no picture."}', "HTTP 400: This is no picture."),
        (413, '{"message": "Too large."}', "HTTP 413: Too large."),
        (502, "Internal Server Error", "HTTP 502: Internal Server Error"),
        (500, "[]", "HTTP 500: []"),
        (404, "", "HTTP 404: "),
        (403, '{"Message": "Forbidden."}', f"HTTP 403: Forbidden. {FORBIDDEN}"),
        (403, '{"message": "Signature expired: 20261125"}', "HTTP 403: Signature expired: 20261125"),
    ],
)
def test_a_refused_frame_has_the_reason_and_is_not_sent_again(status: int, body: str, problem: str) -> None:
    tries = []

    def refuse_first(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        tries.append(request.filename)
        return (status, body) if request.filename == "0.jpg" else answer(request, queue)

    queue = MemoryQueue()
    with service(queue, refuse_first) as url:
        outcomes = by_name(client(url, queue).send(some(3), timeout_seconds=30))
    assert (outcomes["0.jpg"].problem, outcomes["0.jpg"].answer, outcomes["0.jpg"].result) == (problem, None, None)
    assert outcomes["0.jpg"].failure is (Failure.FAILED if status >= 500 else Failure.REFUSED)
    assert outcomes["2.jpg"].failure is None
    assert outcomes["2.jpg"].result == "name of 2.jpg"
    assert sorted(tries) == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_frame_without_an_answer_has_a_problem_after_its_timeout_and_the_others_do_not() -> None:
    queue = MemoryQueue()
    with service(queue, lambda request, q: ACCEPTED if request.filename == "0.jpg" else answer(request, q)) as url:
        outcomes = by_name(client(url, queue).send(some(3), timeout_seconds=0.5))
    assert outcomes["0.jpg"].problem == "no answer within 0.5 s"
    assert outcomes["0.jpg"].failure is Failure.UNANSWERED
    assert outcomes["0.jpg"].milliseconds >= 500
    assert outcomes["1.jpg"].result == "name of 1.jpg"


def test_a_service_that_stays_busy_is_a_problem_after_the_timeout() -> None:
    queue = MemoryQueue()
    with service(queue, lambda request, q: (429, '{"message": "All are busy."}')) as url:
        (outcome,) = client(url, queue).send(some(1), timeout_seconds=0.3)
    assert outcome.problem == "HTTP 429: All are busy."


def test_a_function_url_that_does_not_answer_is_a_timeout_and_can_be_reached() -> None:
    queue = MemoryQueue()
    finished = threading.Event()

    def slow(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        finished.wait(20)
        return ACCEPTED

    with service(queue, slow) as url:
        (outcome,) = client(url, queue).send(some(1), timeout_seconds=0.3)
        finished.set()
    assert (outcome.problem, outcome.failure) == ("no answer within 0.3 s", Failure.UNANSWERED)


def test_a_file_that_cannot_be_read_is_not_sent() -> None:
    posted: list[str] = []
    queue = MemoryQueue()
    with service(queue, lambda request, q: (posted.append(request.filename), answer(request, q))[1]) as url:
        (outcome,) = client(url, queue).send([Frame("a.jpg", b"", "It is empty.")], timeout_seconds=30)
    assert (outcome.problem, outcome.failure, posted) == ("It is empty.", Failure.NOT_READ, [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"code": "wrong_crop", "message": "The crop is wrong."}, "The crop is wrong."),
        ({"code": "wrong_crop"}, "wrong_crop"),
        (None, "no reason given"),
    ],
)
def test_an_answer_error_has_its_reason(error: dict[str, str] | None, reason: str) -> None:
    def fail(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        queue.send(RecognitionResult(request.request_id, "Error", error=error).to_json())
        return ACCEPTED

    queue = MemoryQueue()
    with service(queue, fail) as url:
        (outcome,) = client(url, queue).send(some(1), timeout_seconds=30)
    assert (outcome.result, outcome.error, outcome.problem, outcome.failure) == ("Error", reason, None, None)


def test_an_unreachable_function_url_is_a_problem_that_names_it() -> None:
    queue = MemoryQueue()
    with service(queue) as url:
        pass
    (outcome,) = client(url, queue).send(some(1), timeout_seconds=5)
    assert outcome.answer is None
    assert url in str(outcome.problem)
    assert outcome.failure is Failure.NOT_SENT


def test_a_response_queue_that_fails_for_a_while_loses_no_answers() -> None:
    class Flaky(MemorySqs):
        calls = 0

        def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, WaitTimeSeconds: int) -> dict:
            self.calls += 1
            if self.calls <= 2:
                raise ConnectionError("no queue here")
            return super().receive_message(
                QueueUrl=QueueUrl, MaxNumberOfMessages=MaxNumberOfMessages, WaitTimeSeconds=WaitTimeSeconds
            )

    queue = MemoryQueue()
    with service(queue) as url:
        outcomes = by_name(ServiceClient(url, "queue", Flaky(queue)).send(some(3), timeout_seconds=30))
    assert [outcome.problem for outcome in outcomes.values()] == [None] * 3


def test_an_unreachable_response_queue_is_part_of_the_problem() -> None:
    class Forbidden(MemorySqs):
        def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, WaitTimeSeconds: int) -> dict:
            raise PermissionError("no sqs:ReceiveMessage")

    queue = MemoryQueue()
    with service(queue) as url:
        (outcome,) = ServiceClient(url, "queue", Forbidden(queue)).send(some(1), timeout_seconds=0.5)
    assert outcome.problem == "no answer within 0.5 s; the response queue cannot be read: no sqs:ReceiveMessage"


def test_every_attempt_to_post_gets_a_new_signature() -> None:
    signed: list[bytes] = []

    class Signer(requests.auth.AuthBase):
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            assert isinstance(request.body, bytes)
            signed.append(request.body)
            return request

    def busy_once(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        return answer(request, queue) if len(signed) > 1 else (429, "{}")

    queue = MemoryQueue()
    with service(queue, busy_once) as url:
        (outcome,) = ServiceClient(url, "queue", MemorySqs(queue), Signer()).send(some(1), timeout_seconds=30)
    assert outcome.result == "name of 0.jpg"
    assert len(signed) == 2
    assert signed[0] == signed[1]


def test_frames_are_read_only_as_fast_as_they_are_answered() -> None:
    taken, done = 0, 0
    ahead = []

    def reading() -> Iterator[Frame]:
        nonlocal taken
        for frame in some(20):
            ahead.append(taken - done)
            taken += 1
            yield frame

    queue = MemoryQueue()
    with service(queue) as url:
        for _ in client(url, queue).send(reading(), concurrency=3, timeout_seconds=30):
            done += 1
    assert done == 20
    assert max(ahead) <= 3


def test_concurrency_limits_the_unanswered_frames() -> None:
    lock = threading.Lock()
    open_now, most = 0, 0
    together = threading.Barrier(3)

    def count(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        together.wait(20)  # three at once do come
        with lock:
            open_now -= 1
        return answer(request, queue)

    queue = MemoryQueue()
    with service(queue, count) as url:
        assert len(by_name(client(url, queue).send(some(9), concurrency=3, timeout_seconds=30))) == 9
    assert most == 3


def test_an_error_while_reading_frames_ends_the_send() -> None:
    def reading() -> Iterator[Frame]:
        yield from some(2)
        raise BadInput("no_frames", "No frame of the video x.mp4 can be read.")

    queue = MemoryQueue()
    with service(queue) as url, pytest.raises(BadInput, match=r"x\.mp4"):
        list(client(url, queue).send(reading(), timeout_seconds=30))


def test_posts_to_this_machine_ignore_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    queue = MemoryQueue()
    with service(queue) as url:
        (outcome,) = client(url, queue).send(some(1), timeout_seconds=30)
    assert outcome.result == "name of 0.jpg"


def test_posts_to_aws_use_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of this test refuses every request, so a refusal shows that the client used it."""
    asked = threading.Event()

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.set()
            self.send_error(502)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_address[1]}/")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        url = "https://abc123.lambda-url.eu-central-1.on.aws/"
        (outcome,) = client(url, MemoryQueue()).send(some(1), timeout_seconds=30)
        server.shutdown()
    assert asked.is_set()
    assert outcome.problem == f"the function URL {url} cannot be reached (ProxyError)"


def test_an_outcome_carries_the_whole_answer() -> None:
    def with_more(request: FrameRequest, queue: MemoryQueue) -> tuple[int, str]:
        queue.send(json.dumps({"request_id": request.request_id, "result": "Ada", "later": {"version": 2}}))
        return ACCEPTED

    queue = MemoryQueue()
    with service(queue, with_more) as url:
        (outcome,) = client(url, queue).send(some(1), timeout_seconds=30)
    assert outcome.answer == {"request_id": outcome.request_id, "result": "Ada", "later": {"version": 2}}
