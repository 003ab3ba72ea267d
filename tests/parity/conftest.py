"""The photographs and the folder of models that the parity tests share."""

import os
from pathlib import Path

import pytest

from adapters.settings import Paths

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT.parent / "shared" / "fixtures"


@pytest.fixture(scope="session")
def models_folder() -> Path:
    return Paths.from_environment(os.environ).models


@pytest.fixture(scope="session")
def fixtures() -> Path:
    if not FIXTURES.is_dir():
        pytest.skip("needs the photographs in ../shared/fixtures")
    return FIXTURES
