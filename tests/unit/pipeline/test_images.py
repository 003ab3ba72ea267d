"""Pictures are decoded to upright RGB arrays; anything else is refused."""

import contextlib
import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from pipeline.errors import BadInput
from pipeline.images import decode, encode_jpeg
from tests.builders import greyscale_png

#: Four different corners, so that every rotation and reflection gives a different picture: red, green / blue, white.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
SQUARES = CORNERS.repeat(16, axis=0).repeat(24, axis=1)


def encoded(picture: Pillow.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("GIF", {})],
)
def test_every_format_gives_the_same_pixels(file_format: str, options: dict[str, object]) -> None:
    assert np.array_equal(SQUARES, decode(encoded(Pillow.fromarray(SQUARES), file_format, **options)))


def test_jpeg_gives_nearly_the_same_pixels() -> None:
    decoded = decode(encode_jpeg(SQUARES))
    assert decoded.shape == SQUARES.shape
    assert np.abs(decoded.astype(int) - SQUARES).max() <= 4


def test_jpeg_keeps_colour_in_full_resolution() -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = 200
    decoded = decode(encode_jpeg(stripes)).astype(int)
    assert decoded[:, ::2, 0].min() > 180
    assert decoded[:, 1::2, 0].max() < 20


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
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
    decoded = decode(encoded(picture, file_format, exif=exif, quality=100))
    assert decoded.shape == SQUARES.shape
    assert np.abs(decoded.astype(int) - SQUARES)[4:-4:8, 4:-4:8].max() <= 40


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"])
def test_a_damaged_exif_block_does_not_spoil_the_picture(exif: bytes) -> None:
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
    hidden = Pillow.new("RGBA", (4, 3), (0, 0, 0, 0)).convert(mode)
    assert (decode(encoded(hidden, "PNG")) == 255).all()


def test_a_transparent_palette_entry_becomes_white() -> None:
    picture = Pillow.new("P", (4, 3), 0)
    picture.putpalette([10, 20, 30])
    assert (decode(encoded(picture, "GIF", transparency=0)) == 255).all()


def test_a_half_transparent_pixel_is_blended_with_white() -> None:
    half = Pillow.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert np.abs(decode(encoded(half, "PNG")).astype(int) - 127).max() <= 1


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    decoded = decode(encoded(Pillow.fromarray(levels), "PNG"))
    assert decoded[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(file_format: str) -> None:
    first, second = Pillow.fromarray(SQUARES), Pillow.fromarray(255 - SQUARES)
    content = encoded(first, file_format, save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(SQUARES, decode(content))


def test_a_picture_of_one_pixel_is_decoded() -> None:
    assert decode(encoded(Pillow.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[[255, 0, 0]]]


def test_the_decoded_array_is_writable() -> None:
    decode(encoded(Pillow.fromarray(SQUARES), "PNG"))[0, 0] = 0


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_truncated_picture_is_refused(file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Pillow.fromarray(noise), file_format)
    for kept in (len(content) // 2, len(content) * 3 // 4, 20):
        with pytest.raises(BadInput) as refused:
            decode(content[:kept])
        assert refused.value.code == "not_an_image"


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
    file_format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]))
    content = bytearray(encoded(Pillow.fromarray(SQUARES), file_format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadInput):
        image = decode(bytes(content), max_pixels=10**6)
        assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
