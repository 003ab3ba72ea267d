"""The gallery: who is enrolled, how people are changed, and which person a face is given."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput, SetupError
from pipeline.gallery import Gallery, Match, person_name
from tests.galleries import galleries, numbered_photo, random_gallery


def rows_by_photo(gallery: Gallery) -> dict[str, tuple[str, tuple[float, ...]]]:
    """The person and the vector of each photo, by SHA-256."""
    return {
        photo.sha256: (photo.person, tuple(vector))
        for photo, vector in zip(gallery.photos, gallery.vectors.tolist(), strict=True)
    }


@settings(max_examples=50, deadline=None)
@given(galleries(), st.data())
def test_renaming_merging_and_removing_keep_each_vector_with_its_photo(gallery: Gallery, data: st.DataObject) -> None:
    expected = rows_by_photo(gallery)
    for _ in range(3):
        if not gallery.people:
            break
        person = data.draw(st.sampled_from(list(gallery.people)))
        if data.draw(st.booleans()):
            gallery = gallery.remove(person)
            expected = {sha256: row for sha256, row in expected.items() if row[0] != person}
        else:
            target = data.draw(st.sampled_from(["Ada", "Bo", "New"]))
            gallery = gallery.rename(person, target, merge=True)
            expected = {sha256: (target if name == person else name, row) for sha256, (name, row) in expected.items()}
        assert rows_by_photo(gallery) == expected


def test_an_enrolled_vector_itself_is_at_distance_zero() -> None:
    gallery = random_gallery("Ada", "Bo", "Cy", dimensions=512)
    assert gallery.nearest(gallery.vectors) == [Match("Ada", 0.0), Match("Bo", 0.0), Match("Cy", 0.0)]


def test_a_face_is_named_up_to_the_threshold_itself_and_unknown_beyond_it() -> None:
    gallery = Gallery("dlib", "dlib-200", 0.5, (numbered_photo("Ada", 0),), np.zeros((1, 2), np.float32))
    at, beyond = gallery.nearest(np.array([[0.5, 0], [0.5001, 0]], np.float32))
    assert at == Match("Ada", 0.5)
    assert beyond.name is None
    assert beyond.distance == pytest.approx(0.5001)


def test_an_empty_gallery_names_no_face_and_no_faces_get_no_names() -> None:
    empty = Gallery.empty("vggface2", "facenet-160", 0.9, 4)
    assert empty.nearest(np.zeros((2, 4), np.float32)) == [Match(None, None)] * 2
    assert random_gallery("Ada").nearest(np.zeros((0, 4), np.float32)) == []


def test_a_photo_is_enrolled_once_for_its_person_and_never_for_another() -> None:
    gallery = random_gallery("Ada", "Bo")
    again = gallery.add(
        [numbered_photo("Ada", 0), numbered_photo("Ada", 9), numbered_photo("Ada", 9)], np.ones((3, 4), np.float32)
    )
    assert len(again.photos) == 3
    with pytest.raises(BadInput, match=r"0\.jpg is enrolled as Ada"):
        gallery.add([numbered_photo("Bo", 0)], np.ones((1, 4), np.float32))
    with pytest.raises(BadInput, match=r"9\.jpg is enrolled as Ada"):
        gallery.add([numbered_photo("Ada", 9), numbered_photo("Bo", 9)], np.ones((2, 4), np.float32))


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31m", "x" * 129, "Unknown", "no-face", " ERROR ", "\ud800"])
def test_an_unusable_name_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        person_name(name)
    assert "\n" not in refused.value.message
    with pytest.raises(BadInput):
        random_gallery("Ada").rename("Ada", name)


def test_a_name_is_the_same_however_its_accents_are_composed() -> None:
    assert person_name(" A\u030asa ") == "Åsa"
    assert random_gallery("Åsa").enrolled_name("A\u030asa") == "Åsa"


def test_the_refusal_of_an_unknown_name_suggests_the_closest_one() -> None:
    gallery = random_gallery("Grace Hopper", "Bo")
    for change in (lambda: gallery.remove("grace hoper"), lambda: gallery.rename("grace hoper", "Grace")):
        with pytest.raises(BadInput, match="Did you mean Grace Hopper"):
            change()
    with pytest.raises(BadInput, match="faceq people list"):
        gallery.remove("Zebulon")


def test_renaming_to_the_name_of_another_person_merges_the_two_only_on_request() -> None:
    gallery = random_gallery("Ada", "Ada L", "Bo")
    with pytest.raises(BadInput, match="rename --merge 'Ada L' Ada"):
        gallery.rename("Ada L", "Ada")
    assert dict(gallery.rename("Ada L", "Ada", merge=True).people) == {"Ada": 2, "Bo": 1}
    assert dict(gallery.rename("Ada", "Ada").people) == dict(gallery.people)


def test_a_gallery_of_another_model_or_preprocessing_is_refused_with_the_command_that_fixes_it() -> None:
    gallery = random_gallery("Ada")
    gallery.check_compatible("vggface2", "facenet-160")
    with pytest.raises(SetupError, match=r"faceq people remove --all.*FACEQ_MODEL=vggface2"):
        gallery.check_compatible("dlib", "dlib-200")
    with pytest.raises(SetupError, match="faceq people remove --all"):
        gallery.check_compatible("vggface2", "facenet-240")
    gallery.remove("Ada").check_compatible("dlib", "dlib-200")


def test_a_gallery_of_unknown_preprocessing_works_with_its_model_but_warns() -> None:
    imported = replace(random_gallery("Ada"), preprocessing="unknown")
    imported.check_compatible("vggface2", "facenet-160")
    assert "do not trust the distances" in str(imported.warning)
    with pytest.raises(SetupError):
        imported.check_compatible("dlib", "dlib-200")
    assert random_gallery("Ada").warning is None
    assert imported.remove("Ada").warning is None


def test_joining_galleries_keeps_all_people_and_never_hides_an_unknown_preprocessing() -> None:
    ours = random_gallery("Ada")
    theirs = Gallery("vggface2", "facenet-160", 0.7, (numbered_photo("Bo", 5),), np.ones((1, 4), np.float32))
    assert dict(ours.join(theirs).people) == {"Ada": 1, "Bo": 1}
    assert ours.join(theirs).threshold == 0.9
    unknown = replace(theirs, preprocessing="unknown")
    assert ours.join(unknown).preprocessing == "unknown"
    assert unknown.join(ours).preprocessing == "unknown"
    assert ours.join(ours.remove("Ada")) is ours
    assert ours.remove("Ada").join(unknown) is unknown
    with pytest.raises(SetupError):
        ours.join(replace(theirs, model="casia-webface"))
    with pytest.raises(SetupError):
        ours.join(Gallery("vggface2", "facenet-160", 0.7, (numbered_photo("Bo", 5),), np.ones((1, 5), np.float32)))


def test_the_version_changes_with_any_part_and_with_nothing_else() -> None:
    gallery = random_gallery("Ada", "Bo")
    others = [
        gallery.rename("Ada", "Al"),
        gallery.remove("Bo"),
        replace(gallery, threshold=0.8),
        replace(gallery, model="casia-webface"),
        replace(gallery, preprocessing="unknown"),
        replace(gallery, photos=tuple(replace(photo, source="x") for photo in gallery.photos)),
        replace(gallery, photos=tuple(reversed(gallery.photos))),
        replace(gallery, vectors=np.nextafter(gallery.vectors, np.float32(2))),
    ]
    assert len({gallery.version, *(other.version for other in others)}) == 9
    assert random_gallery("Ada", "Bo").version == gallery.version
