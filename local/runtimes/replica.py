"""A replica: one container of a function, as the pool sees it."""

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from local.runtimes.platform_failure import PlatformFailure
from local.runtimes.rie_request import CONNECT_SECONDS, Address, Answer

State: TypeAlias = Literal["starting", "idle", "busy", "failed"]

#: TCP keepalive of an idle connection: first probe and time between probes, seconds, and unanswered probes until it is
#: given up.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True)
class Replica:
    """One container of a function, as `faceq status` shows it.

    Parameters
    ----------
    address : (str, int)
        Host and port of its RIE.
    state : str
        `starting` (it does not answer yet, or inits), `idle`, `busy`, or `failed` (its init failed; it is tried again).
    answered : int
        How many requests it has answered.
    error : str
        Why its last init failed, in one line; empty if it did not fail.

    """

    address: Address
    state: State
    answered: int
    error: str


@dataclass(eq=False)
class ReplicaRecord:
    """What the pool knows about a replica, from the moment its address is found until it is dropped."""

    address: Address
    state: State = "starting"
    answered: int = 0
    failure: PlatformFailure | None = None  # of its last init
    obstacle: str = ""  # why it cannot be warmed up, apart from a failed init
    is_listed: bool = True  # its address is still found
    is_ready: bool = False  # warmed up, and its RIE has not ended since
    is_announced: bool = False  # the pool has reported that it is ready
    is_overdue: bool = False  # its request has taken too long, and the caller has got a timeout
    lost: asyncio.Event = field(default_factory=asyncio.Event)  # it must be warmed up again
    life: "asyncio.Task[None] | None" = None
    in_flight: "asyncio.Task[Answer | None] | None" = None  # its only request: a second one ends RIE (measured)

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def error(self) -> str:
        """Why its last init failed, in one line."""
        return self.failure.reason() if self.failure else ""

    @property
    def is_in_flight(self) -> bool:
        """Whether a request to it has no answer yet."""
        return self.in_flight is not None and not self.in_flight.done()

    @property
    def is_warming_up(self) -> bool:
        """Whether its function is in its init."""
        return self.state == "starting" and self.is_in_flight

    def snapshot(self) -> Replica:
        """Return its present state."""
        return Replica(self.address, self.state, self.answered, self.error)


async def watch(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection whose end shows that RIE has ended. We send nothing on it; RIE accepts that (measured)."""
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await asyncio.open_connection(*address)
    connection: socket.socket = writer.get_extra_info("socket")
    # A container that left the network closes no connection. Keepalive notices that it is gone.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return reader, writer
