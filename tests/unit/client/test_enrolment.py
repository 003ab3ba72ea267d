"""A gallery from the content of the original service's gallery file."""

import numpy as np
import pytest

from client.enrolment import gallery_from_vectors
from pipeline.errors import BadInput


def unit_vectors(count: int, dimensions: int = 512) -> np.ndarray:
    vectors = np.random.default_rng(5).normal(size=(count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_gallery_from_vectors_keeps_the_names_and_warns_that_its_preprocessing_is_unknown() -> None:
    vectors = unit_vectors(4)[[0, 1, 1, 2, 3]]
    gallery = gallery_from_vectors(vectors, ["Ada", "Ada", "Ada", "Bo", "Bo"], "class.pt", 0.9)
    assert dict(gallery.people) == {"Ada": 2, "Bo": 2}, "the same vector twice is one photo"
    assert [match.name for match in gallery.nearest(vectors)] == ["Ada", "Ada", "Ada", "Bo", "Bo"]
    assert gallery.photos[-1].source == "class.pt#4"
    assert (gallery.model, gallery.preprocessing, gallery.threshold) == ("vggface2", "unknown", 0.9)
    assert gallery.warning is not None


def test_vectors_that_no_facenet_network_made_are_refused() -> None:
    for vectors in (unit_vectors(2, 128), unit_vectors(2) * 2, unit_vectors(2) * np.float32("nan")):
        with pytest.raises(BadInput, match="no facenet network"):
            gallery_from_vectors(vectors, ["Ada", "Bo"], "class.pt", 0.9)


def test_one_vector_with_two_names_and_an_invalid_name_are_refused() -> None:
    twice = unit_vectors(1)[[0, 0]]
    with pytest.raises(BadInput, match=r"class\.pt#1 is enrolled as Ada"):
        gallery_from_vectors(twice, ["Ada", "Bo"], "class.pt", 0.9)
    with pytest.raises(BadInput, match="reserved for results that name no person"):
        gallery_from_vectors(unit_vectors(1), ["Unknown"], "class.pt", 0.9)
