"""Stand-ins for the outside world, for unit tests. Each passes the conformance suite of its port."""

from collections.abc import Sequence

from pipeline.ports import ArtifactStore


class MemoryStore(ArtifactStore):
    """Artifacts in a dictionary."""

    def __init__(self) -> None:
        self._blobs: dict[str, tuple[int, bytes]] = {}
        self._writes = 0

    def read(self, name: str) -> bytes:
        if _plain(name) not in self._blobs:
            raise FileNotFoundError(name)
        return self._blobs[name][1]

    def write(self, name: str, content: bytes) -> None:
        self._writes += 1
        self._blobs[_plain(name)] = (self._writes, content)

    def delete(self, name: str) -> None:
        self._blobs.pop(_plain(name), None)

    def names(self) -> Sequence[str]:
        return sorted(self._blobs)

    def version(self, name: str) -> str | None:
        return str(self._blobs[name][0]) if _plain(name) in self._blobs else None


def _plain(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name
