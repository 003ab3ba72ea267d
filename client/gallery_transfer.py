"""Transfer a gallery from one store to another: show the difference, and copy."""

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
class GalleryDifference:
    """What changes if one gallery replaces another.

    Parameters
    ----------
    people_added, people_removed, people_changed : tuple of str
        Names in alphabetical order. People who are in both galleries, but not with the same photos, are changed.
    photos_added, photos_removed : tuple of Photo
    photos_changed : tuple of (Photo, Photo)
        Before and after: the same photo with another person, source or vector.
    settings : mapping of str to (before, after)
        Those of model, preprocessing, threshold and dimensions that change. A value is None if there is no gallery.

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
    def is_loss(self) -> bool:
        """Whether any photo of the replaced gallery is lost or changed."""
        return bool(self.photos_removed or self.photos_changed or self.is_other_model)

    @property
    def is_other_model(self) -> bool:
        """Whether the replaced gallery exists and was made with another model."""
        return any(self.settings.get(name, (None,))[0] is not None for name in ("model", "preprocessing"))


def difference(before: Gallery | None, after: Gallery | None) -> GalleryDifference:
    """Return what changes if `after` replaces `before`; None stands for no gallery."""
    old, new = _rows(before), _rows(after)
    changed = [
        sha256
        for sha256 in old
        if sha256 in new and (old[sha256][0] != new[sha256][0] or not np.array_equal(old[sha256][1], new[sha256][1]))
    ]
    added = [photo for sha256, (photo, _) in new.items() if sha256 not in old]
    removed = [photo for sha256, (photo, _) in old.items() if sha256 not in new]
    pairs = [(old[sha256][0], new[sha256][0]) for sha256 in changed]
    old_people, new_people = (set() if gallery is None else set(gallery.people) for gallery in (before, after))
    touched = {photo.person for photo in (*added, *removed, *(photo for pair in pairs for photo in pair))}
    old_settings, new_settings = _settings(before), _settings(after)
    settings = {name: (old_settings.get(name), new_settings.get(name)) for name in old_settings | new_settings}
    return GalleryDifference(
        people_added=_sorted(new_people - old_people),
        people_removed=_sorted(old_people - new_people),
        people_changed=_sorted(old_people & new_people & touched),
        photos_added=tuple(added),
        photos_removed=tuple(removed),
        photos_changed=tuple(pairs),
        settings={name: values for name, values in settings.items() if values[0] != values[1]},
    )


def copy_gallery(source: ArtifactStore, gallery: Gallery, target: GalleryStore, replaced: Gallery | None) -> int:
    """Copy a gallery with its kept photos to another store; return how many photos were copied.

    Photos that `target` keeps already stay there, even if `source` does not keep them.

    Parameters
    ----------
    gallery : Gallery
        The gallery in `source`.
    replaced : Gallery or None
        The gallery that the caller expects in `target`, and that the user has agreed to replace.

    Raises
    ------
    TransientError
        A store cannot be reached, or the gallery in `target` is not `replaced`. Then the gallery in `target` has not
        changed, but photos may have been copied.

    """
    with target.exclusive():
        current = gallery_storage.load(target)
        if (current and current.version) != (replaced and replaced.version):
            raise TransientError("gallery_busy", "The gallery was changed meanwhile. Run the same command again.")
        kept = {PHOTO_PREFIX + photo.sha256 for photo in gallery.photos} & set(source.names())
        missing = sorted(kept - set(target.names()))
        for name in missing:
            target.write(name, source.read(name))
        if current is None or current.version != gallery.version:
            gallery_storage.save(target, gallery)
    return len(missing)


def _rows(gallery: Gallery | None) -> dict[str, tuple[Photo, NDArray[np.float32]]]:
    if gallery is None:
        return {}
    return {photo.sha256: (photo, vector) for photo, vector in zip(gallery.photos, gallery.vectors, strict=True)}


def _settings(gallery: Gallery | None) -> dict[str, str | float]:
    if gallery is None:
        return {}
    return {
        "model": gallery.model,
        "preprocessing": gallery.preprocessing,
        "threshold": gallery.threshold,
        "dimensions": gallery.dimensions,
    }


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (name.casefold(), name)))
