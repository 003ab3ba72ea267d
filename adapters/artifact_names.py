"""Names of blobs: the same in every `ArtifactStore`, so that a gallery can be copied from one to the other."""

import re
from typing import Final

#: A plain file name that is not hidden, of at most 200 characters.
_BLOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def is_blob_name(name: str) -> bool:
    """Return whether a blob can have this name."""
    return _BLOB_NAME.fullmatch(name) is not None


def check_blob_name(name: str) -> None:
    """Raise ValueError if no blob can have this name."""
    if not is_blob_name(name):
        raise ValueError(f"{name!r} is not a plain file name")
