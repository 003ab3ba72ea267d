"""The service as its client sees it: post a frame to the function URL, find its answer on the response queue.

Several clients may poll one queue: an answer to somebody else is left alone and comes back to the queue when its
short visibility timeout ends.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import requests

from client.frames import Frame
from pipeline.messages import FrameRequest, Json

#: The longest that SQS holds a receive call open is 20 s; a shorter call lets a timeout end a command sooner.
POLL_SECONDS = 5
#: Answers of HTTP that mean "not accepted, try again": throttled, queue out of reach.
TRY_AGAIN = frozenset({429, 503})
#: What HTTP 403 means, which a function URL answers before any code runs.
#: (Lambda developer guide, "Control access to Lambda function URLs": both actions since October 2025)
FORBIDDEN = (
    "Who calls needs the permissions lambda:InvokeFunctionUrl and lambda:InvokeFunction, on the function's alias live."
)


class ResponseQueue(Protocol):
    """The part of boto3's SQS client that is used here."""

    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int,
        WaitTimeSeconds: int,
    ) -> dict[str, list[dict[str, str]]]:
        """Return at most so many messages."""
        ...

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> object:
        """Take a message off the queue."""
        ...

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> object:
        """Show a received message to others after so many seconds."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one frame.

    Parameters
    ----------
    answer : dict or None
        The message from the response queue, None if the frame was not sent or refused, or no answer came in time.
    problem : str or None
        Why there is no answer.
    milliseconds : float
        From the start of the post to the answer in hand.

    """

    frame: Frame
    request_id: str
    answer: dict[str, Json] | None
    problem: str | None
    milliseconds: float

    @property
    def result(self) -> str | None:
        """The name that was found, `Unknown`, `No-Face` or `Error`; None without an answer."""
        return None if self.answer is None else str(self.answer["result"])


class ServiceClient:
    """Sends frames and collects their answers.

    Parameters
    ----------
    function_url, response_queue_url : str
    sqs : ResponseQueue
        boto3's client; used by one thread at a time.
    auth : requests.auth.AuthBase or None
        Signs the posts, as a function URL of auth type AWS_IAM wants it.

    """

    def __init__(
        self,
        function_url: str,
        response_queue_url: str,
        sqs: ResponseQueue,
        auth: requests.auth.AuthBase | None = None,
    ) -> None:
        self._function_url = function_url
        self._queue_url = response_queue_url
        self._sqs = sqs
        self._waiting: dict[str, Future[dict[str, Json]]] = {}
        self._own: set[str] = set()
        self._taking = threading.Lock()
        self._session = requests.Session()
        self._session.auth = auth
        # AWS's function URLs are all https and may lie behind a proxy. A proxy variable must not catch what goes to
        # this machine.
        self._session.trust_env = function_url.startswith("https://")
        self._queue_problem = ""

    def send(self, frames: Iterable[Frame], concurrency: int = 4, timeout_seconds: float = 60) -> Iterator[Outcome]:
        """Send each frame and yield its outcome as it comes, at most `concurrency` frames unanswered at a time.

        `frames` is read only as fast as answers come, so a long video does not fill the memory.
        """
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=concurrency))
        with self._polling(), ThreadPoolExecutor(concurrency) as pool, self._giving_up():
            running: set[Future[Outcome]] = set()
            for frame in frames:
                if len(running) == concurrency:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                running.add(pool.submit(self._one, frame, timeout_seconds))
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)

    def _one(self, frame: Frame, timeout_seconds: float) -> Outcome:
        request_id = str(uuid4())
        started = time.monotonic()

        def outcome(answer: dict[str, Json] | None, problem: str | None) -> Outcome:
            return Outcome(frame, request_id, answer, problem, (time.monotonic() - started) * 1e3)

        if frame.problem is not None:
            return outcome(None, frame.problem)
        answer: Future[dict[str, Json]] = Future()
        self._waiting[request_id] = answer
        self._own.add(request_id)
        try:
            problem = self._post(FrameRequest(frame.content, request_id, frame.filename), started + timeout_seconds)
            if problem is not None:
                return outcome(None, problem)
            return outcome(answer.result(max(0, started + timeout_seconds - time.monotonic())), None)
        except TimeoutError:
            return outcome(None, f"no answer within {timeout_seconds:g} s{self._queue_problem}")
        finally:
            del self._waiting[request_id]

    def _post(self, request: FrameRequest, deadline: float) -> str | None:
        """Post until accepted; return why not otherwise."""
        body = request.to_json().encode()
        pause = 0.1
        while True:
            try:
                response = self._session.post(
                    self._function_url,
                    data=body,
                    headers={"content-type": "application/json"},
                    timeout=max(0.1, deadline - time.monotonic()),
                )
            except requests.RequestException as error:
                return f"the function URL {self._function_url} cannot be reached ({type(error).__name__})"
            if response.status_code == 200:
                return None
            if response.status_code not in TRY_AGAIN or time.monotonic() + pause > deadline:
                return f"HTTP {response.status_code}: {_reason(response)}"
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    @contextmanager
    def _polling(self) -> Iterator[None]:
        stop = threading.Event()
        poller = threading.Thread(target=self._poll, args=(stop,), name="response-queue", daemon=True)
        poller.start()
        try:
            yield
        finally:
            stop.set()
            with self._taking:  # a poll that runs may be left alone, an answer that is being deleted may not
                pass

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """When the block ends, by Ctrl-C too, end all waits for answers: the pool would see each to its timeout."""
        try:
            yield
        finally:
            for answer in list(self._waiting.values()):
                answer.cancel()

    def _poll(self, stop: threading.Event) -> None:
        pause = 0.1
        while not stop.is_set():
            try:
                received = self._sqs.receive_message(
                    QueueUrl=self._queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=POLL_SECONDS
                )
                with self._taking:
                    for message in received.get("Messages", []):
                        if stop.is_set():  # all answers are in: what this last poll took is for others
                            self._sqs.change_message_visibility(
                                QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
                            )
                        else:
                            self._take(message)
                pause = 0.1
                self._queue_problem = ""
            except Exception as error:  # noqa: BLE001 - boto3 has no one base class; a frame without answer says it
                self._queue_problem = f"; the response queue cannot be read: {error}"
                stop.wait(pause)
                pause = min(2 * pause, 2.0)

    def _take(self, message: dict[str, str]) -> None:
        try:
            answer = json.loads(message["Body"])
            request_id = answer["request_id"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return  # not an answer, so not ours
        if not isinstance(request_id, str) or request_id not in self._own:
            return
        waiting = self._waiting.get(request_id)
        if waiting is not None and not waiting.done():  # the queue may deliver twice
            waiting.set_result(answer)
        self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])


def _reason(response: requests.Response) -> str:
    try:
        fields = response.json()
        reason = str(fields["Message"] if "Message" in fields else fields["message"])  # the URL itself says Message
    except (ValueError, TypeError, KeyError):
        reason = response.text[:200]
    # A signature that is too old or a token that has expired is 403 too, and its own words say so.
    return f"{reason} {FORBIDDEN}" if response.status_code == 403 and "Forbidden" in reason else reason
