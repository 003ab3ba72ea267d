"""Tables of figures: shown on the terminal and written to a Markdown file."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

#: The packages that the figures depend on, by their names on the package index.
PACKAGES: Final = (
    "numpy", "onnxruntime", "av", "Pillow", "boto3", "awslambdaric", "moto", "aiohttp", "dlib-bin",
    "torch", "facenet-pytorch",
)  # fmt: skip


@dataclass
class Section:
    """One table, with a title and a note for its reader.

    Parameters
    ----------
    columns : sequence of str
        Titles; the first column holds text, the others hold figures.

    """

    title: str
    note: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the section as Markdown."""
        head = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)]]
        table = "\n".join(f"| {' | '.join(row)} |" for row in [*head, *self.rows])
        return "\n\n".join(part for part in (f"## {self.title}", self.note, table) if part) + "\n"

    def table(self) -> Table:
        """Return the table for the terminal."""
        table = Table(title=self.title, caption=self.note, title_justify="left", caption_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


#: The titles of the columns that `spread` fills.
SPREAD: Final = ("median", "p95", "min", "max", "runs")


def spread(values: Sequence[float], digits: int = 1) -> list[str]:
    """Return the median, the 95th percentile, the extremes and the count."""
    figures = (np.median(values), np.percentile(values, 95), min(values), max(values))
    return [*(f"{figure:.{digits}f}" for figure in figures), str(len(values))]


def machine(root: Path) -> Section:
    """Return the date, the revision, the machine and the versions of the packages."""
    section = Section("Machine and versions", "", ("what", "value"))
    section.rows += [
        ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("revision", _revision(root)),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("system", f"{platform.system()} {platform.machine()}, {_distribution()}"),
        ("Python", platform.python_version()),
        *((name, found) for name in PACKAGES if (found := _version(name))),
    ]
    return section


def load() -> str:
    """Return the load average of the last minute: how many processes ran or waited for a processor."""
    return f"{os.getloadavg()[0]:.2f}"


def write(sections: Iterable[Section], file: Path, command: str) -> None:
    """Write all sections as one Markdown page; `command` is the command that measured them."""
    page = f"# Benchmark results\n\nWritten by `{command}`; [README.md](README.md) explains each figure.\n"
    file.write_text("\n".join([page, *(section.markdown() for section in sections)]))


def show(section: Section, console: Console) -> None:
    """Print a section's table."""
    console.print(section.table())
    console.print()


def _revision(root: Path) -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git work tree"


def _processor() -> str:
    if platform.system() == "Darwin":
        name = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return name.stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _distribution() -> str:
    if platform.system() == "Darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.release()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
