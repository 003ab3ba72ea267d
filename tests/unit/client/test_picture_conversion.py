"""Pictures in formats that the service does not read."""

import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from client.file_kinds import Kind, kind_of
from client.pictures import for_the_service
from pipeline.errors import BadInput
from pipeline.images import decode


def halves() -> Image.Image:
    """Return a picture of 96 x 64 pixels whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (96, 64), (220, 20, 20))
    image.paste((20, 20, 220), (48, 0, 96, 64))
    return image


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if file_format == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=90)
    else:
        image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF", "TIFF", "JPEG2000"])
def test_a_picture_of_each_further_format_becomes_a_jpeg(file_format: str) -> None:
    content = saved(halves(), file_format)
    assert kind_of(content) is Kind.PICTURE
    jpeg = for_the_service(content)
    assert jpeg.startswith(b"\xff\xd8\xff")
    assert np.abs(decode(jpeg).astype(int) - np.asarray(halves()).astype(int)).mean() < 4


def test_what_the_service_reads_is_sent_unchanged() -> None:
    mpo = saved(halves(), "MPO", save_all=True, append_images=[halves()])
    for content in (mpo, *(saved(halves(), name) for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP"))):
        assert kind_of(content) is Kind.PICTURE
        assert for_the_service(content) == content
    assert decode(mpo).shape == (64, 96, 3)


def test_the_exif_orientation_of_a_tiff_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it 90 degrees clockwise
    upright = decode(for_the_service(saved(halves(), "TIFF", exif=exif)))
    assert upright.shape == (96, 64, 3)
    assert upright[:40, :, 0].mean() > 200, "the left half is above"


def test_a_heic_is_turned_upright_once() -> None:
    """As phones write it: with the turn of HEIF (the property `irot`), and the EXIF orientation that repeats it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    pillow_heif.from_pillow(halves()).save(buffer, exif=exif.tobytes())
    assert b"irot" in buffer.getvalue()
    upright = decode(for_the_service(buffer.getvalue()))
    assert upright.shape == (96, 64, 3)
    assert upright[:40, :, 0].mean() > 200


def test_samples_of_16_bits_are_scaled_and_transparent_parts_become_white() -> None:
    deep = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert decode(for_the_service(saved(deep, "TIFF"))).mean() == pytest.approx(128, abs=2)
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert decode(for_the_service(saved(clear, "TIFF"))).mean() > 250


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF", "TIFF", "JPEG2000"])
def test_a_picture_that_is_cut_is_refused(file_format: str) -> None:
    content = saved(halves(), file_format)
    with pytest.raises(BadInput, match="cannot be decoded") as refused:
        for_the_service(content[: len(content) // 3])
    assert refused.value.code == "not_an_image"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", Kind.EMPTY),
        (b"BMW is not a bitmap", Kind.OTHER),
        (b"PK\x03\x04" + b"\xff\xd8\xff", Kind.OTHER),
        (b"name".ljust(257, b"\0") + b"ustar" + bytes(250) + b"\xff\xd8\xff", Kind.OTHER),
        (b"\r\n\xff\xd8\xff\xe0", Kind.PICTURE),
        (b"\0\0\0\x18ftypM4A ", Kind.OTHER),
        (b"\0\0\0\x18ftypqt  ", Kind.VIDEO),
        (b"G" * 10, Kind.OTHER),
        (b"#EXTM3U\nhttp://camera/1.ts", Kind.OTHER),
    ],
)
def test_the_first_bytes_decide_what_a_file_is(head: bytes, kind: Kind) -> None:
    assert kind_of(head) is kind


def test_a_jpeg_with_a_smaller_one_behind_it_is_a_picture() -> None:
    photo, preview = saved(halves(), "JPEG"), saved(halves().resize((24, 16)), "JPEG")
    assert kind_of(photo + preview) is Kind.PICTURE
    assert kind_of(photo + photo) is Kind.VIDEO
