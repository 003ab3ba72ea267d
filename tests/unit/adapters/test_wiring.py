"""The gallery that a running function holds: how often it asks for a newer one, and what it does if nobody answers."""

import logging
from pathlib import Path

import pytest

from adapters.artifacts_directory import DirectoryStore
from adapters.artifacts_s3 import S3Store
from adapters.settings import ModelSettings
from adapters.wiring import S3_CHECK_SECONDS, CurrentGallery, gallery_store
from pipeline import gallery_storage
from pipeline.errors import SetupError, TransientError
from pipeline.gallery import Gallery
from tests.builders import BLUE, RED, gallery_of
from tests.fakes import ColourEmbedder, MemoryStore

ADA, BO = gallery_of({"Ada": RED}), gallery_of({"Bo": BLUE})


class CountingStore(MemoryStore):
    """Counts how often it is asked; out of reach as long as it is down."""

    asked = 0
    down = False

    def version(self, name: str) -> str | None:
        self.asked += 1
        if self.down:
            raise TransientError("store_unavailable", "The gallery is out of reach.")
        return super().version(name)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def current(store: CountingStore, clock: Clock) -> CurrentGallery:
    """As a function holds a gallery that lies on S3."""
    embedder = ColourEmbedder()
    return CurrentGallery(store, embedder.model, embedder.preprocessing, S3_CHECK_SECONDS, clock)


def people(found: Gallery | None) -> list[str]:
    return [] if found is None else list(found.people)


def test_a_new_gallery_is_taken_within_a_minute_and_not_asked_for_before_each_batch(
    store: CountingStore, clock: Clock, current: CurrentGallery
) -> None:
    assert current() is None
    gallery_storage.save(store, ADA)
    for _ in range(59):
        clock.now += 1
        found = current()
    assert people(found) == ["Ada"]
    assert store.asked == 2


def test_a_clock_that_is_set_back_does_not_keep_an_old_gallery(
    store: CountingStore, clock: Clock, current: CurrentGallery
) -> None:
    gallery_storage.save(store, ADA)
    assert people(current()) == ["Ada"]
    gallery_storage.save(store, BO)
    clock.now -= 3600
    assert people(current()) == ["Bo"]


def test_a_gallery_in_a_folder_is_asked_for_each_time(store: CountingStore) -> None:
    embedder = ColourEmbedder()
    current = CurrentGallery(store, embedder.model, embedder.preprocessing)
    gallery_storage.save(store, ADA)
    assert people(current()) == ["Ada"]
    gallery_storage.save(store, BO)
    assert people(current()) == ["Bo"]


def test_a_store_out_of_reach_leaves_the_gallery_at_hand_in_use_and_says_so(
    store: CountingStore, clock: Clock, current: CurrentGallery, caplog: pytest.LogCaptureFixture
) -> None:
    gallery_storage.save(store, ADA)
    assert people(current()) == ["Ada"]
    store.down = True
    clock.now += S3_CHECK_SECONDS
    with caplog.at_level(logging.WARNING, "adapters"):
        for _ in range(5):
            assert people(current()) == ["Ada"]
    assert [record.message for record in caplog.records] == ["gallery out of reach, the one at hand stays in use"]
    gallery_storage.save(store, BO)
    store.down = False
    clock.now += S3_CHECK_SECONDS
    assert people(current()) == ["Bo"]


def test_a_store_out_of_reach_from_the_beginning_is_asked_again_each_time(
    store: CountingStore, current: CurrentGallery
) -> None:
    gallery_storage.save(store, ADA)
    store.down = True
    for _ in range(2):
        with pytest.raises(TransientError):
            current()
    store.down = False
    assert people(current()) == ["Ada"], "no time is lost once it is there"


def test_a_gallery_that_breaks_is_an_error_on_each_call_until_it_is_mended(
    store: CountingStore, clock: Clock, current: CurrentGallery
) -> None:
    gallery_storage.save(store, ADA)
    assert people(current()) == ["Ada"]
    store.write(gallery_storage.MANIFEST, b"{")
    clock.now += S3_CHECK_SECONDS
    for _ in range(2):
        with pytest.raises(SetupError):
            current()
    gallery_storage.save(store, BO)
    assert people(current()) == ["Bo"]


def test_the_store_is_the_one_that_the_variables_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"FACEQ_MODELS_DIR": str(tmp_path), "FACEQ_GALLERY_DIR": str(tmp_path)}
    assert isinstance(gallery_store(ModelSettings.from_environment(folders)), DirectoryStore)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    on_s3 = gallery_store(ModelSettings.from_environment({**folders, "FACEQ_GALLERY": "s3://bucket/gallery"}))
    assert isinstance(on_s3, S3Store)
    assert on_s3._client.meta.region_name == "eu-west-1"
