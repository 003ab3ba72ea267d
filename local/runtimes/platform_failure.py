"""Failures that the Lambda service, not the handler, reports for a function: exits, timeouts, failed inits.

The error types and messages are those that AWS sends.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

EXIT_ERROR: Final = "Runtime.ExitError"
_TIMED_OUT: Final = "Sandbox.Timedout"


@dataclass(frozen=True)
class PlatformFailure:
    """Why a function did not answer.

    Parameters
    ----------
    error_type : str
        AWS's name for it, such as `Runtime.ExitError`.
    message : str
        AWS's message, without the request's id.
    report : bytes or None
        The error report that the function's process sent itself, usually JSON; None if it sent none.

    """

    error_type: str
    message: str
    report: bytes | None = None

    @property
    def is_timeout(self) -> bool:
        """Whether the function ran out of time."""
        return self.error_type == _TIMED_OUT

    def payload(self, request_id: str) -> bytes:
        """Return the payload of an invocation that failed like this: the process's own report, if there is one."""
        if self.report:
            return self.report
        return json.dumps(
            {"errorType": self.error_type, "errorMessage": f"RequestId: {request_id} Error: {self.message}"}
        ).encode()

    def reason(self) -> str:
        """Return one line that says why: the process's own error, if it reported one."""
        report = self._parsed_report()
        if "errorType" in report and "errorMessage" in report:
            return " ".join(f"{report['errorType']}: {report['errorMessage']}".split())
        return " ".join(self.message.split())

    def place(self, task_root: Path) -> str:
        """Return the last line of the function's own code in the reported stack trace, as `file, line N`.

        Empty if the process reported no trace or none of its files is below `task_root`.
        """
        trace = self._parsed_report().get("stackTrace")
        if not isinstance(trace, list):
            return ""
        root = task_root.resolve()
        lines = [
            (Path(file).resolve(), line)
            for file, line in re.findall(r'File "(.+)",? [Ll]ine (\d+)', "".join(map(str, trace)))
        ]
        own = [(file, line) for file, line in lines if file.is_relative_to(root)]
        # A virtual environment may be in the task root.
        own = [(file, line) for file, line in own if "site-packages" not in file.parts]
        return f"{own[-1][0].relative_to(root)}, line {own[-1][1]}" if own else ""

    def _parsed_report(self) -> dict[str, object]:
        try:
            report = json.loads(self.report or b"")
        except ValueError:
            return {}
        return report if isinstance(report, dict) else {}


class InitFailed(Exception):  # noqa: N818 - a result, handed to the request that waits for the environment
    """An environment could not init."""

    def __init__(self, failure: PlatformFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


#: What AWS reports for a process that was killed.
KILLED: Final = PlatformFailure(EXIT_ERROR, "Runtime exited with error: signal: killed")


def timed_out(seconds: float) -> PlatformFailure:
    """Return what AWS reports for a function that ran longer than its timeout of `seconds`."""
    return PlatformFailure(_TIMED_OUT, f"Task timed out after {seconds:.2f} seconds")
