"""A queue in memory with SQS's semantics, for tests in one process."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.queue_sqs import check_body
from pipeline.ports import DeliveredMessages, MessageSender


@dataclass(frozen=True)
class ReceivedMessage:
    """A message that its receiver must delete before it becomes visible again.

    Parameters
    ----------
    message_id : str
        The same on every receive.
    receipt : str
        Deletes it; different on every receive.
    body : str
        As sent.
    receive_count : int
        How often it has been received, including this time.

    """

    message_id: str
    receipt: str
    body: str
    receive_count: int


@dataclass
class _Stored:
    message_id: str
    body: str
    visible_at: float = 0.0
    receive_count: int = 0
    receipt: str | None = None


class MemoryQueue(MessageSender, DeliveredMessages):
    """A standard queue. Safe to use from several threads.

    Parameters
    ----------
    visibility_timeout : float
        How many seconds a received message stays hidden.
    clock : callable
        Returns seconds and never goes backwards.

    """

    def __init__(self, visibility_timeout: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._visibility_timeout = visibility_timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._stored: list[_Stored] = []
        self._numbers = itertools.count(1)

    def send(self, body: str) -> None:
        """Put `body` on the queue. Raises ValueError if SQS can never accept it."""
        check_body(body)
        with self._lock:
            self._stored.append(_Stored(f"message-{next(self._numbers)}", body))

    def receive(self, most: int = 10) -> list[ReceivedMessage]:
        """Return up to `most` visible messages (1 to 10) and hide them."""
        if not 1 <= most <= 10:
            raise ValueError("a receive takes 1 to 10 messages")
        received: list[ReceivedMessage] = []
        with self._lock:
            now = self._clock()
            messages = [stored for stored in self._stored if stored.visible_at <= now][:most]
            for stored in messages:
                stored.visible_at = now + self._visibility_timeout
                stored.receive_count += 1
                stored.receipt = f"receipt-{next(self._numbers)}"
                received.append(ReceivedMessage(stored.message_id, stored.receipt, stored.body, stored.receive_count))
        return received

    def delete(self, receipt: str) -> None:
        """Remove the message, unless it is already removed or has been received again since."""
        with self._lock:
            self._stored = [stored for stored in self._stored if stored.receipt != receipt]

    def hide(self, receipt: str, seconds: float) -> None:
        """Show the message again after so many seconds, unless it has been received again since."""
        with self._lock:
            for stored in self._stored:
                if stored.receipt == receipt:
                    stored.visible_at = self._clock() + seconds

    def release(self, receipts: Sequence[str]) -> None:
        """Show the messages again now, as the port says."""
        for receipt in receipts:
            self.hide(receipt, 0)

    def __len__(self) -> int:
        """Return the number of messages, including hidden ones."""
        with self._lock:
            return len(self._stored)
