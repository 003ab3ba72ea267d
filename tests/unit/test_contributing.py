"""CONTRIBUTING keeps its word: the walk names each file once, and the ten changes happen in the files that it names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import COMMANDS
from pipeline.images import FORMATS

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipeline", "template", "adapters", "client", "local", "deploy", "cli")
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def section(title: str) -> str:
    """The text below a heading."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def product_files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def files_with(pattern: str) -> set[str]:
    """The product files in which a pattern occurs."""
    return {file.relative_to(ROOT).as_posix() for file in product_files() if re.search(pattern, file.read_text())}


def row(number: int) -> str:
    """The files that a change edits, as its row of the table says."""
    found = re.search(rf"^\| {number}\. [^|]*\|([^|]*)\|", section("Ten changes and their files"), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_walk_names_each_file_once() -> None:
    files = re.findall(r"`([\w/]+\.py)`", section("One frame, file by file"))
    assert len(files) == len(set(files))
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_the_walk_names_every_file_of_the_pipeline_that_a_frame_visits() -> None:
    """Besides those, the pipeline has its ports and errors, and what enrols people and stores galleries."""
    others = {"__init__.py", "ports.py", "errors.py", "enrol.py", "gallery_check.py", "gallery_storage.py"}
    files = {file.relative_to(ROOT).as_posix() for file in (ROOT / "pipeline").rglob("*.py") if file.name not in others}
    assert {file for file in files if file not in section("One frame, file by file")} == set()


def test_there_are_ten_changes_and_each_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (\d+)\. .*\| `([^`]+)` \|$", section("Ten changes and their files"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    assert [test for _, test in rows if not (ROOT / test).is_file()] == []


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        pytest.param(1, r"\bKnownModel\(\n", id="a model"),
        pytest.param(3, r"def choose_result\b|largest: bool\n", id="two faces"),
        pytest.param(5, r'"ReceiveMessageWaitTimeSeconds", 0', id="a property of the template"),
        pytest.param(7, r'\{"error": (error\.code|error), "message": ', id="the error body"),
        pytest.param(9, r"def (batch_length|_embed_batch)\b", id="batching"),
        pytest.param(10, r"np\.(linalg\.norm|einsum)\(.*quer", id="the search"),
    ],
)
def test_a_change_is_made_in_the_files_that_its_row_names(change: int, pattern: str) -> None:
    found = files_with(pattern)
    assert found
    assert {file for file in found if file not in row(change)} == set()


def test_only_the_wiring_chooses_a_queue_technology_or_an_engine() -> None:
    """So that a new one is a new file and a line there."""
    importers: dict[str, set[str]] = {}
    for file in product_files():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("adapters"):
                for name in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
                    importers.setdefault(name, set()).add(file.relative_to(ROOT).as_posix())
    engines = {name: files for name, files in importers.items() if re.fullmatch(r"adapters\.engine_\w+", name)}
    assert engines
    assert set().union(*engines.values()) == {"adapters/wiring.py"}
    assert importers["adapters.queue_sqs.SqsSender"] == {"adapters/wiring.py"}


def test_picture_formats_are_listed_in_one_file() -> None:
    assert {*FORMATS} > {"JPEG", "PNG"}
    assert files_with(r'FORMATS = \("JPEG"') == {"pipeline/images.py"}


def test_each_command_has_the_file_that_its_line_names() -> None:
    assert [name for name in COMMANDS.values() if not (ROOT / "cli" / f"{name}.py").is_file()] == []
    files = {file.stem for file in (ROOT / "cli").glob("*_command*.py")}
    assert files == set(COMMANDS.values()) | (files & {"deploy_logs_command"})
