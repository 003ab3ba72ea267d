"""Check that every dependency of `make .venv` installs without a compiler on macOS arm64 and Linux arm64.

Runs pip with `--dry-run`, which installs nothing. Prints the packages without a wheel; the exit code is then 1.

    python .ci/check_wheels.py
"""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
#: Platform tags, newest first, and the values of the environment markers on that platform.
PLATFORMS = {
    "macOS arm64": (
        ("macosx_14_0_arm64", "macosx_11_0_arm64"),
        {"sys_platform": "darwin", "platform_machine": "arm64"},
    ),
    "Linux arm64": (
        ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
        {"sys_platform": "linux", "platform_machine": "aarch64"},
    ),
}


def expanded(texts: list[str], name: str, extras: dict[str, list[str]]) -> Iterator[Requirement]:
    """Yield the requirements; a requirement on one of our own extras is replaced by what that extra requires."""
    for requirement in map(Requirement, texts):
        if requirement.name == name:
            yield from expanded([text for extra in requirement.extras for text in extras[extra]], name, extras)
        else:
            yield requirement


def main() -> int:
    """Check each platform; return 1 if a wheel is missing, else 0."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # `make .venv` installs the base dependencies and these two extras.
    texts = [*project["dependencies"], *extras["local"], *extras["dlib"]]
    requirements = list(expanded(texts, project["name"], extras))
    failed = False
    for name, (tags, environment) in PLATFORMS.items():
        wanted = [str(r).partition(";")[0] for r in requirements if r.marker is None or r.marker.evaluate(environment)]
        with tempfile.TemporaryDirectory() as target:
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--dry-run",
                "--quiet",
                "--ignore-installed",
                "--no-deps",
            ]
            command += ["--only-binary", ":all:", "--python-version", "3.11", "--target", target]
            command += ["--constraint", str(ROOT / "constraints.txt")]
            command += [word for tag in (*tags, "any") for word in ("--platform", tag)]
            pip = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
        errors = [line for line in pip.stderr.splitlines() if line.startswith("ERROR")]
        print(f"{name}: {'; '.join(errors) if pip.returncode else f'{len(wanted)} dependencies have wheels'}")
        failed |= pip.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
