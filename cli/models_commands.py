"""`faceq models`: get the networks that detect and recognise faces, and show which are installed."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from adapters.models.catalogue import AUTO, CATALOGUE
from adapters.models.installed import InstalledModel, installed_model
from adapters.models.published import PUBLISHED, Sources
from adapters.settings import ENGINES, Paths
from pipeline.errors import SetupError

app = typer.Typer(
    help="Get the networks that detect and recognise faces, once. Serving frames fetches nothing.",
    epilog="Start with: faceq models get",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class _Row:
    """A model, as `list` shows it."""

    id: str
    installed: bool
    preprocessing: str
    download_bytes: int
    licence: str
    description: str


@app.command("get", epilog="Example: faceq models get vggface2")
def get(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"{', '.join(CATALOGUE)}, or a .pt or .pth file with weights of InceptionResnetV1. auto keeps what is "
            "installed; otherwise it gets vggface2, or dlib if that cannot be fetched.",
        ),
    ] = AUTO,
) -> None:
    """Fetch, verify and install a recogniser and the detector.

    Keep what is installed and correct; install again what is incomplete.
    """
    model = _get(name, _cache(), context.find_object(Sources) or PUBLISHED)
    print(f"{model.id} is installed ({model.dimensions} dimensions, threshold {model.threshold}, {model.licence})")
    if model.note:
        print(f"note: {model.note}")


@app.command("list", epilog="Example: faceq models list --json")
def list_(as_json: _Json = False) -> None:
    """List the recognisers, and which of them are installed."""
    cache = _cache()
    rows = [
        _Row(
            known.id,
            _is_installed(known.id, cache),
            known.preprocessing,
            known.download_bytes,
            known.licence,
            known.description,
        )
        for known in CATALOGUE.values()
    ]
    rows += [
        _Row(model.id, True, model.preprocessing, 0, model.licence, f"from {model.source}")
        for model in _from_files(cache)
    ]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        return
    table = Table("model", "installed", "crops", "download", "licence", "what it is")
    for row in rows:
        size = f"{row.download_bytes / 1e6:.0f} MB" if row.download_bytes else ""
        installed = "yes" if row.installed else "no"
        table.add_row(row.id, installed, row.preprocessing, size, row.licence, escape(row.description))
    for column in table.columns[:-1]:
        column.no_wrap = True
    Console(highlight=False).print(table)


@app.command("bundle", epilog="Example: faceq models bundle out/models --engine onnx")
def bundle(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to copy to; created if it does not exist.")],
    name: Annotated[str, typer.Option("--model", help="The installed model to copy.")] = AUTO,
    engine: Annotated[str, typer.Option(help="onnx or torch.")] = "onnx",
) -> None:
    """Copy an installed model for an image, and print its id.

    The copy has only the files that a function needs.
    """
    if engine not in ENGINES:
        raise typer.BadParameter(f"choose one of {', '.join(ENGINES)}", param_hint="--engine")
    from adapters.models.bundle import bundle

    print(bundle(name, _cache(), engine, folder).id)


@app.command("where", epilog="Example: ls $(faceq models where)")
def where(as_json: _Json = False) -> None:
    """Print the folder of the installed models."""
    folder = str(_cache())
    print(json.dumps({"folder": folder}) if as_json else folder)


def _get(name: str, cache: Path, sources: Sources) -> InstalledModel:
    """Get a model, with a progress bar while a file is downloaded; pip shows its own."""
    from adapters.models.install import install  # imports onnx, NumPy and requests, which only this command needs

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    def show(file: str, done: int, total: int) -> None:
        bar.start()
        task = bar.task_ids[0] if bar.task_ids else bar.add_task(escape(file), total=total)
        bar.update(task, completed=done)

    try:
        return install(name, cache, show, lambda: console.print("waiting for another `faceq models get`"), sources)
    finally:
        bar.stop()


def _is_installed(model: str, cache: Path) -> bool:
    try:
        installed_model(model, cache)
    except SetupError:
        return False
    return True


def _from_files(cache: Path) -> list[InstalledModel]:
    """Return the installed models that were made from the user's own weight files."""
    names = sorted(path.parent.name for path in cache.glob("file-*/manifest.json"))
    return [installed_model(name, cache) for name in names if _is_installed(name, cache)]


def _cache() -> Path:
    return Paths.from_environment(os.environ).models
