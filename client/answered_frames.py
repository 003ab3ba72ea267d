"""The frames that a stack on this machine has answered, read from the log lines of its functions."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pipeline.log_events import ANSWERED_ERROR, DETECTED, FILE, RECOGNISED
from pipeline.messages import ERROR, NO_FACE

#: How many frames are remembered from their detection to their answer.
_MAX_DETECTED: Final = 10_000
#: How Powertools writes the time of a log line.
_TIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S,%f%z"


@dataclass(frozen=True)
class AnsweredFrame:
    """One answer.

    Parameters
    ----------
    at : datetime
        When the answer had been sent, with a time zone.
    request_id : str
    filename : str
        The client's name for the frame, at most 200 characters; empty if the functions do not log names.
    result : str
        The `result` of the answer; `name` in place of a person's name if the functions do not log names.
    error : str
        The code of the error if `result` is `Error`, else empty.
    faces : int or None
        How many faces the frame shows; None for an `Error` of a frame whose detection is not known.
    milliseconds : float
        From when face-detection began to decode the frame until the answer was on the response queue. If we have not
        seen the frame's detection, the sum of all its steps, without the time that it waited between them.

    """

    at: datetime
    request_id: str
    filename: str
    result: str
    error: str
    faces: int | None
    milliseconds: float


@dataclass(frozen=True)
class _Detected:
    at: datetime
    faces: int
    milliseconds: float


class AnsweredFrames:
    """Reads log lines one by one, as they are written."""

    def __init__(self) -> None:
        self._detected: OrderedDict[str, _Detected] = OrderedDict()

    def read(self, line: str) -> AnsweredFrame | None:
        """Return the answer that a line reports; None if it reports none, like most lines."""
        if not line.startswith("{") or line.startswith('{"_aws"'):
            return None
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            return None
        message, request_id, at = fields.get("message"), fields.get("request_id"), _time(fields.get("timestamp"))
        if at is None or not isinstance(request_id, str) or not isinstance(message, str):
            return None
        if message == DETECTED:
            return self._read_detected(at, request_id, fields)
        return self._read_answered(at, request_id, fields) if message in {RECOGNISED, ANSWERED_ERROR} else None

    def _read_detected(self, at: datetime, request_id: str, fields: Mapping[str, object]) -> AnsweredFrame | None:
        detected = _Detected(at, _whole_number(fields.get("faces")) or 0, _sum(fields.get("timings")))
        if detected.faces == 0:
            return AnsweredFrame(at, request_id, _text(fields, FILE), NO_FACE, "", 0, detected.milliseconds)
        self._detected[request_id] = detected
        self._detected.move_to_end(request_id)
        if len(self._detected) > _MAX_DETECTED:
            self._detected.popitem(last=False)
        return None

    def _read_answered(self, at: datetime, request_id: str, fields: Mapping[str, object]) -> AnsweredFrame:
        detected = self._detected.get(request_id)  # it stays, because the queue may deliver the frame again
        if detected is None:
            milliseconds = _sum(fields.get("timings"))
        else:
            milliseconds = detected.milliseconds + max(0.0, (at - detected.at).total_seconds() * 1e3)
        faces = _whole_number(fields.get("faces"))
        return AnsweredFrame(
            at,
            request_id,
            _text(fields, FILE),
            _text(fields, "result") or ERROR,
            _text(fields, "error"),
            faces if faces is not None or detected is None else detected.faces,
            milliseconds,
        )


def _time(value: object) -> datetime | None:
    try:
        return datetime.strptime(value, _TIME_FORMAT) if isinstance(value, str) else None
    except ValueError:
        return None


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""


def _whole_number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _sum(timings: object) -> float:
    values = timings.values() if isinstance(timings, dict) else ()
    return float(sum(value for value in values if isinstance(value, int | float)))
