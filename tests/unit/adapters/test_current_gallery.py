"""The gallery of a running function: how often it looks for a newer one, and what happens if the store is down."""

import logging

import pytest

from adapters.current_gallery import S3_CHECK_SECONDS, CurrentGallery
from pipeline import gallery_storage
from pipeline.errors import SetupError, TransientError
from pipeline.gallery import Gallery
from tests.builders import BLUE, RED, gallery_of
from tests.fakes import ColourEmbedder, MemoryStore

ADA, BO = gallery_of({"Ada": RED}), gallery_of({"Bo": BLUE})


class CountingStore(MemoryStore):
    """Counts the questions for its version; cannot be reached while it is down."""

    questions = 0
    down = False

    def version(self, name: str) -> str | None:
        self.questions += 1
        if self.down:
            raise TransientError("store_unavailable", "The gallery cannot be reached.")
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
    """As a function uses a gallery on S3."""
    embedder = ColourEmbedder()
    return CurrentGallery(store, embedder.model, embedder.preprocessing, S3_CHECK_SECONDS, clock)


def people(gallery: Gallery | None) -> list[str]:
    return [] if gallery is None else list(gallery.people)


def test_a_new_gallery_is_used_within_a_minute_without_a_request_for_each_batch(
    store: CountingStore, clock: Clock, current: CurrentGallery
) -> None:
    assert current() is None
    gallery_storage.save(store, ADA)
    for _ in range(59):
        clock.now += 1
        gallery = current()
    assert people(gallery) == ["Ada"]
    assert store.questions == 2


def test_a_clock_that_is_set_back_does_not_keep_an_old_gallery(
    store: CountingStore, clock: Clock, current: CurrentGallery
) -> None:
    gallery_storage.save(store, ADA)
    assert people(current()) == ["Ada"]
    gallery_storage.save(store, BO)
    clock.now -= 3600
    assert people(current()) == ["Bo"]


def test_a_gallery_in_a_folder_is_checked_for_changes_on_each_call(store: CountingStore) -> None:
    embedder = ColourEmbedder()
    current = CurrentGallery(store, embedder.model, embedder.preprocessing)
    gallery_storage.save(store, ADA)
    assert people(current()) == ["Ada"]
    gallery_storage.save(store, BO)
    assert people(current()) == ["Bo"]


def test_while_the_store_cannot_be_reached_the_last_gallery_stays_in_use_and_the_log_says_so(
    store: CountingStore, clock: Clock, current: CurrentGallery, caplog: pytest.LogCaptureFixture
) -> None:
    gallery_storage.save(store, ADA)
    assert people(current()) == ["Ada"]
    store.down = True
    clock.now += S3_CHECK_SECONDS
    with caplog.at_level(logging.WARNING, "adapters"):
        for _ in range(5):
            assert people(current()) == ["Ada"]
    assert [record.message for record in caplog.records] == [
        "The gallery cannot be reached; the one that was read last stays in use."
    ]
    gallery_storage.save(store, BO)
    store.down = False
    clock.now += S3_CHECK_SECONDS
    assert people(current()) == ["Bo"]


def test_a_store_that_could_never_be_reached_is_asked_again_on_each_call(
    store: CountingStore, current: CurrentGallery
) -> None:
    gallery_storage.save(store, ADA)
    store.down = True
    for _ in range(2):
        with pytest.raises(TransientError):
            current()
    store.down = False
    assert people(current()) == ["Ada"], "the first call after the store is back reads the gallery"


def test_a_damaged_gallery_is_an_error_on_each_call_until_it_is_replaced(
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
