"""From a photo of a person to the vector that the gallery keeps."""

import numpy as np
from numpy.typing import NDArray

from pipeline.embed import PREPROCESSINGS, cut
from pipeline.errors import BadInput
from pipeline.images import decode
from pipeline.ports import FaceDetector, FaceEmbedder


def embed_photo(
    content: bytes, detector: FaceDetector, embedder: FaceEmbedder, largest: bool, max_pixels: int
) -> NDArray[np.float32]:
    """Return the vector, (d,) float32, of the face in an encoded picture.

    Parameters
    ----------
    largest : bool
        If the photo shows several faces, take the one with the largest box instead of refusing the photo.
    max_pixels : int
        Width times height of the largest picture that is decoded.

    Raises
    ------
    BadInput
        The content is not a picture (see `decode`), shows no face (`no_face`), or shows several and `largest` is false
        (`several_faces`).

    """
    image = decode(content, max_pixels)
    faces = detector.detect(image)
    if not faces:
        raise BadInput("no_face", "No face was found. Take a photo where the face is larger, sharper or more upright.")
    if len(faces) > 1 and not largest:
        raise BadInput(
            "several_faces",
            f"{len(faces)} faces were found. Crop the photo to one, or take the largest with --largest.",
        )
    crop = cut(image, faces[0], PREPROCESSINGS[embedder.preprocessing])
    vector: NDArray[np.float32] = embedder.embed(crop[np.newaxis])[0]
    return vector
