"""The outcomes of sent frames as text: a row for each, and the sentences that say what went wrong."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from cli.printable_text import printable
from client.service_client import Failure, Outcome
from pipeline.messages import UNKNOWN, Json

#: What the message says about the frames of each kind, after their number: about one frame, and about several.
_SENTENCES: Final = {
    Failure.NOT_READ: ("could not be read, so it was not sent", "could not be read, so they were not sent"),
    Failure.NOT_SENT: ("could not be sent", "could not be sent"),
    Failure.REFUSED: ("was refused", "were refused"),
    Failure.FAILED: ("failed in the service", "failed in the service"),
    Failure.UNANSWERED: ("got no answer", "got no answer"),
}
#: The kinds whose reason may be in the logs: the frame reached the service.
_IN_LOGS: Final = frozenset({Failure.FAILED, Failure.UNANSWERED})
#: Widths of the columns of a table whose rows are printed one by one. A longer text moves the rest of its row.
_WIDTHS: Final = (4, 28, 28, 5, 8)
_HEADER: Final = ("#", "frame", "result", "faces", "distance", "ms")


def json_row(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as `--json` prints it: the whole answer, what was sent, and how long the answer took."""
    return {
        **(outcome.answer or {}),
        "index": outcome.index,
        "path": outcome.frame.path or outcome.frame.filename,
        "seconds": outcome.frame.seconds,
        "filename": outcome.frame.filename,
        "request_id": outcome.request_id,
        "result": outcome.result,
        "problem": outcome.problem,
        "failure": outcome.failure,
        "milliseconds": round(outcome.milliseconds, 1),
    }


def cells(outcome: Outcome) -> list[Text]:
    """Return an outcome as the cells of a row: frame, result, faces, distance, milliseconds.

    They are text, not markup, because names may contain brackets. The result has the name of every recognised face,
    largest first, and the distances are theirs; if no face was recognised, it is that of the largest face.
    """
    frame, milliseconds = Text(frame_name(outcome)), Text(f"{outcome.milliseconds:.0f}")
    if outcome.answer is None:
        return [frame, Text(printable(str(outcome.problem)), style="red"), Text(), Text(), milliseconds]
    faces = _faces(outcome.answer)
    if outcome.error is not None:
        result = Text(f"{outcome.result}: {printable(outcome.error)}", style="red")
        return [frame, result, Text(str(len(faces))), Text(), milliseconds]
    recognised = [face for face in faces if face.get("name") != UNKNOWN]
    names = ", ".join(printable(str(face.get("name"))) for face in recognised) or printable(str(outcome.result))
    distances = [face.get("distance") for face in recognised or faces[:1]]
    shown = ", ".join(f"{distance:.2f}" for distance in distances if isinstance(distance, int | float))
    return [frame, Text(names), Text(str(len(faces))), Text(shown), milliseconds]


def frame_name(outcome: Outcome) -> str:
    """Return the path of an outcome's frame as it was given, with the time of a frame of a video, ready to print."""
    frame = outcome.frame
    time = "" if frame.seconds is None else f" at {frame.seconds:.2f} s"
    return f"{printable(frame.path or frame.filename)}{time}"


def table_header() -> str:
    """Return the first line of a table whose rows are printed one by one."""
    return _line(_HEADER)


def table_row(outcome: Outcome) -> str:
    """Return an outcome as a line of that table, never shortened or broken, whatever the width of the terminal."""
    return _line([str(outcome.index), *(cell.plain for cell in cells(outcome))])


class InputOrder:
    """Puts outcomes that come in any order into that in which their frames were sent."""

    def __init__(self) -> None:
        self._waiting: dict[int, Outcome] = {}
        self._next = 0

    def add(self, outcome: Outcome) -> list[Outcome]:
        """Take an outcome; return those whose turn it is now. One that waits does not keep its picture."""
        if outcome.index != self._next:
            frame = dataclasses.replace(outcome.frame, content=b"")
            self._waiting[outcome.index] = dataclasses.replace(outcome, frame=frame)
            return []
        ready = [outcome]
        self._next += 1
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next += 1
        return ready

    def rest(self) -> list[Outcome]:
        """Return the outcomes that still wait for an earlier one."""
        return [self._waiting[index] for index in sorted(self._waiting)]


class Failures:
    """Counts what went wrong with frames."""

    def __init__(self) -> None:
        self._kinds: Counter[Failure] = Counter()
        self._errors = 0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome, if anything went wrong."""
        if outcome.failure is not None:
            self._kinds[outcome.failure] += 1
        elif outcome.error is not None:
            self._errors += 1

    def __bool__(self) -> bool:
        return bool(self._kinds) or self._errors > 0

    def report(self, logs_command: str) -> None:
        """Print a sentence for each kind on standard error, with the command that shows the logs where it helps."""
        for kind, (singular, plural) in _SENTENCES.items():
            if count := self._kinds[kind]:
                hint = f" See why with: {logs_command}" if kind in _IN_LOGS else ""
                print(f"faceq: {frame_count(count)} {singular if count == 1 else plural}.{hint}", file=sys.stderr)
        if self._errors:
            verb = "was" if self._errors == 1 else "were"
            print(f"faceq: {frame_count(self._errors)} {verb} answered Error.", file=sys.stderr)


def frame_count(count: int) -> str:
    """Return a number of frames with its noun."""
    return "1 frame" if count == 1 else f"{count} frames"


def _faces(answer: dict[str, Json]) -> list[dict[str, Json]]:
    faces = answer.get("faces")
    return [face for face in faces if isinstance(face, dict)] if isinstance(faces, list) else []


def _line(texts: Iterable[str]) -> str:
    *columns, last = texts
    padded = (f"{text}{' ' * (width - cell_len(text))}" for text, width in zip(columns, _WIDTHS, strict=True))
    return "  ".join([*padded, last])
