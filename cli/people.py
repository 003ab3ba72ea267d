"""`faceq people`: who is recognised."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters.artifacts_directory import DirectoryStore
from adapters.enrolment import Enrolment, course_gallery, enrol, import_gallery, photo_files
from adapters.enrolment import renew as renewed
from adapters.settings import ModelSettings, Paths
from cli.progress import counting
from pipeline import gallery
from pipeline.errors import BadInput
from pipeline.gallery import PHOTO_PREFIX, Gallery, person_name
from pipeline.ports import FaceDetector, FaceEmbedder

app = typer.Typer(
    help="Enrol, list, rename and remove the people that are recognised.",
    epilog="Start with: faceq people add 'Grace Hopper' grace.jpg more-photos/",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("add", epilog="Example: faceq people add 'Grace Hopper' grace.jpg more-photos/")
def add(
    name: _Name,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", help="Photos, and folders of them.", show_default=False)
    ],
    largest: Annotated[
        bool, typer.Option("--largest", help="Of several faces in a photo, take the largest; else it is refused.")
    ] = False,
    keep_photos: Annotated[
        bool, typer.Option("--keep-photos", help="Keep a copy of each photo with the gallery, until NAME is removed.")
    ] = False,
) -> None:
    """Enrol a person, or add photos to one.

    A photo that cannot be used is named with the reason, the others go on. Exit code 1 if there was one.
    """
    from adapters import wiring  # the networks' runtime: the other commands do without

    person = person_name(name)
    files = photo_files(paths)
    settings = ModelSettings.from_environment(os.environ)
    refused = add_photos(
        person,
        files,
        DirectoryStore(settings.gallery),
        wiring.detector(settings),
        wiring.embedder(settings),
        max_pixels=settings.max_pixels,
        largest=largest,
        keep_photos=keep_photos,
    )
    if refused:
        raise typer.Exit(1)


def add_photos(
    person: str,
    files: list[Path],
    store: DirectoryStore,
    detector: FaceDetector,
    embedder: FaceEmbedder,
    *,
    max_pixels: int,
    largest: bool,
    keep_photos: bool,
) -> int:
    """Enrol `files`, telling how it goes; return how many were refused."""
    outcomes = enrol(
        person, files, store, detector, embedder, max_pixels=max_pixels, largest=largest, keep_photos=keep_photos
    )
    added, had, refused = _told(f"enrolling {person}", len(files), outcomes)
    counts = [f"{_photos(added)} enrolled"]
    counts += [f"{had} enrolled before"] if had else []
    counts += [f"{refused} refused"] if refused else []
    print(f"{person}: {', '.join(counts)} (model {embedder.model})")
    _warn(gallery.load(store))
    return refused


@app.command("renew", epilog="Example: FACEQ_MODEL=vggface2 faceq people renew")
def renew() -> None:
    """Enrol everybody again with the model that is set now, from the photos that were kept (add --keep-photos).

    If a photo cannot be used, nothing is changed, and the exit code is 1.
    """
    from adapters import wiring

    settings = ModelSettings.from_environment(os.environ)
    store = DirectoryStore(settings.gallery)
    if renew_photos(store, wiring.detector(settings), wiring.embedder(settings), max_pixels=settings.max_pixels):
        raise typer.Exit(1)


def renew_photos(store: DirectoryStore, detector: FaceDetector, embedder: FaceEmbedder, *, max_pixels: int) -> int:
    """Enrol everybody again, telling how it goes; return how many photos were refused."""
    total = len(_gallery(store).photos)
    added, _, refused = _told("enrolling again", total, renewed(store, detector, embedder, max_pixels=max_pixels))
    if refused:
        print(f"faceq: nothing is changed: {refused} of {_photos(total)} were refused", file=sys.stderr)
    else:
        print(f"{_photos(added)} enrolled again (model {embedder.model})")
    return refused


@app.command("import", epilog="Example: faceq people import people.json")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What `faceq people export` wrote, or a .pt file of the form [embeddings, names].",
            show_default=False,
        ),
    ],
) -> None:
    """Add everybody of another gallery."""
    content = _read(file)
    if content.lstrip()[:1] == b"{":
        other = gallery.import_json(content)
    else:
        from adapters import models
        from adapters.models.weights import read_gallery_file

        vectors, names = read_gallery_file(content, file.name)
        threshold = models.CATALOGUE[models.VGGFACE2].threshold
        other = course_gallery(vectors, names, file.name, threshold)
    joined = import_gallery(_store(), other)
    print(f"{len(other.people)} people with {_photos(len(other.photos))} imported; {_summary(joined)}")
    _warn(joined)


@app.command("list", epilog="Example: faceq people list --json")
def list_(as_json: _Json = False) -> None:
    """List who is enrolled."""
    current = gallery.load(_store())
    if as_json:
        people = {} if current is None else current.people
        rows = [{"name": name, "photos": count} for name, count in people.items()]
        about = {} if current is None else _about(current)
        print(json.dumps({**about, "people": rows}, ensure_ascii=False))
        return
    if current is None or not current.photos:
        print("Nobody is enrolled. Start with: faceq people add NAME PHOTO...")
        return
    table = Table("name", "photos")
    for name, count in current.people.items():
        table.add_row(escape(name), str(count))
    Console().print(table)
    print(f"{_summary(current)} (model {current.model}, preprocessing {current.preprocessing}, {current.version})")
    _warn(current)


@app.command("show", epilog="Example: faceq people show 'Grace Hopper'")
def show(name: _Name, as_json: _Json = False) -> None:
    """Show a person's photos."""
    store = _store()
    current = _gallery(store)
    person = current.known(name)
    kept = set(store.names())
    photos = [photo for photo in current.photos if photo.person == person]
    if as_json:
        rows = [
            {"source": photo.source, "sha256": photo.sha256, "kept": PHOTO_PREFIX + photo.sha256 in kept}
            for photo in photos
        ]
        print(json.dumps({"name": person, "photos": rows}, ensure_ascii=False))
        return
    table = Table("photo", "SHA-256", "kept", title=escape(person))
    for photo in photos:
        table.add_row(escape(photo.source), photo.sha256[:12], "yes" if PHOTO_PREFIX + photo.sha256 in kept else "no")
    Console().print(table)


@app.command("rename", epilog="Example: faceq people rename Grcae Grace")
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", show_default=False)],
    merge: Annotated[
        bool, typer.Option("--merge", help="If somebody is called NEW already, make the two one person.")
    ] = False,
) -> None:
    """Give a person another name."""
    store = _store()
    with store.exclusive():
        current = _gallery(store)
        renamed = current.rename(old, new, merge)
        gallery.save(store, renamed)
    person = person_name(new)
    print(f"{current.known(old)} is {person} now, with {_photos(renamed.people[person])}")


@app.command("remove", epilog="Example: faceq people remove 'Grace Hopper' --yes")
def remove(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", show_default=False)] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="Remove the whole gallery, also one that is broken or of another model.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove people with their vectors and kept photos."""
    if bool(names) == everybody:
        raise typer.BadParameter("Give the names of the people to remove, or --all.")
    store = _store()
    if everybody:
        if not yes:
            typer.confirm("Remove everybody?", abort=True)
        with store.exclusive():
            gallery.clear(store)
        print("Everybody is removed")
        return
    people = [_gallery(store).known(name) for name in names or ()]
    if not yes:
        typer.confirm(f"Remove {', '.join(people)}?", abort=True)
    with store.exclusive():
        current = _gallery(store)
        for person in dict.fromkeys(people):
            current = current.remove(person)
        gallery.save(store, current)
    print(f"{', '.join(dict.fromkeys(people))} removed; {_summary(current)}")


@app.command("export", epilog="Example: faceq people export people.json")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write everybody into one portable file, without photos; `faceq people import` reads it."""
    content = gallery.export_json(_gallery(_store()))
    try:
        with file.open("wb" if force else "xb") as target:
            target.write(content)
    except FileExistsError:
        raise BadInput("file_exists", f"{file} exists. Take another name, or replace it with --force.") from None
    except OSError as error:
        raise BadInput("not_writable", f"{file} cannot be written: {error.strerror}.") from error
    print(f"{file} written")


def _told(title: str, total: int, outcomes: Iterable[Enrolment]) -> tuple[int, int, int]:
    """Show the progress and name what is refused; return how many were added, were there before, were refused."""
    added = had = refused = 0
    with counting() as progress:
        task = progress.add_task(escape(title), total=total)
        for photo in outcomes:
            progress.advance(task)
            if photo.problem is not None:
                refused += 1
                print(f"faceq: {str(photo.file)!r} refused: {photo.problem}", file=sys.stderr)
            elif photo.added:
                added += 1
            else:
                had += 1
    return added, had, refused


def _store() -> DirectoryStore:
    return DirectoryStore(Paths.from_environment(os.environ).gallery)


def _gallery(store: DirectoryStore) -> Gallery:
    current = gallery.load(store)
    if current is None:
        raise BadInput("nobody_enrolled", "Nobody is enrolled. Start with: faceq people add NAME PHOTO...", status=404)
    return current


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput("not_readable", f"{file} cannot be read: {error.strerror}.") from error


def _about(current: Gallery) -> dict[str, str | float]:
    return {
        "model": current.model,
        "preprocessing": current.preprocessing,
        "threshold": current.threshold,
        "version": current.version,
    }


def _summary(current: Gallery) -> str:
    return f"{len(current.people)} people with {_photos(len(current.photos))} are enrolled"


def _photos(count: int) -> str:
    return f"{count} photo" if count == 1 else f"{count} photos"


def _warn(current: Gallery | None) -> None:
    if current is not None and current.caveat is not None:
        print(f"faceq: warning: {current.caveat}", file=sys.stderr)
