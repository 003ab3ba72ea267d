"""The facts of Lambda are cheap to import: each cold start of a function pays for it."""

import subprocess
import sys
from pathlib import Path

from template.lambda_facts import MAX_MEMORY_MB, MB_PER_PROCESSOR


def test_a_function_that_reads_its_settings_does_not_load_the_templates_reader() -> None:
    program = "import adapters.settings, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    loaded = set(done.stdout.split())
    assert "yaml" not in loaded
    assert {name for name in loaded if name.startswith("template")} == {"template", "template.lambda_facts"}


def test_the_largest_function_has_six_processors() -> None:
    """Lambda developer guide, "Configure Lambda function memory": up to 10,240 MB, up to 6 vCPUs."""
    assert -(-MAX_MEMORY_MB // MB_PER_PROCESSOR) == 6
