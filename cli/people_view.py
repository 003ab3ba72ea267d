"""What `faceq people` prints: the progress of an enrolment, a gallery, the difference between two galleries."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.markup import escape

from cli.progress import progress_bar
from client.enrolment import Enrolment
from client.gallery_transfer import GalleryDifference
from pipeline.gallery import Gallery


@dataclass(frozen=True)
class EnrolmentCounts:
    """How many photos were added, had been enrolled before, and were refused."""

    added: int
    enrolled_before: int
    refused: int


def show_enrolments(title: str, total: int, enrolments: Iterable[Enrolment]) -> EnrolmentCounts:
    """Show the progress of an enrolment, and on standard error each photo that is refused; return the counts."""
    added = enrolled_before = refused = 0
    with progress_bar() as progress:
        task = progress.add_task(escape(title), total=total)
        for enrolment in enrolments:
            progress.advance(task)
            if enrolment.problem is not None:
                refused += 1
                print(f"faceq: {str(enrolment.file)!r} refused: {enrolment.problem}", file=sys.stderr)
            elif enrolment.added:
                added += 1
            else:
                enrolled_before += 1
    return EnrolmentCounts(added, enrolled_before, refused)


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
