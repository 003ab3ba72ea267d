"""The gallery that a running function uses, kept up to date."""

import logging
import time
from collections.abc import Callable
from typing import Final

from pipeline.errors import TransientError
from pipeline.gallery import Gallery
from pipeline.gallery_storage import MANIFEST, load
from pipeline.ports import ArtifactStore

#: How long a function uses a gallery on S3 before it asks for a newer one, in seconds. Asking before each batch would
#: cost a request for each batch.
S3_CHECK_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


class CurrentGallery:
    """The current gallery: read again after each change, and checked against the embedder.

    While the store cannot be reached, the gallery that was read last stays in use, and a line in the log says so.

    Parameters
    ----------
    store : ArtifactStore
    model, preprocessing : str
        Of the embedder. A gallery of another model or preprocessing raises SetupError on each call until it is
        replaced.
    check_seconds : float
        How long to wait between two looks for a newer gallery; 0 looks on each call.
    clock : callable
        Returns seconds of the wall clock. Lambda may freeze a function between two calls, and any other clock with it.

    """

    def __init__(
        self,
        store: ArtifactStore,
        model: str,
        preprocessing: str,
        check_seconds: float = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._model = model
        self._preprocessing = preprocessing
        self._check_seconds = check_seconds
        self._clock = clock
        self._checked: float | None = None
        self._version: str | None = None
        self._gallery: Gallery | None = None

    def __call__(self) -> Gallery | None:
        """Return the gallery, None if there is none.

        Raises
        ------
        TransientError
            The store cannot be reached, and no gallery was read earlier.
        SetupError
            The gallery is damaged, or does not fit the embedder.

        """
        now = self._clock()
        # The wall clock may have been set back.
        if self._checked is None or not 0 <= now - self._checked < self._check_seconds:
            try:
                self._read_if_changed()
            except TransientError as error:
                if self._gallery is None:
                    raise
                log.warning(
                    "The gallery cannot be reached; the one that was read last stays in use.",
                    extra={"reason": error.message, "gallery": self._gallery.version},
                )
            self._checked = now
        if self._gallery is not None:
            self._gallery.check_compatible(self._model, self._preprocessing)
        return self._gallery

    def _read_if_changed(self) -> None:
        version = self._store.version(MANIFEST)
        if version != self._version:
            # We ask for the version before the content, so the next check notices a write between the two.
            self._gallery = load(self._store)
            self._version = version
