"""How long a face takes in this process, measured while it works."""

from collections import deque
from typing import Final

#: How many calls of the network count. Few, so that the pace follows a processor that becomes slower or faster.
_CALLS: Final = 8
#: How much longer than the slowest of those calls the next one may take.
MARGIN: Final = 1.5


class Pace:
    """The seconds that embedding a face took in the last few calls of the network.

    Before the first call nothing is known, and every estimate is 0.
    """

    def __init__(self) -> None:
        self._seconds_per_face: deque[float] = deque(maxlen=_CALLS)

    def add(self, faces: int, seconds: float) -> None:
        """Record a call of the network with at least one face."""
        self._seconds_per_face.append(seconds / faces)

    def seconds_for(self, faces: int) -> float:
        """Return the seconds that so many faces are likely to need at most: the slowest recent call, and a margin."""
        return faces * MARGIN * max(self._seconds_per_face, default=0.0)

    def faces_in(self, seconds: float) -> int:
        """Return how many faces are likely to be embedded in so many seconds; a very large number if nothing is known.

        0 if `seconds` is not positive.
        """
        if seconds <= 0:
            return 0
        each = self.seconds_for(1)
        return int(min(seconds / each, 1e9)) if each > 0 else 10**9
