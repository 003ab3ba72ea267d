"""Exponential backoff."""

from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Pauses between tries: `first` seconds, then twice as long each time, up to `longest`, until `reset`."""

    first: float
    longest: float
    _previous: float = field(init=False, default=0.0)

    def next(self) -> float:
        """Return how long to pause before the next try, seconds."""
        self._previous = min(self.longest, self._previous * 2 or self.first)
        return self._previous

    def reset(self) -> None:
        """Begin again with the first pause, because a try succeeded."""
        self._previous = 0.0
