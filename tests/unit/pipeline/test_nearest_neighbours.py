"""The search in the gallery finds what a plain computation in float64 finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.gallery import Gallery, Match
from tests.galleries import galleries


@st.composite
def galleries_and_queries(draw: st.DrawFn) -> tuple[Gallery, NDArray[np.float32]]:
    gallery = draw(galleries())
    shape = (draw(st.integers(0, 4)), gallery.dimensions)
    return gallery, draw(hnp.arrays(np.float32, shape, elements=st.floats(-2, 2, width=32)))


@settings(max_examples=50, deadline=None)
@given(galleries_and_queries())
def test_the_nearest_person_is_the_one_that_a_plain_computation_finds(
    gallery_and_queries: tuple[Gallery, NDArray[np.float32]],
) -> None:
    gallery, queries = gallery_and_queries
    matches = gallery.nearest(queries)
    assert len(matches) == len(queries)
    for query, match in zip(queries.astype(np.float64), matches, strict=True):
        if not gallery.photos:
            assert match == Match(None, None)
            continue
        distances = [float(np.sqrt(((query - row) ** 2).sum())) for row in gallery.vectors.astype(np.float64)]
        # Squares of up to 8 * 16 are ranked in float32, so photos this close to the nearest count as equally near.
        near = [row for row, distance in enumerate(distances) if distance**2 <= min(distances) ** 2 + 1e-4]
        assert match.distance is not None
        assert any(match.distance == pytest.approx(distances[row], abs=1e-9) for row in near)
        if match.distance <= gallery.threshold:
            assert match.name in {gallery.photos[row].person for row in near}
        else:
            assert match.name is None
