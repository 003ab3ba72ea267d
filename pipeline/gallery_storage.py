"""How a gallery is stored, and its portable form as one JSON file.

In a store, a gallery is two blobs: `vectors-<hash>.npy`, which is written first, and `gallery.json`, which names that
file and its SHA-256. Replacing `gallery.json` is the one commit point. A writer that is killed at any moment leaves
either the old gallery or the new one, and at most some files that no gallery names; the next save removes them.
Writers must take turns, because two that save at the same time may lose one of the changes
(`DirectoryStore.exclusive` keeps them apart). Readers need no lock.
"""

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Mapping
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInput, SetupError, TransientError
from pipeline.gallery import START_OVER, Gallery, Photo, person_name
from pipeline.messages import Json
from pipeline.ports import ArtifactStore

#: The blob that describes the gallery. A new gallery is in force once this blob is replaced.
MANIFEST = "gallery.json"
#: Start of the names of the kept photos; the rest of the name is the photo's SHA-256.
PHOTO_PREFIX = "photo-"

_VECTORS_PREFIX = "vectors-"
_FORMAT = 1
#: How often a reader starts again because the gallery was replaced while it read, before it raises TransientError.
_MAX_READS = 20


def load(store: ArtifactStore) -> Gallery | None:
    """Read the gallery. Returns None if the store has none.

    Raises
    ------
    SetupError
        The gallery is broken, or in a format that this version does not know.
    TransientError
        The store cannot be reached, or the gallery was replaced faster than it could be read.

    """
    try:
        return _read_gallery(store)
    except _InvalidGalleryError as error:
        raise SetupError("broken_gallery", f"The gallery is broken: {error}. {START_OVER}") from None


def save(store: ArtifactStore, gallery: Gallery) -> None:
    """Replace the stored gallery by `gallery` in one step, then remove the files that only the old one needed.

    Raises TransientError if the store cannot be written. The old gallery then stays in force, unless only the removal
    of its files failed.
    """
    vectors = _npy_bytes(gallery.vectors)
    store.write(_vectors_name(vectors), vectors)
    store.write(MANIFEST, _manifest(gallery, vectors))
    needed = {MANIFEST, _vectors_name(vectors), *(PHOTO_PREFIX + photo.sha256 for photo in gallery.photos)}
    _delete_others(store, needed)


def clear(store: ArtifactStore) -> None:
    """Remove the gallery, even a broken one, and all photos that were kept with it.

    Raises TransientError if the store cannot be written.
    """
    store.delete(MANIFEST)
    _delete_others(store, set())


def export_json(gallery: Gallery) -> bytes:
    """Return the gallery as one portable JSON file. The vectors are base64 of little-endian float32 rows."""
    rows = base64.b64encode(gallery.vectors.astype("<f4").tobytes()).decode("ascii")
    return _json_bytes({**_settings(gallery), "vectors_base64": rows, "photos": _photo_rows(gallery)})


def import_json(content: bytes) -> Gallery:
    """Read a file that `export_json` wrote. Raises SetupError if it is not such a file."""
    try:
        return _parse_export(content)
    except _InvalidGalleryError as error:
        raise SetupError(
            "broken_export", f"The file was not written by `faceq people export`: {error}. Export it again."
        ) from None


class _InvalidGalleryError(ValueError):
    """What is wrong with the bytes of a gallery, as the middle of a sentence."""


def _read_gallery(store: ArtifactStore) -> Gallery | None:
    manifests = set()
    for _ in range(_MAX_READS):
        manifest = _read_blob(store, MANIFEST)
        if manifest is None:
            return None
        fields = _parse_fields(manifest)
        vectors = _read_blob(store, _string(fields, "vectors"))
        if vectors is not None:
            if _sha256(vectors) != fields.get("vectors_sha256"):
                _reject("its vectors are not those that gallery.json names")
            return _build_gallery(fields, _parse_npy(vectors))
        # The vectors disappeared between the two reads: a newer gallery replaced this one. Read that one.
        manifests.add(manifest)
    if len(manifests) == 1:
        _reject("its vectors are missing")
    raise TransientError("gallery_busy", "The gallery is being written again and again. Try again later.")


def _parse_export(content: bytes) -> Gallery:
    fields = _parse_fields(content)
    dimensions = fields.get("dimensions")
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
        _reject("'dimensions' is not a number of at least 1")
    try:
        rows = base64.b64decode(_string(fields, "vectors_base64"), validate=True)
        vectors = np.frombuffer(rows, "<f4").reshape(-1, dimensions).astype(np.float32)
    except (binascii.Error, ValueError):
        _reject("'vectors_base64' does not contain rows of float32 numbers")
    return _build_gallery(fields, vectors)


def _settings(gallery: Gallery) -> dict[str, Json]:
    return {
        "format": _FORMAT,
        "model": gallery.model,
        "preprocessing": gallery.preprocessing,
        "threshold": gallery.threshold,
        "dimensions": gallery.dimensions,
    }


def _photo_rows(gallery: Gallery) -> list[Json]:
    return [{"person": photo.person, "source": photo.source, "sha256": photo.sha256} for photo in gallery.photos]


def _manifest(gallery: Gallery, vectors: bytes) -> bytes:
    reference: dict[str, Json] = {"vectors": _vectors_name(vectors), "vectors_sha256": _sha256(vectors)}
    return _json_bytes({**_settings(gallery), **reference, "photos": _photo_rows(gallery)})


def _json_bytes(fields: Mapping[str, Json]) -> bytes:
    return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _vectors_name(npy: bytes) -> str:
    return f"{_VECTORS_PREFIX}{_sha256(npy)[:16]}.npy"


def _npy_bytes(vectors: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype("<f4"), allow_pickle=False)
    return buffer.getvalue()


def _parse_npy(content: bytes) -> NDArray[np.float32]:
    try:
        vectors = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, MemoryError):
        _reject("its vectors are not a plain NumPy file")
    if vectors.dtype != np.dtype("<f4"):
        _reject("its vectors are not float32 numbers")
    return vectors.astype(np.float32)


def _parse_fields(content: bytes) -> dict[str, Json]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        _reject("it is not JSON")
    if not isinstance(fields, dict) or "format" not in fields:
        _reject("it is not a gallery")
    if fields["format"] != _FORMAT:
        _reject(f"its format is not {_FORMAT}, the only one that this faceq reads")
    return fields


def _build_gallery(fields: Mapping[str, Json], vectors: NDArray[np.float32]) -> Gallery:
    threshold = fields.get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        _reject("'threshold' is not a number")
    rows = fields.get("photos")
    if not isinstance(rows, list):
        _reject("'photos' is not a list")
    if vectors.ndim != 2 or vectors.shape[1] != fields.get("dimensions"):
        _reject("the length of its vectors is not the 'dimensions' that it states")
    photos = tuple(_parse_photo(row) for row in rows)
    try:
        return Gallery(_string(fields, "model"), _string(fields, "preprocessing"), float(threshold), photos, vectors)
    except (ValueError, OverflowError) as error:
        _reject(str(error))


def _parse_photo(row: Json) -> Photo:
    if not isinstance(row, dict):
        _reject("a photo is not an object")
    try:
        person = person_name(_string(row, "person"))
    except BadInput as error:
        _reject(error.message.removesuffix("."))
    sha256 = _string(row, "sha256")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        _reject("a photo's 'sha256' is not 64 hexadecimal digits")
    return Photo(person, _string(row, "source"), sha256)


def _string(fields: Mapping[str, Json], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        _reject(f"'{key}' is not a text")
    return value


def _read_blob(store: ArtifactStore, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None
    except ValueError:
        _reject(f"'{name}' is not a plain file name")


def _delete_others(store: ArtifactStore, needed: set[str]) -> None:
    for name in store.names():
        if name not in needed and name.startswith((_VECTORS_PREFIX, PHOTO_PREFIX)):
            store.delete(name)


def _reject(reason: str) -> NoReturn:
    raise _InvalidGalleryError(reason)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
