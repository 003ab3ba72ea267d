"""A gallery from one store to another: what differs, and the copy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.enrolment import GalleryStore
from pipeline import gallery_storage
from pipeline.errors import TransientError
from pipeline.gallery import Gallery, Photo
from pipeline.gallery_storage import PHOTO_PREFIX
from pipeline.ports import ArtifactStore


@dataclass(frozen=True)
class Changes:
    """What a copy of one gallery over another does to the other.

    Parameters
    ----------
    people_added, people_removed, people_changed : tuple of str
        By name, in alphabetical order; changed is who keeps the name and gets or loses photos.
    photos_added, photos_removed : tuple of Photo
    photos_changed : tuple of (Photo, Photo)
        Before and after: the same photo with another person, source or vector.
    settings : mapping of str to (before, after)
        Which of model, preprocessing, threshold and dimensions change; `before` is None where there is no gallery.

    """

    people_added: tuple[str, ...]
    people_removed: tuple[str, ...]
    people_changed: tuple[str, ...]
    photos_added: tuple[Photo, ...]
    photos_removed: tuple[Photo, ...]
    photos_changed: tuple[tuple[Photo, Photo], ...]
    settings: Mapping[str, tuple[str | float | None, str | float | None]]

    def __bool__(self) -> bool:
        """Return whether anything changes."""
        return bool(self.photos_added or self.photos_removed or self.photos_changed or self.settings)

    @property
    def loses(self) -> bool:
        """Return whether anything that is there goes or becomes something else."""
        return bool(self.photos_removed or self.photos_changed or self.other_model)

    @property
    def other_model(self) -> bool:
        """Return whether there is a gallery already, and of another model."""
        return any(self.settings.get(name, (None,))[0] is not None for name in ("model", "preprocessing"))


def changes(before: Gallery | None, after: Gallery | None) -> Changes:
    """Return what makes `after` of `before`; None is no gallery."""
    old, new = _rows(before), _rows(after)
    changed = [
        sha256
        for sha256 in old
        if sha256 in new and (old[sha256][0] != new[sha256][0] or not np.array_equal(old[sha256][1], new[sha256][1]))
    ]
    added = [photo for sha256, (photo, _) in new.items() if sha256 not in old]
    removed = [photo for sha256, (photo, _) in old.items() if sha256 not in new]
    pairs = [(old[sha256][0], new[sha256][0]) for sha256 in changed]
    old_people, new_people = (set() if one is None else set(one.people) for one in (before, after))
    touched = {photo.person for photo in (*added, *removed, *(photo for pair in pairs for photo in pair))}
    about = {name: (_about(before).get(name), _about(after).get(name)) for name in _about(before) | _about(after)}
    return Changes(
        people_added=_sorted(new_people - old_people),
        people_removed=_sorted(old_people - new_people),
        people_changed=_sorted(old_people & new_people & touched),
        photos_added=tuple(added),
        photos_removed=tuple(removed),
        photos_changed=tuple(pairs),
        settings={name: values for name, values in about.items() if values[0] != values[1]},
    )


def copy(source: ArtifactStore, wanted: Gallery, target: GalleryStore, shown: Gallery | None) -> int:
    """Make `wanted`, the gallery of `source`, the gallery of `target`; return how many kept photos went with it.

    Photos that `target` keeps already are left, also those that `source` does not keep.

    Parameters
    ----------
    shown : Gallery or None
        What is expected in `target`: what somebody agreed to lose.

    Raises
    ------
    TransientError
        A store cannot be reached, or `target` holds another gallery than `shown`. Nothing is changed then, except
        that photos may have been copied.

    """
    with target.exclusive():
        found = gallery_storage.load(target)
        if (found and found.version) != (shown and shown.version):
            raise TransientError("gallery_busy", "The gallery was changed meanwhile. Run the same command again.")
        kept = {PHOTO_PREFIX + photo.sha256 for photo in wanted.photos} & set(source.names())
        missing = sorted(kept - set(target.names()))
        for name in missing:
            target.write(name, source.read(name))
        if found is None or found.version != wanted.version:
            gallery_storage.save(target, wanted)
    return len(missing)


def _rows(one: Gallery | None) -> dict[str, tuple[Photo, NDArray[np.float32]]]:
    if one is None:
        return {}
    return {photo.sha256: (photo, vector) for photo, vector in zip(one.photos, one.vectors, strict=True)}


def _about(one: Gallery | None) -> dict[str, str | float]:
    if one is None:
        return {}
    return {
        "model": one.model,
        "preprocessing": one.preprocessing,
        "threshold": one.threshold,
        "dimensions": one.dimensions,
    }


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (name.casefold(), name)))
