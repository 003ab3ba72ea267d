"""The Dockerfile copies every module that its stages run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "template", "adapters", "client", "local", "deploy", "cli", "bench")
#: Where each stage's files end up, and the modules that start there.
STAGES = {
    "models": (["models"], ["cli.main", "cli.models_commands"]),
    "function": (
        ["code"],
        [
            "adapters.lambda_entry.face_detection",
            "adapters.lambda_entry.face_recognition",
            "local.runtimes.rie_entry",
            "local.runtimes.rie_client",
        ],
    ),
    "gateway": (["code", "gateway"], ["local.gateway", "local.event_source_mapping"]),
}


def sources(stage: str) -> list[str]:
    """Return what a stage copies from the project."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    body = re.split(r"^FROM ", text.split(f" AS {stage}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    copies = [line.split()[1:-1] for line in body.splitlines() if line.startswith("COPY ")]
    return [source for words in copies if not words[0].startswith("--from") for source in words]


def copied_files(stages: list[str]) -> set[Path]:
    """Return the Python files that the stages copy."""
    paths = [path for stage in stages for source in sources(stage) for path in ROOT.glob(source)]
    return {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}


def file_of(module: str) -> Path | None:
    """Return the file of a module of ours; None for other names."""
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported_modules(file: Path) -> Iterator[str]:
    """Yield the modules of ours that a file imports at its start or in its functions, and their packages."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in PACKAGES:
                parts = name.split(".")
                yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


@pytest.mark.parametrize(("stages", "started"), STAGES.values(), ids=STAGES)
def test_every_module_that_a_stage_runs_is_copied(stages: list[str], started: list[str]) -> None:
    copied = copied_files(stages)
    seen: set[Path] = set()
    waiting = [file for file in map(file_of, started) if file is not None]
    assert len(waiting) == len(started)
    while waiting:
        file = waiting.pop()
        seen.add(file)
        found = {path for path in map(file_of, imported_modules(file)) if path is not None}
        waiting += found - seen - set(waiting)
    assert {file.relative_to(ROOT).as_posix() for file in seen - copied} == set()


def test_docker_may_read_everything_that_is_copied() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in re.findall(r"^FROM .* AS ([\w-]+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for source in sources(stage):
            path = source.replace("[s]", "s")  # models/ and wheels/ need not exist
            assert any(path == each or path.startswith(f"{each}/") for each in allowed), source
