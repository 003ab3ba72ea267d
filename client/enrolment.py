"""Add people to a gallery: from photos, from an exported gallery, or from the original service's gallery file.

The original service saved its gallery with `torch.save([embeddings, names])`, a `.pt` file.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.file_kinds import printable_name
from client.frames import STANDARD_INPUT, Skipped, folder_content, refuse_address
from client.pictures import for_the_service, read_content
from pipeline import gallery_storage
from pipeline.enrol import embed_photo
from pipeline.errors import BadInput
from pipeline.gallery import UNKNOWN_PREPROCESSING, Gallery, Photo, person_name
from pipeline.gallery_storage import PHOTO_PREFIX
from pipeline.ports import ArtifactStore, FaceDetector, FaceEmbedder

#: Largest difference from 1 of the length of a facenet vector. It covers float32 rounding and converted files.
_UNIT_TOLERANCE = 1e-3


class GalleryStore(ArtifactStore, Protocol):
    """A store with a lock for its writers."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Lock out other writers until the block ends. Blocks may be nested. Raises TransientError on failure."""
        ...


@dataclass(frozen=True)
class Enrolment:
    """The result for one photo.

    Parameters
    ----------
    file : Path
    added : bool
        False if the photo was refused, or was enrolled before.
    problem : str or None
        Why the photo was refused and what to do, in one line; None if it was not refused.

    """

    file: Path
    added: bool
    problem: str | None = None


def photo_files(paths: Iterable[Path], skipped: list[Skipped] | None = None) -> list[Path]:
    """Return the files among `paths`, and the pictures in the folders among them, at any depth, sorted by name.

    What folders contain beside pictures is added to `skipped`. A path that does not exist is returned too; `enrol`
    refuses it. Raises BadInput if a folder contains no picture, or a path is `-` or the address of a stream.
    """
    files: list[Path] = []
    for path in paths:
        if path == STANDARD_INPUT:
            raise BadInput("not_a_file", "Photos are not read from standard input. Save the photo, and name the file.")
        refuse_address(path)
        if not path.is_dir():
            files.append(path)
            continue
        content = folder_content(path, videos=False)
        if not content.files:
            raise BadInput("no_photos", f"The folder {printable_name(path)} contains no picture. Name another one.")
        files += content.files
        if skipped is not None:
            skipped += content.skipped
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
    """Enrol photos of a person one by one, and yield the result of each.

    When the result is yielded, the gallery in the store contains the photo.

    Parameters
    ----------
    max_pixels : int
        Refuse pictures with more pixels than this.
    largest : bool
        If a photo shows several faces, enrol the largest instead of refusing the photo.
    keep_photos : bool
        Also keep the photo itself in the store, until its person is removed.

    Raises
    ------
    BadInput
        `person` is not a valid name.
    SetupError
        The gallery is broken, or was made with another model.
    TransientError
        The gallery cannot be read or written.

    """
    person = person_name(person)
    current = _compatible_gallery(store, embedder)
    for file in files:
        try:
            content = read_content(file)
        except BadInput as error:
            yield Enrolment(file, False, error.message)
            continue
        photo = Photo(person, printable_name(file.name), hashlib.sha256(content).hexdigest())
        try:
            enrolled_before = current.has(photo)
            vector = (
                None
                if enrolled_before
                else embed_photo(for_the_service(content), detector, embedder, largest, max_pixels)
            )
            with store.exclusive():
                if keep_photos:
                    store.write(PHOTO_PREFIX + photo.sha256, content)
                if vector is not None:
                    current = _compatible_gallery(store, embedder).add([photo], vector[np.newaxis])
                    gallery_storage.save(store, current)
        except BadInput as error:
            yield Enrolment(file, False, error.message)
        else:
            yield Enrolment(file, not enrolled_before)


def renew(
    store: GalleryStore, detector: FaceDetector, embedder: FaceEmbedder, *, max_pixels: int
) -> Iterator[Enrolment]:
    """Compute every vector again with another model, from the photos that were kept, and yield the result of each.

    After the last result we replace the gallery, or leave it as it is if any photo was refused. Other writers are
    locked out meanwhile. Raises as `enrol` does, except that the gallery may have been made with any model.
    """
    with store.exclusive():
        current = gallery_storage.load(store)
        if current is None:
            return
        vectors = []
        for photo in current.photos:
            try:
                content = for_the_service(store.read(PHOTO_PREFIX + photo.sha256))
                vectors.append(embed_photo(content, detector, embedder, largest=True, max_pixels=max_pixels))
            except FileNotFoundError:
                yield Enrolment(
                    Path(photo.source),
                    False,
                    f"The photo was not kept. Remove {photo.person}, or start with a new gallery.",
                )
            except BadInput as error:
                yield Enrolment(Path(photo.source), False, error.message)
            else:
                yield Enrolment(Path(photo.source), True)
        if vectors and len(vectors) == len(current.photos):
            empty = Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
            gallery_storage.save(store, empty.add(current.photos, np.stack(vectors)))


def import_gallery(store: GalleryStore, other: Gallery) -> Gallery:
    """Add everyone in `other` to the gallery and return the result. Raises as `Gallery.join`, `load` and `save` do."""
    with store.exclusive():
        current = gallery_storage.load(store)
        joined = other if current is None else current.join(other)
        gallery_storage.save(store, joined)
    return joined


def gallery_from_file(content: bytes, name: str) -> Gallery:
    """Read an exported gallery, or the original service's gallery file.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        The file's name, for messages.

    Raises
    ------
    BadInput
        The file is an exported gallery that cannot be read, or its vectors are not facenet's.
    SetupError
        The `.pt` file is damaged, or contains something else.

    """
    if content.lstrip()[:1] == b"{":
        return gallery_storage.import_json(content)
    from adapters.models.catalogue import CATALOGUE, VGGFACE2
    from adapters.models.weights import read_gallery_file

    vectors, names = read_gallery_file(content, name)
    return gallery_from_vectors(vectors, names, name, CATALOGUE[VGGFACE2].threshold)


def gallery_from_vectors(vectors: NDArray[np.float32], names: Sequence[str], source: str, threshold: float) -> Gallery:
    """Make a gallery from the content of the original service's file: vectors of the vggface2 network and their names.

    The file does not say how faces were cropped and normalised, so the gallery's preprocessing is `unknown`. If a
    person has the same vector twice, the gallery has it once.

    Parameters
    ----------
    vectors : (n, 512) float32
        Of length 1.
    names : sequence of str
        n names; a person with several photos has several rows.
    source : str
        The file's name, for messages and as the photos' source.
    threshold : float
        Largest Euclidean distance at which a face gets the name of the nearest photo.

    Raises
    ------
    BadInput
        The vectors are not facenet's, a name is not valid, or one vector has two names.

    """
    lengths = np.linalg.norm(vectors, axis=1)
    if vectors.shape[1:] != (512,) or not (np.abs(lengths - 1) <= _UNIT_TOLERANCE).all():
        raise BadInput(
            "other_vectors", f"{source} does not contain 512-d vectors of length 1, so no facenet network made them."
        )
    photos = [
        Photo(name, f"{source}#{row}", hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest())
        for row, (name, vector) in enumerate(zip(names, vectors, strict=True))
    ]
    return Gallery.empty("vggface2", UNKNOWN_PREPROCESSING, threshold, vectors.shape[1]).add(photos, vectors)


def _compatible_gallery(store: GalleryStore, embedder: FaceEmbedder) -> Gallery:
    """Return the gallery in the store, or an empty one; raise SetupError if `embedder`'s vectors do not fit in."""
    current = gallery_storage.load(store)
    if current is None or not current.photos:
        return Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
    current.check_compatible(embedder.model, embedder.preprocessing)
    return current
