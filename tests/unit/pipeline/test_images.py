"""Pictures are decoded to upright RGB arrays; anything else is refused."""

import contextlib
import io
import re
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from pipeline import jpeg
from pipeline.errors import BadInput
from pipeline.images import FORMATS, HEIF_BRANDS, decode, encode_jpeg
from tests.builders import greyscale_png, sixteen_bit_png

#: Four different corners, so that every rotation and reflection gives a different picture: red, green / blue, white.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
SQUARES = CORNERS.repeat(16, axis=0).repeat(24, axis=1)
#: Nearly without loss, as far as Pillow can write it.
BEST_AVIF = {"quality": 100, "subsampling": "4:4:4"}


def encoded(picture: Pillow.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


NOISE = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)).resize((96, 128))
JPEGS = {
    "baseline": encoded(NOISE, "JPEG"),
    "full colour": encoded(NOISE, "JPEG", subsampling=0),
    "progressive": encoded(NOISE, "JPEG", progressive=True),
    "grey": encoded(NOISE.convert("L"), "JPEG"),
    "CMYK": encoded(NOISE.convert("CMYK"), "JPEG"),
    "restart markers": encoded(NOISE, "JPEG", restart_marker_rows=1),
    "many restart markers": encoded(NOISE, "JPEG", restart_marker_blocks=2),
    "progressive with restart markers": encoded(NOISE, "JPEG", progressive=True, restart_marker_rows=1),
}


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("GIF", {})],
)
def test_every_format_gives_the_same_pixels(file_format: str, options: dict[str, object]) -> None:
    assert np.array_equal(SQUARES, decode(encoded(Pillow.fromarray(SQUARES), file_format, **options)))


@pytest.mark.parametrize("content", [encode_jpeg(SQUARES), encoded(Pillow.fromarray(SQUARES), "AVIF", **BEST_AVIF)])
def test_jpeg_and_avif_give_nearly_the_same_pixels(content: bytes) -> None:
    decoded = decode(content)
    assert decoded.shape == SQUARES.shape
    assert np.abs(decoded.astype(int) - SQUARES).max() <= 4


def test_jpeg_keeps_colour_in_full_resolution() -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = 200
    decoded = decode(encode_jpeg(stripes)).astype(int)
    assert decoded[:, ::2, 0].min() > 180
    assert decoded[:, 1::2, 0].max() < 20


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, SQUARES),
        (2, SQUARES[:, ::-1]),
        (3, SQUARES[::-1, ::-1]),
        (4, SQUARES[::-1]),
        (5, SQUARES.transpose(1, 0, 2)),
        (6, np.rot90(SQUARES, 1)),
        (7, SQUARES[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(SQUARES, -1)),
    ],
)
def test_every_exif_orientation_is_made_upright(file_format: str, orientation: int, stored: np.ndarray) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    picture = Pillow.fromarray(np.ascontiguousarray(stored))
    options = BEST_AVIF if file_format == "AVIF" else {"quality": 100}
    decoded = decode(encoded(picture, file_format, exif=exif, **options))
    assert decoded.shape == SQUARES.shape
    assert np.abs(decoded.astype(int) - SQUARES)[4:-4:8, 4:-4:8].max() <= 40


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"])
def test_a_damaged_exif_block_does_not_spoil_the_picture(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the functions' logs take no line of text
        assert decode(encoded(Pillow.fromarray(SQUARES), "JPEG", exif=exif)).shape == SQUARES.shape


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    decoded = decode(encoded(Pillow.fromarray(SQUARES).convert(mode), "PNG"))
    assert (decoded.shape, decoded.dtype) == (SQUARES.shape, np.uint8)


def test_a_palette_keeps_its_colours() -> None:
    assert np.array_equal(SQUARES, decode(encoded(Pillow.fromarray(SQUARES).convert("P"), "PNG")))


def test_cmyk_becomes_rgb() -> None:
    decoded = decode(encoded(Pillow.fromarray(SQUARES).convert("CMYK"), "JPEG", quality=100))
    assert np.abs(decoded.astype(int) - SQUARES).max() <= 8


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white(mode: str) -> None:
    hidden = Pillow.new("RGBA", (4, 3), (0, 0, 0, 0))
    hidden.putpixel((0, 0), (50, 50, 50, 255))
    decoded = decode(encoded(hidden.convert(mode), "PNG"))
    assert decoded[0, 0].tolist() == [50, 50, 50]
    decoded[0, 0] = 255
    assert (decoded == 255).all()


def test_a_transparent_palette_entry_becomes_white() -> None:
    picture = Pillow.new("P", (4, 3), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((0, 0), 1)
    decoded = decode(encoded(picture, "GIF", transparency=0))
    assert decoded[0, 0].tolist() == [40, 50, 60]
    decoded[0, 0] = 255
    assert (decoded == 255).all()


def test_a_half_transparent_pixel_is_blended_with_white() -> None:
    half = Pillow.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert np.abs(decode(encoded(half, "PNG")).astype(int) - 127).max() <= 1


def bmp_with_alpha(alpha: int) -> bytes:
    """A BMP of 32 bits with a version 4 header, which names the fourth byte alpha."""
    rows = np.dstack([SQUARES[::-1, :, ::-1], np.full(SQUARES.shape[:2], alpha, np.uint8)]).tobytes()
    height, width = SQUARES.shape[:2]
    masks = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII4I", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0, *masks).ljust(
        108, b"\0"
    )
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "AVIF", "BMP"])
def test_an_alpha_channel_that_is_0_everywhere_means_no_alpha(file_format: str) -> None:
    unused = Pillow.fromarray(np.dstack([SQUARES, np.zeros(SQUARES.shape[:2], np.uint8)]))
    options = {"WEBP": {"lossless": True, "exact": True}, "AVIF": BEST_AVIF}.get(file_format, {})
    content = bmp_with_alpha(0) if file_format == "BMP" else encoded(unused, file_format, **options)
    assert np.abs(decode(content).astype(int) - SQUARES).max() <= (4 if file_format == "AVIF" else 0)


def test_grey_with_alpha_0_everywhere_means_no_alpha() -> None:
    unused = Pillow.merge("LA", [Pillow.new("L", (4, 3), 70), Pillow.new("L", (4, 3), 0)])
    assert (decode(encoded(unused, "PNG")) == 70).all()


def test_a_palette_that_is_transparent_everywhere_means_no_alpha() -> None:
    picture = Pillow.new("P", (4, 3), 0)
    picture.putpalette([10, 20, 30])
    assert (decode(encoded(picture, "GIF", transparency=0)) == [10, 20, 30]).all()


def test_a_bmp_with_a_used_alpha_channel_is_laid_on_white() -> None:
    assert np.array_equal(decode(bmp_with_alpha(255)), SQUARES)
    assert decode(bmp_with_alpha(128)).min() >= 126


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_scaled_not_clipped(channels: int, interlaced: bool) -> None:
    samples = np.random.default_rng(channels).integers(0, 65536, (19, 21, channels), np.uint16)
    if channels in (2, 4):
        samples[..., -1] = 65535
    colours = samples[..., :-1] if channels in (2, 4) else samples
    expected = np.broadcast_to(np.round(colours / 257.0), (19, 21, 3))
    assert np.array_equal(decode(sixteen_bit_png(samples, interlaced=interlaced)), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("bits", "declared"), [(10, None), (12, None), (10, 10), (12, 12), (14, 14), (9, 9), (8, 8)])
def test_16_bits_of_which_the_low_ones_carry_the_picture_are_scaled_by_them(
    channels: int, bits: int, declared: int | None
) -> None:
    """A camera of 12 bits that leaves them at the low end gives a nearly black picture otherwise."""
    samples = np.random.default_rng(bits).integers(0, 2**bits, (9, 8, channels), np.uint16)
    samples[0, 0] = 2**bits - 1
    if channels in (2, 4):
        samples[..., -1] = 65535
    colours = samples[..., :-1] if channels in (2, 4) else samples
    chunks = [] if declared is None else [(b"sBIT", bytes([declared] * channels))]
    expected = np.broadcast_to(np.round(colours * (255 / (2**bits - 1))), (9, 8, 3))
    assert np.array_equal(decode(sixteen_bit_png(samples, *chunks)), expected)


def test_16_bits_whose_high_ones_carry_the_picture_keep_their_scale() -> None:
    """So the PNG specification has it. A declared depth of 16 bits is the depth of a dark picture too."""
    high = np.array([[[0], [4095 << 4]]], np.uint16)
    assert decode(sixteen_bit_png(high, (b"sBIT", b"\x0c")))[0].tolist() == [[0] * 3, [255] * 3]
    dark = np.array([[[0], [2570]]], np.uint16)
    assert decode(sixteen_bit_png(dark, (b"sBIT", b"\x10")))[0].tolist() == [[0] * 3, [10] * 3]


@pytest.mark.parametrize("declared", [b"", b"\x00", b"\xff"])
def test_a_damaged_number_of_significant_bits_is_ignored(declared: bytes) -> None:
    samples = np.array([[[0], [65535]]], np.uint16)
    assert decode(sixteen_bit_png(samples, (b"sBIT", declared)))[0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_16_bit_picture_becomes_white(channels: int) -> None:
    samples = np.full((2, 2, channels), 0x1234, np.uint16)
    samples[0, 0] = 0x1235  # the same high byte, another colour
    decoded = decode(sixteen_bit_png(samples, (b"tRNS", struct.pack(">H", 0x1234) * channels)))
    assert decoded.tolist() == [[[18] * 3, [255] * 3], [[255] * 3, [255] * 3]]


def test_16_bits_of_alpha_are_blended_with_white() -> None:
    samples = np.array([[[0, 0, 0, 65535], [0, 0, 0, 32896], [9, 9, 9, 0]]], np.uint16)
    assert decode(sixteen_bit_png(samples))[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]
    assert decode(sixteen_bit_png(samples[:, 2:] + np.array([65000] * 3 + [0], np.uint16)))[0, 0].max() == 253


def test_an_animation_of_16_bits_gives_its_first_frame() -> None:
    samples = np.array([[[0], [65535]]], np.uint16)
    frame = struct.pack(">IIIIHHBB", 2, 1, 0, 0, 1, 10, 0, 0)
    content = sixteen_bit_png(
        samples,
        (b"acTL", struct.pack(">II", 2, 0)),
        (b"fcTL", struct.pack(">I", 0) + frame),
        after=[
            (b"fcTL", struct.pack(">I", 1) + frame),
            (b"fdAT", struct.pack(">I", 2) + zlib.compress(b"\0" + b"\x80" * 4)),
        ],
    )
    with Pillow.open(io.BytesIO(content)) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert decode(content)[0].tolist() == [[0] * 3, [255] * 3]


METADATA = {
    "a text": (b"tEXt", b"Comment\0" + bytes(1_500_000)),
    "a compressed text": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_500_000))),
    "an international text": (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(1_500_000))),
    "a colour profile": (b"iCCP", b"icc\0\0" + zlib.compress(bytes(1_500_000))),
    "a bomb as a text": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9)),
    "a bomb as a colour profile": (b"iCCP", b"icc\0\0" + zlib.compress(bytes(50_000_000), 9)),
    "a bomb as EXIF": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"0" * 50_000_000, 9)),
    "a long text as EXIF": (b"tEXt", b"Raw profile type exif\0" + b"0" * 1_500_000),
    "no zlib data as EXIF": (b"zTXt", b"Raw profile type exif\0\0" + b"zlib?"),
    "a broken colour profile": (b"iCCP", b"icc\0\0broken"),
    "an animation that is none": (b"acTL", b""),
    "an unknown chunk": (b"abCd", bytes(2_000_000)),
}


@pytest.mark.parametrize("chunk", METADATA.values(), ids=METADATA.keys())
def test_metadata_of_a_png_neither_spoils_the_picture_nor_takes_memory(chunk: tuple[bytes, bytes]) -> None:
    content = greyscale_png(2, 1, chunk, rows=b"\0\x10\x20")
    tracemalloc.start()
    try:
        assert decode(content)[0].tolist() == [[0x10] * 3, [0x20] * 3]
        assert tracemalloc.get_traced_memory()[1] < 3_000_000 + len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressed", [False, True])
def test_the_orientation_in_a_text_of_a_png_is_made_upright(compressed: bool) -> None:
    """So ImageMagick and exiftool store EXIF where the chunk for it is not known."""
    exif = Pillow.Exif()
    exif[0x0112] = 3
    raw = exif.tobytes()
    text = b"\nexif\n%8d\n" % len(raw) + raw.hex().encode() + b"\n"
    keyword = b"Raw profile type exif\0"
    chunk = (b"zTXt", keyword + b"\0" + zlib.compress(text)) if compressed else (b"tEXt", keyword + text)
    assert decode(greyscale_png(2, 1, chunk, rows=b"\0\x10\x20"))[0, :, 0].tolist() == [0x20, 0x10]


def test_the_orientation_in_the_xmp_of_a_png_is_made_upright() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    chunk = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    assert decode(greyscale_png(2, 1, chunk, rows=b"\0\x10\x20"))[0, :, 0].tolist() == [0x20, 0x10]


@pytest.mark.parametrize("kind", [b"eXIf", b"sBIT", b"tEXt", b"pHYs"])
def test_a_damaged_chunk_that_the_pixels_do_not_need_is_ignored(kind: bytes) -> None:
    content = bytearray(greyscale_png(2, 1, (kind, b"Raw profile type exif\0x"), rows=b"\0\x10\x20"))
    content[content.index(kind) + 26] ^= 0xFF
    assert decode(bytes(content))[0, :, 0].tolist() == [0x10, 0x20]


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (JPEGS["baseline"][:200], r"it ends in its header"),
        (greyscale_png(2, 1, rows=b"\0\x10\x20").replace(b"IHDR", b"IHDR\0"), r"broken PNG file"),
        (encoded(NOISE, "WEBP")[:500], r"it ends after 500 of its [\d,]+ bytes"),
        (encoded(NOISE, "BMP")[:500], r"image file is truncated"),
        (encoded(NOISE, "AVIF")[:-40], r"Truncated data"),
        (encoded(NOISE, "GIF")[:2000], r"image file is truncated"),
    ],
)
def test_the_message_names_what_is_wrong_with_the_picture(content: bytes, finding: str) -> None:
    with pytest.raises(
        BadInput, match=rf"The \w+ cannot be decoded: .*{finding}.*\. Send the whole, unchanged file\.$"
    ):
        decode(content)


def test_a_chunk_that_claims_more_than_the_file_has_is_refused() -> None:
    content = bytearray(greyscale_png(2, 1, (b"tEXt", b"Comment\0x"), rows=b"\0\x10\x20"))
    start = content.index(b"tEXt") - 4
    content[start : start + 4] = struct.pack(">I", 2**31 - 1)
    with pytest.raises(BadInput, match="The PNG cannot be decoded") as refused:
        decode(bytes(content))
    assert refused.value.code == "not_an_image"


@pytest.mark.parametrize("content", JPEGS.values(), ids=JPEGS.keys())
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read(content: bytes, missing: int) -> None:
    assert np.array_equal(decode(content[:-missing]), decode(content))


@pytest.mark.parametrize("content", JPEGS.values(), ids=JPEGS.keys())
def test_a_jpeg_that_ends_earlier_is_refused_with_how_much_is_there(content: bytes) -> None:
    data_starts = [scan.data_start for scan in jpeg.scans(content)]
    for length in (len(content) - 6, data_starts[-1] + 1, data_starts[0] + 30, data_starts[0] + 1):
        with pytest.raises(
            BadInput, match=r"JPEG cannot be decoded: it ends (in scan|after \d+ of its 128 rows)"
        ) as refused:
            decode(content[:length])
        assert refused.value.code == "not_an_image"


def test_the_message_names_the_rows_that_a_cut_jpeg_has() -> None:
    content = JPEGS["baseline"]
    (scan,) = jpeg.scans(content)
    half = scan.data_start + (len(content) - scan.data_start) // 2
    with pytest.raises(BadInput) as refused:
        decode(content[:half])
    rows = re.search(r"after (\d+) of its 128 rows", refused.value.message)
    assert rows is not None
    assert 40 <= int(rows[1]) <= 64


@pytest.mark.parametrize("name", ["restart markers", "many restart markers", "progressive with restart markers"])
def test_a_jpeg_that_ends_with_a_restart_interval_is_refused(name: str) -> None:
    content = JPEGS[name]
    start = jpeg.scans(content)[-1].data_start
    markers = list(re.finditer(rb"\xff[\xd0-\xd7]", content[start:]))
    assert len(markers) > 2
    for marker in markers:
        for length in (marker.start(), marker.end()):
            with pytest.raises(BadInput, match="it ends"):
                decode(content[: start + length])


def test_a_progressive_jpeg_that_ends_with_a_scan_is_refused() -> None:
    content = JPEGS["progressive"]
    _, *later = jpeg.scans(content)
    assert len(later) > 4
    for scan in later:
        header = content.rindex(b"\xff\xda", 0, scan.data_start)
        with pytest.raises(BadInput, match=r"it ends in scan \d+, before its 128 rows have all their detail"):
            decode(content[:header])


def test_the_first_of_several_pictures_in_a_jpeg_is_read_without_the_others() -> None:
    content = encoded(NOISE, "MPO", save_all=True, append_images=[NOISE.rotate(180)])
    expected = decode(JPEGS["baseline"])
    assert np.array_equal(decode(content), expected)
    assert np.array_equal(decode(content[: len(content) * 3 // 4]), expected)
    with pytest.raises(BadInput, match="it ends after"):
        decode(content[: len(content) // 4])


@pytest.mark.parametrize(
    "before",
    [b"\r\n", b"\n", b"\0", b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 4711\r\n\r\n", bytes(1024)],
    ids=["CR LF", "LF", "a zero", "the head of a part", "the most"],
)
def test_a_few_bytes_before_a_jpeg_are_skipped(before: bytes) -> None:
    content = JPEGS["baseline"]
    assert np.array_equal(decode(before + content), decode(content))
    assert np.array_equal(decode(before + content[:-2]), decode(content))


def test_many_bytes_before_a_jpeg_are_no_jpeg() -> None:
    with pytest.raises(BadInput, match="This is not a JPEG"):
        decode(bytes(1025) + JPEGS["baseline"])


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_gives_its_first_frame(file_format: str) -> None:
    first, second = Pillow.fromarray(SQUARES), Pillow.fromarray(255 - SQUARES)
    content = encoded(first, file_format, save_all=True, append_images=[second], lossless=True, **BEST_AVIF)
    assert np.abs(decode(content).astype(int) - SQUARES).max() <= (4 if file_format == "AVIF" else 0)


def test_a_picture_of_one_pixel_is_decoded() -> None:
    assert decode(encoded(Pillow.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[[255, 0, 0]]]


def test_the_decoded_array_is_writable() -> None:
    decode(encoded(Pillow.fromarray(SQUARES), "PNG"))[0, 0] = 0


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_truncated_picture_is_refused(file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Pillow.fromarray(noise), file_format)
    for kept in (len(content) // 2, len(content) * 3 // 4, 20):
        with pytest.raises(BadInput) as refused:
            decode(content[:kept])
        assert refused.value.code == "not_an_image"
        assert re.fullmatch(
            r"The \w+ cannot be decoded: [^\n]{10,200}\. Send the whole, unchanged file\.", refused.value.message
        )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"P6 1 1 255\n\x00\x00\x00",
    ],
)
def test_other_formats_are_refused(content: bytes) -> None:
    with pytest.raises(BadInput, match="This is not a JPEG, PNG") as refused:
        decode(content)
    assert (refused.value.code, refused.value.status) == ("not_an_image", 400)


@pytest.mark.parametrize("brand", sorted(HEIF_BRANDS))
def test_a_heic_is_refused_by_its_name(brand: bytes) -> None:
    content = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(400) + JPEGS["baseline"]
    with pytest.raises(BadInput, match="HEIC pictures cannot be read"):
        decode(content)


def test_an_avif_whose_major_brand_is_a_general_one_is_read() -> None:
    content = encoded(NOISE, "AVIF")
    general = content.replace(b"ftypavif", b"ftypmif1", 1)
    assert np.array_equal(decode(general), decode(content))
    with pytest.raises(BadInput, match="The AVIF cannot be decoded"):
        decode(general[: len(general) // 2])


def test_the_pixel_limit_is_read_from_the_header() -> None:
    for width, height in ((5_001, 5_000), (9_000, 9_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(BadInput, match=r"at most 25,000,000 are accepted") as refused:
            decode(greyscale_png(width, height))
    assert (refused.value.code, refused.value.status) == ("too_many_pixels", 413)


def test_the_pixel_limit_counts_width_times_height() -> None:
    content = encoded(Pillow.fromarray(SQUARES), "PNG")
    assert decode(content, max_pixels=32 * 48).shape == SQUARES.shape
    with pytest.raises(BadInput, match=r"32 × 48|48 × 32"):
        decode(content, max_pixels=32 * 48 - 1)


def test_a_decompression_bomb_is_refused_without_a_warning() -> None:
    bomb = greyscale_png(10_000, 10_000, rows=bytes(10_001) * 10_000)
    assert len(bomb) < 200_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput) as refused:
            decode(bomb)
    assert refused.value.code == "too_many_pixels"


def test_decoding_leaves_the_pixel_limit_of_pillow_unchanged() -> None:
    before = Pillow.MAX_IMAGE_PIXELS
    decode(encoded(Pillow.fromarray(SQUARES), "PNG"))
    assert before == Pillow.MAX_IMAGE_PIXELS


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_are_decoded_or_refused(data: st.DataObject) -> None:
    file_format = data.draw(st.sampled_from(FORMATS))
    content = bytearray(encoded(Pillow.fromarray(SQUARES), file_format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadInput):
        image = decode(bytes(content), max_pixels=10**6)
        assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
