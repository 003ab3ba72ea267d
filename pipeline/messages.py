"""The wire format: the HTTP request, the message between the two functions, and the answer.

Every message is a frozen dataclass. The service reads and writes JSON only here, in `from_json` and `to_json`.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInput
from pipeline.ports import Face

#: The values of `result` that do not name a person.
UNKNOWN = "Unknown"
NO_FACE = "No-Face"
ERROR = "Error"

#: Longest accepted request id, in characters: long enough for every id in use, and limited because every log line
#: contains it.
MAX_REQUEST_ID_CHARS = 256
MAX_FILENAME_CHARS = 4096
MAX_PREPROCESSING_CHARS = 64
#: Most faces that are read from one message. About half as many JPEG crops fill a message; tiny crops in another
#: format could be more, and would need gigabytes of memory once decoded.
MAX_FACES = 1000
#: Largest accepted magnitude of a number: far above any coordinate or duration, and well within float32.
MAX_NUMBER = 1e9

#: From the URL-safe alphabet of base64 to the standard one. (RFC 4648, sections 4 and 5)
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_DATA_URL = re.compile(r"\s*data:", re.IGNORECASE)
#: A character that cannot be in base64: neither of an alphabet nor white space, or padding before the end.
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/\-_=\s]|=(?![=\s]*\Z)")

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class FrameRequest:
    """One frame as a camera posts it.

    Parameters
    ----------
    content : bytes
        The encoded picture (JPEG, PNG, ...), at least one byte. It may turn out not to be a picture.
    request_id : str
        The client's id for the frame, 1 to 256 characters. The answer carries it; the client keeps it unique.
    filename : str
        The client's name for the frame, 1 to 4,096 characters. A label only: faceq never opens a file by it.

    """

    content: bytes
    request_id: str
    filename: str

    @classmethod
    def from_json(cls, body: bytes) -> "FrameRequest":
        """Parse a request body. Raises BadInput if it is not valid; the message says how to fix it."""
        fields = _parse_object(body)
        request_id = _text(fields, "request_id", MAX_REQUEST_ID_CHARS)
        filename = _text(fields, "filename", MAX_FILENAME_CHARS)
        content = _text(fields, "content")
        return cls(_decode_base64(content, "content"), request_id, filename)

    def to_json(self) -> str:
        """Return the body that `from_json` parses."""
        content = base64.b64encode(self.content).decode("ascii")
        return json.dumps({"content": content, "request_id": self.request_id, "filename": self.filename})


@dataclass(frozen=True)
class FaceCrop:
    """A detected face and its crop, ready to embed.

    Parameters
    ----------
    face : Face
        Its place in the upright frame.
    jpeg : bytes
        The encoded crop, cut as the message's preprocessing says.

    """

    face: Face
    jpeg: bytes


@dataclass(frozen=True)
class FacesMessage:
    """All faces of one frame: the message from detection to recognition.

    Parameters
    ----------
    request_id, filename : str
        From the request.
    preprocessing : str
        How the crops were cut: a key of `pipeline.embed.PREPROCESSINGS`.
    faces : tuple of FaceCrop
        Largest first, 1 to `MAX_FACES`.
    truncated : bool
        True if the smallest faces were left out because the queue limits the size of a message.
    timings : dict of str to float
        Milliseconds that each step has taken so far.

    """

    request_id: str
    filename: str
    preprocessing: str
    faces: tuple[FaceCrop, ...]
    truncated: bool = False
    timings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, body: str) -> "FacesMessage":
        """Parse a queue message. Raises BadInput if it is not valid."""
        fields = _parse_object(body)
        rows = fields.get("faces")
        if not isinstance(rows, list) or not rows:
            raise BadInput("wrong_type", "The key 'faces' must be a list of at least one face.")
        if len(rows) > MAX_FACES:
            raise BadInput("too_many_faces", f"The message has {len(rows)} faces; {MAX_FACES} is the most.")
        timings = fields.get("timings", {})
        if not isinstance(timings, dict):
            raise BadInput("wrong_type", "The key 'timings' must be an object.")
        return cls(
            request_id=_text(fields, "request_id", MAX_REQUEST_ID_CHARS),
            filename=_text(fields, "filename", MAX_FILENAME_CHARS),
            preprocessing=_text(fields, "preprocessing", MAX_PREPROCESSING_CHARS),
            faces=tuple(_parse_face_crop(row) for row in rows),
            truncated=fields.get("truncated") is True,
            timings={name: _parse_number(ms, "timings") for name, ms in timings.items()},
        )

    def to_json(self) -> str:
        """Return the message that `from_json` parses, in ASCII."""
        return json.dumps(
            {
                "request_id": self.request_id,
                "filename": self.filename,
                "preprocessing": self.preprocessing,
                "faces": [
                    {**face_fields(crop.face), "crop": base64.b64encode(crop.jpeg).decode("ascii")}
                    for crop in self.faces
                ],
                "truncated": self.truncated,
                "timings": dict(self.timings),
            },
            separators=(",", ":"),
        )


@dataclass(frozen=True)
class RecognisedFace:
    """One face of a frame and the name that recognition gave it.

    Parameters
    ----------
    face : Face
        Its place in the upright frame.
    name : str
        The person's name, or `Unknown`.
    distance : float or None
        Euclidean distance to the nearest enrolled photo; None if the gallery is empty.

    """

    face: Face
    name: str
    distance: float | None


@dataclass(frozen=True)
class RecognitionResult:
    """The answer to a frame.

    Parameters
    ----------
    request_id : str
        From the request.
    result : str
        The name of the largest recognised face, or `Unknown`, `No-Face`, `Error`. Never empty.
    filename : str
        From the request.
    faces : tuple of RecognisedFace
        Largest first.
    model, gallery : str or None
        The model, and the version of the gallery, that named the faces; None if they were not used.
    timings : dict of str to float
        Milliseconds that each step took.
    truncated : bool
        True if the frame had more faces than fit into a queue message.
    error : dict of str to str, or None
        `{"code", "message"}` of the FaceqError if `result` is `Error`.

    """

    request_id: str
    result: str
    filename: str = ""
    faces: tuple[RecognisedFace, ...] = ()
    model: str | None = None
    gallery: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    truncated: bool = False
    error: Mapping[str, str] | None = None

    def to_json(self) -> str:
        """Return the message for the response queue."""
        fields: dict[str, Json] = {
            "request_id": self.request_id,
            "result": self.result,
            "filename": self.filename,
            "faces": [
                {
                    **face_fields(face.face),
                    "name": face.name,
                    "distance": None if face.distance is None else round(face.distance, 4),
                }
                for face in self.faces
            ],
            "model": self.model,
            "gallery": self.gallery,
            "timings": {name: round(ms, 3) for name, ms in self.timings.items()},
        }
        if self.truncated:
            fields["truncated"] = True
        if self.error is not None:
            fields["error"] = dict(self.error)
        return json.dumps(fields)


def read_request_id(body: str | bytes) -> str | None:
    """Return the request id of a message that may otherwise be broken; None if it has no valid one."""
    return _text_or_none(body, "request_id", MAX_REQUEST_ID_CHARS)


def read_filename(body: str | bytes) -> str:
    """Return the file name of a message that may otherwise be broken; an empty text if it has no valid one."""
    return _text_or_none(body, "filename", MAX_FILENAME_CHARS) or ""


def _text_or_none(body: str | bytes, key: str, most_chars: int) -> str | None:
    try:
        return _text(_parse_object(body), key, most_chars)
    except BadInput:
        return None


def face_fields(face: Face) -> dict[str, Json]:
    """Return a face as JSON: `box` [x1, y1, x2, y2] and `landmarks` [[x, y], ...] in pixels, `score` 0 to 1."""
    return {
        "box": [round(value, 2) for value in face.box.tolist()],
        "score": round(face.score, 6),
        "landmarks": [[round(x, 2), round(y, 2)] for x, y in face.landmarks.tolist()],
    }


def _reject_constant(name: str) -> NoReturn:
    raise BadInput("not_json", f"The body is not JSON: {name} is not a JSON number. Send plain JSON.")


def _reject_repeated_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadInput("duplicate_key", "The body has a key twice, so its meaning is unclear. Send each key only once.")
    return fields


def _parse_object(body: str | bytes) -> dict[str, Json]:
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
        value = json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_reject_repeated_keys)
    except UnicodeDecodeError:
        raise BadInput("not_json", "The body is not UTF-8. Send JSON encoded as UTF-8.") from None
    except RecursionError:
        raise BadInput("not_json", "The body is nested too deeply. Send a flat JSON object.") from None
    except ValueError as error:
        raise BadInput("not_json", f"The body is not JSON: {error}. Send a JSON object.") from None
    if not isinstance(value, dict):
        raise BadInput("not_object", "The body is not a JSON object. Send one with content, request_id and filename.")
    return value


def _text(fields: Mapping[str, Json], key: str, most_chars: int | None = None) -> str:
    if key not in fields:
        raise BadInput("missing_key", f"The key '{key}' is missing. Send it as a string.")
    value = fields[key]
    if not isinstance(value, str):
        raise BadInput("wrong_type", f"The key '{key}' must be a string.")
    if not value:
        raise BadInput("empty_value", f"The key '{key}' is empty. Send a value.")
    if most_chars is not None and len(value) > most_chars:
        raise BadInput("too_long", f"The key '{key}' has {len(value)} characters; {most_chars} is the most.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput("wrong_type", f"The key '{key}' is not valid text: it has half a surrogate pair.") from None
    return value


def _decode_base64(text: str, key: str) -> bytes:
    """Decode base64 in each form that clients send: as a data URL, URL-safe, without padding, broken into lines."""
    start = _base64_start(text, key)
    encoded = "".join(text[start:].split()).translate(_STANDARD_ALPHABET).rstrip("=")
    try:
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        raise _not_base64(text, key, start, len(encoded)) from None
    if not content:
        raise BadInput("empty_value", f"The key '{key}' decodes to nothing. Send a picture.")
    return content


def _base64_start(text: str, key: str) -> int:
    """Return where the base64 begins: behind the head of a data URL (RFC 2397), in any other text at its start."""
    if _DATA_URL.match(text) is None:
        return 0
    comma = text.find(",")
    if comma < 0 or text[max(0, comma - 7) : comma].lower() != ";base64":
        raise BadInput(
            "not_base64", f"The key '{key}' is a data URL without base64. Send data:image/jpeg;base64, and the picture."
        )
    return comma + 1


def _not_base64(text: str, key: str, start: int, length: int) -> BadInput:
    """Return what is wrong with `text` from `start` on, where its base64 of `length` characters cannot be decoded."""
    wrong = _NOT_BASE64.search(text, start)
    finding = (
        f"its {length} characters are one more than whole bytes give, so some are missing"
        if wrong is None
        else f"character {wrong.start() + 1} is {wrong[0]!a}"
    )
    return BadInput("not_base64", f"The key '{key}' is not base64: {finding}. Encode all bytes of the file as base64.")


def _parse_face_crop(row: Json) -> FaceCrop:
    if not isinstance(row, dict):
        raise BadInput("wrong_type", "Each face must be an object.")
    box = _parse_numbers(row.get("box"), "box", 4)
    landmarks = _parse_numbers(row.get("landmarks"), "landmarks", 5, 2)
    face = Face(box, _parse_number(row.get("score"), "score"), landmarks)
    return FaceCrop(face, _decode_base64(_text(row, "crop"), "crop"))


def _parse_numbers(value: Json, key: str, *shape: int) -> NDArray[np.float32]:
    """Return nested lists of numbers as an array. NumPy alone would also accept text, true and null."""
    flat: list[Json] = [value]
    for length in shape:
        rows = [row for row in flat if isinstance(row, list) and len(row) == length]
        if len(rows) < len(flat):
            raise BadInput("wrong_type", f"The key '{key}' must be {' lists of '.join(map(str, shape))} numbers.")
        flat = [item for row in rows for item in row]
    return np.array([_parse_number(item, key) for item in flat], np.float32).reshape(shape)


def _parse_number(value: Json, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise BadInput("wrong_type", f"The key '{key}' must contain numbers of at most {MAX_NUMBER:.0e}.")
    return float(value)
