"""The pages name only commands, files and modules that exist, and show the client that the tests run."""

import re
from pathlib import Path

import pytest

from tests.unit.cli.test_help import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_shows_the_client_that_the_functional_tests_run() -> None:
    shown = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    program = (ROOT / "examples" / "client.py").read_text()
    assert program.endswith(shown[1])
    assert len([line for line in shown[1].splitlines() if line]) <= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    groups = {words[0] for words in COMMANDS if len(words) == 2}
    for name, rest in re.findall(r"(?:^    |`|\$ )faceq ([a-z]+)(?: ([a-z|]+))?", text, re.MULTILINE):
        is_whole = name == "deploy" and not rest  # `deploy` is a group and a command
        for second in rest.split("|") if name in groups and not is_whole else []:
            assert (name, second) in COMMANDS, f"faceq {name} {second}"
        assert name in groups or (name,) in COMMANDS, f"faceq {name}"
    targets = re.findall(r"^([a-z.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^    |`)make ([a-z.-]+)", text, re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
