"""Read PyTorch's .pt files without PyTorch and without running any code in them.

A .pt file contains a pickle, and a pickle can name any function and have it called. This reader permits only the
operations that `torch.save` writes and the names that `_Reader.find_class` lists, and produces descriptions of tensors.
It takes the numbers from the file after it has checked every size. It reads both formats:

- legacy (before PyTorch 1.6), a stream: a magic number, a version, facts about the machine, the pickle, a pickle with
  the list of the storages' keys, then for each storage the count of its values (int64) and the values;
- zip: `<folder>/data.pkl` and, for each storage, `<folder>/data/<key>`, uncompressed.

Source: torch/serialization.py and torch/_utils.py of PyTorch 1.0 to 2.13. Numbers are little-endian in both formats.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SetupError

Array: TypeAlias = NDArray[np.generic]

#: Largest file to read; the published files have up to 116 MB.
MAX_BYTES: Final = 512 * 1024 * 1024
#: Largest pickle: 300 times that of InceptionResnetV1, or a gallery of some 100,000 photos.
_MAX_PICKLE: Final = 8 * 1024 * 1024
#: Most members of a zip file.
_MAX_MEMBERS: Final = 200_000
#: Most values in a tuple, including those of the tuples in it. A tensor's description has about 20. Comparing tuples
#: needs a stack as deep as their nesting, and the time doubles with every level where a tuple contains another twice.
_MAX_TUPLE: Final = 64

#: The start of a legacy file: the magic number and the version, each as a pickle of its own.
_LEGACY: Final = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
_ZIP: Final = b"PK\x03\x04"

_DTYPES: Final = MappingProxyType(
    {
        "BoolStorage": np.dtype("?"),
        "ByteStorage": np.dtype("u1"),
        "CharStorage": np.dtype("i1"),
        "ShortStorage": np.dtype("<i2"),
        "IntStorage": np.dtype("<i4"),
        "LongStorage": np.dtype("<i8"),
        "HalfStorage": np.dtype("<f2"),
        "FloatStorage": np.dtype("<f4"),
        "DoubleStorage": np.dtype("<f8"),
    }
)

#: Operations whose result contains other values and can be compared.
_MAKE_TUPLES: Final = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "BINPERSID"})
#: The operations that `torch.save` writes (pickle protocol 2).
_OPERATIONS: Final = (
    _MAKE_TUPLES
    | {"PROTO", "STOP", "MARK", "GLOBAL", "BUILD", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
    | {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
    | {"EMPTY_TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"}
)


def read_state_dict(path: Path) -> dict[str, Array]:
    """Read the tensors of a state dict.

    Parameters
    ----------
    path : Path
        A file that `torch.save(network.state_dict(), path)` wrote.

    Returns
    -------
    dict of str to array
        The tensors in the file's order. The arrays are contiguous copies with the tensors' types.

    Raises
    ------
    SetupError
        The file cannot be read, is damaged or too large, or contains anything else. The message names the file.

    """
    with _refusing(str(path)):
        if path.stat().st_size > MAX_BYTES:
            _refuse(f"it is larger than {MAX_BYTES:,} bytes")
        state, load = _parse(path.read_bytes())
        if not isinstance(state, dict):
            _refuse("it contains no state dict")
        for name in state:
            if not isinstance(name, str):
                _refuse("a name in it is not text")
        return {name: load(tensor) for name, tensor in state.items()}


def read_gallery_file(content: bytes, name: str) -> tuple[NDArray[np.float32], list[str]]:
    """Read a gallery in the course's format: `torch.save([embeddings, names])`, two lists of the same length.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        The file's name, for errors.

    Returns
    -------
    (n, d) float32
        One embedding in each row, n at least 1. In the file each is (1, d) or (d,).
    list of str
        The n names.

    Raises
    ------
    SetupError
        The file is damaged or too large, or contains anything else. The message names the file.

    """
    with _refusing(name):
        if len(content) > MAX_BYTES:
            _refuse(f"it is larger than {MAX_BYTES:,} bytes")
        gallery, load = _parse(content)
        if not (isinstance(gallery, list) and len(gallery) == 2 and all(isinstance(part, list) for part in gallery)):
            _refuse("it is not a gallery, which would be [embeddings, names]")
        tensors, names = gallery
        if len(tensors) != len(names):
            _refuse(f"it has {len(tensors)} embeddings, but {len(names)} names")
        if not names:
            _refuse("it contains no person")
        if not all(isinstance(person, str) for person in names):
            _refuse("a name in it is not text")
        rows = [load(tensor) for tensor in tensors]
        if {row.dtype for row in rows} != {np.dtype(np.float32)} or len({row.size for row in rows}) != 1:
            _refuse("its embeddings are not float32 vectors of the same length")
        if not all(row.shape in {(row.size,), (1, row.size)} for row in rows):
            _refuse("an embedding in it is not a vector")
        return np.stack([row.reshape(-1) for row in rows]).astype(np.float32, copy=False), list(names)


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """The reason why a file is refused."""


def _refuse(reason: str) -> NoReturn:
    raise _Refused(reason)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Raise any error while reading the file `name` as a SetupError of one line."""
    try:
        yield
    except OSError as error:
        raise SetupError("not_readable", f"{name!r} cannot be read: {error.strerror or 'it is damaged'}.") from error
    except _Refused as error:
        raise SetupError("broken_file", f"{name!r} is refused: {error}.") from error
    except Exception as error:  # pickle, zipfile and numpy raise many kinds of errors for a damaged file
        raise SetupError("broken_file", f"{name!r} is refused: it is damaged, or not a PyTorch file.") from error


class _Storage(NamedTuple):
    """Consecutive values of one type somewhere in the file."""

    dtype: np.dtype[np.generic]
    key: str
    length: int


class _Tensor(NamedTuple):
    """An unchecked description of a view of a storage; offset and stride count values, not bytes."""

    storage: object
    offset: object
    shape: object
    stride: object


class _Dictionary(dict[object, object]):
    """Replaces OrderedDict: every dict keeps its order. Ignores the attributes that PyTorch sets on it."""

    def __setstate__(self, state: object) -> None:
        pass


class _RebuildTensor:
    """Replaces torch._utils._rebuild_tensor_v2; the arguments after the stride only matter in training."""

    __slots__ = ()

    def __call__(self, storage: object, offset: object, shape: object, stride: object, *_: object) -> _Tensor:
        return _Tensor(storage, offset, shape, stride)

    def __setstate__(self, state: object) -> None:
        _refuse("it changes a function")


class _Reader(pickle.Unpickler):
    """Creates only dicts, lists, tuples, texts, numbers and descriptions of tensors."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> object:
        """Return the replacement of a global. A storage's class is never called, so its name is enough."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("collections", "OrderedDict"):
            return _Dictionary
        if module == "torch" and name in _DTYPES:
            return name
        _refuse(f"it names {f'{module}.{name}'[:80]!r}, which neither weights nor galleries need")

    def persistent_load(self, pid: object) -> _Storage:
        """Record a storage: ("storage", class, key, device, count). Legacy files add None for "not part of another"."""
        match pid:
            case ("storage", str(kind), str(key), str(), int(count), *rest) if (
                kind in _DTYPES and count >= 0 and rest in ([], [None])
            ):
                storage = _Storage(_DTYPES[kind], key, count)
            case _:
                _refuse("it describes a storage wrongly")
        if self.storages.setdefault(key, storage) != storage:
            _refuse(f"it describes its storage {key[:40]!r} in two ways")
        return storage


def _parse(content: bytes) -> tuple[object, Callable[[object], Array]]:
    """Return a file's value, with descriptions of tensors, and the function that makes arrays from descriptions."""
    if content.startswith(_ZIP):
        value, values = _open_zip(content)
    elif content.startswith(_LEGACY):
        value, values = _open_legacy(content)
    else:
        _refuse("it is not a PyTorch file")
    left = len(content)  # only tensors that share a storage can describe more bytes than the file has

    def load(tensor: object) -> Array:
        nonlocal left
        if not (isinstance(tensor, _Tensor) and isinstance(tensor.storage, _Storage)):
            _refuse("it contains something other than tensors")
        storage, shape, stride, offset = tensor.storage, _sizes(tensor.shape), _sizes(tensor.stride), tensor.offset
        if not isinstance(offset, int) or offset < 0 or len(shape) != len(stride):
            _refuse("it describes a tensor wrongly")
        size = math.prod(shape)
        last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) if size else offset
        if size > storage.length or last > storage.length - bool(size):
            _refuse(f"a tensor of shape {shape} does not fit its storage of {storage.length} values")
        left -= size * storage.dtype.itemsize
        if left < 0:
            _refuse("its tensors describe more than it contains")
        flat = np.frombuffer(values(storage), storage.dtype, storage.length)
        steps = [step * storage.dtype.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False).copy()

    return value, load


def _sizes(value: object) -> tuple[int, ...]:
    if not (isinstance(value, tuple) and len(value) <= 8 and all(isinstance(n, int) and 0 <= n < 2**40 for n in value)):
        _refuse("it describes a tensor wrongly")
    return value


def _open_zip(content: bytes) -> tuple[object, Callable[[_Storage], memoryview]]:
    # Each entry of the directory starts with these bytes. zipfile itself would read any number of them into memory.
    if content.count(b"PK\x01\x02") > _MAX_MEMBERS:
        _refuse(f"it has more than {_MAX_MEMBERS:,} members")
    archive = zipfile.ZipFile(io.BytesIO(content))
    members = {info.filename: info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        _refuse("it has two members with the same name")
    if any(
        info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in members.values()
    ):
        _refuse("it is compressed, which PyTorch's files never are")
    if sum(info.file_size for info in members.values()) > len(content):
        _refuse("its members describe more than it contains")
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        _refuse("it has no data.pkl, so PyTorch did not write it")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        _refuse("its numbers are big-endian")

    @cache  # reads and checks a storage once, however many tensors are views of it
    def values(storage: _Storage) -> memoryview:
        info = members.get(f"{folder}data/{storage.key}")
        if info is None or info.file_size != storage.length * storage.dtype.itemsize:
            _refuse(f"its storage {storage.key[:40]!r} is missing, or its size is not the described one")
        return memoryview(archive.read(info))

    value, _ = _unpickle(io.BytesIO(archive.read(pickles[0])))
    return value, values


def _open_legacy(content: bytes) -> tuple[object, Callable[[_Storage], memoryview]]:
    stream = io.BytesIO(content)
    stream.seek(len(_LEGACY))
    _scan(stream)  # facts about the machine that wrote the file
    value, storages = _unpickle(stream)
    keys, _ = _unpickle(stream)
    if not isinstance(keys, list) or set(keys) != set(storages) or len(keys) != len(storages):
        _refuse("its list of storages is not that of its tensors")
    found: dict[str, memoryview] = {}
    place = stream.tell()
    for key in keys:
        size = storages[key].length * storages[key].dtype.itemsize
        count = int.from_bytes(content[place : place + 8], "little", signed=True)
        if count != storages[key].length or place + 8 + size > len(content):
            _refuse(f"its storage {key[:40]!r} is cut off, or its size is not the described one")
        found[key] = memoryview(content)[place + 8 : place + 8 + size]
        place += 8 + size
    return value, lambda storage: found[storage.key]


def _unpickle(stream: io.BytesIO) -> tuple[object, dict[str, _Storage]]:
    """Read one pickle, return its value and the storages it refers to, by key."""
    reader = _Reader(io.BytesIO(_scan(stream)))
    return reader.load(), reader.storages


def _scan(stream: io.BytesIO) -> bytes:
    """Return the pickle that starts at the stream's position and move behind it, without executing any operation.

    Refuses operations that PyTorch does not write, memo numbers with gaps (the memo is a list as long as its highest
    number) and large tuples. To find large tuples, it simulates the stack with the size of each value in its place: 1,
    plus the sizes of the values that it contains if it can be compared.
    """
    start = stream.tell()
    sizes: list[int] = []  # 0 is a mark
    memo: dict[int, int] = {}
    for operation, argument, place in pickletools.genops(stream):
        if operation.name not in _OPERATIONS:
            _refuse(f"it uses {operation.name}, which neither weights nor galleries need")
        if place is None or place - start > _MAX_PICKLE:
            _refuse(f"what describes its tensors is larger than {_MAX_PICKLE:,} bytes")
        match operation.name, argument:
            case "BINPUT" | "LONG_BINPUT", int(number):
                if number > len(memo) or not sizes[-1]:
                    _refuse("it numbers its values wrongly")
                memo[number] = sizes[-1]
            case "BINGET" | "LONG_BINGET", int(number):
                sizes.append(memo[number])
            case _:
                _simulate(operation, sizes)
    return stream.getbuffer()[start : stream.tell()].tobytes()


def _simulate(operation: pickletools.OpcodeInfo, sizes: list[int]) -> None:
    """Simulate what the operation does to the stack of values on the stack of sizes."""
    taken = 0
    needs = list(operation.stack_before)
    if pickletools.markobject in needs:
        while size := sizes.pop():
            taken += size
        needs = needs[: needs.index(pickletools.markobject)]
    for _ in needs:
        if not sizes[-1]:
            _refuse("its values are not in order")
        taken += sizes.pop()
    size = 1 + taken if operation.name in _MAKE_TUPLES else 1
    if size > _MAX_TUPLE:
        _refuse(f"it has a tuple of more than {_MAX_TUPLE} values")
    sizes += [0 if kind is pickletools.markobject else size for kind in operation.stack_after]
