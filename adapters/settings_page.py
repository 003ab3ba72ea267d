"""Write the page with all variables, docs/settings.md: `python -m adapters.settings_page`."""

from pathlib import Path
from typing import Final

from adapters.settings import ALL, CONTAINERS, LAPTOP, TEMPLATE, VARIABLES, Variable

FILE: Final = Path(__file__).parents[1] / "docs" / "settings.md"

_INTRODUCTION: Final = """\
# Settings

These are all environment variables that faceq reads. `make settings-page` writes this page from
`adapters/settings.py`. A command's option takes precedence over the variable, and the variable over the default. An
empty variable counts as not set. A value that makes no sense is refused, with the name of the variable.

`docker compose` reads the variables from its environment or from the file `.env`; [.env.example](../.env.example) shows
how. `faceq up` and the other commands read their environment only.
"""
_HEADINGS: Final = {
    ALL: "Read by the commands, `faceq up` and the containers",
    LAPTOP: "Read by the commands and `faceq up` only",
    CONTAINERS: "Read by the containers only",
    TEMPLATE: "Set for the functions; deploy/template.yaml or Lambda does so",
}


def page() -> str:
    """Return the page, in Markdown."""
    parts = [_INTRODUCTION]
    for read_by, heading in _HEADINGS.items():
        rows = [_row(variable) for variable in VARIABLES.values() if variable.read_by == read_by]
        parts.append(
            "\n".join([f"## {heading}", "", "| variable | default | what it sets |", "|---|---|---|", *rows, ""])
        )
    return "\n".join(parts)


def _row(variable: Variable) -> str:
    return f"| `{variable.name}` | {variable.default} | {variable.description} |"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
