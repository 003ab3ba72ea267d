"""What a command says about the files that it read: what it skipped, and the frames of each video."""

import sys
from collections import Counter
from collections.abc import Sequence

import typer

from cli.printable_text import printable_lines
from client.frames import ReadingReport, Skipped
from client.videos import Sampling, VideoCounts, parse_sampling
from pipeline.errors import BadInput


def sampling_option(every: str, fps: float | None) -> Sampling:
    """Read `--every` and `--fps`. Raises typer.BadParameter, which exits with code 2, if they make no sense."""
    try:
        return parse_sampling(every, fps)
    except BadInput as error:
        raise typer.BadParameter(error.message) from error


def show_reading(report: ReadingReport) -> int:
    """Print what was skipped and the counts of each video to standard error; return how many frames were lost."""
    show_skipped(report.skipped)
    for video in report.videos:
        print(f"faceq: {printable_lines(video_line(video))}", file=sys.stderr)
    return sum(video.lost for video in report.videos)


def show_skipped(skipped: Sequence[Skipped]) -> None:
    """Print to standard error how many files were skipped, and for which reasons."""
    if skipped:
        reasons = Counter(one.reason for one in skipped).most_common()
        files = "1 file" if len(skipped) == 1 else f"{len(skipped)} files"
        print(
            f"faceq: skipped {files}: {', '.join(f'{number} {reason}' for reason, number in reasons)}", file=sys.stderr
        )


def video_line(video: VideoCounts) -> str:
    """Return the counts of a video as one line."""
    announced = (
        "the file does not say how many frames it has"
        if video.announced is None
        else (f"{video.announced} frames announced")
    )
    line = f"{video.filename}: {announced}, {video.decoded} decoded, {video.taken} sent"
    return f"{line}. The file is damaged: {video.lost} lost" if video.lost else line
