"""The search for mistakes in a gallery. Vectors are points of a plane, so that distances can be read off."""

import math

import numpy as np
import pytest

from pipeline.gallery import Gallery, Photo
from pipeline.gallery_check import Findings, check, look_alikes


def gallery(*rows: tuple[str, float, float], threshold: float = 1.0) -> Gallery:
    """Return a gallery with a photo `Ada0` of Ada at x, y for each row; the number counts all photos."""
    photos = tuple(Photo(name, f"{name}{number}", f"{number:064x}") for number, (name, _, _) in enumerate(rows))
    points = np.array([[x, y] for _, x, y in rows], np.float32).reshape(-1, 2)
    return Gallery("stand-in", "facenet-160", threshold, photos, points)


def point(x: float, y: float) -> np.ndarray:
    return np.array([x, y], np.float32)


def test_a_face_resembles_the_nearest_person_of_another_name_up_to_the_threshold() -> None:
    enrolled = gallery(("Ada", 0, 0), ("Bo", 5, 0))
    found = look_alikes([enrolled], "Cy", point(0.9, 0))
    assert found.other is not None
    assert (found.other.person, found.other.source, found.own) == ("Ada", "Ada0", None)
    assert found.other.distance == pytest.approx(0.9)
    assert found.warning("Cy") is None, "the first photo of a person is far from nothing"
    message = found.refusal("Cy")
    assert "shows Ada, not Cy" in message
    assert "0.90" in message
    assert "--anyway" in message
    assert look_alikes([enrolled], "Cy", point(1.1, 0)).other is None


def test_a_face_nearest_to_its_own_person_resembles_nobody_else() -> None:
    found = look_alikes([gallery(("Ada", 0, 0), ("Bo", 0.5, 0))], "Ada", point(0.1, 0))
    assert found.other is None
    assert found.warning("Ada") is None


def test_a_face_far_from_all_photos_of_its_person_is_warned_about() -> None:
    found = look_alikes([gallery(("Ada", 0, 0), ("Ada", 0, 1))], "Ada", point(3, 1))
    warning = found.warning("Ada")
    assert warning is not None
    assert "3.00" in warning
    assert look_alikes([gallery(("Ada", 0, 0), ("Ada", 2, 1))], "Ada", point(3, 1)).warning("Ada") is None


def test_the_photos_of_several_galleries_count_as_one() -> None:
    galleries = [gallery(("Ada", 0, 0)), gallery(("Bo", 0.5, 0)), gallery()]
    found = look_alikes(galleries, "Cy", point(0.4, 0))
    assert found.other is not None
    assert found.other.person == "Bo"
    assert look_alikes(galleries, "Ada", point(0.2, 0)).other is None
    assert look_alikes([gallery()], "Ada", point(0.2, 0)).other is None


def test_a_check_of_a_gallery_without_mistakes_finds_nothing() -> None:
    assert check(gallery()) == Findings((), (), ())
    assert not check(gallery(("Ada", 0, 0), ("Ada", 0.5, 0), ("Bo", 5, 0), ("Bo", 5.5, 0), ("Cy", 9, 9)))


def test_a_check_finds_each_two_names_with_one_face_once_by_their_nearest_photos() -> None:
    found = check(gallery(("Ada", 0, 0), ("Bo", 0.9, 0), ("Ada", 0.4, 0), ("Cy", 0.9, 0.8), ("Di", 9, 9)))
    pairs = [({pair.first.source, pair.second.source}, round(pair.distance, 3)) for pair in found.same_face]
    assert pairs == [({"Ada2", "Bo1"}, 0.5), ({"Bo1", "Cy3"}, 0.8), ({"Ada2", "Cy3"}, round(math.hypot(0.5, 0.8), 3))]


def test_a_check_finds_photos_that_stand_apart_from_their_person() -> None:
    found = check(gallery(("Ada", 0, 0), ("Ada", 0, 0.5), ("Ada", 7, 0), ("Bo", 20, 0)))
    assert [(outlier.photo.source, round(outlier.distance, 3)) for outlier in found.outliers] == [("Ada2", 7)]
    assert not found.same_face


def test_a_check_finds_near_duplicates_of_one_person_with_the_photo_that_they_repeat() -> None:
    rows = (("Ada", 0, 0), ("Ada", 0.5, 0), ("Ada", 0.05, 0), ("Ada", 0.06, 0))
    found = check(gallery(*rows))
    assert [(pair.first.source, pair.second.source) for pair in found.near_duplicates] == [
        ("Ada0", "Ada2"),
        ("Ada0", "Ada3"),
    ]


def test_a_check_of_more_photos_than_one_block_agrees_with_a_comparison_of_every_pair() -> None:
    random = np.random.default_rng(3)
    names = [f"p{number}" for number in random.integers(0, 60, 700)]
    points = random.uniform(0, 9, (700, 2))
    crowd = gallery(*[(name, x, y) for name, (x, y) in zip(names, points.tolist(), strict=True)], threshold=0.3)
    exact = np.linalg.norm(crowd.vectors[:, None].astype(float) - crowd.vectors[None], axis=2)
    own = np.where(np.eye(700, dtype=bool) | (np.array(names)[:, None] != np.array(names)), np.inf, exact)
    found = check(crowd)
    apart = {i for i in range(700) if np.isfinite(own[i].min()) and own[i].min() > 0.3}
    assert {int(outlier.photo.sha256, 16) for outlier in found.outliers} == apart
    nearest: dict[frozenset[str], float] = {}
    for i in range(700):
        for j in range(i):
            if names[i] != names[j] and exact[i, j] <= 0.3:
                pair = frozenset((names[i], names[j]))
                nearest[pair] = min(nearest.get(pair, np.inf), exact[i, j])
    by_pair = {frozenset((pair.first.person, pair.second.person)): pair.distance for pair in found.same_face}
    assert by_pair == pytest.approx(nearest, abs=2e-3)
