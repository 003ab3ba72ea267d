"""A stored gallery survives killed writers and races, and a broken one is refused."""

import hashlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import gallery_storage
from pipeline.errors import SetupError, TransientError
from pipeline.gallery import Gallery, Photo
from pipeline.gallery_storage import MANIFEST, PHOTO_PREFIX
from tests.fakes import MemoryStore
from tests.galleries import galleries, numbered_photo, random_gallery

few = settings(max_examples=50, deadline=None)


@few
@given(galleries())
def test_a_saved_or_exported_gallery_is_read_back_unchanged(gallery: Gallery) -> None:
    store = MemoryStore()
    gallery_storage.save(store, gallery)
    for copy in (gallery_storage.load(store), gallery_storage.import_json(gallery_storage.export_json(gallery))):
        assert copy is not None
        assert copy.photos == gallery.photos
        assert (copy.vectors == gallery.vectors).all()
        assert (copy.model, copy.preprocessing, copy.threshold) == ("vggface2", "facenet-160", gallery.threshold)
        assert copy.version == gallery.version


def test_a_gallery_that_the_first_version_of_faceq_stored_can_be_read() -> None:
    vectors = io.BytesIO()
    np.save(vectors, np.array([[3, 4]], np.float32))
    manifest = {
        "format": 1,
        "model": "vggface2",
        "preprocessing": "facenet-160",
        "threshold": 0.9,
        "dimensions": 2,
        "vectors": "vectors-0123456789abcdef.npy",
        "vectors_sha256": hashlib.sha256(vectors.getvalue()).hexdigest(),
        "photos": [{"person": "Ada", "source": "ada.jpg", "sha256": "ab" * 32}],
    }
    store = MemoryStore()
    store.write("vectors-0123456789abcdef.npy", vectors.getvalue())
    store.write("gallery.json", json.dumps(manifest).encode())
    gallery = gallery_storage.load(store)
    assert gallery is not None
    assert gallery.photos == (Photo("Ada", "ada.jpg", "ab" * 32),)
    assert gallery.vectors.tolist() == [[3, 4]]
    assert (gallery.model, gallery.preprocessing, gallery.threshold) == ("vggface2", "facenet-160", 0.9)


def test_a_new_store_has_no_gallery() -> None:
    assert gallery_storage.load(MemoryStore()) is None


class Killed(BaseException):
    """The writer was killed."""


class DyingStore(MemoryStore):
    """Kills its writer after `changes` changes."""

    def __init__(self, changes: int) -> None:
        super().__init__()
        self.changes = changes

    def _count_change(self) -> None:
        if self.changes == 0:
            raise Killed
        self.changes -= 1

    def write(self, name: str, content: bytes) -> None:
        self._count_change()
        super().write(name, content)

    def delete(self, name: str) -> None:
        self._count_change()
        super().delete(name)


def test_a_writer_killed_between_any_two_changes_leaves_either_the_old_gallery_or_the_new_one() -> None:
    old, new = random_gallery("Ada"), random_gallery("Ada", "Bo")
    versions = []
    for changes in range(100):
        store = DyingStore(1000)
        gallery_storage.save(store, old)
        store.changes = changes
        try:
            gallery_storage.save(store, new)
            finished = True
        except Killed:
            finished = False
        store.changes = 1000
        stored = gallery_storage.load(store)
        assert stored is not None
        versions.append(stored.version)
        gallery_storage.save(store, new)
        assert len(store.names()) == 2, "the next save removes the files of a killed writer"
        if finished:
            break
    assert versions == sorted(versions, key=[old.version, new.version].index)
    assert set(versions) == {old.version, new.version}


def test_a_save_removes_the_old_vectors_and_the_photos_of_removed_people() -> None:
    store = MemoryStore()
    gallery = random_gallery("Ada", "Bo")
    for photo in gallery.photos:
        store.write(PHOTO_PREFIX + photo.sha256, b"jpeg")
    gallery_storage.save(store, gallery)
    gallery_storage.save(store, gallery.remove("Bo"))
    assert [name for name in store.names() if name.startswith(PHOTO_PREFIX)] == [
        PHOTO_PREFIX + numbered_photo("Ada", 0).sha256
    ]
    assert len(store.names()) == 3
    gallery_storage.clear(store)
    assert store.names() == []


class RacedStore(MemoryStore):
    """Replaces the gallery by the next one of `newer` after each read of the manifest."""

    def __init__(self, newer: list[Gallery]) -> None:
        super().__init__()
        self.newer = newer

    def read(self, name: str) -> bytes:
        content = super().read(name)
        if name == MANIFEST and self.newer:
            gallery_storage.save(self, self.newer.pop(0))
        return content


def test_a_reader_reads_the_newer_gallery_if_the_one_it_reads_is_replaced() -> None:
    store = RacedStore([])
    gallery_storage.save(store, random_gallery("Ada"))
    newer = [random_gallery("Ada", "Bo"), random_gallery("Ada", "Bo", "Cy")]
    store.newer = list(newer)
    loaded = gallery_storage.load(store)
    assert loaded is not None
    assert loaded.version == newer[-1].version


def test_a_reader_gives_up_for_now_if_the_gallery_is_replaced_again_and_again() -> None:
    store = RacedStore([])
    gallery_storage.save(store, random_gallery("Ada"))
    store.newer = [random_gallery(*(["Ada"] * count)) for count in range(2, 60)]
    with pytest.raises(TransientError):
        gallery_storage.load(store)


def manifest_with(**fields: object) -> bytes:
    store = MemoryStore()
    gallery_storage.save(store, random_gallery("Ada", "Bo"))
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
        manifest_with(format=2),
        manifest_with(format=[1]),
        manifest_with(vectors="../elsewhere.npy"),
        manifest_with(vectors="absent.npy"),
        manifest_with(vectors=7),
        manifest_with(vectors_sha256="0" * 64),
        manifest_with(dimensions=5),
        manifest_with(dimensions=True),
        manifest_with(threshold="0.9"),
        manifest_with(threshold=-1),
        manifest_with(threshold=float("nan")),
        manifest_with(threshold=10**400),
        manifest_with(model=None),
        manifest_with(photos={}),
        manifest_with(photos=[]),
        manifest_with(photos=[1, 2]),
        manifest_with(photos=[{"person": "Ada", "source": "a", "sha256": "0" * 64}] * 2),
        manifest_with(photos=[{"person": "Unknown", "source": "a", "sha256": "0" * 64}] * 2),
        manifest_with(photos=[{"person": "Ada", "source": "a", "sha256": "../x"}] * 2),
    ],
    ids=lambda manifest: manifest[-60:].decode("utf-8", "replace"),
)
def test_a_broken_gallery_is_refused_in_one_line_with_the_command_that_fixes_it(manifest: bytes) -> None:
    store = MemoryStore()
    gallery_storage.save(store, random_gallery("Ada", "Bo"))
    store.write(MANIFEST, manifest)
    with pytest.raises(SetupError, match="faceq people remove --all") as refused:
        gallery_storage.load(store)
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("wrong", ["nan", "float64", "flat", "pickle", "truncated", "empty", "archive"])
def test_vectors_that_are_not_finite_float32_rows_are_refused(wrong: str) -> None:
    buffer = io.BytesIO()
    vectors = random_gallery("Ada", "Bo").vectors
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
    store.write(MANIFEST, manifest_with(vectors="vectors-x.npy", vectors_sha256=hashlib.sha256(blob).hexdigest()))
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
def test_a_file_that_is_not_an_export_is_refused(file: bytes) -> None:
    with pytest.raises(SetupError):
        gallery_storage.import_json(file)
