"""People into the gallery: from photos, from an exported gallery, from a file of the course's format."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.frames import PICTURE_SUFFIXES
from pipeline import gallery_storage
from pipeline.enrol import embed_photo
from pipeline.errors import BadInput
from pipeline.gallery import UNKNOWN_PREPROCESSING, Gallery, Photo, person_name
from pipeline.gallery_storage import PHOTO_PREFIX
from pipeline.ports import ArtifactStore, FaceDetector, FaceEmbedder

#: Looked for in folders besides the pictures that can be read, so that they are refused aloud instead of left out.
_UNREADABLE_SUFFIXES = frozenset({".heic", ".heif"})
#: How far from 1 the length of a facenet vector may be: float32 rounding, with room for files that were converted.
_UNIT_TOLERANCE = 1e-3


class GalleryStore(ArtifactStore, Protocol):
    """A store whose writers can keep each other out."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other writer out until the block ends; may be nested. Raises TransientError if that fails."""
        ...


@dataclass(frozen=True)
class Enrolment:
    """What became of one photo.

    Parameters
    ----------
    file : Path
    added : bool
        False if it was refused, or if the person had it already.
    problem : str or None
        Why it was refused and what to do, in one line.

    """

    file: Path
    added: bool
    problem: str | None = None


def photo_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files among `paths`, and the pictures in the folders among them, at any depth, by name.

    Raises BadInput for a folder that holds no picture. A path that does not exist is returned: `enrol` refuses it.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = [
            file for file in sorted(path.rglob("*")) if file.suffix.lower() in PICTURE_SUFFIXES | _UNREADABLE_SUFFIXES
        ]
        if not inside:
            raise BadInput("no_photos", f"The folder {path} holds no picture. Name another one.")
        files += inside
    return files


def enrol(
    person: str,
    files: Iterable[Path],
    store: GalleryStore,
    detector: FaceDetector,
    embedder: FaceEmbedder,
    *,
    max_pixels: int,
    largest: bool = False,
    keep_photos: bool = False,
) -> Iterator[Enrolment]:
    """Enrol `files` one by one; each that is taken is in the gallery when it is yielded.

    Parameters
    ----------
    largest : bool
        Where a photo shows several faces, take the largest instead of refusing the photo.
    keep_photos : bool
        Keep the photo's bytes beside the gallery, until its person is removed.

    Raises
    ------
    BadInput
        `person` cannot be a name.
    SetupError
        The gallery is broken, or made with another model.
    TransientError
        The gallery cannot be read or written.

    """
    person = person_name(person)
    known = _fitting(store, embedder)
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            yield Enrolment(file, False, f"It cannot be read: {error.strerror}.")
            continue
        photo = Photo(person, _text(file.name), hashlib.sha256(content).hexdigest())
        try:
            had = known.has(photo)
            vector = None if had else embed_photo(content, detector, embedder, largest, max_pixels)
            with store.exclusive():
                if keep_photos:
                    store.write(PHOTO_PREFIX + photo.sha256, content)
                if vector is not None:
                    known = _fitting(store, embedder).add([photo], vector[np.newaxis])
                    gallery_storage.save(store, known)
        except BadInput as error:
            yield Enrolment(file, False, error.message)
        else:
            yield Enrolment(file, not had)


def renew(
    store: GalleryStore, detector: FaceDetector, embedder: FaceEmbedder, *, max_pixels: int
) -> Iterator[Enrolment]:
    """Make every vector again with another model, from the photos that were kept.

    Yields what became of each photo. After the last one the gallery is replaced, unless one was refused: then nothing
    is changed. Other writers wait until then. Raises as `enrol` does, except that the gallery may be of any model.
    """
    with store.exclusive():
        current = gallery_storage.load(store)
        if current is None:
            return
        vectors = []
        for photo in current.photos:
            try:
                content = store.read(PHOTO_PREFIX + photo.sha256)
                vectors.append(embed_photo(content, detector, embedder, largest=True, max_pixels=max_pixels))
            except FileNotFoundError:
                yield Enrolment(Path(photo.source), False, f"It was not kept. Remove {photo.person}, or start anew.")
            except BadInput as error:
                yield Enrolment(Path(photo.source), False, error.message)
            else:
                yield Enrolment(Path(photo.source), True)
        if vectors and len(vectors) == len(current.photos):
            empty = Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
            gallery_storage.save(store, empty.add(current.photos, np.stack(vectors)))


def import_gallery(store: GalleryStore, other: Gallery) -> Gallery:
    """Add everybody of `other` to the gallery and return it. Raises as `Gallery.join`, `load` and `save` do."""
    with store.exclusive():
        current = gallery_storage.load(store)
        joined = other if current is None else current.join(other)
        gallery_storage.save(store, joined)
    return joined


def course_gallery(vectors: NDArray[np.float32], names: Sequence[str], source: str, threshold: float) -> Gallery:
    """Make a gallery of what a file of the course's format holds: vectors of the vggface2 network and their names.

    The format does not say how faces were cut and normalised, so the preprocessing is `unknown`. A vector that a person
    has twice is taken once.

    Parameters
    ----------
    vectors : (n, 512) float32
    names : sequence of str
        n names; one that comes several times has several photos.
    source : str
        The file's name, for messages and as the photos' source.
    threshold : float
        Euclidean distance up to which the nearest photo gives its name.

    Raises
    ------
    BadInput
        The vectors are not facenet's, a name cannot be one, or one vector has two names.

    """
    lengths = np.linalg.norm(vectors, axis=1)
    if vectors.shape[1:] != (512,) or not (np.abs(lengths - 1) <= _UNIT_TOLERANCE).all():
        raise BadInput(
            "other_vectors", f"{source} does not hold 512-d vectors of length 1, so no facenet network made them."
        )
    photos = [
        Photo(name, f"{source}#{row}", hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest())
        for row, (name, vector) in enumerate(zip(names, vectors, strict=True))
    ]
    return Gallery.empty("vggface2", UNKNOWN_PREPROCESSING, threshold, vectors.shape[1]).add(photos, vectors)


def _fitting(store: GalleryStore, embedder: FaceEmbedder) -> Gallery:
    """Return the gallery that `embedder`'s vectors can join, an empty one where nobody is enrolled."""
    current = gallery_storage.load(store)
    if current is None or not current.photos:
        return Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
    current.check_compatible(embedder.model, embedder.preprocessing)
    return current


def _text(name: str) -> str:
    """Return a file name as text that can be printed and stored, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "replace")
