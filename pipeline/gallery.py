"""The people whom faceq knows: their photos, one vector for each photo, and what made the vectors.

`pipeline.gallery_storage` writes and reads galleries; `pipeline.nearest_neighbours` is the search in the vectors.
"""

import difflib
import hashlib
import json
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInput, SetupError
from pipeline.messages import ERROR, NO_FACE, UNKNOWN
from pipeline.nearest_neighbours import NearestNeighbours

#: The preprocessing of a gallery whose source does not say how its faces were cut and normalised.
UNKNOWN_PREPROCESSING = "unknown"
MAX_NAME_CHARS = 128
#: The command that starts a new gallery, for messages about a gallery that cannot be used.
START_OVER = "Start over: `faceq people remove --all`, then `faceq people add NAME PHOTO...`."

_RENEW = f"If the photos were kept, run `faceq people renew`. {START_OVER}"
_RESERVED_NAMES = frozenset(name.casefold() for name in (UNKNOWN, NO_FACE, ERROR))


@dataclass(frozen=True)
class Photo:
    """One enrolled photo.

    Parameters
    ----------
    person : str
        The name of the person, as `person_name` returns it.
    source : str
        The name of the file it was enrolled from. A label for messages only: faceq never opens a file by it.
    sha256 : str
        64 hexadecimal digits: of the photo's bytes, or of the vector's if only a vector was imported.

    """

    person: str
    source: str
    sha256: str


@dataclass(frozen=True)
class Match:
    """The enrolled person who is nearest to a face.

    Parameters
    ----------
    name : str or None
        None if the nearest photo is further away than the threshold, or if the gallery is empty.
    distance : float or None
        Euclidean distance to the nearest photo, even if it is too far for a name. None if the gallery is empty.

    """

    name: str | None
    distance: float | None


@dataclass(frozen=True, eq=False)
class Gallery:
    """All enrolled people. Immutable: `add`, `join`, `remove` and `rename` return another gallery.

    Parameters
    ----------
    model, preprocessing : str
        What made the vectors: `FaceEmbedder.model` and a key of `PREPROCESSINGS`, or `UNKNOWN_PREPROCESSING`.
    threshold : float
        Largest Euclidean distance at which the nearest photo names a face. Finite, > 0.
    photos : tuple of Photo
        n photos in the order of enrolment. No two have the same SHA-256.
    vectors : (n, d) float32
        Row i belongs to `photos[i]`. Finite, d at least 1.

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
        """Return a gallery without people, for vectors of length `dimensions`."""
        return cls(model, preprocessing, threshold, (), np.empty((0, dimensions), np.float32))

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def version(self) -> str:
        """12 hexadecimal digits that identify the content: they change whenever any part of it changes."""
        photos = [[photo.person, photo.source, photo.sha256] for photo in self.photos]
        parts = [self.model, self.preprocessing, float(self.threshold), self.dimensions, photos]
        digest = hashlib.sha256(json.dumps(parts).encode("ascii"))
        digest.update(self.vectors.astype("<f4").tobytes())
        return digest.hexdigest()[:12]

    @cached_property
    def people(self) -> Mapping[str, int]:
        """The number of photos of each person, in alphabetical order of the names."""
        counts = Counter(photo.person for photo in self.photos)
        return {name: counts[name] for name in sorted(counts, key=lambda name: (name.casefold(), name))}

    @cached_property
    def _person_by_photo(self) -> Mapping[str, str]:
        """The person on each photo, by the photo's SHA-256."""
        return {photo.sha256: photo.person for photo in self.photos}

    @cached_property
    def _rows_by_person(self) -> Mapping[str, Sequence[int]]:
        rows: dict[str, list[int]] = {}
        for row, photo in enumerate(self.photos):
            rows.setdefault(photo.person, []).append(row)
        return rows

    @cached_property
    def _index(self) -> NearestNeighbours:
        return NearestNeighbours(self.vectors)

    def nearest(self, vectors: NDArray[np.float32]) -> list[Match]:
        """Return the nearest enrolled person for each of `vectors`, (m, d) float32 and finite; m may be 0."""
        if not self.photos:
            return [Match(None, None)] * len(vectors)
        rows, distances = self._index.find(vectors)
        return [
            Match(self.photos[row].person if distance <= self.threshold else None, distance)
            for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
        ]

    def nearest_photo(self, vector: NDArray[np.float32]) -> tuple[int, float]:
        """Return the row of the photo nearest to a vector, (d,) float32, and its distance. Needs at least one photo."""
        rows, distances = self._index.find(vector[np.newaxis])
        return int(rows[0]), float(distances[0])

    def rows_of(self, person: str) -> Sequence[int]:
        """Return the rows of a person's photos, spelt as in the gallery; none if the name is not enrolled."""
        return self._rows_by_person.get(person, ())

    def add(self, photos: Sequence[Photo], vectors: NDArray[np.float32]) -> "Gallery":
        """Return the gallery with k more `photos` and their `vectors`, (k, d) float32.

        A photo that is enrolled for the same person already is skipped. Raises BadInput if a name cannot be used, or
        if a photo is enrolled for somebody else.
        """
        person_by_photo = dict(self._person_by_photo)
        added: list[Photo] = []
        rows: list[int] = []
        for row, photo in enumerate(photos):
            named = replace(photo, person=person_name(photo.person))
            if not _is_enrolled(named, person_by_photo):
                person_by_photo[named.sha256] = named.person
                added.append(named)
                rows.append(row)
        return replace(self, photos=self.photos + tuple(added), vectors=np.concatenate([self.vectors, vectors[rows]]))

    def has(self, photo: Photo) -> bool:
        """Return whether the photo is enrolled for its person. Raises BadInput if it is enrolled for somebody else."""
        return _is_enrolled(photo, self._person_by_photo)

    def join(self, other: "Gallery") -> "Gallery":
        """Return the gallery with all people of `other` added. The threshold of this gallery stays.

        The result has an unknown preprocessing if one of the two galleries has. Raises SetupError if the vectors of
        the two cannot be compared, BadInput if they name different people for one photo.
        """
        if not self.photos:
            return other
        if not other.photos:
            return self
        if other.dimensions != self.dimensions:
            raise SetupError(
                "other_model",
                f"Vectors of length {other.dimensions} cannot join those of length {self.dimensions}. {_RENEW}",
            )
        if other.preprocessing != UNKNOWN_PREPROCESSING:
            self.check_compatible(other.model, other.preprocessing)
            return self.add(other.photos, other.vectors)
        self.check_compatible(other.model, self.preprocessing)
        return replace(self.add(other.photos, other.vectors), preprocessing=UNKNOWN_PREPROCESSING)

    def remove(self, name: str) -> "Gallery":
        """Return the gallery without the person. Raises BadInput if no enrolled person has this name."""
        person = self.enrolled_name(name)
        kept = [row for row, photo in enumerate(self.photos) if photo.person != person]
        return replace(self, photos=tuple(self.photos[row] for row in kept), vectors=self.vectors[kept])

    def rename(self, old: str, new: str, merge: bool = False) -> "Gallery":
        """Return the gallery with the photos of `old` under the name `new`.

        Raises BadInput if no enrolled person is named `old`, if `new` cannot be used as a name, or if `new` is another
        enrolled person and `merge` is false.
        """
        person, target = self.enrolled_name(old), person_name(new)
        if target in self.people and target != person and not merge:
            raise BadInput(
                "name_taken",
                f"{target} is enrolled already. If both are one person, run "
                f"`faceq people rename --merge {shlex.join([person, target])}`.",
            )
        photos = tuple(replace(photo, person=target) if photo.person == person else photo for photo in self.photos)
        return replace(self, photos=photos)

    def enrolled_name(self, name: str) -> str:
        """Return `name` as the gallery spells it.

        Raises BadInput with status 404 if no enrolled person has this name. The message suggests the closest one.
        """
        person = unicodedata.normalize("NFC", name).strip()
        if person in self.people:
            return person
        names = {enrolled.casefold(): enrolled for enrolled in self.people}
        closest = difflib.get_close_matches(person.casefold(), names, n=1)
        hint = f"Did you mean {names[closest[0]]}?" if closest else "See `faceq people list`."
        raise BadInput("unknown_person", f"Nobody is enrolled as '{name}'. {hint}", status=404)

    def check_compatible(self, model: str, preprocessing: str) -> None:
        """Raise SetupError if vectors made by `model` and `preprocessing` cannot be compared with this gallery's.

        An empty gallery fits every model. An unknown preprocessing passes; see `warning`.
        """
        if not self.photos:
            return
        if model != self.model:
            raise SetupError(
                "other_model",
                f"The gallery was made with model '{self.model}', but the model in use is '{model}'. {_RENEW} "
                f"Or return to the gallery's model: set FACEQ_MODEL={self.model}.",
            )
        if self.preprocessing not in (preprocessing, UNKNOWN_PREPROCESSING):
            raise SetupError(
                "other_preprocessing",
                f"The gallery's faces were cut for '{self.preprocessing}', but the model in use needs "
                f"'{preprocessing}'. {_RENEW}",
            )

    @property
    def warning(self) -> str | None:
        """A warning for the operator about this gallery, in one line; None if there is nothing to warn about."""
        if not self.photos or self.preprocessing != UNKNOWN_PREPROCESSING:
            return None
        return (
            "The gallery holds imported vectors, and their file does not say how the faces were cut: names may be "
            "right, but do not trust the distances. Photos enrolled with `faceq people add` are better."
        )


def person_name(text: str) -> str:
    """Return `text` as a person's name: stripped, in Unicode's composed form (NFC).

    Raises BadInput if it is empty, longer than `MAX_NAME_CHARS`, not printable, or a word that `result` reserves.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise BadInput("bad_name", "The name is empty. Give the person a name.")
    if len(name) > MAX_NAME_CHARS:
        raise BadInput("bad_name", f"The name has {len(name)} characters; {MAX_NAME_CHARS} is the most.")
    if not name.isprintable():
        raise BadInput("bad_name", "The name contains a character that cannot be printed, such as a line break.")
    if name.casefold() in _RESERVED_NAMES:
        raise BadInput("bad_name", f"'{name}' is reserved for results that name no person. Choose another name.")
    return name


def _is_enrolled(photo: Photo, person_by_photo: Mapping[str, str]) -> bool:
    person = person_by_photo.get(photo.sha256, photo.person)
    if person != photo.person:
        raise BadInput(
            "photo_of_another",
            f"{photo.source} is enrolled as {person}, so it cannot be enrolled as {photo.person} too. Choose another "
            "photo, or correct the name with `faceq people rename`.",
        )
    return photo.sha256 in person_by_photo
