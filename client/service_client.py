"""A client of the service: posts frames to the function URL and collects their answers from the response queue.

Several clients may poll one queue. An answer for another client is not deleted, and the queue delivers it again when
its short visibility timeout ends.
"""

import json
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol
from uuid import uuid4

import requests

from client.frames import Frame
from pipeline.messages import ERROR, FrameRequest, Json
from template.lambda_facts import SQS_BATCH

#: How long one receive call may wait for messages. SQS allows 20 s; with shorter calls a command ends sooner.
POLL_SECONDS: Final = 5
#: HTTP status codes after which we post the frame again: throttled, queue not reachable.
RETRIED_STATUS_CODES: Final = frozenset({429, 503})
#: What we add to HTTP 403, which a function URL answers before any of our code runs.
#: (Lambda developer guide, "Control access to Lambda function URLs": both actions since October 2025)
FORBIDDEN: Final = (
    "The caller needs the permissions lambda:InvokeFunctionUrl and lambda:InvokeFunction on the function's alias live."
)


#: How long an interrupted `send` takes the answers of its frames off the response queue before it ends, seconds.
LATE_ANSWER_SECONDS: Final = 2.0


class Failure(StrEnum):
    """Why a frame has no answer."""

    #: The file could not be read, so nothing was sent.
    NOT_READ = "not_read"
    #: The function URL could not be reached, so nothing was sent.
    NOT_SENT = "not_sent"
    #: The function URL answered 4xx: the frame, or the caller, is not accepted.
    REFUSED = "refused"
    #: The function URL answered with another status code: the service failed.
    FAILED = "failed"
    #: The frame was sent, but no answer came in time.
    UNANSWERED = "unanswered"


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
    index : int
        The place of the frame among those that were sent, from 0.
    failure : Failure or None
        The kind of the problem; None if there is an answer.

    """

    frame: Frame
    request_id: str
    answer: dict[str, Json] | None
    problem: str | None
    milliseconds: float
    index: int = 0
    failure: Failure | None = None

    @property
    def result(self) -> str | None:
        """The name that was found, `Unknown`, `No-Face` or `Error`; None without an answer."""
        return None if self.answer is None else str(self.answer["result"])

    @property
    def error(self) -> str | None:
        """Why the answer is `Error`; None if it is not."""
        if self.answer is None or self.answer["result"] != ERROR:
            return None
        error = self.answer.get("error")
        return str(error.get("message") or error.get("code")) if isinstance(error, dict) else "no reason given"


class ServiceClient:
    """Sends frames and collects their answers.

    Parameters
    ----------
    function_url, response_queue_url : str
    sqs : ResponseQueue
        boto3's client. Only one thread uses it at a time.
    auth : requests.auth.AuthBase or None
        Signs the posts, for a function URL with auth type AWS_IAM.
    late_answer_seconds : float
        How long an interrupted `send` takes the answers of its frames off the response queue before it ends.

    """

    def __init__(
        self,
        function_url: str,
        response_queue_url: str,
        sqs: ResponseQueue,
        auth: requests.auth.AuthBase | None = None,
        late_answer_seconds: float = LATE_ANSWER_SECONDS,
    ) -> None:
        self._function_url = function_url
        self._queue_url = response_queue_url
        self._sqs = sqs
        self._answers: dict[str, Future[dict[str, Json]]] = {}
        self._sent_ids: set[str] = set()
        self._accepted_ids: set[str] = set()
        self._answered_ids: set[str] = set()
        self._late_answer_seconds = late_answer_seconds
        self._interrupted = threading.Event()
        self._message_lock = threading.Lock()
        self._session = requests.Session()
        self._session.auth = auth
        # Function URLs on AWS are always https, and may only be reachable through a proxy. Posts to this machine must
        # not go to a proxy.
        self._session.trust_env = function_url.startswith("https://")
        self._queue_problem = ""

    def send(self, frames: Iterable[Frame], concurrency: int = 4, timeout_seconds: float = 60) -> Generator[Outcome]:
        """Send each frame and yield its outcome as soon as there is one.

        At most `concurrency` frames are unanswered at a time. We read `frames` only as fast as answers arrive, so a
        long video does not fill the memory.

        If the iterator is closed or interrupted, we first take the answers that still come off the response queue for
        a moment, so that other clients do not find them. `unanswered` says how many stay away.
        """
        self._interrupted.clear()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=concurrency))
        with self._polling(), ThreadPoolExecutor(concurrency) as pool, self._cancelling_waits():
            running: set[Future[Outcome]] = set()
            for index, frame in enumerate(frames):
                if len(running) == concurrency:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                running.add(pool.submit(self._outcome_of, index, frame, timeout_seconds))
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)

    @property
    def unanswered(self) -> int:
        """How many frames the service accepted whose answers have not come. They may come later, and stay."""
        return len(self._accepted_ids - self._answered_ids)

    def _outcome_of(self, index: int, frame: Frame, timeout_seconds: float) -> Outcome:
        request_id = str(uuid4())
        started = time.monotonic()

        def outcome(
            answer: dict[str, Json] | None, problem: str | None = None, failure: Failure | None = None
        ) -> Outcome:
            milliseconds = (time.monotonic() - started) * 1e3
            return Outcome(frame, request_id, answer, problem, milliseconds, index, failure)

        if frame.problem is not None:
            return outcome(None, frame.problem, Failure.NOT_READ)
        answer: Future[dict[str, Json]] = Future()
        self._answers[request_id] = answer
        self._sent_ids.add(request_id)
        try:
            refusal = self._post(FrameRequest(frame.content, request_id, frame.filename), started + timeout_seconds)
            if refusal is not None:
                return outcome(None, *refusal)
            self._accepted_ids.add(request_id)
            return outcome(answer.result(max(0, started + timeout_seconds - time.monotonic())))
        except TimeoutError:
            problem = f"no answer within {timeout_seconds:g} s{self._queue_problem}"
            return outcome(None, problem, Failure.UNANSWERED)
        finally:
            del self._answers[request_id]

    def _post(self, request: FrameRequest, deadline: float) -> tuple[str, Failure] | None:
        """Post a frame until it is accepted; return None then, or else the reason why it was not.

        Raises TimeoutError if the function URL has not answered by the deadline; it may have accepted the frame.
        """
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
            except requests.ConnectTimeout as error:
                return self._unreachable(error)
            except requests.RequestException as error:
                if isinstance(error, requests.ReadTimeout) or time.monotonic() >= deadline:
                    self._accepted_ids.add(request.request_id)
                    raise TimeoutError from None
                return self._unreachable(error)
            if response.status_code == 200:
                return None
            is_retried = response.status_code in RETRIED_STATUS_CODES and time.monotonic() + pause <= deadline
            if not is_retried or self._interrupted.wait(pause):
                failure = Failure.REFUSED if 400 <= response.status_code < 500 else Failure.FAILED
                return f"HTTP {response.status_code}: {_reason(response)}", failure
            pause = min(2 * pause, 2.0)

    def _unreachable(self, error: requests.RequestException) -> tuple[str, Failure]:
        problem = f"the function URL {self._function_url} cannot be reached ({type(error).__name__})"
        return problem, Failure.NOT_SENT

    @contextmanager
    def _polling(self) -> Iterator[None]:
        stop = threading.Event()
        poller = threading.Thread(target=self._poll, args=(stop,), name="response-queue", daemon=True)
        poller.start()
        try:
            yield
        except BaseException:  # Ctrl-C, or the caller needs no more outcomes
            deadline = time.monotonic() + self._late_answer_seconds
            while self.unanswered and time.monotonic() < deadline:
                time.sleep(0.05)
            raise
        finally:
            stop.set()
            with self._message_lock:  # a poll may go on by itself, but the deletion of an answer must be finished
                pass

    @contextmanager
    def _cancelling_waits(self) -> Iterator[None]:
        """Cancel all waits, for answers and for another post, when the block ends, even by Ctrl-C.

        The pool would wait for every timeout.
        """
        try:
            yield
        finally:
            self._interrupted.set()
            for answer in list(self._answers.values()):
                answer.cancel()

    def _poll(self, stop: threading.Event) -> None:
        pause = 0.1
        while not stop.is_set():
            try:
                received = self._sqs.receive_message(
                    QueueUrl=self._queue_url, MaxNumberOfMessages=SQS_BATCH, WaitTimeSeconds=POLL_SECONDS
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
        self._answered_ids.add(request_id)
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
