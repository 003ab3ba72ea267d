"""`faceq image`: the image of both functions, as containers run it here and Lambda there."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapters.settings import ENGINES
from deploy import function_image
from deploy.docker_engine import FUNCTION_IMAGE
from deploy.function_image import PLATFORMS, Image, Recipe

app = typer.Typer(
    help="Build the image of both functions, and see what is in it.",
    epilog="Start with: faceq image build",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build", epilog="Example: faceq image build --model vggface2 --platform linux/arm64")
def build(
    model: Annotated[
        str, typer.Option(help="auto, vggface2, casia-webface, dlib, stand-in, or a weight file in models/.")
    ] = "auto",
    engine: Annotated[str, typer.Option(help="onnx, or torch as in the original service.")] = "onnx",
    platform: Annotated[
        str, typer.Option(help=f"{' or '.join(PLATFORMS)}.  [default: the engine's own]", show_default=False)
    ] = "",
    tag: Annotated[str, typer.Option(help="Of the function image; the gateway's ends in -gateway.")] = FUNCTION_IMAGE,
    torch_index: Annotated[
        str,
        typer.Option(metavar="URL", help="For torch: the index of CPU wheels, unless they are in wheels/."),
    ] = "",
    as_json: _Json = False,
) -> None:
    """Build the function image, with labels that say what is in it, and the gateway's.

    `docker compose up` uses them without building. Docker's own words go to standard error.
    """
    if engine not in ENGINES:
        raise typer.BadParameter(f"choose one of {', '.join(ENGINES)}", param_hint="--engine")
    if platform and platform not in PLATFORMS:
        raise typer.BadParameter(f"Lambda has {' and '.join(PLATFORMS)}, one an image", param_hint="--platform")
    recipe = Recipe(tag, model, engine, torch_index, platform)
    function_image.build(recipe, lambda line: print(line, file=sys.stderr, flush=True))
    built = function_image.inspect(tag)
    if as_json:
        print(json.dumps({**asdict(built), "gateway": recipe.gateway_tag}, indent=2))
    else:
        _show(tag, built)
        print(f"The gateway is {recipe.gateway_tag}.")


@app.command("inspect", epilog="Example: faceq image inspect faceq-function --json")
def inspect(
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The image's.")] = FUNCTION_IMAGE, as_json: _Json = False
) -> None:
    """Show an image's size, layers and labels, and warn of what Lambda would refuse."""
    found = function_image.inspect(tag)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _show(tag, found)


def _show(tag: str, found: Image) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    about = {
        "image": tag,
        "id": found.id,
        "platform": found.platform,
        "created": found.created,
        "user": found.user or "root",
        **{name: value or "(empty: built without `faceq image build`)" for name, value in found.labels.items()},
    }
    width = max(map(len, about))
    console.print("\n".join(f"  {name:{width}}  {value}" for name, value in about.items()), soft_wrap=True)
    table = Table("layer", "MB")
    table.columns[1].justify = "right"
    for layer in found.layers:
        table.add_row(layer.holds, f"{layer.bytes / 1e6:.1f}")
    table.add_section()
    table.add_row("all, without compression", f"{found.bytes / 1e6:.1f}")
    console.print(table)
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
