"""Pictures, messages and AWS's events, as tests need them. The faces are what the fakes see: patches of one colour."""

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as Pillow

from client.stack_state import RunningStack
from pipeline.gallery import Gallery, Photo
from pipeline.images import encode_jpeg
from pipeline.messages import FaceCrop, FacesMessage, FrameRequest
from pipeline.ports import Face
from tests.fakes import ColourEmbedder

Colour = tuple[int, int, int]

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(*colours: Colour, form: str = "PNG") -> bytes:
    """A dark picture with a patch a colour, each smaller than the one before it."""
    image = Pillow.new("RGB", (100 * max(1, len(colours)), 120))
    for number, colour in enumerate(colours):
        image.paste(colour, (100 * number + 5, 5, 100 * number + 95 - 10 * number, 105))
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def frame(*colours: Colour, request_id: str = "frame-1", filename: str = "door.png") -> bytes:
    """The body that a camera posts."""
    return FrameRequest(picture(*colours), request_id, filename).to_json().encode()


def post(body: bytes, method: str = "POST") -> dict[str, Any]:
    """The event of a function URL: text as it is, anything else in base64, as AWS does by content type."""
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
    """A face whose landmarks are all in its middle."""
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2], np.float32)
    return Face(np.array([x1, y1, x2, y2], np.float32), score, np.tile(middle, (5, 1)))


def crop_of(colour: Colour, size: int = 160) -> bytes:
    """A face's picture, all in one colour."""
    return encode_jpeg(np.full((size, size, 3), colour, np.uint8))


def faces_message(*colours: Colour, request_id: str = "frame-1", filename: str = "door.png", **fields: Any) -> str:
    """What the detection puts on the queue for a frame with these faces, largest first."""
    crops = tuple(
        FaceCrop(face(0, 0, 100 - number, 100 - number), crop_of(colour)) for number, colour in enumerate(colours)
    )
    return FacesMessage(request_id, filename, **{"preprocessing": "facenet-160", "faces": crops, **fields}).to_json()


def changed(message: str, **fields: object) -> str:
    """The message with other values; an Ellipsis takes the key away."""
    new = {**json.loads(message), **fields}
    return json.dumps({key: value for key, value in new.items() if value is not ...})


def with_face(message: str, **fields: object) -> str:
    """The message with other values in its first face; an Ellipsis takes the key away."""
    first, *others = json.loads(message)["faces"]
    return changed(message, faces=[json.loads(changed(json.dumps(first), **fields)), *others])


def sqs_event(*bodies: str, receive_count: int = 1) -> dict[str, Any]:
    """The event of an SQS event source: messages `m0`, `m1`, ..."""
    return {
        "Records": [
            {
                "messageId": f"m{number}",
                "receiptHandle": f"receipt-{number}",
                "body": body,
                "attributes": {"ApproximateReceiveCount": str(receive_count)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
            }
            for number, body in enumerate(bodies)
        ]
    }


def gallery_of(people: Mapping[str, Colour], embedder: ColourEmbedder | None = None) -> Gallery:
    """A gallery of people who are each known by their colour."""
    embedder = embedder or ColourEmbedder()
    photos = [Photo(name, f"{name}.png", f"{number:064x}") for number, name in enumerate(people)]
    crops: Sequence[Colour] = list(people.values())
    nobody = Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
    return nobody.add(photos, embedder.embed(np.array(crops, np.uint8).reshape(-1, 1, 1, 3)))


def stack_record(**fields: Any) -> RunningStack:
    """What a stack says of itself; its supervisor is this process unless said otherwise."""
    usual = RunningStack(
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
    return replace(usual, **fields)
