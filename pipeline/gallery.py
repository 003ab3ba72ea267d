"""Who we know: people, their photos, one vector a photo, and what made the vectors.

On a store, a gallery is two blobs: `vectors-<hash>.npy`, written first, and `gallery.json`, which names that file and
its SHA-256 and is the one commit point. A writer killed anywhere leaves the old gallery or the new one, and at most
files that no gallery names; the next save removes them. Writers take turns: two that save at once may lose one
gallery's change (`DirectoryStore.exclusive` keeps them apart). Readers need no turn.
"""

import base64
import binascii
import difflib
import hashlib
import io
import json
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInput, SetupError, TransientError
from pipeline.messages import ERROR, NO_FACE, UNKNOWN, Json
from pipeline.ports import ArtifactStore

#: The blob whose replacement is the moment a new gallery holds.
MANIFEST = "gallery.json"
#: Prefix of the blobs of photos that were kept; the rest of the name is the photo's SHA-256.
PHOTO_PREFIX = "photo-"
#: Preprocessing of a gallery whose maker did not say how its faces were cut and normalised.
UNKNOWN_PREPROCESSING = "unknown"
MAX_NAME_CHARS = 128

_VECTORS_PREFIX = "vectors-"
_FORMAT = 1
#: How often a reader follows a gallery that is replaced under its hands, before it gives up for now.
_MOST_READS = 20
_RESERVED_NAMES = frozenset(name.casefold() for name in (UNKNOWN, NO_FACE, ERROR))


@dataclass(frozen=True)
class Photo:
    """One enrolled photo.

    Parameters
    ----------
    person : str
        As `person_name` returns it.
    source : str
        File name it was enrolled from, for people to read; nothing is ever opened by it.
    sha256 : str
        64 hexadecimal digits: of the photo's bytes, or of the vector's where only a vector was imported.

    """

    person: str
    source: str
    sha256: str


@dataclass(frozen=True)
class Match:
    """The nearest person.

    Parameters
    ----------
    name : str or None
        None if nobody is near enough, or nobody is enrolled.
    distance : float or None
        Euclidean distance to the nearest photo, also when it is too far for a name; None if nobody is enrolled.

    """

    name: str | None
    distance: float | None


@dataclass(frozen=True, eq=False)
class Gallery:
    """Everybody who is enrolled. Immutable: `add`, `remove` and `rename` return another gallery.

    Parameters
    ----------
    model, preprocessing : str
        What made the vectors, as `FaceEmbedder` and `PREPROCESSINGS` name it; preprocessing may be `unknown`.
    threshold : float
        Euclidean distance up to which, inclusive, the nearest photo gives its name. Finite, > 0.
    photos : tuple of Photo
        n photos in the order of enrolment, no two with one SHA-256.
    vectors : (n, d) float32
        Row i belongs to `photos[i]`. Finite.

    Raises
    ------
    ValueError
        The parts do not fit together.

    """

    model: str
    preprocessing: str
    threshold: float
    photos: tuple[Photo, ...]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.shape[1] < 1 or len(self.vectors) != len(self.photos):
            raise ValueError(f"{len(self.photos)} photos do not fit vectors of shape {self.vectors.shape}")
        if self.vectors.dtype != np.float32 or not np.isfinite(self.vectors).all():
            raise ValueError("the vectors are not finite float32 numbers")
        if not (np.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"the threshold {self.threshold} is not a distance above 0")
        if len({photo.sha256 for photo in self.photos}) != len(self.photos):
            raise ValueError("a photo is enrolled twice")

    @classmethod
    def empty(cls, model: str, preprocessing: str, threshold: float, dimensions: int) -> "Gallery":
        """Return a gallery of nobody, for vectors of length `dimensions`."""
        return cls(model, preprocessing, threshold, (), np.empty((0, dimensions), np.float32))

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def version(self) -> str:
        """12 hexadecimal digits that change with any part of the content."""
        return _sha256(_manifest(self, _npy(self.vectors)))[:12]

    @cached_property
    def people(self) -> Mapping[str, int]:
        """How many photos each person has, in alphabetical order."""
        counts = Counter(photo.person for photo in self.photos)
        return {name: counts[name] for name in sorted(counts, key=lambda name: (name.casefold(), name))}

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """Who is on the photo with which SHA-256."""
        return {photo.sha256: photo.person for photo in self.photos}

    @cached_property
    def _squared_norms(self) -> NDArray[np.float32]:
        norms: NDArray[np.float32] = np.einsum("ij,ij->i", self.vectors, self.vectors)
        return norms

    def nearest(self, vectors: NDArray[np.float32]) -> list[Match]:
        """Find the nearest photo of each of `vectors`, (m, d) float32 and finite, m may be 0.

        One matrix product ranks all photos, by |g|^2 - 2 q.g in float32: |q|^2 is the same for all of them. That
        difference cancels when two vectors are close (an error of about 1e-7 in the square is 3e-4 in the distance),
        so the distance that is returned and compared with the threshold is computed again from q - g, for the nearest
        photo alone. Of photos whose squared distances differ by less than that 1e-7, either may be taken.
        """
        if not self.photos:
            return [Match(None, None)] * len(vectors)
        rows = np.argmin(self._squared_norms - 2 * (vectors @ self.vectors.T), axis=1)
        distances = np.linalg.norm(vectors.astype(np.float64) - self.vectors[rows], axis=1)
        return [
            Match(self.photos[row].person if distance <= self.threshold else None, distance)
            for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
        ]

    def add(self, photos: Sequence[Photo], vectors: NDArray[np.float32]) -> "Gallery":
        """Return the gallery with k `photos` more and their `vectors`, (k, d) float32.

        A photo that its person has already is left out. Raises BadInput for a name that cannot be one, and for a
        photo that somebody else has; nothing is added then.
        """
        owners = dict(self.owners)
        added: list[Photo] = []
        rows: list[int] = []
        for row, given in enumerate(photos):
            photo = replace(given, person=person_name(given.person))
            if not _enrolled(photo, owners):
                owners[photo.sha256] = photo.person
                added.append(photo)
                rows.append(row)
        return replace(self, photos=self.photos + tuple(added), vectors=np.concatenate([self.vectors, vectors[rows]]))

    def holds(self, photo: Photo) -> bool:
        """Tell whether the person has the photo already. Raises BadInput if somebody else has it."""
        return _enrolled(photo, self.owners)

    def join(self, other: "Gallery") -> "Gallery":
        """Return the gallery with everybody of `other` too; the threshold stays.

        The preprocessing becomes `unknown` if that of either is. Raises SetupError if the vectors of the two cannot
        be compared, BadInput for a photo that is of one person here and of another there.
        """
        if not self.photos:
            return other
        if not other.photos:
            return self
        if other.dimensions != self.dimensions:
            raise SetupError(
                "other_model",
                f"Vectors of length {other.dimensions} cannot join those of length {self.dimensions}. {_MEND}",
            )
        if other.preprocessing != UNKNOWN_PREPROCESSING:
            self.check(other.model, other.preprocessing)
            return self.add(other.photos, other.vectors)
        self.check(other.model, self.preprocessing)
        return replace(self.add(other.photos, other.vectors), preprocessing=UNKNOWN_PREPROCESSING)

    def remove(self, name: str) -> "Gallery":
        """Return the gallery without the person. Raises BadInput if there is none of that name."""
        person = self.known(name)
        kept = [row for row, photo in enumerate(self.photos) if photo.person != person]
        return replace(self, photos=tuple(self.photos[row] for row in kept), vectors=self.vectors[kept])

    def rename(self, old: str, new: str, merge: bool = False) -> "Gallery":
        """Return the gallery with the photos of `old` under the name `new`.

        Raises BadInput if there is no `old`, if `new` cannot be a name, or if somebody is called so already and `merge`
        is not asked for.
        """
        person, target = self.known(old), person_name(new)
        if target in self.people and target != person and not merge:
            raise BadInput(
                "name_taken",
                f"{target} is enrolled already. If both are one person, run "
                f"`faceq people rename --merge {shlex.join([person, target])}`.",
            )
        photos = tuple(replace(photo, person=target) if photo.person == person else photo for photo in self.photos)
        return replace(self, photos=photos)

    def known(self, name: str) -> str:
        """Return `name` as the gallery spells it. Raises BadInput that guesses who was meant if there is none."""
        person = unicodedata.normalize("NFC", name).strip()
        if person in self.people:
            return person
        folded = {known.casefold(): known for known in self.people}
        close = difflib.get_close_matches(person.casefold(), folded, n=1)
        hint = f"Did you mean {folded[close[0]]}?" if close else "See `faceq people list`."
        raise BadInput("unknown_person", f"Nobody is enrolled as '{name}'. {hint}", status=404)

    def check(self, model: str, preprocessing: str) -> None:
        """Raise SetupError if vectors made by `model` and `preprocessing` cannot be compared with these.

        A gallery of nobody fits every model. An `unknown` preprocessing is let through; see `caveat`.
        """
        if not self.photos:
            return
        if model != self.model:
            raise SetupError(
                "other_model",
                f"The gallery was made with model '{self.model}', but '{model}' is to be used. {_MEND} "
                f"Or go back to it: set FACEQ_MODEL={self.model}.",
            )
        if self.preprocessing not in (preprocessing, UNKNOWN_PREPROCESSING):
            raise SetupError(
                "other_preprocessing",
                f"The gallery's faces were cut for '{self.preprocessing}', but '{preprocessing}' is to be used. "
                f"{_MEND}",
            )

    @property
    def caveat(self) -> str | None:
        """What to tell the operator about this gallery, in one line; None if there is nothing."""
        if not self.photos or self.preprocessing != UNKNOWN_PREPROCESSING:
            return None
        return (
            "The gallery holds imported vectors, and nobody knows how their faces were prepared: names may be "
            "right, but do not trust the distances. Photos enrolled with `faceq people add` are better."
        )


_RESTART = "Start anew: `faceq people remove --all`, then `faceq people add NAME PHOTO...`."
_MEND = f"If the photos were kept, run `faceq people renew`. {_RESTART}"


def person_name(text: str) -> str:
    """Return `text` as a person's name: stripped, in Unicode's composed form. Raises BadInput if it cannot be one."""
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise BadInput("bad_name", "The name is empty. Give the person a name.")
    if len(name) > MAX_NAME_CHARS:
        raise BadInput("bad_name", f"The name has {len(name)} characters; {MAX_NAME_CHARS} is the most.")
    if not name.isprintable():
        raise BadInput("bad_name", "The name holds a character that cannot be printed, such as a line break.")
    if name.casefold() in _RESERVED_NAMES:
        raise BadInput("bad_name", f"'{name}' is what a result says when it names nobody. Take another name.")
    return name


def load(store: ArtifactStore) -> Gallery | None:
    """Read the gallery, None where there is none yet.

    Raises
    ------
    SetupError
        It is broken, or of a format that this version does not know.
    TransientError
        The store cannot be reached, or the gallery was replaced faster than it could be read.

    """
    try:
        return _load(store)
    except _BrokenError as error:
        raise SetupError("broken_gallery", f"The gallery is broken: {error}. {_RESTART}") from None


def save(store: ArtifactStore, gallery: Gallery) -> None:
    """Make `gallery` the one that `load` returns, as one step; then remove what only the old one needed.

    Raises TransientError if the store cannot be written; the old gallery is in place then, unless only the clean-up
    failed.
    """
    vectors = _npy(gallery.vectors)
    store.write(_vectors_name(vectors), vectors)
    store.write(MANIFEST, _manifest(gallery, vectors))
    needed = {MANIFEST, _vectors_name(vectors), *(PHOTO_PREFIX + photo.sha256 for photo in gallery.photos)}
    _sweep(store, needed)


def clear(store: ArtifactStore) -> None:
    """Remove the gallery, also one that is broken, and all photos that were kept with it."""
    store.delete(MANIFEST)
    _sweep(store, set())


def export_json(gallery: Gallery) -> bytes:
    """Return the gallery as one portable JSON file; the vectors are base64 of little-endian float32 rows."""
    rows = base64.b64encode(gallery.vectors.astype("<f4").tobytes()).decode("ascii")
    return _json({**_head(gallery), "vectors_base64": rows, "photos": _photo_rows(gallery)})


def import_json(content: bytes) -> Gallery:
    """Read what `export_json` wrote. Raises SetupError if it is not that."""
    try:
        return _imported(content)
    except _BrokenError as error:
        raise SetupError(
            "broken_export", f"The file is not what `faceq people export` writes: {error}. Export it again."
        ) from None


class _BrokenError(ValueError):
    pass


def _imported(content: bytes) -> Gallery:
    fields = _fields(content)
    dimensions = fields.get("dimensions")
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
        _refuse("'dimensions' is not a number of at least 1")
    try:
        rows = base64.b64decode(_string(fields, "vectors_base64"), validate=True)
        vectors = np.frombuffer(rows, "<f4").reshape(-1, dimensions).astype(np.float32)
    except (binascii.Error, ValueError):
        _refuse("'vectors_base64' does not hold rows of float32 numbers")
    return _gallery(fields, vectors)


def _load(store: ArtifactStore) -> Gallery | None:
    manifests = set()
    for _ in range(_MOST_READS):
        manifest = _read(store, MANIFEST)
        if manifest is None:
            return None
        fields = _fields(manifest)
        vectors = _read(store, _string(fields, "vectors"))
        if vectors is not None:
            if _sha256(vectors) != fields.get("vectors_sha256"):
                _refuse("its vectors are not the ones that gallery.json names")
            return _gallery(fields, _from_npy(vectors))
        # Gone between the two reads: a newer gallery took the place of this one, and is read instead.
        manifests.add(manifest)
    if len(manifests) == 1:
        _refuse("its vectors are missing")
    raise TransientError("gallery_busy", "The gallery is being written again and again. Try again later.")


def _enrolled(photo: Photo, owners: Mapping[str, str]) -> bool:
    owner = owners.get(photo.sha256, photo.person)
    if owner != photo.person:
        raise BadInput(
            "photo_of_another",
            f"{photo.source} is enrolled as {owner}, so it cannot be {photo.person} too. Take another photo, or mend "
            "the name with `faceq people rename`.",
        )
    return photo.sha256 in owners


def _head(gallery: Gallery) -> dict[str, Json]:
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
    where: dict[str, Json] = {"vectors": _vectors_name(vectors), "vectors_sha256": _sha256(vectors)}
    return _json({**_head(gallery), **where, "photos": _photo_rows(gallery)})


def _json(fields: Mapping[str, Json]) -> bytes:
    return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _vectors_name(content: bytes) -> str:
    return f"{_VECTORS_PREFIX}{_sha256(content)[:16]}.npy"


def _npy(vectors: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype("<f4"), allow_pickle=False)
    return buffer.getvalue()


def _from_npy(content: bytes) -> NDArray[np.float32]:
    try:
        vectors = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, MemoryError):
        _refuse("its vectors are not a plain NumPy file")
    if vectors.dtype != np.dtype("<f4"):
        _refuse("its vectors are not float32 numbers")
    return vectors.astype(np.float32)


def _fields(content: bytes) -> dict[str, Json]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        _refuse("it is not JSON")
    if not isinstance(fields, dict) or "format" not in fields:
        _refuse("it is not a gallery")
    if fields["format"] != _FORMAT:
        _refuse(f"it is of another format than {_FORMAT}, the one that this faceq reads")
    return fields


def _gallery(fields: Mapping[str, Json], vectors: NDArray[np.float32]) -> Gallery:
    threshold = fields.get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        _refuse("'threshold' is not a number")
    rows = fields.get("photos")
    if not isinstance(rows, list):
        _refuse("'photos' is not a list")
    if vectors.ndim != 2 or vectors.shape[1] != fields.get("dimensions"):
        _refuse("its vectors are not as long as 'dimensions' says")
    photos = tuple(_photo(row) for row in rows)
    try:
        return Gallery(_string(fields, "model"), _string(fields, "preprocessing"), float(threshold), photos, vectors)
    except (ValueError, OverflowError) as error:
        _refuse(str(error))


def _photo(row: Json) -> Photo:
    if not isinstance(row, dict):
        _refuse("a photo is not an object")
    try:
        person = person_name(_string(row, "person"))
    except BadInput as error:
        _refuse(error.message.removesuffix("."))
    sha256 = _string(row, "sha256")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        _refuse("a photo's 'sha256' is not 64 hexadecimal digits")
    return Photo(person, _string(row, "source"), sha256)


def _string(fields: Mapping[str, Json], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        _refuse(f"'{key}' is not a text")
    return value


def _read(store: ArtifactStore, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None
    except ValueError:
        _refuse(f"'{name}' is not a plain file name")


def _sweep(store: ArtifactStore, needed: set[str]) -> None:
    for name in store.names():
        if name not in needed and name.startswith((_VECTORS_PREFIX, PHOTO_PREFIX)):
            store.delete(name)


def _refuse(reason: str) -> NoReturn:
    raise _BrokenError(reason)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
