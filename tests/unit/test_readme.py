"""The pages name only commands, files and modules that exist, and show the client that the tests run."""

import re
from pathlib import Path

import pytest

from tests.unit.cli.test_help import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PACKAGES = ("pipeline", "template", "adapters", "client", "local", "deploy", "cli", "bench", "tests")
#: Folders whose contents are part of the project. `models/`, `wheels/` or `out/` are not: users create them.
FOLDERS = (*PACKAGES, "docs", "examples", ".ci")
#: Kinds of files that a page can name without their folder.
SUFFIXES = ("py", "yaml", "yml", "toml", "sh", "conf")
FILES = [
    path
    for path in (*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")))
    if path.is_file() and "__pycache__" not in path.parts
]


def test_the_readme_shows_the_client_that_the_functional_tests_run() -> None:
    shown = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    program = (ROOT / "examples" / "client.py").read_text()
    assert program.endswith(shown[1])
    assert len([line for line in shown[1].splitlines() if line]) <= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_links_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def missing_names(text: str) -> list[str]:
    """Return the files, folders, modules and tests that a text names and that do not exist in this project."""
    folders = "|".join(map(re.escape, FOLDERS))
    paths = re.findall(rf"(?<![\w./-])((?:{folders})/[\w./*-]*)(?:::(\w+))?", text)
    modules = re.findall(rf"(?<![\w./-])((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?![\w/]|\.\w)", text)
    files = re.findall(rf"(?<![\w./*-])(\w+\.(?:{'|'.join(SUFFIXES)}))\b", text)
    names = {file.name for file in FILES}
    return [
        *(path for path, test in paths if not path_exists(path.rstrip("."), test)),
        *(module for module in modules if module not in files and not module_exists(module)),
        *(file for file in files if file not in names),
    ]


def path_exists(path: str, test: str) -> bool:
    """Return whether a path exists; a page may leave out `.py`. The file must contain the test if one is named."""
    matches = [*ROOT.glob(path), *ROOT.glob(f"{path}.py")]
    return bool(matches) and (not test or any(f"def {test}(" in match.read_text() for match in matches))


def module_exists(name: str) -> bool:
    """Return whether a module exists, or a module that contains the last part of the name."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    for module in (path.parent.with_suffix(".py"), path.parent / "__init__.py"):
        if module.is_file() and re.search(rf"\b{path.name}\b", module.read_text()):
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    """Checked in inline code, link texts and commands, but not in the output of commands."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`|\[([^\]]+)\]\(|^    (.+)", text, re.MULTILINE)
    assert missing_names("\n".join("".join(span) for span in spans)) == []


def test_a_wrong_name_is_found() -> None:
    right = ["local/queue_server.py", "pipeline/detect", "tests/unit/test_*.py", "deploy/", "docs/emulation.md"]
    right += [
        "deploy.tested_images",
        "adapters.lambda_entry.face_detection.handler",
        "template.yaml",
        "queue_server.py",
    ]
    wrong = ["local/front.py", "pipeline/detects", "local/front/", "deploy.tested_image", "cli.front.main", "front.py"]
    assert missing_names("\n".join([*right, "tests/unit/test_readme.py::test_a_wrong_name_is_found"])) == []
    assert missing_names("\n".join([*right, *wrong])) == wrong
    assert missing_names("tests/unit/test_readme.py::test_nothing") == ["tests/unit/test_readme.py"]


def test_files_and_modules_that_comments_and_docstrings_name_exist() -> None:
    """Checked in inline code, and for every path with a suffix."""
    elsewhere = {"tests/travis_test.py"}  # in facenet-pytorch
    paths = rf"(?<![\w./{{}}-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*\.(?:{'|'.join(SUFFIXES)}|md|json)\b"
    wrong = {}
    for file in FILES:
        if file.suffix in {".py", ".yaml", ".yml", ".toml", ".sh", ""} and file != Path(__file__):
            text = file.read_text()
            spans = [*re.findall(r"`([^`\n]+)`", text), *re.findall(paths, text)]
            if missing := set(missing_names("\n".join(spans))) - elsewhere:
                wrong[file.relative_to(ROOT).as_posix()] = missing
    assert wrong == {}


def test_the_tests_that_the_makefile_selects_exist() -> None:
    selections = re.findall(r"(tests/\S+\.py) -k '([^']+)'", (ROOT / "Makefile").read_text())
    assert selections
    for file, expression in selections:
        tests = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE)
        for part in expression.split(" or "):
            assert any(part in test for test in tests), f"{file} has no test {part}"
