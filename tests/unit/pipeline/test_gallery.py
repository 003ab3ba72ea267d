"""The gallery's promises, without a disk and without a network."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import gallery_storage
from pipeline.errors import BadInput, SetupError, TransientError
from pipeline.gallery import Gallery, Match, Photo, person_name
from pipeline.gallery_storage import MANIFEST, PHOTO_PREFIX
from tests.fakes import MemoryStore

few = settings(max_examples=50, deadline=None)


def photo(person: str, number: int) -> Photo:
    return Photo(person, f"{number}.jpg", f"{number:064x}")


def some_gallery(*people: str, dimensions: int = 4) -> Gallery:
    """A gallery of one random unit vector a name; a name may come several times."""
    vectors = np.random.default_rng(7).normal(size=(len(people), dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    photos = [photo(person, number) for number, person in enumerate(people)]
    return Gallery.empty("vggface2", "facenet-160", 0.9, dimensions).add(photos, vectors)


def content(of: Gallery) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Who is on each photo, with which vector: what no change of another person may touch."""
    return {photo.sha256: (photo.person, tuple(row)) for photo, row in zip(of.photos, of.vectors.tolist(), strict=True)}


@st.composite
def galleries(draw: st.DrawFn) -> Gallery:
    dimensions = draw(st.integers(1, 8))
    names = draw(st.lists(st.sampled_from(["Ada", "Bo", "Cy", "Åsa", "d e f"]), max_size=8))
    numbers = st.floats(-2, 2, width=32)
    vectors = draw(hnp.arrays(np.float32, (len(names), dimensions), elements=numbers))
    sources = draw(st.lists(st.text(min_size=1), min_size=len(names), max_size=len(names)))
    photos = tuple(
        Photo(name, source, f"{number:064x}") for number, (name, source) in enumerate(zip(names, sources, strict=True))
    )
    return Gallery("vggface2", "facenet-160", draw(st.floats(0.1, 2)), photos, vectors)


@few
@given(galleries(), st.data())
def test_nearest_is_what_the_plain_computation_in_float64_finds(somebody: Gallery, data: st.DataObject) -> None:
    queries = data.draw(
        hnp.arrays(np.float32, (data.draw(st.integers(0, 4)), somebody.dimensions), elements=st.floats(-2, 2, width=32))
    )
    matches = somebody.nearest(queries)
    assert len(matches) == len(queries)
    for query, match in zip(queries.astype(np.float64), matches, strict=True):
        if not somebody.photos:
            assert match == Match(None, None)
            continue
        distances = [float(np.sqrt(((query - row) ** 2).sum())) for row in somebody.vectors.astype(np.float64)]
        # Squares of up to 8 * 16 are ranked in float32, so photos this close to the nearest count as equally near.
        near = [row for row, distance in enumerate(distances) if distance**2 <= min(distances) ** 2 + 1e-4]
        assert match.distance is not None
        assert any(match.distance == pytest.approx(distances[row], abs=1e-9) for row in near)
        if match.distance <= somebody.threshold:
            assert match.name in {somebody.photos[row].person for row in near}
        else:
            assert match.name is None


@few
@given(galleries())
def test_what_is_saved_or_exported_is_what_comes_back(somebody: Gallery) -> None:
    store = MemoryStore()
    gallery_storage.save(store, somebody)
    for back in (gallery_storage.load(store), gallery_storage.import_json(gallery_storage.export_json(somebody))):
        assert back is not None
        assert back.photos == somebody.photos
        assert (back.vectors == somebody.vectors).all()
        assert (back.model, back.preprocessing, back.threshold) == ("vggface2", "facenet-160", somebody.threshold)
        assert back.version == somebody.version


@few
@given(galleries(), st.data())
def test_renaming_merging_and_removing_keep_each_vector_with_its_photo(somebody: Gallery, data: st.DataObject) -> None:
    before = content(somebody)
    for _ in range(3):
        if not somebody.people:
            break
        person = data.draw(st.sampled_from(list(somebody.people)))
        if data.draw(st.booleans()):
            somebody = somebody.remove(person)
            before = {sha256: row for sha256, row in before.items() if row[0] != person}
        else:
            target = data.draw(st.sampled_from(["Ada", "Bo", "New"]))
            somebody = somebody.rename(person, target, merge=True)
            before = {sha256: (target if name == person else name, row) for sha256, (name, row) in before.items()}
        assert content(somebody) == before


def test_the_very_same_vector_is_at_distance_zero() -> None:
    somebody = some_gallery("Ada", "Bo", "Cy", dimensions=512)
    assert somebody.nearest(somebody.vectors) == [Match("Ada", 0.0), Match("Bo", 0.0), Match("Cy", 0.0)]


def test_the_threshold_itself_still_gives_a_name_and_beyond_it_is_nobody() -> None:
    somebody = Gallery("dlib", "dlib-200", 0.5, (photo("Ada", 0),), np.zeros((1, 2), np.float32))
    at, beyond = somebody.nearest(np.array([[0.5, 0], [0.5001, 0]], np.float32))
    assert at == Match("Ada", 0.5)
    assert beyond.name is None
    assert beyond.distance == pytest.approx(0.5001)


def test_in_a_gallery_of_nobody_everybody_is_unknown() -> None:
    nobody = Gallery.empty("vggface2", "facenet-160", 0.9, 4)
    assert nobody.nearest(np.zeros((2, 4), np.float32)) == [Match(None, None)] * 2
    assert some_gallery("Ada").nearest(np.zeros((0, 4), np.float32)) == []


def test_a_photo_is_enrolled_once_for_its_person_and_never_for_another() -> None:
    somebody = some_gallery("Ada", "Bo")
    again = somebody.add([photo("Ada", 0), photo("Ada", 9), photo("Ada", 9)], np.ones((3, 4), np.float32))
    assert len(again.photos) == 3
    with pytest.raises(BadInput, match=r"0\.jpg is enrolled as Ada"):
        somebody.add([photo("Bo", 0)], np.ones((1, 4), np.float32))
    with pytest.raises(BadInput, match=r"9\.jpg is enrolled as Ada"):
        somebody.add([photo("Ada", 9), photo("Bo", 9)], np.ones((2, 4), np.float32))


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[31m", "x" * 129, "Unknown", "no-face", " ERROR ", "\ud800"])
def test_a_name_that_cannot_be_one_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BadInput) as refused:
        person_name(name)
    assert "\n" not in refused.value.message
    with pytest.raises(BadInput):
        some_gallery("Ada").rename("Ada", name)


def test_a_name_is_the_same_however_its_accents_are_composed() -> None:
    assert person_name(" A\u030asa ") == "Åsa"
    assert some_gallery("Åsa").enrolled_name("A\u030asa") == "Åsa"


def test_an_unknown_name_is_answered_with_the_one_that_was_probably_meant() -> None:
    somebody = some_gallery("Grace Hopper", "Bo")
    for change in (lambda: somebody.remove("grace hoper"), lambda: somebody.rename("grace hoper", "Grace")):
        with pytest.raises(BadInput, match="Did you mean Grace Hopper"):
            change()
    with pytest.raises(BadInput, match="faceq people list"):
        somebody.remove("Zebulon")


def test_renaming_onto_somebody_merges_only_if_asked() -> None:
    somebody = some_gallery("Ada", "Ada L", "Bo")
    with pytest.raises(BadInput, match="rename --merge 'Ada L' Ada"):
        somebody.rename("Ada L", "Ada")
    assert dict(somebody.rename("Ada L", "Ada", merge=True).people) == {"Ada": 2, "Bo": 1}
    assert dict(somebody.rename("Ada", "Ada").people) == dict(somebody.people)


def test_a_gallery_of_another_model_or_preprocessing_is_refused_with_the_command_that_mends_it() -> None:
    somebody = some_gallery("Ada")
    somebody.check_compatible("vggface2", "facenet-160")
    with pytest.raises(SetupError, match=r"faceq people remove --all.*FACEQ_MODEL=vggface2"):
        somebody.check_compatible("dlib", "dlib-200")
    with pytest.raises(SetupError, match="faceq people remove --all"):
        somebody.check_compatible("vggface2", "facenet-240")
    somebody.remove("Ada").check_compatible("dlib", "dlib-200")


def test_a_gallery_of_unknown_preprocessing_works_with_its_model_and_says_what_is_wrong_with_it() -> None:
    imported = replace(some_gallery("Ada"), preprocessing="unknown")
    imported.check_compatible("vggface2", "facenet-160")
    assert "do not trust the distances" in str(imported.warning)
    with pytest.raises(SetupError):
        imported.check_compatible("dlib", "dlib-200")
    assert some_gallery("Ada").warning is None
    assert imported.remove("Ada").warning is None


def test_joining_galleries_keeps_everybody_and_never_hides_an_unknown_preprocessing() -> None:
    ours = some_gallery("Ada")
    theirs = Gallery("vggface2", "facenet-160", 0.7, (photo("Bo", 5),), np.ones((1, 4), np.float32))
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
        ours.join(Gallery("vggface2", "facenet-160", 0.7, (photo("Bo", 5),), np.ones((1, 5), np.float32)))


def test_the_version_changes_with_any_part_and_with_nothing_else() -> None:
    somebody = some_gallery("Ada", "Bo")
    others = [
        somebody.rename("Ada", "Al"),
        somebody.remove("Bo"),
        replace(somebody, threshold=0.8),
        replace(somebody, model="casia-webface"),
        replace(somebody, preprocessing="unknown"),
        replace(somebody, vectors=np.nextafter(somebody.vectors, np.float32(2))),
    ]
    assert len({somebody.version, *(other.version for other in others)}) == 7
    assert some_gallery("Ada", "Bo").version == somebody.version


def test_there_is_no_gallery_until_one_is_saved() -> None:
    assert gallery_storage.load(MemoryStore()) is None


class Killed(BaseException):
    """The process is gone: nothing after this line runs."""


class DyingStore(MemoryStore):
    """Loses its writer at the n-th change."""

    def __init__(self, changes: int) -> None:
        super().__init__()
        self.changes = changes

    def _spend(self) -> None:
        if self.changes == 0:
            raise Killed
        self.changes -= 1

    def write(self, name: str, content: bytes) -> None:
        self._spend()
        super().write(name, content)

    def delete(self, name: str) -> None:
        self._spend()
        super().delete(name)


def test_a_writer_killed_between_any_two_changes_leaves_the_old_gallery_or_the_new_one() -> None:
    old, new = some_gallery("Ada"), some_gallery("Ada", "Bo")
    seen = []
    for survived in range(100):
        store = DyingStore(1000)
        gallery_storage.save(store, old)
        store.changes = survived
        try:
            gallery_storage.save(store, new)
            finished = True
        except Killed:
            finished = False
        store.changes = 1000
        left = gallery_storage.load(store)
        assert left is not None
        seen.append(left.version)
        gallery_storage.save(store, new)
        assert len(store.names()) == 2, "the next save removes what a dead writer left"
        if finished:
            break
    assert seen == sorted(seen, key=[old.version, new.version].index)
    assert set(seen) == {old.version, new.version}


def test_a_save_removes_the_old_vectors_and_the_photos_of_people_who_are_gone() -> None:
    store = MemoryStore()
    somebody = some_gallery("Ada", "Bo")
    for one in somebody.photos:
        store.write(PHOTO_PREFIX + one.sha256, b"jpeg")
    gallery_storage.save(store, somebody)
    gallery_storage.save(store, somebody.remove("Bo"))
    assert [name for name in store.names() if name.startswith(PHOTO_PREFIX)] == [PHOTO_PREFIX + photo("Ada", 0).sha256]
    assert len(store.names()) == 3
    gallery_storage.clear(store)
    assert store.names() == []


class RacedStore(MemoryStore):
    """Puts a newer gallery in place each time the manifest was read."""

    def __init__(self, newer: list[Gallery]) -> None:
        super().__init__()
        self.newer = newer

    def read(self, name: str) -> bytes:
        content = super().read(name)
        if name == MANIFEST and self.newer:
            gallery_storage.save(self, self.newer.pop(0))
        return content


def test_a_reader_that_is_overtaken_reads_the_newer_gallery() -> None:
    store = RacedStore([])
    gallery_storage.save(store, some_gallery("Ada"))
    newer = [some_gallery("Ada", "Bo"), some_gallery("Ada", "Bo", "Cy")]
    store.newer = list(newer)
    read = gallery_storage.load(store)
    assert read is not None
    assert read.version == newer[-1].version


def test_a_reader_that_is_overtaken_again_and_again_gives_up_for_now() -> None:
    store = RacedStore([])
    gallery_storage.save(store, some_gallery("Ada"))
    store.newer = [some_gallery(*(["Ada"] * count)) for count in range(2, 60)]
    with pytest.raises(TransientError):
        gallery_storage.load(store)


def _manifest_with(**fields: object) -> bytes:
    store = MemoryStore()
    gallery_storage.save(store, some_gallery("Ada", "Bo"))
    return json.dumps({**json.loads(store.read(MANIFEST)), **fields}).encode()


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b'{"format": 1}',
        b"[" * 100_000,
        _manifest_with(format=2),
        _manifest_with(format=[1]),
        _manifest_with(vectors="../elsewhere.npy"),
        _manifest_with(vectors="absent.npy"),
        _manifest_with(vectors=7),
        _manifest_with(vectors_sha256="0" * 64),
        _manifest_with(dimensions=5),
        _manifest_with(dimensions=True),
        _manifest_with(threshold="0.9"),
        _manifest_with(threshold=-1),
        _manifest_with(threshold=float("nan")),
        _manifest_with(threshold=10**400),
        _manifest_with(model=None),
        _manifest_with(photos={}),
        _manifest_with(photos=[]),
        _manifest_with(photos=[1, 2]),
        _manifest_with(photos=[{"person": "Ada", "source": "a", "sha256": "0" * 64}] * 2),
        _manifest_with(photos=[{"person": "Unknown", "source": "a", "sha256": "0" * 64}] * 2),
        _manifest_with(photos=[{"person": "Ada", "source": "a", "sha256": "../x"}] * 2),
    ],
    ids=lambda manifest: manifest[-60:].decode("utf-8", "replace"),
)
def test_a_broken_gallery_is_refused_in_one_line_with_the_command_that_mends_it(manifest: bytes) -> None:
    store = MemoryStore()
    gallery_storage.save(store, some_gallery("Ada", "Bo"))
    store.write(MANIFEST, manifest)
    with pytest.raises(SetupError, match="faceq people remove --all") as refused:
        gallery_storage.load(store)
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("wrong", ["nan", "float64", "flat", "pickle", "truncated", "empty", "archive"])
def test_vectors_that_are_not_finite_float32_rows_are_refused(wrong: str) -> None:
    import hashlib
    import io

    buffer = io.BytesIO()
    vectors = some_gallery("Ada", "Bo").vectors
    if wrong == "pickle":
        np.save(buffer, np.array([{"a": 1}, {"b": 2}], object), allow_pickle=True)
    elif wrong == "archive":
        np.savez(buffer, vectors=vectors)
    else:
        changed = {"nan": vectors * np.float32("nan"), "float64": vectors.astype(np.float64), "flat": vectors.ravel()}
        np.save(buffer, changed.get(wrong, vectors))
    cut = {"truncated": slice(-1), "empty": slice(0)}.get(wrong, slice(None))
    blob = buffer.getvalue()[cut]
    store = MemoryStore()
    store.write("vectors-x.npy", blob)
    store.write(MANIFEST, _manifest_with(vectors="vectors-x.npy", vectors_sha256=hashlib.sha256(blob).hexdigest()))
    with pytest.raises(SetupError, match="faceq people remove --all"):
        gallery_storage.load(store)


@few
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(["format", "dimensions", "vectors_base64", "photos", "threshold"]), inner
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_file_makes_the_import_fail_in_another_way_than_a_refusal(file: bytes) -> None:
    with pytest.raises(SetupError):
        gallery_storage.import_json(file)
