"""What `faceq people` prints: the progress of an enrolment, a gallery, the difference between two galleries."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.markup import escape

from cli.progress import progress_bar
from client.enrolment import Enrolment
from client.gallery_transfer import GalleryDifference
from pipeline.gallery import Gallery, Photo
from pipeline.gallery_check import Findings, Pair


@dataclass
class EnrolmentCounts:
    """How many photos were added, had been enrolled before, and were refused."""

    added: int = 0
    enrolled_before: int = 0
    refused: int = 0

    @property
    def total(self) -> int:
        """The number of photos with a result."""
        return self.added + self.enrolled_before + self.refused

    def count(self, enrolment: Enrolment) -> None:
        """Add one result."""
        if enrolment.problem is not None:
            self.refused += 1
        elif enrolment.added:
            self.added += 1
        else:
            self.enrolled_before += 1

    def __str__(self) -> str:
        """Return the counts as a part of a sentence."""
        parts = [f"{photos(self.added)} enrolled"]
        parts += [f"{self.enrolled_before} enrolled before"] if self.enrolled_before else []
        parts += [f"{self.refused} refused"] if self.refused else []
        return ", ".join(parts)


class EnrolmentProgress:
    """Shows the progress of an enrolment, and on standard error each photo that is refused or worth a look.

    Parameters
    ----------
    title : str
        What stands beside the bar.
    total : int
        The number of photos.

    Attributes
    ----------
    counts : EnrolmentCounts
        All results so far.
    counts_by_person : dict of str to EnrolmentCounts
        The same by person, in the order in which people came.

    """

    def __init__(self, title: str, total: int) -> None:
        self.counts = EnrolmentCounts()
        self.counts_by_person: dict[str, EnrolmentCounts] = {}
        self._progress = progress_bar()
        self._task = self._progress.add_task(escape(title), total=total)

    def advance(self) -> None:
        """Count one photo on the bar."""
        self._progress.advance(self._task)

    def show(self, enrolments: Iterable[Enrolment]) -> None:
        """Run an enrolment to its end, and show its problems and warnings as they come."""
        with self._progress:
            for enrolment in enrolments:
                self.counts.count(enrolment)
                self.counts_by_person.setdefault(enrolment.person, EnrolmentCounts()).count(enrolment)
                if enrolment.problem is not None:
                    print(f"faceq: {str(enrolment.file)!r} refused: {enrolment.problem}", file=sys.stderr)
                if enrolment.warning is not None:
                    print(f"faceq: {str(enrolment.file)!r} enrolled, but: {enrolment.warning}", file=sys.stderr)


def show_findings(findings: Findings, threshold: float) -> None:
    """Print a line for each finding of `people check`, and what to do about each kind."""
    for pair in findings.same_face:
        print(
            f"two names, one face: {_photo(pair.first)} and {_photo(pair.second)} are {pair.distance:.2f} apart; up to "
            f"{threshold:g} is the same person"
        )
    for outlier in findings.outliers:
        person = outlier.photo.person
        print(f"stands apart: {_photo(outlier.photo)} is {outlier.distance:.2f} from the nearest photo of {person}")
    for pair in findings.near_duplicates:
        print(f"near duplicate: {_photo(pair.second)} repeats {pair.first.source} ({pair.distance:.2f} apart)")


def findings_as_json(findings: Findings, threshold: float) -> dict[str, object]:
    """Return the findings as `--json` prints them. Distances have 4 digits after the point."""

    def pairs(found: Iterable[Pair]) -> list[object]:
        return [
            {"photos": [vars(pair.first), vars(pair.second)], "distance": round(pair.distance, 4)} for pair in found
        ]

    return {
        "threshold": threshold,
        "same_face": pairs(findings.same_face),
        "outliers": [{"photo": vars(o.photo), "nearest": round(o.distance, 4)} for o in findings.outliers],
        "near_duplicates": pairs(findings.near_duplicates),
    }


def _photo(photo: Photo) -> str:
    return f"{photo.person} ({photo.source})"


def show_warning(gallery: Gallery | None) -> None:
    """Print the warning of a gallery on standard error, if it has one."""
    if gallery is not None and gallery.warning is not None:
        print(f"faceq: warning: {gallery.warning}", file=sys.stderr)


def show_difference(difference: GalleryDifference) -> None:
    """Print a line for each setting and each person that changes."""
    for name, (before, after) in difference.settings.items():
        if before is not None and after is not None:
            print(f"~ {name}: {before} -> {after}")
    counts = {
        "added": Counter(photo.person for photo in difference.photos_added),
        "removed": Counter(photo.person for photo in difference.photos_removed),
        "changed": Counter(person for pair in difference.photos_changed for person in {p.person for p in pair}),
    }
    people = [("+", difference.people_added), ("-", difference.people_removed), ("~", difference.people_changed)]
    for sign, names in people:
        for name in names:
            parts = [f"{photos(count[name])} {verb}" for verb, count in counts.items() if count[name]]
            print(f"{sign} {name}: {', '.join(parts)}")


def difference_as_json(difference: GalleryDifference) -> dict[str, object]:
    """Return a difference as `--json` prints it."""
    return {
        "same": not difference,
        "settings": {name: {"before": before, "after": after} for name, (before, after) in difference.settings.items()},
        "people": {
            "added": difference.people_added,
            "removed": difference.people_removed,
            "changed": difference.people_changed,
        },
        "photos": {
            "added": [vars(photo) for photo in difference.photos_added],
            "removed": [vars(photo) for photo in difference.photos_removed],
            "changed": [{"before": vars(before), "after": vars(after)} for before, after in difference.photos_changed],
        },
    }


def gallery_as_json(gallery: Gallery) -> dict[str, object]:
    """Return a gallery as `--json` prints it."""
    return {
        "model": gallery.model,
        "preprocessing": gallery.preprocessing,
        "threshold": gallery.threshold,
        "version": gallery.version,
        "people": [{"name": name, "photos": count} for name, count in gallery.people.items()],
    }


def summary(gallery: Gallery) -> str:
    """Return how many people and photos are enrolled, as a sentence without its full stop."""
    verb = "is" if len(gallery.people) == 1 else "are"
    return f"{people_with_photos(gallery)} {verb} enrolled"


def people_with_photos(gallery: Gallery) -> str:
    """Return the numbers of people and photos with their nouns."""
    people = "1 person" if len(gallery.people) == 1 else f"{len(gallery.people)} people"
    return f"{people} with {photos(len(gallery.photos))}"


def photos(count: int) -> str:
    """Return a number of photos with its noun."""
    return f"{count} photo" if count == 1 else f"{count} photos"
