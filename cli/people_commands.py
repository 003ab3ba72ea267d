"""`faceq people`: who is recognised."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters.artifacts_directory import DirectoryStore
from adapters.settings import ModelSettings, Paths
from cli.progress import counting
from cli.target_options import Profile, Region, StackName, Target, Where, deployed_gallery
from client.deployed_stack import STACK
from client.enrolment import Enrolment, GalleryStore, course_gallery, enrol, import_gallery, photo_files
from client.enrolment import renew as renewed
from client.gallery_transfer import Changes, changes, copy
from pipeline import gallery_storage
from pipeline.errors import BadInput, FaceqError
from pipeline.gallery import Gallery, person_name
from pipeline.gallery_storage import PHOTO_PREFIX
from pipeline.ports import FaceDetector, FaceEmbedder

app = typer.Typer(
    help="Enrol, list, rename and remove the people that are recognised, here or on AWS.",
    epilog="Start with: faceq people add 'Grace Hopper' grace.jpg more-photos/",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


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
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Enrol a person, or add photos to one.

    A photo that cannot be used is named with the reason, the others go on. Exit code 1 if there was one.
    """
    from adapters import wiring  # the networks' runtime: the other commands do without

    person = person_name(name)
    files = photo_files(paths)
    settings = ModelSettings.from_environment(os.environ)
    store = _store(target, stack, region, profile)
    refused = add_photos(
        person,
        files,
        store,
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
    store: GalleryStore,
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
    _warn(gallery_storage.load(store))
    return refused


@app.command("renew", epilog="Example: FACEQ_MODEL=vggface2 faceq people renew")
def renew(
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Enrol everybody again with the model that is set now, from the photos that were kept (add --keep-photos).

    If a photo cannot be used, nothing is changed, and the exit code is 1.
    """
    from adapters import wiring

    settings = ModelSettings.from_environment(os.environ)
    store = _store(target, stack, region, profile)
    if renew_photos(store, wiring.detector(settings), wiring.embedder(settings), max_pixels=settings.max_pixels):
        raise typer.Exit(1)


def renew_photos(store: GalleryStore, detector: FaceDetector, embedder: FaceEmbedder, *, max_pixels: int) -> int:
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
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Add everybody of another gallery."""
    store = _store(target, stack, region, profile)
    content = _read(file)
    if content.lstrip()[:1] == b"{":
        other = gallery_storage.import_json(content)
    else:
        from adapters.models.catalogue import CATALOGUE, VGGFACE2
        from adapters.models.weights import read_gallery_file

        vectors, names = read_gallery_file(content, file.name)
        threshold = CATALOGUE[VGGFACE2].threshold
        other = course_gallery(vectors, names, file.name, threshold)
    joined = import_gallery(store, other)
    print(f"{len(other.people)} people with {_photos(len(other.photos))} imported; {_summary(joined)}")
    _warn(joined)


@app.command("list", epilog="Example: faceq people list --json")
def list_(
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    as_json: _Json = False,
) -> None:
    """List who is enrolled."""
    current = gallery_storage.load(_store(target, stack, region, profile))
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
def show(
    name: _Name,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    as_json: _Json = False,
) -> None:
    """Show a person's photos."""
    store = _store(target, stack, region, profile)
    current = _gallery(store)
    person = current.enrolled_name(name)
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
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Give a person another name."""
    store = _store(target, stack, region, profile)
    with store.exclusive():
        current = _gallery(store)
        renamed = current.rename(old, new, merge)
        gallery_storage.save(store, renamed)
    person = person_name(new)
    print(f"{current.enrolled_name(old)} is {person} now, with {_photos(renamed.people[person])}")


@app.command("remove", epilog="Example: faceq people remove 'Grace Hopper' --yes")
def remove(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", show_default=False)] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="Remove the whole gallery, also one that is broken or of another model.")
    ] = False,
    yes: _Yes = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Remove people with their vectors and kept photos."""
    if bool(names) == everybody:
        raise typer.BadParameter("Give the names of the people to remove, or --all.")
    store = _store(target, stack, region, profile)
    place = "" if target is Where.LOCAL else f" from the stack {stack} on AWS"
    if everybody:
        if not yes:
            typer.confirm(f"Remove everybody{place}?", abort=True)
        with store.exclusive():
            gallery_storage.clear(store)
        print("Everybody is removed")
        return
    people = [_gallery(store).enrolled_name(name) for name in names or ()]
    if not yes:
        typer.confirm(f"Remove {', '.join(people)}{place}?", abort=True)
    with store.exclusive():
        current = _gallery(store)
        for person in dict.fromkeys(people):
            current = current.remove(person)
        gallery_storage.save(store, current)
    print(f"{', '.join(dict.fromkeys(people))} removed; {_summary(current)}")


@app.command("export", epilog="Example: faceq people export people.json")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Write everybody into one portable file, without photos; `faceq people import` reads it."""
    content = gallery_storage.export_json(_gallery(_store(target, stack, region, profile)))
    try:
        with file.open("wb" if force else "xb") as opened:
            opened.write(content)
    except FileExistsError:
        raise BadInput("file_exists", f"{file} exists. Take another name, or replace it with --force.") from None
    except OSError as error:
        raise BadInput("not_writable", f"{file} cannot be written: {error.strerror}.") from error
    print(f"{file} written")


@app.command("push", epilog="Example: faceq people push --stack faceq")
def push(stack: StackName = STACK, region: Region = None, profile: Profile = None, yes: _Yes = False) -> None:
    """Make the gallery on AWS the same as the one here; the functions take it within a minute.

    Asks before anybody there is changed or removed. A gallery of another model than the one there needs --yes.
    """
    store = _here()
    _transfer(store, _gallery(store), deployed_gallery(stack, region, profile), f"the stack {stack} on AWS", yes)


@app.command("pull", epilog="Example: faceq people pull --stack faceq")
def pull(stack: StackName = STACK, region: Region = None, profile: Profile = None, yes: _Yes = False) -> None:
    """Make the gallery here the same as the one on AWS.

    Asks before anybody here is changed or removed. A gallery of another model than the one here needs --yes.
    """
    store = deployed_gallery(stack, region, profile)
    current = gallery_storage.load(store)
    if current is None:
        raise BadInput("nobody_enrolled", f"The stack {stack} has no gallery yet. Send yours with: faceq people push")
    _transfer(store, current, _here(), "this machine", yes)


def _transfer(source: GalleryStore, wanted: Gallery, target: GalleryStore, place: str, yes: bool) -> None:
    shown = gallery_storage.load(target)
    difference = changes(shown, wanted)
    if shown is not None and difference.other_model and not yes:
        raise BadInput(
            "other_model",
            f"The gallery of {place} was made with {shown.model} ({shown.preprocessing}), this one with {wanted.model} "
            f"({wanted.preprocessing}); functions take only the one of their own model. Replace it with --yes.",
        )
    _tell(difference)
    if difference.loses and not yes:
        typer.confirm(f"Change the gallery of {place} so?", abort=True)
    kept = copy(source, wanted, target, shown)
    same = "" if difference or kept else "unchanged: "
    copied = f"; {_photos(kept)} kept with the gallery copied" if kept else ""
    print(f"{place}: {same}{_summary(wanted)}{copied} (model {wanted.model}, {wanted.version})")
    _warn(wanted)


@app.command("diff", epilog="Example: faceq people diff --json")
def diff(stack: StackName = STACK, region: Region = None, profile: Profile = None, as_json: _Json = False) -> None:
    """Show what `faceq people push` would change on AWS.

    Exit code 0 if nothing, 1 if something, 2 if it cannot be told, as diff(1) has it.
    """
    try:
        difference = changes(
            gallery_storage.load(deployed_gallery(stack, region, profile)), gallery_storage.load(_here())
        )
    except FaceqError as error:
        print(f"faceq: {error.message}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps(_difference(difference), ensure_ascii=False))
    else:
        _tell(difference)
    if difference:
        raise typer.Exit(1)


def _tell(difference: Changes) -> None:
    """Print a line for each person and setting that changes."""
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
            parts = [f"{_photos(count[name])} {verb}" for verb, count in counts.items() if count[name]]
            print(f"{sign} {name}: {', '.join(parts)}")


def _difference(difference: Changes) -> dict[str, object]:
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


def _store(target: Where, stack: str, region: str | None, profile: str | None) -> GalleryStore:
    return _here() if target is Where.LOCAL else deployed_gallery(stack, region, profile)


def _here() -> DirectoryStore:
    return DirectoryStore(Paths.from_environment(os.environ).gallery)


def _gallery(store: GalleryStore) -> Gallery:
    current = gallery_storage.load(store)
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
    if current is not None and current.warning is not None:
        print(f"faceq: warning: {current.warning}", file=sys.stderr)
