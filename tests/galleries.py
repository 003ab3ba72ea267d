"""Galleries with random vectors, as tests of galleries need them."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.gallery import Gallery, Photo


def numbered_photo(person: str, number: int) -> Photo:
    """A photo of the person whose file name and SHA-256 are the number."""
    return Photo(person, f"{number}.jpg", f"{number:064x}")


def random_gallery(*people: str, dimensions: int = 4) -> Gallery:
    """A gallery with one photo and one random unit vector per name. A repeated name has several photos.

    The photos are numbered from 0. Calls with the same arguments return equal galleries.
    """
    vectors = np.random.default_rng(7).normal(size=(len(people), dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    photos = [numbered_photo(person, number) for number, person in enumerate(people)]
    return Gallery.empty("vggface2", "facenet-160", 0.9, dimensions).add(photos, vectors)


@st.composite
def galleries(draw: st.DrawFn) -> Gallery:
    """Galleries of up to 8 photos of up to 5 people, with any short vectors, any sources and any threshold."""
    dimensions = draw(st.integers(1, 8))
    names = draw(st.lists(st.sampled_from(["Ada", "Bo", "Cy", "Åsa", "d e f"]), max_size=8))
    vectors = draw(hnp.arrays(np.float32, (len(names), dimensions), elements=st.floats(-2, 2, width=32)))
    sources = draw(st.lists(st.text(min_size=1), min_size=len(names), max_size=len(names)))
    photos = tuple(
        Photo(name, source, f"{number:064x}") for number, (name, source) in enumerate(zip(names, sources, strict=True))
    )
    return Gallery("vggface2", "facenet-160", draw(st.floats(0.1, 2)), photos, vectors)
