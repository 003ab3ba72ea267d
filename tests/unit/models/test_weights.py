"""Reading .pt files: both formats exactly, and a refusal for any other bytes."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.models.weights import MAX_BYTES, read_gallery_file, read_state_dict
from pipeline.errors import SetupError


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: object
    arguments: object


class Reference(NamedTuple):
    identity: object


def encode(value: object) -> bytes:
    """Return the operations that create `value`, as torch.save writes them but for memo numbers; keep bytes."""
    match value:
        case bytes():
            return value
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return encode(function) + encode(arguments) + b"R"
        case Reference(identity):
            return encode(identity) + b"Q"
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encode, value)) + b"e"
        case dict():
            return b"}(" + b"".join(encode(part) for pair in value.items() for part in pair) + b"u"
        case _:
            return pickle.dumps(value, 2)[2:-1]


def pickled(value: object) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


KINDS = {
    "?": "BoolStorage",
    "u1": "ByteStorage",
    "i1": "CharStorage",
    "i2": "ShortStorage",
    "i4": "IntStorage",
    "i8": "LongStorage",
    "f2": "HalfStorage",
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
}
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
EMPTY = Call(Global("collections", "OrderedDict"), ())


def view(key: str, length: int, offset: object, shape: object, stride: object, kind: str = "FloatStorage") -> Call:
    storage = Reference(("storage", Global("torch", kind), key, "cpu", length))
    return Call(REBUILD, (storage, offset, shape, stride, False, EMPTY))


def zip_file(value: object, storages: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickled(value))
        archive.writestr("weights/byteorder", "little")
        for key, values in storages.items():
            archive.writestr(f"weights/data/{key}", values.tobytes())
        archive.writestr("weights/version", "3\n")
    return file.getvalue()


def legacy_file(value: object, storages: Mapping[str, np.ndarray]) -> bytes:
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, facts)]
    parts += [pickled(value), pickled(list(storages))]
    parts += [struct.pack("<q", values.size) + values.tobytes() for values in storages.values()]
    return b"".join(parts)


Writer = Callable[[object, Mapping[str, np.ndarray]], bytes]
both_formats = pytest.mark.parametrize("write", [zip_file, legacy_file])

SIX = np.arange(6, dtype="<f4")


@pytest.fixture
def read_bytes(tmp_path: Path) -> Callable[[bytes], dict[str, np.ndarray]]:
    def run(content: bytes) -> dict[str, np.ndarray]:
        path = tmp_path / "weights.pt"
        path.write_bytes(content)
        return read_state_dict(path)

    return run


def refusal(action: Callable[[], object], name: str = "weights.pt") -> str:
    """Return the reason why `action` refuses a file; fail unless it is one line with the file's name."""
    with pytest.raises(SetupError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    assert message.endswith(".")
    return message


def tensors_or_refusal(action: Callable[[], dict[str, np.ndarray]]) -> None:
    """Fail unless `action` reads tensors or refuses the file in one line."""
    try:
        tensors = action()
    except SetupError:
        refusal(action)
    else:
        assert all(isinstance(values, np.ndarray) for values in tensors.values())


class TestReading:
    @both_formats
    def test_tensors_come_in_the_files_order_with_their_shapes(self, write: Writer, read_bytes) -> None:
        state = {"b": view("0", 6, 0, (2, 3), (3, 1)), "a": view("7", 1, 0, (), ())}
        tensors = read_bytes(write(state, {"0": SIX, "7": SIX[5:]}))
        assert list(tensors) == ["b", "a"]
        np.testing.assert_array_equal(tensors["b"], SIX.reshape(2, 3))
        np.testing.assert_array_equal(tensors["a"], 5)
        assert tensors["b"].flags.writeable
        assert tensors["b"].flags.c_contiguous

    @both_formats
    def test_views_of_one_storage_are_sliced_and_transposed(self, write: Writer, read_bytes) -> None:
        state = {"turned": view("0", 6, 0, (3, 1), (1, 3)), "end": view("0", 6, 3, (3,), (1,))}
        tensors = read_bytes(write(state, {"0": SIX}))
        np.testing.assert_array_equal(tensors["turned"], [[0], [1], [2]])
        np.testing.assert_array_equal(tensors["end"], [3, 4, 5])

    @both_formats
    @pytest.mark.parametrize(("dtype", "kind"), KINDS.items())
    def test_every_type_of_number_is_read(self, write: Writer, dtype: str, kind: str, read_bytes) -> None:
        values = np.array([1, 0, 1], dtype)
        tensors = read_bytes(write({"x": view("0", 3, 0, (3,), (1,), kind)}, {"0": values}))
        np.testing.assert_array_equal(tensors["x"], values)
        assert tensors["x"].dtype == values.dtype

    @both_formats
    def test_an_empty_tensor_is_read(self, write: Writer, read_bytes) -> None:
        tensors = read_bytes(write({"x": view("0", 0, 0, (0, 3), (3, 1))}, {"0": SIX[:0]}))
        assert tensors["x"].shape == (0, 3)

    @both_formats
    def test_the_attributes_that_pytorch_sets_on_a_state_dict_are_ignored(self, write: Writer, read_bytes) -> None:
        entry = encode("x") + encode(view("0", 6, 0, (6,), (1,)))
        notes = encode({"_metadata": {"": {"version": 1}}})
        state = encode(EMPTY) + b"(" + entry + b"u" + notes + b"b"
        np.testing.assert_array_equal(read_bytes(write(state, {"0": SIX}))["x"], SIX)


class TestRefusing:
    @both_formats
    @pytest.mark.parametrize(
        "function",
        [
            Global("os", "system"),
            Global("builtins", "eval"),
            Global("numpy", "fromfile"),
            Global("torch", "load"),
            Global("torch._utils", "_rebuild_parameter"),
            Global("collections", "defaultdict"),
            Global("torch", "BFloat16Storage"),
            Global("torch", "FloatStorage.__init__"),
        ],
    )
    def test_an_unlisted_global_is_named_and_not_called(self, write: Writer, function: Global, read_bytes) -> None:
        content = write(Call(function, ("exit 1",)), {})
        assert f"{function.module}.{function.name}" in refusal(lambda: read_bytes(content))

    @both_formats
    @pytest.mark.parametrize(
        "tensor",
        [
            view("0", 6, 0, (7,), (1,)),
            view("0", 6, 1, (6,), (1,)),
            view("0", 6, 0, (3,), (3,)),
            view("0", 6, 0, (2**40,), (0,)),
            view("0", 6, 0, (0, 2**39, 2**39), (1, 1, 1)),
            view("0", 6, 7, (0,), (1,)),
            view("0", 6, -1, (2,), (1,)),
            view("0", 6, 5, (2,), (-1,)),
            view("0", 6, 0, (-2, -3), (3, 1)),
            view("0", 6, 0, (2, 3), (1,)),
            view("0", 6, 0, [6], (1,)),
            view("0", 6, 0.0, (6,), (1,)),
            view("0", 6, 0, ("6",), (1,)),
            view("0", 6, 0, (1,) * 9, (1,) * 9),
            view("0", 5, 0, (5,), (1,)),
            view("0", 6, 0, (6,), (1,), "DoubleStorage"),
            view("0", -6, 0, (6,), (1,)),
            view("0", 2**70, 0, (6,), (1,)),
            view("1", 6, 0, (6,), (1,)),
            view("../data.pkl", 6, 0, (6,), (1,)),
            Call(REBUILD, ("0", 0, (6,), (1,), False, EMPTY)),
            Call(REBUILD, ()),
            Reference(("module", "0")),
            Reference("0"),
            6,
        ],
        ids=str,
    )
    def test_a_tensor_that_does_not_fit_the_file(self, write: Writer, tensor: object, read_bytes) -> None:
        content = write({"x": tensor}, {"0": SIX})
        refusal(lambda: read_bytes(content))

    @both_formats
    def test_a_storage_described_in_two_ways(self, write: Writer, read_bytes) -> None:
        state = {"x": view("0", 6, 0, (6,), (1,)), "y": view("0", 12, 0, (6,), (1,), "HalfStorage")}
        content = write(state, {"0": SIX})
        assert "two ways" in refusal(lambda: read_bytes(content))

    @both_formats
    def test_many_tensors_that_share_one_storage_do_not_fill_the_memory(self, write: Writer, read_bytes) -> None:
        values = np.zeros(10_000, np.float32)
        state = {str(index): view("0", values.size, 0, (values.size,), (1,)) for index in range(200)}
        content = write(state, {"0": values})
        assert "more than it contains" in refusal(lambda: read_bytes(content))

    @both_formats
    @pytest.mark.parametrize("state", [[1], "text", None, {1: view("0", 6, 0, (6,), (1,))}], ids=str)
    def test_a_file_without_a_state_dict(self, write: Writer, state: object, read_bytes) -> None:
        content = write(state, {"0": SIX})
        refusal(lambda: read_bytes(content))

    @both_formats
    @pytest.mark.parametrize(
        "state",
        [
            b"}" + b")" + b"\x85" * 100_000 + b"Ns",
            b"}" + b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60)) + b"Ns",
            b"}" + encode((0,) * 100) + b"Ns",
        ],
        ids=["nested 100,000 deep", "doubled 60 times", "wide"],
    )
    def test_a_key_that_would_take_endless_time_to_compare(self, write: Writer, state: bytes, read_bytes) -> None:
        content = write(state, {})
        assert "tuple" in refusal(lambda: read_bytes(content))

    @both_formats
    def test_deeply_nested_lists_do_no_harm(self, write: Writer, read_bytes) -> None:
        content = write({"x": b"]" * 50_000 + b"a" * 49_999}, {})
        refusal(lambda: read_bytes(content))

    @both_formats
    @pytest.mark.parametrize(
        "state",
        [
            b"Nr\xff\xff\xff\x7f",  # a memo of 16 GiB
            b"h\x05",  # of nothing
            b"(q\x00",  # of a mark
            b"X\xff\xff\xff\x7f",  # a text of 2 GiB
            b"\x8e" + b"\xff" * 8,  # bytes of 16 EiB
            b"",
            b"(",
            b"e",
            b"N(R",
            b"NNN",
            b"S'text'\n",
            encode(Global("collections", "OrderedDict")) + b")\x81",
        ],
        ids=repr,
    )
    def test_operations_that_pytorch_does_not_write(self, write: Writer, state: bytes, read_bytes) -> None:
        content = write(state, {})
        refusal(lambda: read_bytes(content))

    @both_formats
    @pytest.mark.parametrize("change", [{"__defaults__": (1, 2, 3, 4)}, (None, {"shape": (1,)})], ids=str)
    @pytest.mark.parametrize(
        "target",
        [
            REBUILD,
            Global("collections", "OrderedDict"),
            Global("torch", "FloatStorage"),
            view("0", 6, 0, (6,), (1,)),
        ],
        ids=str,
    )
    def test_no_part_of_the_reader_can_be_changed(
        self, write: Writer, target: object, change: object, read_bytes
    ) -> None:
        content = write({"x": encode(target) + encode(change) + b"b"}, {"0": SIX})
        refusal(lambda: read_bytes(content))

    @both_formats
    def test_a_file_that_is_cut_off_anywhere(self, write: Writer, read_bytes) -> None:
        content = write({"x": view("0", 6, 0, (6,), (1,))}, {"0": SIX})
        for length in range(0, len(content), 3):
            refusal(lambda length=length: read_bytes(content[:length]))

    def test_a_compressed_member(self, read_bytes) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("weights/data.pkl", pickled({}))
            archive.writestr("weights/data/0", bytes(100_000))
        assert "compressed" in refusal(lambda: read_bytes(file.getvalue()))

    def test_a_member_that_claims_to_be_larger_than_it_is(self, read_bytes) -> None:
        content = zip_file({"x": view("0", 600, 0, (600,), (1,))}, {"0": SIX})
        place = content.index(b"weights/data/0", content.index(b"PK\x01\x02"))
        for size in ((24, 24), (24, 2400), (2400, 2400), (2**31, 2**31)):
            changed = bytearray(content)
            struct.pack_into("<II", changed, place - 26, *size)
            refusal(lambda changed=changed: read_bytes(bytes(changed)))

    def test_members_that_share_their_bytes(self, read_bytes) -> None:
        storages = {str(index): np.zeros(1000, "<f4") for index in range(3)}
        content = zip_file({key: view(key, 3000, 0, (3000,), (1,)) for key in storages}, storages)
        changed = bytearray(content)
        for key in storages:
            place = content.index(f"weights/data/{key}".encode(), content.index(b"PK\x01\x02"))
            struct.pack_into("<II", changed, place - 26, 12_000, 12_000)
        assert "more than it contains" in refusal(lambda: read_bytes(bytes(changed)))

    def test_big_endian_numbers(self, read_bytes) -> None:
        content = zip_file({}, {}).replace(b"little", b"biggie")
        refusal(lambda: read_bytes(content))

    def test_a_zip_file_of_something_else(self, read_bytes) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("letter.txt", "Dear Grace")
        assert "data.pkl" in refusal(lambda: read_bytes(file.getvalue()))

    @pytest.mark.parametrize("content", [b"", b"\x80", b"<!DOCTYPE html>", b"version https://git-lfs", b"PK\x03\x04"])
    def test_a_file_of_something_else(self, content: bytes, read_bytes) -> None:
        refusal(lambda: read_bytes(content))

    def test_a_file_that_is_too_large_is_not_even_read(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pt"
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        assert "larger" in refusal(lambda: read_state_dict(path))

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        refusal(lambda: read_state_dict(tmp_path / "weights.pt"))
        refusal(lambda: read_state_dict(tmp_path), tmp_path.name)

    def test_a_name_of_several_lines_gives_a_message_of_one_line(self) -> None:
        refusal(lambda: read_gallery_file(b"", "two\nlines.pt"), "lines.pt")


WHOLE = [write({"x": view("0", 6, 0, (2, 3), (3, 1))}, {"0": SIX}) for write in (zip_file, legacy_file)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2), st.binary(max_size=6)), min_size=1, max_size=4),
)
def test_changed_bytes_give_tensors_or_a_refusal_and_nothing_else(
    content: bytes, changes: list[tuple[int, int, bytes]], read_bytes
) -> None:
    for place, removed, added in changes:
        place %= len(content) + 1
        content = content[:place] + added + content[place + removed :]
    tensors_or_refusal(lambda: read_bytes(content))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operations=st.lists(
        st.sampled_from(
            [
                *(bytes([code]) for code in b"(t]})\x85\x86\x87aesuRbQN"),
                *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", encode("x"), encode(1)),
                *(encode(REBUILD), encode(EMPTY), encode(EMPTY.function), encode(view("0", 6, 0, (6,), (1,)))),
            ]
        ),
        max_size=12,
    ),
    write=st.sampled_from([zip_file, legacy_file]),
)
def test_any_sequence_of_permitted_operations_gives_tensors_or_a_refusal(
    operations: list[bytes], write: Writer, read_bytes
) -> None:
    tensors_or_refusal(lambda: read_bytes(write(b"".join(operations), {"0": SIX})))


def course_file(tensors: object, names: object, storages: Mapping[str, np.ndarray]) -> bytes:
    return zip_file([tensors, names], storages)


class TestGallery:
    vectors = np.random.default_rng(5).standard_normal((2, 512)).astype("<f4")

    def file(self, shape: object = (1, 512), stride: object = (512, 1), names: object = None) -> bytes:
        storages = {str(index): vector for index, vector in enumerate(self.vectors)}
        tensors = [view(key, 512, 0, shape, stride) for key in storages]
        return course_file(tensors, ["Grace", "Ada"] if names is None else names, storages)

    @pytest.mark.parametrize(("shape", "stride"), [((1, 512), (512, 1)), ((512,), (1,))])
    def test_vectors_and_names_come_in_order(self, shape: object, stride: object) -> None:
        vectors, names = read_gallery_file(self.file(shape, stride), "people.pt")
        np.testing.assert_array_equal(vectors, self.vectors)
        assert vectors.dtype == np.float32
        assert names == ["Grace", "Ada"]

    @pytest.mark.parametrize(
        "content",
        [
            zip_file({"x": view("0", 6, 0, (6,), (1,))}, {"0": SIX}),
            zip_file([[]], {}),
            zip_file([[], []], {}),
            zip_file([[], "Grace"], {}),
            zip_file([["Grace"], ["Grace"]], {}),
            course_file([view("0", 6, 0, (6,), (1,))], ["Grace", "Ada"], {"0": SIX}),
            course_file([view("0", 6, 0, (6,), (1,))], [1], {"0": SIX}),
            course_file([view("0", 6, 0, (2, 3), (3, 1))], ["Grace"], {"0": SIX}),
            course_file([view("0", 6, 0, (n,), (1,)) for n in (2, 3)], ["Grace", "Ada"], {"0": SIX}),
            course_file([view("0", 6, 0, (6,), (1,), "DoubleStorage")], ["Grace"], {"0": SIX.astype("<f8")}),
            b"{}",
        ],
        ids=range(11),
    )
    def test_anything_else_is_refused_in_one_line(self, content: bytes) -> None:
        refusal(lambda: read_gallery_file(content, "people.pt"), "people.pt")


@pytest.mark.fixtures
def test_a_gallery_that_pytorch_wrote_is_read() -> None:
    path = Path(__file__).parents[4] / "shared" / "fixtures" / "galleries" / "eight_people.pt"
    if not path.exists():
        pytest.skip(f"{path.parent} is not here")
    vectors, names = read_gallery_file(path.read_bytes(), path.name)
    assert vectors.shape == (79, 512)
    assert len(set(names)) == 8
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
