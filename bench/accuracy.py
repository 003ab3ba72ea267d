"""How often a face gets the right name: `python -m bench.accuracy FOLDER`, where FOLDER has one folder a person.

Every photo takes its turn as the frame of a camera (leave-one-out): its largest face is searched among the faces of
all other photos, as the service searches a gallery. Each photo answers two questions:

- Known person: is the person named when the other photos of this person are enrolled? A person with one photo is
  never asked for.
- Stranger: does the face get somebody's name when no photo of this person is enrolled?

At each distance the first gives the misses, the second the false matches (false negative and false positive
identification rate; ISO/IEC 19795-1). The threshold of the model is one such distance.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from adapters import wiring
from adapters.settings import ModelSettings
from bench.tables import Section, machine, show
from pipeline.embed import PREPROCESSINGS, cut
from pipeline.errors import BadInput, FaceqError
from pipeline.images import decode
from pipeline.nearest_neighbours import NearestNeighbours

if TYPE_CHECKING:
    from pipeline.ports import FaceDetector, FaceEmbedder

ROOT: Final = Path(__file__).parents[1]
#: How many distances the curve has.
_CURVE_POINTS: Final = 200
#: The thresholds of the second table, as multiples of the one that is used.
_FACTORS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
#: With no error among n trials, the rate is below 3/n with 95 % confidence. (Jovanovic and Levy, "A Look at the Rule of
#: Three", The American Statistician 51(2), 1997)
_RULE_OF_THREE: Final = 3


@dataclass(frozen=True)
class Photos:
    """The faces of all photos that were read.

    Parameters
    ----------
    people : list of str
        n names; `people[i]` is on photo i.
    vectors : (n, d) float32
        The embedding of the largest face of photo i.
    no_face, unreadable : int
        Photos without a face, and files that are no picture. They are not among the n.

    """

    people: list[str]
    vectors: NDArray[np.float32]
    no_face: int
    unreadable: int


@dataclass(frozen=True)
class Searches:
    """The distances that the searches found.

    Parameters
    ----------
    own : (k,) float64
        For each of the k searches of a known person: the distance to the nearest photo of this person.
    other : (k,) float64
        For the same searches: the distance to the nearest photo of anybody else, infinite if there is none.
    stranger : (n,) float64
        For each photo: the distance to the nearest photo of anybody else.

    """

    own: NDArray[np.float64]
    other: NDArray[np.float64]
    stranger: NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """What the service would answer at one threshold.

    Parameters
    ----------
    threshold : float
        Largest Euclidean distance that gives a name.
    right, wrong, unknown : int
        Searches of a known person that give this person's name, another name, `Unknown`.
    strangers_unknown, strangers_named : int
        Searches of a stranger that give `Unknown`, and somebody's name.

    """

    threshold: float
    right: int
    wrong: int
    unknown: int
    strangers_unknown: int
    strangers_named: int

    @property
    def misses(self) -> float:
        """The share of searches of a known person that do not give the right name, 0 to 1."""
        return (self.wrong + self.unknown) / max(1, self.right + self.wrong + self.unknown)

    @property
    def false_matches(self) -> float:
        """The share of searches of a stranger that give a name, 0 to 1."""
        return self.strangers_named / max(1, self.strangers_named + self.strangers_unknown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 0 if the photos were measured, 1 if they could not be."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.accuracy",
        description="Measure how often faces get the right name, on your own photos.",
        epilog="Example, with photos/Ann/1.jpg, photos/Bob/a.png, ...: python -m bench.accuracy photos/ --plot a.svg",
    )
    parser.add_argument("folder", type=Path, help="one folder a person, with at least two photos of some people")
    parser.add_argument("--threshold", type=float, help="distance that gives a name; by default the model's own")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw false matches against misses (.svg, .png)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write a Markdown page with tables and plot")
    parser.add_argument("--about", default="", metavar="TEXT", help="what the photos are, for the page")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of tables")
    options = parser.parse_args(arguments)
    try:
        settings = ModelSettings.from_environment(os.environ)
        detector, embedder = wiring.load_detector(settings), wiring.load_embedder(settings)
        photos = read(options.folder, detector, embedder, settings.max_pixels)
        searches = search(photos)
        threshold = embedder.threshold if options.threshold is None else options.threshold
        rates = rates_at(searches, threshold)
        if options.plot is not None:
            plot(searches, rates, embedder.model, options.plot)
    except FaceqError as error:
        print(f"bench.accuracy: {error.message}", file=sys.stderr)
        return 1
    sections = [table(photos, rates, embedder.model, settings.engine), thresholds(searches, threshold)]
    if options.output is not None:
        plot_link = os.path.relpath(options.plot, options.output.parent) if options.plot is not None else ""
        options.output.write_text(page([*sections, machine(ROOT)], options.about, plot_link))
    if options.json:
        print(json.dumps(_figures(photos, rates, embedder.model)))
    else:
        for section in sections:
            show(section, Console(highlight=False))
    return 0


def read(folder: Path, detector: "FaceDetector", embedder: "FaceEmbedder", max_pixels: int) -> Photos:
    """Embed the largest face of every photo below `folder`; the folders in it name the people.

    Raises
    ------
    BadInput
        `folder` has no folders, or no photo shows a face of a second person.

    """
    if not folder.is_dir():
        raise BadInput("no_photos", f"{folder} is not a folder. Name one with a folder of photos for each person.")
    files = [
        (person.name, file)
        for person in sorted(folder.iterdir())
        if person.is_dir()
        for file in sorted(person.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    ]
    preprocessing = PREPROCESSINGS[embedder.preprocessing]
    people, vectors, no_face, unreadable = [], [], 0, 0
    console = Console(stderr=True)
    with console.status("reading photos") as status:
        for number, (person, file) in enumerate(files, 1):
            status.update(f"reading photo {number} of {len(files)}")
            try:
                image = decode(file.read_bytes(), max_pixels)
            except (BadInput, OSError):
                unreadable += 1
                continue
            faces = detector.detect(image)
            if not faces:
                no_face += 1
                continue
            people.append(person)
            vectors.append(embedder.embed(cut(image, faces[0], preprocessing)[np.newaxis])[0])
    if len(set(people)) < 2:
        raise BadInput(
            "no_photos", f"{folder} shows faces of {len(set(people))} people; two are needed, each in a folder."
        )
    return Photos(people, np.stack(vectors), no_face, unreadable)


def search(photos: Photos) -> Searches:
    """Search each photo's face among all other photos."""
    own, other, stranger = [], [], []
    people = np.array(photos.people)
    for row, person in enumerate(photos.people):
        query = photos.vectors[row : row + 1]
        of_others = _nearest(photos.vectors[people != person], query)
        stranger.append(of_others)
        same = people == person
        same[row] = False
        if same.any():
            own.append(_nearest(photos.vectors[same], query))
            other.append(of_others)
    return Searches(np.array(own), np.array(other), np.array(stranger))


def rates_at(searches: Searches, threshold: float) -> Rates:
    """Return what the service answers if `threshold` is the largest distance that gives a name."""
    own, other = searches.own, searches.other
    right = int(((own <= threshold) & (own <= other)).sum())
    wrong = int(((other <= threshold) & (other < own)).sum())
    named = int((searches.stranger <= threshold).sum())
    return Rates(threshold, right, wrong, len(own) - right - wrong, len(searches.stranger) - named, named)


def table(photos: Photos, rates: Rates, model: str, engine: str) -> Section:
    """Return the figures as a table."""
    counts = {name: photos.people.count(name) for name in set(photos.people)}
    known, strangers = rates.right + rates.wrong + rates.unknown, rates.strangers_named + rates.strangers_unknown
    section = Section(
        f"Accuracy of {model} on {engine}, threshold {rates.threshold:g}",
        f"{len(photos.people)} photos of {len(counts)} people; {photos.no_face} photos without a face and "
        f"{photos.unreadable} files that are no picture are left out. Each photo is searched among all others. In "
        "parentheses: the upper limit of the rate with 95 % confidence, if the searches are independent. The photos of "
        "a few people are not.",
        ("search", "answer", "searches", "share"),
    )
    for search_, answer, count, total in (
        ("known person", "right name", rates.right, known),
        ("known person", "wrong name", rates.wrong, known),
        ("known person", "Unknown", rates.unknown, known),
        ("stranger", "Unknown", rates.strangers_unknown, strangers),
        ("stranger", "somebody's name", rates.strangers_named, strangers),
    ):
        section.rows.append((search_, answer, str(count), _share(count, total)))
    return section


def thresholds(searches: Searches, threshold: float) -> Section:
    """Return the two rates at several thresholds, from half to one and a half of `threshold`."""
    section = Section(
        "The same photos at other thresholds",
        "A higher threshold misses fewer known people and gives more strangers a name.",
        ("threshold", "misses", "false matches"),
    )
    for factor in _FACTORS:
        rates = rates_at(searches, threshold * factor)
        section.rows.append(
            (f"{rates.threshold:.3g}", f"{100 * rates.misses:.1f} %", f"{100 * rates.false_matches:.1f} %")
        )
    return section


def page(sections: Sequence[Section], about: str, plot_link: str) -> str:
    """Return the Markdown page."""
    parts = [
        "# Accuracy",
        "Written by `python -m bench.accuracy FOLDER`. Run it on your own photos, with one folder for each person: "
        "figures of other people's photos say little about your cameras.",
        "Each photo takes its turn as the frame of a camera and is searched among all others. *Known person*: is the "
        "person named when the other photos of this person are enrolled? A person with one photo is not asked for. "
        "*Stranger*: does the face get a name when no photo of this person is enrolled?",
        about,
        f"![False matches against misses]({plot_link})" if plot_link else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n\n" + "\n".join(each.markdown() for each in sections)


def plot(searches: Searches, rates: Rates, model: str, file: Path) -> None:
    """Draw misses and false matches by threshold, and one against the other, with the threshold marked.

    Raises BadInput if matplotlib is missing, or does not write files with this suffix.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise BadInput("no_matplotlib", "The plot needs matplotlib. Run: pip install '.[bench]'") from None
    distances = np.concatenate([searches.own, searches.stranger])
    curve = [rates_at(searches, each) for each in np.linspace(0, 1.05 * distances.max(), _CURVE_POINTS).tolist()]
    misses, false_matches = [100 * each.misses for each in curve], [100 * each.false_matches for each in curve]
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(f"{model}: {len(searches.own)} searches of known people, {len(searches.stranger)} of strangers")
    by_threshold, against = figure.subplots(1, 2)
    by_threshold.plot([each.threshold for each in curve], misses, label="misses: known people without their name")
    by_threshold.plot([each.threshold for each in curve], false_matches, label="false matches: strangers with a name")
    by_threshold.axvline(rates.threshold, color="tab:red", label=f"threshold {rates.threshold:g}")
    by_threshold.set(xlabel="threshold, Euclidean distance", ylabel="% of searches")
    against.plot(false_matches, misses)
    against.plot([100 * rates.false_matches], [100 * rates.misses], "o", color="tab:red", clip_on=False)
    against.set(xlabel="false matches, % of searches of strangers", ylabel="misses, % of searches of known people")
    for axes in (by_threshold, against):
        axes.set_ylim(0, 102)
        axes.grid(visible=True, alpha=0.3)
    figure.legend(*by_threshold.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    try:
        figure.savefig(file)
    except ValueError as error:  # names the suffixes that matplotlib writes
        raise BadInput("plot_format", f"{file}: {error}") from None


def _nearest(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> float:
    return float(NearestNeighbours(vectors).find(query)[1][0])


def _share(count: int, total: int) -> str:
    """Return a share in percent, and with a count of 0 the upper limit that so many searches show."""
    if total == 0:
        return "no search"
    if count == 0:
        return f"0 % (< {min(100.0, 100 * _RULE_OF_THREE / total):.1f} %)"
    return f"{100 * count / total:.1f} %"


def _figures(photos: Photos, rates: Rates, model: str) -> Mapping[str, object]:
    return {
        "model": model,
        "photos": len(photos.people),
        "people": len(set(photos.people)),
        "no_face": photos.no_face,
        "unreadable": photos.unreadable,
        **asdict(rates),
        "misses": rates.misses,
        "false_matches": rates.false_matches,
    }


if __name__ == "__main__":
    sys.exit(main())
