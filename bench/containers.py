"""Measure the containers and write bench/containers.md: `python -m bench.containers`. Building takes minutes."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import image_size, replicas
from bench.tables import load, machine, show, write
from deploy.docker_engine import engine
from deploy.function_image import ROOT
from pipeline.errors import FaceqError

HERE: Final = Path(__file__).parent


def main() -> int:
    """Run; return 1 if Docker is missing or a measurement failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.containers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs, to check that everything works")
    parser.add_argument("--output", type=Path, default=HERE / "containers.md", help="the Markdown file to write")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        docker = engine()
        about = machine(ROOT)
        about.rows += [
            ("Docker", f"{docker.version}, Compose {docker.compose}"),
            ("load average at the start", load()),
        ]
        builds, starts, runs, frames = (1, 2, 10, 16) if arguments.quick else (2, 5, 60, 80)
        sections = image_size.measure(builds, starts, console)
        with tempfile.TemporaryDirectory(prefix="faceq-bench-") as folder:
            Path(folder).chmod(0o755)  # the containers' user must be able to read the gallery in it
            sections += replicas.measure(Path(folder), runs, frames, console)
    except (FaceqError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    about.rows.append(("load average at the end, ours included", load()))
    for section in sections:
        show(section, console)
    write([about, *sections], arguments.output, "python -m bench.containers" + (" --quick" if arguments.quick else ""))
    console.print(f"written to {arguments.output}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
