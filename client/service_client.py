"""A client of the service: posts frames to the function URL and collects their answers from the response queue.

Several clients may poll one queue. An answer for another client is not deleted, and the queue delivers it again when
its short visibility timeout ends.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import uuid4

import requests

from client.frames import Frame
from client.queue_operations import BATCH
from pipeline.messages import FrameRequest, Json

#: How long one receive call may wait for messages. SQS allows 20 s; with shorter calls a command ends sooner.
POLL_SECONDS: Final = 5
#: HTTP status codes after which we post the frame again: throttled, queue not reachable.
RETRIED_STATUS_CODES: Final = frozenset({429, 503})
#: What we add to HTTP 403, which a function URL answers before any of our code runs.
#: (Lambda developer guide, "Control access to Lambda function URLs": both actions since October 2025)
FORBIDDEN: Final = (
    "The caller needs the permissions lambda:InvokeFunctionUrl and lambda:InvokeFunction on the function's alias live."
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
        """Return up to `MaxNumberOfMessages` messages; wait for the first one if there are none."""
        ...

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> object:
        """Delete a message."""
        ...

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> object:
        """Let the queue deliver a received message again after so many seconds."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The result for one frame.

    Parameters
    ----------
    answer : dict or None
        The message from the response queue. None if the frame was not sent, or was refused, or no answer came in time.
    problem : str or None
        Why there is no answer; None if there is one.
    milliseconds : float
        From the start of the post until we had the answer.

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
        boto3's client. Only one thread uses it at a time.
    auth : requests.auth.AuthBase or None
        Signs the posts, for a function URL with auth type AWS_IAM.

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
        self._answers: dict[str, Future[dict[str, Json]]] = {}
        self._sent_ids: set[str] = set()
        self._message_lock = threading.Lock()
        self._session = requests.Session()
        self._session.auth = auth
        # Function URLs on AWS are always https, and may only be reachable through a proxy. Posts to this machine must
        # not go to a proxy.
        self._session.trust_env = function_url.startswith("https://")
        self._queue_problem = ""

    def send(self, frames: Iterable[Frame], concurrency: int = 4, timeout_seconds: float = 60) -> Iterator[Outcome]:
        """Send each frame and yield its outcome as soon as there is one.

        At most `concurrency` frames are unanswered at a time. We read `frames` only as fast as answers arrive, so a
        long video does not fill the memory.
        """
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=concurrency))
        with self._polling(), ThreadPoolExecutor(concurrency) as pool, self._cancelling_waits():
            running: set[Future[Outcome]] = set()
            for frame in frames:
                if len(running) == concurrency:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                running.add(pool.submit(self._outcome_of, frame, timeout_seconds))
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)

    def _outcome_of(self, frame: Frame, timeout_seconds: float) -> Outcome:
        request_id = str(uuid4())
        started = time.monotonic()

        def outcome(answer: dict[str, Json] | None, problem: str | None) -> Outcome:
            return Outcome(frame, request_id, answer, problem, (time.monotonic() - started) * 1e3)

        if frame.problem is not None:
            return outcome(None, frame.problem)
        answer: Future[dict[str, Json]] = Future()
        self._answers[request_id] = answer
        self._sent_ids.add(request_id)
        try:
            problem = self._post(FrameRequest(frame.content, request_id, frame.filename), started + timeout_seconds)
            if problem is not None:
                return outcome(None, problem)
            return outcome(answer.result(max(0, started + timeout_seconds - time.monotonic())), None)
        except TimeoutError:
            return outcome(None, f"no answer within {timeout_seconds:g} s{self._queue_problem}")
        finally:
            del self._answers[request_id]

    def _post(self, request: FrameRequest, deadline: float) -> str | None:
        """Post a frame until it is accepted; return None then, or else the reason why it was not."""
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
            if response.status_code not in RETRIED_STATUS_CODES or time.monotonic() + pause > deadline:
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
            with self._message_lock:  # a poll may go on by itself, but the deletion of an answer must be finished
                pass

    @contextmanager
    def _cancelling_waits(self) -> Iterator[None]:
        """Cancel all waits for answers when the block ends, even by Ctrl-C. The pool would wait for every timeout."""
        try:
            yield
        finally:
            for answer in list(self._answers.values()):
                answer.cancel()

    def _poll(self, stop: threading.Event) -> None:
        pause = 0.1
        while not stop.is_set():
            try:
                received = self._sqs.receive_message(
                    QueueUrl=self._queue_url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=POLL_SECONDS
                )
                with self._message_lock:
                    for message in received.get("Messages", []):
                        if stop.is_set():  # we have all our answers, so this message is for another client
                            self._sqs.change_message_visibility(
                                QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
                            )
                        else:
                            self._handle(message)
                pause = 0.1
                self._queue_problem = ""
            except Exception as error:  # noqa: BLE001 - boto3's errors have no common base class
                # A frame that stays unanswered reports this.
                self._queue_problem = f"; the response queue cannot be read: {error}"
                stop.wait(pause)
                pause = min(2 * pause, 2.0)

    def _handle(self, message: dict[str, str]) -> None:
        try:
            answer = json.loads(message["Body"])
            request_id = answer["request_id"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return  # not an answer, so not one of ours
        if not isinstance(request_id, str) or request_id not in self._sent_ids:
            return
        waiting = self._answers.get(request_id)
        if waiting is not None and not waiting.done():  # the queue may deliver an answer twice
            waiting.set_result(answer)
        self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])


def _reason(response: requests.Response) -> str:
    try:
        fields = response.json()
        reason = str(fields["Message"] if "Message" in fields else fields["message"])  # function URLs write Message
    except (ValueError, TypeError, KeyError):
        reason = response.text[:200]
    # An expired signature or token is 403 too, but the reason says so, and permissions would not help.
    return f"{reason} {FORBIDDEN}" if response.status_code == 403 and "Forbidden" in reason else reason
