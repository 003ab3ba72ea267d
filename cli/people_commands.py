"""`faceq people`: enrol, list, rename and remove the people that faceq recognises."""

import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters.artifacts_directory import DirectoryStore
from adapters.settings import ModelSettings, Paths
from cli.people_view import (
    EnrolmentProgress,
    difference_as_json,
    findings_as_json,
    gallery_as_json,
    people_with_photos,
    photos,
    show_difference,
    show_findings,
    show_warning,
    summary,
)
from cli.reading_view import show_skipped
from cli.target_options import Profile, Region, StackName, Target, Where, deployed_gallery
from client.deployed_stack import STACK
from client.enrolment import (
    GROUP_SECONDS,
    Enrolment,
    GalleryStore,
    enrol,
    gallery_from_file,
    import_gallery,
    photo_files,
    photos_by_folder,
)
from client.enrolment import renew as enrol_again
from client.frames import ReadingReport
from client.gallery_transfer import copy_gallery, difference
from client.stack_connections import unread_gallery
from pipeline import gallery_check, gallery_storage
from pipeline.errors import BadInput, FaceqError, SetupError
from pipeline.gallery import Gallery, person_name
from pipeline.gallery_storage import PHOTO_PREFIX
from pipeline.ports import FaceDetector, FaceEmbedder

app = typer.Typer(
    help="Enrol, list, rename and remove the people to recognise. The gallery is on this machine or on AWS.",
    epilog="Start with: faceq people add 'Grace Hopper' grace.jpg more-photos/",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@app.command("add", epilog="Example: faceq people add 'Grace Hopper' grace.jpg more-photos/")
def add(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PHOTO...", help="Photos, or folders of photos.", show_default=False),
    ] = None,
    each: Annotated[
        Path | None,
        typer.Option(
            "--each",
            metavar="FOLDER",
            help="Instead of NAME and PHOTO: enrol everyone who has a folder in FOLDER, under the folder's name.",
            show_default=False,
        ),
    ] = None,
    largest: Annotated[
        bool,
        typer.Option("--largest", help="Enrol the largest face of a photo that shows several, instead of refusing it."),
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Enrol also photos that look like somebody with another name."),
    ] = False,
    keep_photos: Annotated[
        bool, typer.Option("--keep-photos", help="Keep a copy of each photo with the gallery, until NAME is removed.")
    ] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Enrol a person, or add photos to a person.

    If a photo cannot be used, faceq says why and continues with the others. Exit code 1 if it refused a photo. Photos
    are saved in groups, and what is saved stays if you press Ctrl-C: then run the same command again.
    """
    from adapters import wiring  # loads the networks' runtime, which the other commands do not need

    if each is not None and (name is not None or paths):
        raise typer.BadParameter("Give either --each FOLDER, or NAME and PHOTO.")
    report = ReadingReport()
    if each is not None:
        requested = photos_by_folder(each, report.skipped)
    elif name is None or not paths:
        raise typer.BadParameter("Give the person's name and the photos: faceq people add NAME PHOTO...")
    else:
        person = person_name(name)
        requested = [(person, file) for file in photo_files(paths, report.skipped)]
    show_skipped(report.skipped)
    settings = ModelSettings.from_environment(os.environ)
    store = _store(target, stack, region, profile)
    with interrupted_by_termination():
        refused = add_photos(
            requested,
            store,
            wiring.load_detector(settings),
            wiring.load_embedder(settings),
            max_pixels=settings.max_pixels,
            largest=largest,
            keep_photos=keep_photos,
            anyway=anyway,
        )
    if refused:
        raise typer.Exit(1)


@contextmanager
def interrupted_by_termination() -> Iterator[None]:
    """Handle SIGTERM, which `kill` sends, as Ctrl-C until the block ends."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def add_photos(
    requested: Sequence[tuple[str, Path]],
    store: GalleryStore,
    detector: FaceDetector,
    embedder: FaceEmbedder,
    *,
    max_pixels: int,
    largest: bool = False,
    keep_photos: bool = False,
    anyway: bool = False,
    group_seconds: float = GROUP_SECONDS,
) -> int:
    """Enrol photos of people, and show the progress; return how many were refused.

    After Ctrl-C we print which photos are enrolled, and raise typer.Exit.
    """
    people = dict.fromkeys(person for person, _ in requested)
    title = next(iter(people)) if len(people) == 1 else f"{len(people)} people"
    progress = EnrolmentProgress(f"enrolling {title}", len(requested))
    enrolments = enrol(
        requested,
        store,
        detector,
        embedder,
        max_pixels=max_pixels,
        largest=largest,
        keep_photos=keep_photos,
        anyway=anyway,
        group_seconds=group_seconds,
        on_photo=progress.advance,
    )
    try:
        progress.show(enrolments)
    except KeyboardInterrupt:
        done = progress.counts.total
        missing = f"; {str(requested[done][1])!r} and what follows it is not" if done < len(requested) else ""
        print(
            f"faceq: Interrupted after {done} of {photos(len(requested))}: {progress.counts}{missing}. Run the same "
            "command again to continue: it skips what is enrolled.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    counts = progress.counts
    if len(people) > 1:
        table = Table("name", "enrolled", "enrolled before", "refused")
        for person, row in progress.counts_by_person.items():
            table.add_row(escape(person), str(row.added), str(row.enrolled_before), str(row.refused))
        Console().print(table)
    print(f"{title}: {counts} (model {embedder.model})")
    show_warning(gallery_storage.load(store))
    return counts.refused


@app.command("renew", epilog="Example: FACEQ_MODEL=vggface2 faceq people renew")
def renew(
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Enrol everyone again with the current model.

    This needs the photos, kept by `add --keep-photos`. If one cannot be used, faceq changes nothing and exits with 1.
    """
    from adapters import wiring

    settings = ModelSettings.from_environment(os.environ)
    store = _store(target, stack, region, profile)
    if renew_photos(
        store, wiring.load_detector(settings), wiring.load_embedder(settings), max_pixels=settings.max_pixels
    ):
        raise typer.Exit(1)


def renew_photos(store: GalleryStore, detector: FaceDetector, embedder: FaceEmbedder, *, max_pixels: int) -> int:
    """Enrol everyone again and show the progress; return how many photos were refused."""
    total = len(_gallery(store).photos)
    progress = EnrolmentProgress("enrolling again", total)

    def renewed() -> Iterator[Enrolment]:
        for enrolment in enrol_again(store, detector, embedder, max_pixels=max_pixels):
            progress.advance()
            yield enrolment

    progress.show(renewed())
    counts = progress.counts
    if counts.refused:
        refused = f"{counts.refused} of {photos(total)} were refused"
        print(f"faceq: The gallery is unchanged, because {refused}.", file=sys.stderr)
    else:
        print(f"{photos(counts.added)} enrolled again (model {embedder.model})")
    return counts.refused


@app.command("import", epilog="Example: faceq people import people.json")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A file from `faceq people export`, or a .pt file of the form [embeddings, names].",
            show_default=False,
        ),
    ],
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Import the file even if another model than the one in use has made it.")
    ] = False,
) -> None:
    """Add everyone in another gallery."""
    store = _store(target, stack, region, profile)
    imported = gallery_from_file(_read(file), file.name)
    joined = import_gallery(store, imported, None if anyway else _model_in_use())
    print(f"{people_with_photos(imported)} imported; {summary(joined)}")
    show_warning(joined)


@app.command("list", epilog="Example: faceq people list --json")
def list_(
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    as_json: _Json = False,
) -> None:
    """List the people who are enrolled."""
    current = gallery_storage.load(_store(target, stack, region, profile))
    if as_json:
        print(json.dumps({"people": []} if current is None else gallery_as_json(current), ensure_ascii=False))
        return
    if current is None or not current.photos:
        print("Nobody is enrolled. Start with: faceq people add NAME PHOTO...")
        return
    table = Table("name", "photos")
    for name, count in current.people.items():
        table.add_row(escape(name), str(count))
    Console().print(table)
    print(f"{summary(current)} (model {current.model}, preprocessing {current.preprocessing}, {current.version})")
    show_warning(current)


@app.command("show", epilog="Example: faceq people show 'Grace Hopper'")
def show(
    name: _Name,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    as_json: _Json = False,
) -> None:
    """Show the photos of a person."""
    store = _store(target, stack, region, profile)
    current = _gallery(store)
    person = current.enrolled_name(name)
    stored = set(store.names())
    rows = [
        {"source": photo.source, "sha256": photo.sha256, "kept": PHOTO_PREFIX + photo.sha256 in stored}
        for photo in current.photos
        if photo.person == person
    ]
    if as_json:
        print(json.dumps({"name": person, "photos": rows}, ensure_ascii=False))
        return
    table = Table("photo", "SHA-256", "kept", title=escape(person))
    for row in rows:
        table.add_row(escape(str(row["source"])), str(row["sha256"])[:12], "yes" if row["kept"] else "no")
    Console().print(table)


@app.command("rename", epilog="Example: faceq people rename Grcae Grace")
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", show_default=False)],
    merge: Annotated[
        bool, typer.Option("--merge", help="If someone is called NEW already, merge the two people.")
    ] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Rename a person."""
    store = _store(target, stack, region, profile)
    with store.exclusive():
        current = _gallery(store)
        renamed = current.rename(old, new, merge)
        gallery_storage.save(store, renamed)
    person = person_name(new)
    print(f"{current.enrolled_name(old)} is {person} now, with {photos(renamed.people[person])}")


@app.command("remove", epilog="Example: faceq people remove 'Grace Hopper' --yes")
def remove(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", show_default=False)] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Remove the whole gallery, even if it is broken or of another model.")
    ] = False,
    yes: _Yes = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Remove people, with their vectors and kept photos."""
    if bool(names) == everyone:
        raise typer.BadParameter("Give the names of the people to remove, or --all.")
    store = _store(target, stack, region, profile)
    place = "" if target is Where.LOCAL else f" from the stack {stack} on AWS"
    if everyone:
        if not yes:
            typer.confirm(f"Remove everyone{place}?", abort=True)
        with store.exclusive():
            gallery_storage.clear(store)
        print("Everyone is removed")
        return
    people = [_gallery(store).enrolled_name(name) for name in names or ()]
    if not yes:
        typer.confirm(f"Remove {', '.join(people)}{place}?", abort=True)
    with store.exclusive():
        current = _gallery(store)
        for person in dict.fromkeys(people):
            current = current.remove(person)
        gallery_storage.save(store, current)
    print(f"{', '.join(dict.fromkeys(people))} removed; {summary(current)}")


@app.command("check", epilog="Example: faceq people check --json")
def check(
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    as_json: _Json = False,
) -> None:
    """Compare all photos, and list faces under two names, photos unlike the others of their person, near duplicates.

    Exit code 1 if there is anything to look at. The time grows with the square of the number of photos.
    """
    current = _gallery(_store(target, stack, region, profile))
    findings = gallery_check.check(current)
    if as_json:
        print(json.dumps(findings_as_json(findings, current.threshold), ensure_ascii=False))
    else:
        show_findings(findings, current.threshold)
        counts = (
            f"faces under two names: {len(findings.same_face)}, photos that stand apart: {len(findings.outliers)}, "
            f"near duplicates: {len(findings.near_duplicates)}"
        )
        print(f"{people_with_photos(current)} checked: {counts if findings else 'nothing to look at'}")
    if findings:
        raise typer.Exit(1)


@app.command("threshold", epilog="Example: faceq people threshold 0.65")
def threshold(
    value: Annotated[
        float | None,
        typer.Argument(metavar="[VALUE]", help="The new distance, above 0.", show_default=False),
    ] = None,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
    as_json: _Json = False,
) -> None:
    """Show or set the largest distance at which a face gets the name of the nearest photo.

    A smaller one gives fewer strangers a name, and more known people none. The functions use it from the next frame on,
    on AWS within a minute.
    """
    from adapters.models.catalogue import CATALOGUE

    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter("The threshold is a distance: give a number above 0.")
    store = _store(target, stack, region, profile)
    current = _gallery(store)
    before = current.threshold
    if value is not None:
        with store.exclusive():
            current = replace(_gallery(store), threshold=value)
            gallery_storage.save(store, current)
    known = CATALOGUE.get(current.model)
    own = None if known is None else known.threshold
    if as_json:
        print(json.dumps({"threshold": current.threshold, "model": current.model, "model_threshold": own}))
        return
    reference = "" if own is None else f"; the model's own is {own:g}"
    change = "" if value is None else f", was {before:g}"
    print(f"threshold {current.threshold:g}{change} (model {current.model}{reference})")


@app.command("export", epilog="Example: faceq people export people.json")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    target: Target = Where.LOCAL,
    stack: StackName = STACK,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Write everyone to one portable file, without photos. `faceq people import` reads it."""
    content = gallery_storage.export_json(_gallery(_store(target, stack, region, profile)))
    try:
        with file.open("wb" if force else "xb") as opened:
            opened.write(content)
    except FileExistsError:
        raise BadInput(
            "file_exists", f"{file} exists already. Choose another name, or replace it with --force."
        ) from None
    except OSError as error:
        raise BadInput("not_writable", f"{file} cannot be written: {error.strerror}.") from error
    print(f"{file} written")


@app.command("push", epilog="Example: faceq people push --stack faceq")
def push(stack: StackName = STACK, region: Region = None, profile: Profile = None, yes: _Yes = False) -> None:
    """Copy the gallery of this machine to AWS. The functions use it within a minute.

    faceq asks before it changes or removes anyone on AWS. Replacing a gallery of another model needs --yes.
    """
    store = _local_gallery()
    _transfer(store, _gallery(store), deployed_gallery(stack, region, profile), f"the stack {stack} on AWS", yes)


@app.command("pull", epilog="Example: faceq people pull --stack faceq")
def pull(stack: StackName = STACK, region: Region = None, profile: Profile = None, yes: _Yes = False) -> None:
    """Copy the gallery on AWS to this machine.

    faceq asks before it changes or removes anyone here. Replacing a gallery of another model needs --yes.
    """
    store = deployed_gallery(stack, region, profile)
    current = gallery_storage.load(store)
    if current is None:
        raise BadInput(
            "nobody_enrolled", f"The stack {stack} has no gallery yet. Copy yours there with: faceq people push"
        )
    _transfer(store, current, _local_gallery(), "this machine", yes)


def _transfer(source: GalleryStore, gallery: Gallery, target: GalleryStore, place: str, yes: bool) -> None:
    replaced = gallery_storage.load(target)
    change = difference(replaced, gallery)
    if replaced is not None and change.is_other_model and not yes:
        raise BadInput(
            "other_model",
            f"The gallery of {place} was made with {replaced.model} ({replaced.preprocessing}), this one with "
            f"{gallery.model} ({gallery.preprocessing}). The functions accept only a gallery of their own model. "
            "Replace it with --yes.",
        )
    show_difference(change)
    if change.is_loss and not yes:
        typer.confirm(f"Make these changes to the gallery of {place}?", abort=True)
    copied = copy_gallery(source, gallery, target, replaced)
    unchanged = "" if change or copied else "unchanged: "
    kept = f"; kept photos copied: {copied}" if copied else ""
    print(f"{place}: {unchanged}{summary(gallery)}{kept} (model {gallery.model}, {gallery.version})")
    show_warning(gallery)


@app.command("diff", epilog="Example: faceq people diff --json")
def diff(stack: StackName = STACK, region: Region = None, profile: Profile = None, as_json: _Json = False) -> None:
    """Show what `faceq people push` would change on AWS.

    Exit code 0 if it would change nothing, 1 if it would change something, 2 on failure, as diff(1) has it.
    """
    try:
        change = difference(
            gallery_storage.load(deployed_gallery(stack, region, profile)), gallery_storage.load(_local_gallery())
        )
    except FaceqError as error:
        print(f"faceq: {error.message}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps(difference_as_json(change), ensure_ascii=False))
    else:
        show_difference(change)
    if change:
        raise typer.Exit(1)


def _store(target: Where, stack: str, region: str | None, profile: str | None) -> GalleryStore:
    return _local_gallery() if target is Where.LOCAL else deployed_gallery(stack, region, profile)


def _local_gallery() -> DirectoryStore:
    gallery = Paths.from_environment(os.environ).gallery
    if notice := unread_gallery(os.environ, gallery):
        print(f"faceq: {notice}", file=sys.stderr)
    return DirectoryStore(gallery)


def _model_in_use() -> str | None:
    """Return the id of the model that the functions here would load; None if there is none yet."""
    from adapters.models.installed import installed_model

    settings = ModelSettings.from_environment(os.environ)
    try:
        return installed_model(settings.model, settings.models).id
    except SetupError:
        return None


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
