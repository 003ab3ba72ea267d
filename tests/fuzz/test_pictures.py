"""Damaged pictures of every accepted format are answered or refused, without a crash and without growing memory."""

import os

from pipeline.images import FORMATS
from tests.fuzz.pictures import run


def test_damaged_pictures_are_answered_or_refused() -> None:
    """`FACEQ_FUZZ_EXAMPLES=5000` tries more pictures; `python -m tests.fuzz.pictures` also counts the outcomes."""
    report = run(pictures=max(250, int(os.environ.get("FACEQ_FUZZ_EXAMPLES", "0"))), seed=1)
    assert report.failures == []
    assert {file_format for _, file_format in report.outcomes} == set(FORMATS)
    assert {"200", "400 not_an_image"} <= {outcome for outcome, _ in report.outcomes}
