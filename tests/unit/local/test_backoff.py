"""Exponential backoff."""

from local.backoff import Backoff


def test_a_backoff_doubles_up_to_its_limit_and_starts_over() -> None:
    backoff = Backoff(0.1, 0.5)
    assert [backoff.next() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.next() == 0.1
