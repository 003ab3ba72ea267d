"""The one tree of errors. A class says what its caller does next: refuse, retry, or fix the set-up."""


class FaceqError(Exception):
    """A failure with a stable code for programs and a sentence for users.

    Parameters
    ----------
    code : str
        Lower-case words joined by underscores. Part of the public contract: it never changes.
    message : str
        What is wrong and what to do about it, in one line.

    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BadInput(FaceqError):  # noqa: N818 - named for the input, as HTTP frameworks name theirs
    """The input can never be processed. Refuse it; do not retry.

    Parameters
    ----------
    status : int
        HTTP status of the refusal, 400 to 499.

    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code, message)
        self.status = status


class TransientError(FaceqError):
    """Something outside faceq fails at the moment. The same call may succeed later."""


class SetupError(FaceqError):
    """Something that faceq needs (a model, a gallery, a setting, credentials) is missing or unusable.

    Do not retry; the message names the command that puts it right.
    """
