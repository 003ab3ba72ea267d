"""Pictures, messages and AWS events for tests. Their faces are patches of one colour, which the fakes recognise."""

import base64
import io
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from client.stack_state import RunningStack
from pipeline.gallery import Gallery, Photo
from pipeline.images import encode_jpeg
from pipeline.messages import FaceCrop, FacesMessage, FrameRequest
from pipeline.ports import Face
from tests.fakes import ColourEmbedder

Colour = tuple[int, int, int]

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(*colours: Colour, file_format: str = "PNG") -> bytes:
    """An encoded dark picture with one patch per colour, each smaller than the one before it."""
    image = Pillow.new("RGB", (100 * max(1, len(colours)), 120))
    for number, colour in enumerate(colours):
        image.paste(colour, (100 * number + 5, 5, 100 * number + 95 - 10 * number, 105))
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def png_of(
    header: bytes, *chunks: tuple[bytes, bytes], rows: bytes = b"", after: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG of its 13-byte header and picture data, with `chunks` (kind, content) before the data and `after` it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in all_chunks)


def greyscale_png(width: int, height: int, *chunks: tuple[bytes, bytes], rows: bytes = b"") -> bytes:
    """A PNG whose header states this size, with `chunks` (kind, content) before its picture data `rows`."""
    return png_of(struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), *chunks, rows=rows)


#: Where each of the seven passes of an interlaced PNG begins, x and y, and its steps. (PNG specification, section 8.1)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def sixteen_bit_png(
    samples: NDArray[np.uint16], *chunks: tuple[bytes, bytes], interlaced: bool = False, **more: Any
) -> bytes:
    """A PNG of samples (H, W, C) with 16 bits, where C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)."""
    height, width, channels = samples.shape
    passes = [samples[y::down, x::right] for x, y, right, down in ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    return png_of(header, *chunks, rows=rows, **more)


def frame(*colours: Colour, request_id: str = "frame-1", filename: str = "door.png") -> bytes:
    """The body that a camera posts."""
    return FrameRequest(picture(*colours), request_id, filename).to_json().encode()


def post(body: bytes, method: str = "POST") -> dict[str, Any]:
    """The event of a function URL. Like AWS, it has text as it is and anything else in base64."""
    try:
        text, encoded = body.decode(), False
    except UnicodeDecodeError:
        text, encoded = base64.b64encode(body).decode(), True
    return {
        "version": "2.0",
        "requestContext": {"http": {"method": method, "path": "/"}},
        "headers": {"content-type": "application/json"},
        "body": text,
        "isBase64Encoded": encoded,
    }


def face(x1: float, y1: float, x2: float, y2: float, score: float = 1.0) -> Face:
    """A face whose landmarks are all at the centre of its box."""
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2], np.float32)
    return Face(np.array([x1, y1, x2, y2], np.float32), score, np.tile(middle, (5, 1)))


def crop_of(colour: Colour, size: int = 160) -> bytes:
    """A face crop of one colour, as JPEG."""
    return encode_jpeg(np.full((size, size, 3), colour, np.uint8))


def faces_message(*colours: Colour, request_id: str = "frame-1", filename: str = "door.png", **fields: Any) -> str:
    """The message that detection puts on the queue for a frame with these faces, largest first."""
    crops = tuple(
        FaceCrop(face(0, 0, 100 - number, 100 - number), crop_of(colour)) for number, colour in enumerate(colours)
    )
    return FacesMessage(request_id, filename, **{"preprocessing": "facenet-160", "faces": crops, **fields}).to_json()


def changed(message: str, **fields: object) -> str:
    """The message with other values for some keys; the value `...` removes a key."""
    values = {**json.loads(message), **fields}
    return json.dumps({key: value for key, value in values.items() if value is not ...})


def with_face(message: str, **fields: object) -> str:
    """The message with other values for some keys of its first face; the value `...` removes a key."""
    first, *others = json.loads(message)["faces"]
    return changed(message, faces=[json.loads(changed(json.dumps(first), **fields)), *others])


def sqs_event(*bodies: str, receive_count: int = 1, queue: str = "faceq-req-queue") -> dict[str, Any]:
    """The event of an SQS event source mapping with the messages `m0`, `m1`, ..."""
    return {
        "Records": [
            {
                "messageId": f"m{number}",
                "receiptHandle": f"receipt-{number}",
                "body": body,
                "attributes": {"ApproximateReceiveCount": str(receive_count)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue}",
            }
            for number, body in enumerate(bodies)
        ]
    }


def gallery_of(people: Mapping[str, Colour], embedder: ColourEmbedder | None = None) -> Gallery:
    """A gallery with one photo of each person, of the given colour."""
    embedder = embedder or ColourEmbedder()
    photos = [Photo(name, f"{name}.png", f"{number:064x}") for number, name in enumerate(people)]
    crops: Sequence[Colour] = list(people.values())
    empty = Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
    return empty.add(photos, embedder.embed(np.array(crops, np.uint8).reshape(-1, 1, 1, 3)))


def stack_record(**fields: Any) -> RunningStack:
    """The record of a running stack, with some fields changed. By default, its supervisor is this process."""
    default = RunningStack(
        pid=os.getpid(),
        function_url="http://127.0.0.1:1/",
        request_queue_url="http://127.0.0.1:2/a-req-queue",
        response_queue_url="http://127.0.0.1:2/a-resp-queue",
        dead_letter_queue_url="http://127.0.0.1:2/a-dead-letter-queue",
        region="eu-central-1",
        sqs_endpoint="http://127.0.0.1:2",
        lambda_endpoint="http://127.0.0.1:3",
        model="dlib",
        engine="onnx",
        gallery="/gallery",
        logs="/logs",
    )
    return replace(default, **fields)
