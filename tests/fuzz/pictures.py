"""Post damaged pictures to the function `face-detection`, count what it answers, and watch its memory.

Run: python -m tests.fuzz.pictures --pictures 5000

Each picture is one of all accepted formats, mutated: cut, bytes changed, parts swapped or repeated, sizes faked. The
function runs in a process of its own, so that even the end of its process, by a signal or by a lack of memory, is an
outcome. The same seed gives the same pictures.
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, features

from pipeline.embed import PREPROCESSINGS
from pipeline.handlers import detect_faces
from pipeline.images import FORMATS
from pipeline.log_events import LogPrivacy
from pipeline.messages import FrameRequest
from pipeline.ports import Face, FaceDetector
from pipeline.ports import Image as Pixels
from tests.builders import face, post, sixteen_bit_png
from tests.fakes import MemoryMetrics, UnreliableQueue, stepping_clock

ROOT: Final = Path(__file__).parents[2]
#: Pictures in one process before its memory is compared with that at its end.
WARM_UP: Final = 500
#: Most memory that a process may take on after its first pictures, in MB.
MAX_GROWTH_MB: Final = 32.0
#: Longest time for one picture, in seconds; on Lambda the function has 30.
MAX_SECONDS: Final = 10.0


def originals() -> dict[str, bytes]:
    """Return small pictures in every accepted format, and in the less usual kinds of some, by their description."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    photo = Image.fromarray(noise).resize((120, 90))
    photo.paste((255, 255, 255), (20, 15, 80, 70))
    alpha = photo.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(photo.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.asarray(photo).astype(np.uint16) * 257
    several = {"save_all": True, "append_images": [photo.rotate(180)]}

    def encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
        stream = io.BytesIO()
        picture.save(stream, file_format, **options)
        return stream.getvalue()

    return {
        **{
            file_format: encoded(photo, file_format, **({"exif": exif} if file_format != "BMP" else {}))
            for file_format in FORMATS
        },
        "JPEG progressive": encoded(photo, "JPEG", progressive=True),
        "JPEG grey": encoded(photo.convert("L"), "JPEG"),
        "JPEG CMYK": encoded(photo.convert("CMYK"), "JPEG"),
        "JPEG with restart markers": encoded(photo, "JPEG", restart_marker_rows=1),
        "JPEG of several pictures": encoded(photo, "MPO", **several),
        "PNG with alpha": encoded(alpha, "PNG"),
        "PNG with a palette": encoded(photo.convert("P"), "PNG", transparency=3),
        "PNG of 16 bits": sixteen_bit_png(samples, (b"sBIT", b"\x0c\x0c\x0c")),
        "PNG of 16 bits, interlaced": sixteen_bit_png(samples[..., :1], interlaced=True),
        "PNG with texts": sixteen_bit_png(
            samples[..., :2],
            (b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000))),
            (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"0" * 2_000_000)),
        ),
        "PNG animated": encoded(photo, "PNG", **several),
        "WEBP without loss, with alpha": encoded(alpha, "WEBP", lossless=True),
        "WEBP animated": encoded(photo, "WEBP", **several),
        "GIF animated": encoded(photo, "GIF", **several),
        "BMP with a palette": encoded(photo.convert("P"), "BMP"),
        "BMP of 32 bits": encoded(alpha, "BMP"),
        "AVIF with alpha": encoded(alpha, "AVIF"),
        "AVIF animated": encoded(photo, "AVIF", **several),
    }


def cut(content: bytearray, chance: random.Random) -> None:
    """Let the picture end early."""
    del content[chance.randrange(len(content)) :]


def change(content: bytearray, chance: random.Random) -> None:
    """Change a few bytes."""
    for _ in range(chance.choice([1, 1, 2, 8, 40])):
        content[chance.randrange(len(content))] = chance.randrange(256)


def change_head(content: bytearray, chance: random.Random) -> None:
    """Change bytes where headers are."""
    for _ in range(chance.choice([1, 2, 4])):
        content[chance.randrange(min(len(content), 64))] = chance.randrange(256)


def remove(content: bytearray, chance: random.Random) -> None:
    """Remove a part from the middle."""
    start = chance.randrange(len(content))
    del content[start : start + chance.choice([1, 4, 12, 100, 1000])]


def repeat(content: bytearray, chance: random.Random) -> None:
    """Repeat a part."""
    start = chance.randrange(len(content))
    content[start:start] = content[start : start + chance.choice([1, 8, 100, 1000])] * chance.choice([1, 1, 5])


def insert(content: bytearray, chance: random.Random) -> None:
    """Insert bytes, at the start in half of the cases."""
    start = chance.choice([0, chance.randrange(len(content))])
    content[start:start] = chance.randbytes(chance.choice([1, 2, 16, 300]))


def swap(content: bytearray, chance: random.Random) -> None:
    """Swap two parts: chunks of a PNG or of a WebP, segments of a JPEG, otherwise any two blocks."""
    parts = split(bytes(content))
    if len(parts) > 2:
        first, second = chance.sample(range(1, len(parts)), 2)
        parts[first], parts[second] = parts[second], parts[first]
        if chance.random() < 0.3:
            del parts[chance.randrange(1, len(parts))]
    content[:] = b"".join(parts)


def fake_sizes(content: bytearray, chance: random.Random) -> None:
    """Write another number in place of one that looks like a size, a length or a count."""
    width = chance.choice([2, 4])
    order = chance.choice(["<", ">"])
    value = chance.choice([0, 1, 2, 120, 5_000, 30_000, 65_535, 70_000, 2**24 + 1, 2**31 - 1, 2**32 - 1])
    start = chance.randrange(max(1, min(len(content), chance.choice([40, 200, len(content)])) - width))
    packed = struct.pack(order + {2: "H", 4: "I"}[width], value % 2 ** (8 * width))
    content[start : start + width] = packed


def fake_png_size(content: bytearray, chance: random.Random) -> None:
    """Write another size into the header of a PNG, with the right checksum; change other formats anywhere."""
    if content[12:16] != b"IHDR" or len(content) < 33:
        return fake_sizes(content, chance)
    sides = chance.choice([(1, 1), (120, 91), (4_000, 4_000), (5_000, 5_000), (25_000_000, 1), (1, 25_000_000), (0, 9)])
    content[16:24] = struct.pack(">II", *sides)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return None


MUTATIONS: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    cut, change, change_head, remove, repeat, insert, swap, fake_sizes, fake_png_size,
)  # fmt: skip


def split(content: bytes) -> list[bytes]:
    """Return the parts of a picture: a head, then chunks or segments; or blocks of 64 bytes."""
    positions = [0]
    if content.startswith(b"\x89PNG"):
        position = 8
        while position + 12 <= len(content):
            positions.append(position)
            position += 12 + int.from_bytes(content[position : position + 4], "big")
    elif content.startswith(b"RIFF"):
        position = 12
        while position + 8 <= len(content):
            positions.append(position)
            length = int.from_bytes(content[position + 4 : position + 8], "little")
            position += 8 + length + length % 2
    elif content.startswith(b"\xff\xd8"):
        position = 2
        while position + 4 <= len(content) and content[position] == 0xFF:
            positions.append(position)
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    else:
        positions = list(range(0, len(content), 64))
    return [content[start:end] for start, end in zip(positions, [*positions[1:], len(content)], strict=True)]


def mutated(seed: int, number: int, pictures: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the description and the content of one mutated picture."""
    chance = random.Random(f"{seed} {number}")
    kind = list(pictures)[number % len(pictures)]
    content = bytearray(pictures[kind])
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        if content:
            chance.choice(MUTATIONS)(content, chance)
    return kind, bytes(content) or b"\0"


class WholePictureDetector(FaceDetector):
    """Takes the whole picture for a face, so that the memory is that of decoding and cutting alone."""

    def detect(self, image: Pixels) -> list[Face]:
        height, width = image.shape[:2]
        return [face(0, 0, width, height)]


def serve(seed: int, first: int, last: int) -> None:
    """Post the pictures of these numbers; print one line of JSON for each: before it is posted, and its outcome."""
    pictures = originals()
    requests, responses = UnreliableQueue(), UnreliableQueue()
    collaborators = detect_faces.Collaborators(
        WholePictureDetector(),
        PREPROCESSINGS["facenet-160"],
        requests,
        responses,
        stepping_clock(),
        25_000_000,
        MemoryMetrics(),
        LogPrivacy(log_names=True),
    )
    for number in range(first, last):
        kind, content = mutated(seed, number, pictures)
        print(json.dumps({"number": number, "kind": kind}), flush=True)
        event = post(FrameRequest(content, str(number), kind).to_json().encode())
        began = time.perf_counter()
        try:
            answer = detect_faces.handle(event, collaborators)
            body = str(answer["body"])
            outcome = str(answer["statusCode"])
            if outcome != "200":
                refusal = json.loads(body)
                outcome += f" {refusal['error']}"
                if "\n" in refusal["message"] or len(refusal["message"]) > 300:
                    outcome += ", not one sentence"
        except Exception as error:  # noqa: BLE001 - each one is an outcome to report
            outcome = f"exception {type(error).__name__}"
        seconds = time.perf_counter() - began
        queued = 0
        for queue in (requests, responses):
            for message in queue.receive():
                queue.delete(message.receipt)
                queued += 1
        if queued != (outcome == "200"):
            outcome += f", {queued} messages queued"
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
        print(json.dumps({"outcome": outcome, "seconds": seconds, "mb": resident_mb(), "peak": usage}), flush=True)


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


@dataclass
class Report:
    """What came of the pictures.

    Parameters
    ----------
    outcomes : Counter
        Status and code, or how the process ended, counted for each kind of picture: (outcome, format).
    slowest : float
        Seconds.
    peak_mb, start_mb, end_mb : float
        Resident memory: the most at any time, after the first `WARM_UP` pictures, after the last one.

    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak_mb: float = 0.0
    start_mb: float = 0.0
    end_mb: float = 0.0


def run(pictures: int, seed: int) -> Report:
    """Post pictures; a process that ends is replaced by another one, which goes on with the next picture."""
    report = Report()
    number = 0
    while number < pictures:
        for row in rows(seed, number, pictures):
            if "number" in row:
                number, kind = int(str(row["number"])), str(row["kind"])
                continue
            outcome, seconds = str(row["outcome"]), float(str(row.get("seconds", 0)))
            report.outcomes[outcome, kind.split()[0]] += 1
            if not outcome.startswith(("200", "400", "413")) or "," in outcome or seconds > MAX_SECONDS:
                report.failures.append(f"picture {number} ({kind}): {outcome}, {seconds:.1f} s")
            report.slowest = max(report.slowest, seconds)
            if "mb" in row:
                report.peak_mb, report.end_mb = max(report.peak_mb, float(str(row["peak"]))), float(str(row["mb"]))
                if number <= WARM_UP:
                    report.start_mb = report.end_mb
        number += 1
    if report.end_mb - report.start_mb > MAX_GROWTH_MB:
        report.failures.append(f"the memory grew from {report.start_mb:.0f} to {report.end_mb:.0f} MB")
    return report


def rows(seed: int, first: int, last: int) -> Iterator[dict[str, object]]:
    """Run one process; return what it prints, and at last how it ended, if it was not at the last picture."""
    arguments = [sys.executable, "-m", "tests.fuzz.pictures", "--serve", str(seed), str(first), str(last)]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    code = process.wait()
    if code:
        yield {"outcome": f"the process ended with {code}"}


def main() -> int:
    """Run; return 1 if a picture had an outcome that it must not have, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.pictures", description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=5_000, help="how many to post")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other pictures")
    parser.add_argument("--serve", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(*arguments.serve)
        return 0
    began = time.perf_counter()
    report = run(arguments.pictures, arguments.seed)
    formats = sorted({file_format for _, file_format in report.outcomes})
    print(f"{arguments.pictures} pictures, seed {arguments.seed}, {time.perf_counter() - began:.0f} s")
    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Pillow {version('pillow')}, numpy {version('numpy')}, libjpeg-turbo {features.version('libjpeg_turbo')}, "
        f"zlib {features.version('zlib')}, libwebp {features.version('webp')}, libavif {features.version('avif')}"
    )
    print(f"\n{'outcome':28}" + "".join(f"{each:>7}" for each in [*formats, "all"]))
    for outcome in sorted({outcome for outcome, _ in report.outcomes}):
        counts = [report.outcomes[outcome, file_format] for file_format in formats]
        print(f"{outcome:28}" + "".join(f"{count:7}" for count in [*counts, sum(counts)]))
    print(f"\nslowest picture: {report.slowest:.2f} s")
    print(f"peak memory: {report.peak_mb:.0f} MB")
    print(f"memory after {WARM_UP} pictures: {report.start_mb:.0f} MB, after the last: {report.end_mb:.0f} MB")
    print("\n".join(report.failures) or "no crash, no 5xx, no growth of memory")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
