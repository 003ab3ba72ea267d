"""Python scripts that tests run in processes of their own, for example to kill them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start_script(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a script that can import faceq and the tests."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
