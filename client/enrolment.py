"""Add people to a gallery: from photos, from an exported gallery, or from the original service's gallery file.

The original service saved its gallery with `torch.save([embeddings, names])`, a `.pt` file.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from client.file_kinds import printable_name
from client.frames import STANDARD_INPUT, Skipped, folder_content, refuse_address
from client.pictures import for_the_service, read_content
from pipeline import gallery_storage
from pipeline.enrol import embed_photo
from pipeline.errors import BadInput, SetupError
from pipeline.gallery import UNKNOWN_PREPROCESSING, Gallery, Photo, person_name
from pipeline.gallery_check import LookAlikes, look_alikes
from pipeline.gallery_storage import PHOTO_PREFIX
from pipeline.ports import ArtifactStore, FaceDetector, FaceEmbedder

#: Largest difference from 1 of the length of a facenet vector. It covers float32 rounding and converted files.
_UNIT_TOLERANCE = 1e-3
#: How long photos are collected before they are written to the gallery together, in seconds: as much work as a kill
#: loses at most in a small gallery.
GROUP_SECONDS = 5.0
#: In a large gallery, photos are collected for at least this many times the duration of a write.
_GROUP_PER_WRITE = 10
#: Most bytes of photos that wait in memory to be kept.
_MAX_KEPT_BYTES = 32_000_000


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
    person : str
        Whose photo it was to be.
    added : bool
        False if the photo was refused, or was enrolled before.
    problem : str or None
        Why the photo was refused and what to do, in one line; None if it was not refused.
    warning : str or None
        What the user should look at although the photo was added, in one line.

    """

    file: Path
    person: str
    added: bool
    problem: str | None = None
    warning: str | None = None


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


def photos_by_folder(folder: Path, skipped: list[Skipped] | None = None) -> list[tuple[str, Path]]:
    """Return the photos in the folders of a folder, each with the name of its folder as the person, sorted by name.

    Hidden folders are left out, and what the folders contain beside pictures is added to `skipped`. Raises BadInput if
    `folder` contains no folder, if one of them contains no picture, or if the name of one cannot be a person's.
    """
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise BadInput("not_readable", f"The folder {folder} cannot be read: {error.strerror}.") from error
    if not folders:
        raise BadInput("no_folders", f"{folder} contains no folders. Make one for each person, named after the person.")
    photos = []
    for person_folder in folders:
        try:
            person = person_name(printable_name(person_folder.name))
        except BadInput as error:
            raise BadInput(error.code, f"The folder {person_folder} is no name: {error.message}") from None
        photos += [(person, file) for file in photo_files([person_folder], skipped)]
    return photos


def enrol(
    photos: Iterable[tuple[str, Path]],
    store: GalleryStore,
    detector: FaceDetector,
    embedder: FaceEmbedder,
    *,
    max_pixels: int,
    largest: bool = False,
    keep_photos: bool = False,
    anyway: bool = False,
    group_seconds: float = GROUP_SECONDS,
    on_photo: Callable[[], None] | None = None,
) -> Iterator[Enrolment]:
    """Enrol photos in groups, and yield the results of a group, in the order of the photos, once it is committed.

    Writing a gallery takes time in proportion to its size, so we write once for each group and not for each photo. A
    group ends after `group_seconds`, or after ten times the duration of the previous write if that is longer: writing
    then takes at most a tenth of the time. If the process ends in the middle of a group, the groups before it stay.

    Parameters
    ----------
    photos : iterable of (str, Path)
        The name of a person and a file.
    max_pixels : int
        Refuse pictures with more pixels than this.
    largest : bool
        If a photo shows several faces, enrol the largest instead of refusing the photo.
    keep_photos : bool
        Also keep the photo itself in the store, until its person is removed.
    anyway : bool
        Also take a photo that looks like a person who is enrolled under another name.
    group_seconds : float
        At least 0; 0 commits each photo by itself.
    on_photo : callable, optional
        Called after each photo was looked at, before its group is committed.

    Raises
    ------
    BadInput
        The name of a person is not valid.
    SetupError
        The gallery is broken, or was made with another model.
    TransientError
        The gallery cannot be read or written.

    """
    group = _Group(store, embedder, keep_photos)
    group_end = time.monotonic() + _duration(group_seconds, group)
    for name, file in photos:
        group.add(_enrol_photo(person_name(name), file, group, detector, embedder, largest, max_pixels, anyway))
        if on_photo is not None:
            on_photo()
        if time.monotonic() >= group_end or group.kept_bytes > _MAX_KEPT_BYTES:
            yield from group.commit()
            group_end = time.monotonic() + _duration(group_seconds, group)
    yield from group.commit()


def _duration(group_seconds: float, group: "_Group") -> float:
    """Return how long the next group lasts, in seconds."""
    return max(group_seconds, _GROUP_PER_WRITE * group.last_seconds) if group_seconds else 0


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A photo that was looked at: its result, and what a commit stores if it was not refused."""

    result: Enrolment
    photo: Photo | None = None
    content: bytes = b""
    vector: NDArray[np.float32] | None = None


class _Group:
    """The photos that were looked at since the last commit, and the gallery as it was then."""

    def __init__(self, store: GalleryStore, embedder: FaceEmbedder, keep_photos: bool) -> None:
        self._store = store
        self._embedder = embedder
        self._keep_photos = keep_photos
        self._candidates: list[_Candidate] = []
        start = time.monotonic()
        self._version = store.version(gallery_storage.MANIFEST)
        self._gallery = _compatible_gallery(store, embedder)
        self.last_seconds = time.monotonic() - start

    @property
    def kept_bytes(self) -> int:
        """Size of the photos that the next commit stores."""
        return sum(len(candidate.content) for candidate in self._candidates)

    def add(self, candidate: _Candidate) -> None:
        self._candidates.append(candidate if self._keep_photos else replace(candidate, content=b""))

    def has(self, photo: Photo) -> bool:
        """Return whether the photo is enrolled for its person, or will be. Raises BadInput if it is somebody else's."""
        return self._gallery.has(photo) or self._pending.has(photo)

    def look_alikes(self, person: str, vector: NDArray[np.float32]) -> LookAlikes:
        """Compare a vector with the gallery and with the group. See `gallery_check.look_alikes`."""
        return look_alikes((self._gallery, self._pending), person, vector)

    @property
    def _pending(self) -> Gallery:
        """The new photos of this group as a gallery."""
        new = [(candidate.photo, candidate.vector) for candidate in self._candidates]
        photos = tuple(photo for photo, vector in new if photo is not None and vector is not None)
        vectors = [vector for _, vector in new if vector is not None]
        gallery = self._gallery
        rows = np.stack(vectors) if vectors else np.empty((0, gallery.dimensions), np.float32)
        return Gallery(gallery.model, gallery.preprocessing, gallery.threshold, photos, rows)

    def commit(self) -> list[Enrolment]:
        """Store what the group adds in one step, and return the results of its photos.

        If another writer has enrolled one of the photos meanwhile, for somebody else, it is refused now.
        """
        start = time.monotonic()
        candidates, self._candidates = self._candidates, []
        results = []
        with self._store.exclusive():
            if self._store.version(gallery_storage.MANIFEST) != self._version:
                self._gallery = _compatible_gallery(self._store, self._embedder)
            photos, vectors = [], []
            for candidate in candidates:
                result = candidate.result
                if candidate.photo is not None:
                    try:
                        enrolled = self._gallery.has(candidate.photo)
                    except BadInput as error:
                        result = replace(result, added=False, problem=error.message, warning=None)
                    else:
                        if self._keep_photos:
                            self._store.write(PHOTO_PREFIX + candidate.photo.sha256, candidate.content)
                        if candidate.vector is not None and not enrolled:
                            photos.append(candidate.photo)
                            vectors.append(candidate.vector)
                results.append(result)
            if vectors:
                self._gallery = self._gallery.add(photos, np.stack(vectors))
                gallery_storage.save(self._store, self._gallery)
            self._version = self._store.version(gallery_storage.MANIFEST)
        self.last_seconds = time.monotonic() - start
        return results


def _enrol_photo(
    person: str,
    file: Path,
    group: _Group,
    detector: FaceDetector,
    embedder: FaceEmbedder,
    largest: bool,
    max_pixels: int,
    anyway: bool,
) -> _Candidate:
    try:
        content = read_content(file)
    except BadInput as error:
        return _Candidate(Enrolment(file, person, False, error.message))
    photo = Photo(person, printable_name(file.name), hashlib.sha256(content).hexdigest())
    try:
        if group.has(photo):
            return _Candidate(Enrolment(file, person, False), photo, content)
        vector = embed_photo(for_the_service(content), detector, embedder, largest, max_pixels)
        found = group.look_alikes(person, vector)
        if found.other is not None and not anyway:
            raise BadInput("looks_like_another", found.refusal(person))
    except BadInput as error:
        return _Candidate(Enrolment(file, person, False, error.message))
    warning = None if anyway else found.warning(person)
    return _Candidate(Enrolment(file, person, True, warning=warning), photo, content, vector)


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
                    photo.person,
                    False,
                    f"The photo was not kept. Remove {photo.person}, or start with a new gallery.",
                )
            except BadInput as error:
                yield Enrolment(Path(photo.source), photo.person, False, error.message)
            else:
                yield Enrolment(Path(photo.source), photo.person, True)
        if vectors and len(vectors) == len(current.photos):
            empty = Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
            gallery_storage.save(store, empty.add(current.photos, np.stack(vectors)))


def import_gallery(store: GalleryStore, other: Gallery, model: str | None = None) -> Gallery:
    """Add everyone in `other` to the gallery and return the result.

    Parameters
    ----------
    model : str, optional
        The id of the model in use. We refuse to put another model's vectors into an empty gallery, because every frame
        would then be answered with `Error`.

    Raises
    ------
    SetupError
        `other` was made with another model than the gallery or, if that is empty, than `model`.
    BadInput, TransientError
        As `Gallery.join`, `load` and `save` raise them.

    """
    with store.exclusive():
        current = gallery_storage.load(store)
        if model not in (None, other.model) and other.photos and (current is None or not current.photos):
            raise SetupError("other_model", _other_model(other.model, str(model)))
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


def _other_model(imported: str, current: str) -> str:
    use = f"set FACEQ_MODEL={imported} here and for `faceq up`"
    get = f"run `faceq models get {imported}` and " if not imported.startswith("file-") else ""
    return (
        f"The file was made with model '{imported}', but the model in use is '{current}', so no face could be compared "
        f"with it. To use its model, {get}{use}. To import it all the same: --anyway."
    )


def _compatible_gallery(store: GalleryStore, embedder: FaceEmbedder) -> Gallery:
    """Return the gallery in the store, or an empty one; raise SetupError if `embedder`'s vectors do not fit in."""
    current = gallery_storage.load(store)
    if current is None or not current.photos:
        return Gallery.empty(embedder.model, embedder.preprocessing, embedder.threshold, embedder.dimensions)
    current.check_compatible(embedder.model, embedder.preprocessing)
    return current
