"""What the entries use of the context object that Lambda's runtime passes to a handler."""

from typing import Protocol


class LambdaContext(Protocol):
    """The context of one invocation.

    Source: Lambda developer guide, "Using the Lambda context object in Python".
    """

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda ends this invocation; negative after that."""
        ...
