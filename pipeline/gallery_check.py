"""Looks for mistakes in a gallery: one person under two names, two people under one name, photos that add nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.gallery import Gallery, Photo

#: Two photos of one person that are nearer than this part of the threshold are near duplicates: frames of one video, or
#: one picture saved twice. Measured with dlib, whose threshold is 0.5: a photo saved again as JPEG of quality 50 or 95,
#: or at 60 % of its size, is at most 0.083 from the original.
NEAR_DUPLICATE_PART = 0.2
#: Rows of the matrix of distances that are computed at one time: 256 x 61,001 numbers of 4 bytes are 62 MB.
_BLOCK = 256


@dataclass(frozen=True)
class Neighbour:
    """A person with the distance of that person's nearest photo."""

    person: str
    source: str
    distance: float


@dataclass(frozen=True)
class LookAlikes:
    """Whom a face that is to be enrolled resembles.

    Parameters
    ----------
    other : Neighbour or None
        The nearest person, if enrolled under another name and within the threshold.
    own : Neighbour or None
        The nearest photo under the same name; None if this is the first one.
    threshold : float
        Of the gallery.

    """

    other: Neighbour | None
    own: Neighbour | None
    threshold: float

    def refusal(self, person: str) -> str:
        """Return why a photo of `person` is refused. `other` must not be None."""
        assert self.other is not None  # noqa: S101 - the caller has checked it
        return (
            f"It shows {self.other.person}, not {person}: the distance to {self.other.person}'s photo "
            f"{self.other.source} is {self.other.distance:.2f}, and up to {self.threshold:g} faceq takes two faces for "
            "one person. Correct the name, or enrol the photo with --anyway."
        )

    def warning(self, person: str) -> str | None:
        """Return a warning if the face is far from all photos of `person`; None if it is not, or is the first one."""
        if self.own is None or self.own.distance <= self.threshold:
            return None
        return (
            f"It may show another person than {person}'s other photos: the distance to the nearest one is "
            f"{self.own.distance:.2f}, and up to {self.threshold:g} faceq takes two faces for one person. Compare them."
        )


@dataclass(frozen=True)
class Pair:
    """Two photos and their distance."""

    first: Photo
    second: Photo
    distance: float


@dataclass(frozen=True)
class Outlier:
    """A photo that is further than the threshold from all other photos of its person; `distance` is the nearest's."""

    photo: Photo
    distance: float


@dataclass(frozen=True)
class Findings:
    """What `check` found.

    Parameters
    ----------
    same_face : tuple of Pair
        For each two people with photos within the threshold of each other, the nearest two. Nearest pair first.
    near_duplicates : tuple of Pair
        Photos of one person that are almost the same, in the order of the gallery. Each photo comes once, with the
        first photo that it repeats.
    outliers : tuple of Outlier
        The one that is furthest from its person first.

    """

    same_face: tuple[Pair, ...]
    near_duplicates: tuple[Pair, ...]
    outliers: tuple[Outlier, ...]

    def __bool__(self) -> bool:
        """Return whether anything was found."""
        return bool(self.same_face or self.near_duplicates or self.outliers)


def look_alikes(galleries: Iterable[Gallery], person: str, vector: NDArray[np.float32]) -> LookAlikes:
    """Compare a vector, (d,) float32, with all photos of galleries that belong together; any of them may be empty.

    A face that is nearest to a photo of `person` resembles nobody else, even if others are within the threshold too.
    """
    nearest: Neighbour | None = None
    own: Neighbour | None = None
    threshold = np.inf
    for gallery in galleries:
        threshold = min(threshold, gallery.threshold)
        if not gallery.photos:
            continue
        nearest = _nearer(nearest, _nearest(gallery, vector))
        own = _nearer(own, _nearest_of(gallery, person, vector))
    is_other = nearest is not None and nearest.person != person and nearest.distance <= threshold
    return LookAlikes(nearest if is_other else None, own, threshold)


def check(gallery: Gallery) -> Findings:
    """Compare every photo of a gallery with every other one.

    The time grows with the square of their number: 61,001 random vectors of 512 numbers took 263 s on two busy cores.
    """
    names = list(gallery.people)
    number_by_name = {name: number for number, name in enumerate(names)}
    people = np.array([number_by_name[photo.person] for photo in gallery.photos], np.intp)
    same_face: dict[tuple[int, int], tuple[int, int, float]] = {}
    duplicates: list[tuple[int, int, float]] = []
    outliers: list[tuple[int, float]] = []
    for start, distances in _blocks(gallery.vectors):
        rows = np.arange(start, start + len(distances))
        same = people[rows, None] == people
        later = np.arange(len(people)) > rows[:, None]
        for i, j in _nearest_pairs(people, start, ~same & later & (distances <= gallery.threshold), distances):
            key = (min(people[i], people[j]), max(people[i], people[j]))
            distance = float(distances[i - start, j])
            if key not in same_face or distance < same_face[key][2]:
                same_face[key] = (i, j, distance)
        distances[np.arange(len(rows)), rows] = np.inf
        own = np.where(same, distances, np.inf)
        nearest = own.min(axis=1)
        outliers += [
            (start + i, float(nearest[i]))
            for i in np.flatnonzero(np.isfinite(nearest) & (nearest > gallery.threshold)).tolist()
        ]
        repeats = np.where(~later, own, np.inf) <= NEAR_DUPLICATE_PART * gallery.threshold
        duplicates += [
            (int(np.argmax(repeats[i])), start + i, float(own[i, np.argmax(repeats[i])]))
            for i in np.flatnonzero(repeats.any(axis=1)).tolist()
        ]
    photos = gallery.photos
    return Findings(
        tuple(Pair(photos[i], photos[j], d) for i, j, d in sorted(same_face.values(), key=lambda pair: pair[2])),
        tuple(Pair(photos[i], photos[j], d) for i, j, d in duplicates),
        tuple(Outlier(photos[i], d) for i, d in sorted(outliers, key=lambda outlier: -outlier[1])),
    )


def _nearest_pairs(
    people: NDArray[np.intp], start: int, wanted: NDArray[np.bool_], distances: NDArray[np.float32]
) -> list[tuple[int, int]]:
    """Return the rows of the nearest wanted pair of photos for each two people, from one block of distances."""
    i, j = np.nonzero(wanted)
    order = np.argsort(distances[i, j], kind="stable")
    i, j = i[order], j[order]
    first, second = people[start + i], people[j]
    keys = np.minimum(first, second) * len(people) + np.maximum(first, second)
    _, nearest = np.unique(keys, return_index=True)
    return [(start + int(i[row]), int(j[row])) for row in nearest]


def _blocks(vectors: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the matrix of distances in blocks of rows, each with the number of its first row.

    Rounding makes an error of at most about 1e-3, in distances near 0 only.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        squared = squares[start : start + _BLOCK, None] + squares - 2 * (block @ vectors.T)
        yield start, np.sqrt(np.maximum(squared, 0))


def _nearest(gallery: Gallery, vector: NDArray[np.float32]) -> Neighbour:
    row, distance = gallery.nearest_photo(vector)
    return Neighbour(gallery.photos[row].person, gallery.photos[row].source, distance)


def _nearest_of(gallery: Gallery, person: str, vector: NDArray[np.float32]) -> Neighbour | None:
    rows = gallery.rows_of(person)
    if not rows:
        return None
    distances = np.linalg.norm(gallery.vectors[list(rows)].astype(np.float64) - vector, axis=1)
    nearest = int(np.argmin(distances))
    return Neighbour(person, gallery.photos[rows[nearest]].source, float(distances[nearest]))


def _nearer(first: Neighbour | None, second: Neighbour | None) -> Neighbour | None:
    if first is None or second is None:
        return first or second
    return min(first, second, key=lambda neighbour: neighbour.distance)
