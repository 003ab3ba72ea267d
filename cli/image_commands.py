"""`faceq image`: build and inspect the image of both functions, which containers run here and Lambda runs on AWS."""

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
    help="Build the image of both functions, and show what is in it.",
    epilog="Start with: faceq image build",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build", epilog="Example: faceq image build --model vggface2 --platform linux/arm64")
def build(
    model: Annotated[
        str, typer.Option(help="The model: auto, vggface2, casia-webface, dlib, stand-in, or a weight file in models/.")
    ] = "auto",
    engine: Annotated[str, typer.Option(help="The engine: onnx, or torch as in the original service.")] = "onnx",
    platform: Annotated[
        str, typer.Option(help=f"The platform: {' or '.join(PLATFORMS)}.  [default: Docker's own]", show_default=False)
    ] = "",
    tag: Annotated[
        str, typer.Option(help="Tag of the function image; the gateway's tag gets the suffix -gateway.")
    ] = FUNCTION_IMAGE,
    torch_index: Annotated[
        str,
        typer.Option(metavar="URL", help="For torch: the package index with CPU wheels, unless they are in wheels/."),
    ] = "",
    as_json: _Json = False,
) -> None:
    """Build the function image and the gateway's image.

    Labels say what is in the function image. `docker compose up` uses both without building them again.
    Docker's output goes to standard error.
    """
    if engine not in ENGINES:
        raise typer.BadParameter(f"choose one of {', '.join(ENGINES)}", param_hint="--engine")
    if platform and platform not in PLATFORMS:
        raise typer.BadParameter(f"choose one of {', '.join(PLATFORMS)}", param_hint="--platform")
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
    tag: Annotated[str, typer.Argument(metavar="TAG", help="Tag of the image.")] = FUNCTION_IMAGE,
    as_json: _Json = False,
) -> None:
    """Show the size, layers and labels of an image.

    faceq warns about what Lambda would refuse.
    """
    image = function_image.inspect(tag)
    if as_json:
        print(json.dumps(asdict(image), indent=2))
    else:
        _show(tag, image)


def _show(tag: str, image: Image) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    facts = {
        "image": tag,
        "id": image.id,
        "platform": image.platform,
        "created": image.created,
        "user": image.user or "root",
        **{name: value or "(empty: built without `faceq image build`)" for name, value in image.labels.items()},
    }
    width = max(map(len, facts))
    console.print("\n".join(f"  {name:{width}}  {value}" for name, value in facts.items()), soft_wrap=True)
    table = Table("layer", "MB")
    table.columns[1].justify = "right"
    for layer in image.layers:
        table.add_row(layer.holds, f"{layer.bytes / 1e6:.1f}")
    table.add_section()
    table.add_row("total, uncompressed", f"{image.bytes / 1e6:.1f}")
    console.print(table)
    for warning in image.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
