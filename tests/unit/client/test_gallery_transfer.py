"""The difference between two galleries, and the copy of one over the other."""

import numpy as np
import pytest

from adapters.artifacts_directory import DirectoryStore
from client.gallery_transfer import copy_gallery, difference
from pipeline import gallery_storage
from pipeline.errors import TransientError
from pipeline.gallery import Gallery, Photo
from pipeline.gallery_storage import PHOTO_PREFIX

ADA, BO, CY = (Photo(name, f"{name}.jpg", digit * 64) for name, digit in (("Ada", "a"), ("Bo", "b"), ("Cy", "c")))


def gallery_with(*photos: Photo, model: str = "dlib", scale: float = 1) -> Gallery:
    vectors = np.array([[int(photo.sha256[0], 16) * scale] * 3 for photo in photos], np.float32).reshape(-1, 3)
    return Gallery.empty(model, "dlib-150", 0.6, 3).add(photos, vectors)


def test_the_order_of_photos_makes_no_difference() -> None:
    assert not difference(None, None)
    assert not difference(gallery_with(ADA, BO), gallery_with(BO, ADA))


def test_the_difference_has_added_removed_and_changed_people_and_photos() -> None:
    renamed = Photo("Ada Lovelace", ADA.source, ADA.sha256)
    second = Photo("Bo", "again.jpg", "d" * 64)
    change = difference(gallery_with(ADA, BO), gallery_with(renamed, BO, second, CY))
    assert change
    assert change.people_added == ("Ada Lovelace", "Cy")
    assert change.people_removed == ("Ada",)
    assert change.people_changed == ("Bo",)
    assert change.photos_added == (second, CY)
    assert change.photos_removed == ()
    assert change.photos_changed == ((ADA, renamed),)
    assert not change.settings
    assert change.is_loss


def test_another_vector_of_the_same_photo_is_a_change() -> None:
    assert difference(gallery_with(ADA), gallery_with(ADA, scale=2)).photos_changed == ((ADA, ADA),)


def test_only_removed_and_changed_photos_are_a_loss() -> None:
    assert not difference(gallery_with(ADA), gallery_with(ADA, BO)).is_loss
    assert not difference(None, gallery_with(ADA)).is_loss
    assert difference(gallery_with(ADA, BO), gallery_with(ADA)).is_loss
    assert difference(gallery_with(ADA), None).photos_removed == (ADA,)


def test_another_model_is_a_loss_unless_there_was_no_gallery() -> None:
    change = difference(gallery_with(ADA), gallery_with(ADA, model="vggface2"))
    assert dict(change.settings) == {"model": ("dlib", "vggface2")}
    assert change.is_other_model
    assert change.is_loss
    assert not difference(None, gallery_with(ADA)).is_other_model


def test_a_copy_includes_the_kept_photos_and_leaves_those_at_the_target(tmp_path) -> None:
    source, target = DirectoryStore(tmp_path / "a"), DirectoryStore(tmp_path / "b")
    before, wanted = gallery_with(BO, CY), gallery_with(ADA, BO)
    gallery_storage.save(source, wanted)
    gallery_storage.save(target, before)
    source.write(PHOTO_PREFIX + ADA.sha256, b"ada")
    source.write(PHOTO_PREFIX + CY.sha256, b"of nobody here")
    for photo in (BO, CY):
        target.write(PHOTO_PREFIX + photo.sha256, b"kept there")
    assert copy_gallery(source, wanted, target, before) == 1
    found = gallery_storage.load(target)
    assert found is not None
    assert found.version == wanted.version
    kept = {name for name in target.names() if name.startswith(PHOTO_PREFIX)}
    assert kept == {PHOTO_PREFIX + ADA.sha256, PHOTO_PREFIX + BO.sha256}
    assert target.read(PHOTO_PREFIX + ADA.sha256) == b"ada"
    assert copy_gallery(source, wanted, target, wanted) == 0


def test_a_gallery_that_has_changed_meanwhile_is_not_replaced(tmp_path) -> None:
    source, target = DirectoryStore(tmp_path / "a"), DirectoryStore(tmp_path / "b")
    gallery_storage.save(target, gallery_with(BO))
    for shown in (None, gallery_with(CY)):
        with pytest.raises(TransientError, match="changed meanwhile"):
            copy_gallery(source, gallery_with(ADA), target, shown)
    found = gallery_storage.load(target)
    assert found is not None
    assert dict(found.people) == {"Bo": 1}
