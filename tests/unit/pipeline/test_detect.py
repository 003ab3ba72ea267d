"""MTCNN's cascade: its geometry, with fake networks whose results can be computed by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.detect import Cascade, Floats, Network, suppress
from pipeline.ports import Face, Image

#: Where the fake O-Net puts the landmarks, as fractions of the box: five x, then five y.
LANDMARKS = np.array([0.3, 0.7, 0.5, 0.35, 0.65, 0.4, 0.4, 0.6, 0.8, 0.8], np.float32)


def square_score(windows: Floats) -> Floats:
    """Score (..., S, S) windows: 1 if they show a white square on black that is two thirds as wide as the window."""
    edge = windows.shape[-1] // 6
    centre = windows[..., edge:-edge, edge:-edge]
    ring = windows.sum(axis=(-2, -1)) - centre.sum(axis=(-2, -1))
    pixels = windows.shape[-1] ** 2 - centre.shape[-1] ** 2
    contrast = (centre.mean(axis=(-2, -1)) - ring / pixels) / 2
    return np.sqrt(np.clip(contrast, 0, 1)).astype(np.float32)


def constant_score(windows: Floats) -> Floats:
    """Score every window as a face."""
    return np.full(windows.shape[:-2], 0.9, np.float32)


def pnet_scoring(score: Callable[[Floats], Floats]) -> Network:
    """Make a P-Net from a function that maps windows (..., 12, 12) to scores (...)."""

    def pnet(values: Floats) -> list[Floats]:
        # A level of odd height or width has one more cell, whose window lacks a pixel.
        down, across = cells_of(values)
        grey = np.pad(values[0].mean(axis=0), [(0, 1), (0, 1)], mode="edge")
        scores = score(sliding_window_view(grey, (12, 12))[::2, ::2][:down, :across])
        return [np.zeros((1, 4, down, across), np.float32), np.stack([1 - scores, scores])[np.newaxis]]

    return pnet


def pnet_proposing_first_window(*offsets: float) -> Network:
    """Make a P-Net that proposes one box of a 40 x 40 image: its first window, 1 to 20 in x and y, with `offsets`."""

    def pnet(values: Floats) -> list[Floats]:
        cells = cells_of(values)
        regression, scores = np.zeros((1, 4, *cells), np.float32), np.zeros((1, 2, *cells), np.float32)
        if values.shape[2] == 25:  # the first level
            regression[0, :, 0, 0] = offsets
            scores[0, 1, 0, 0] = 1
        return [regression, scores]

    return pnet


def rnet_scoring(score: Callable[[Floats], Floats]) -> Network:
    """Make an R-Net from a function that maps windows (n, 24, 24) to scores (n,)."""

    def rnet(values: Floats) -> list[Floats]:
        scores = score(values.mean(axis=1))
        return [np.zeros((len(values), 4), np.float32), np.stack([1 - scores, scores], axis=1)]

    return rnet


def onet_scoring(score: Callable[[Floats], Floats]) -> Network:
    """Make an O-Net from a function that maps windows (n, 48, 48) to scores (n,)."""

    def onet(values: Floats) -> list[Floats]:
        offsets, probabilities = rnet_scoring(score)(values)
        return [offsets, np.tile(LANDMARKS, (len(values), 1)), probabilities]

    return onet


def cells_of(values: Floats) -> tuple[int, int]:
    """Return how many rows and columns of cells P-Net computes for a level."""
    height, width = values.shape[2:]
    return (height - 1) // 2 - 4, (width - 1) // 2 - 4


def cascade(score: Callable[[Floats], Floats] = square_score, min_face_size: int = 20) -> Cascade:
    return Cascade(pnet_scoring(score), rnet_scoring(score), onet_scoring(score), min_face_size)


class Recording:
    """A network that records its inputs."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.calls: list[Floats] = []

    def __call__(self, values: Floats) -> list[Floats]:
        self.calls.append(values)
        return list(self._network(values))


def frame(height: int, width: int, *squares: tuple[int, int, int]) -> Image:
    """Return a black image with white squares, each given as x, y, side."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side in squares:
        image[y : y + side, x : x + side] = 255
    return image


def boxes_of(faces: list[Face]) -> NDArray[np.float32]:
    return np.array([face.box for face in faces]).reshape(-1, 4)


def averages(image: Image, height: int, width: int) -> Floats:
    """Shrink an image by area, as adaptive average pooling is defined: one matrix product per axis, in float64."""

    def weights(length: int, count: int) -> NDArray[np.float64]:
        matrix = np.zeros((count, length))
        for i in range(count):
            first, last = i * length // count, -(-(i + 1) * length // count)
            matrix[i, first:last] = 1 / (last - first)
        return matrix

    planes = image.transpose(2, 0, 1).astype(np.float64)
    means = weights(image.shape[0], height) @ planes @ weights(image.shape[1], width).T
    return ((means - 127.5) / 128).astype(np.float32)


@pytest.mark.parametrize("square", [(40, 60, 20), (100, 50, 40), (80, 35, 90), (50, 50, 60), (160, 60, 50)])
def test_a_bright_square_is_found_where_it_is(square: tuple[int, int, int]) -> None:
    x, y, side = square
    best = max(cascade().detect(frame(160, 260, square)), key=lambda face: face.score)
    assert best.score > 0.7
    x1, y1, x2, y2 = best.box
    # The box should be 1.5 times as wide as the square. Windows step by a sixth of the box, levels by 0.709.
    assert 1.2 <= (x2 - x1) / side <= 1.9
    assert np.abs([(x1 + x2) / 2 - (x + side / 2), (y1 + y2) / 2 - (y + side / 2)]).max() <= side / 4


def test_landmarks_are_fractions_of_the_box() -> None:
    (face, *_) = cascade().detect(frame(120, 200, (40, 30, 60)))
    x1, y1, x2, y2 = face.box
    expected = LANDMARKS.reshape(2, 5).T * (x2 - x1 + 1, y2 - y1 + 1) + (x1 - 1, y1 - 1)
    assert np.abs(face.landmarks - expected).max() <= 1e-3


def test_offsets_move_the_box_in_each_stage() -> None:
    """R-Net and O-Net count the sides of a box in whole pixels; between the stages boxes are made square."""

    def moving(network: Network, *by: float) -> Network:
        def moved(values: Floats) -> list[Floats]:
            offsets, *others = network(values)
            return [offsets + np.array(by, np.float32), *others]

        return moved

    moved = Cascade(
        pnet_proposing_first_window(0.1, 0, -0.1, 0),  # 2.9 1 18.1 20, square: 1 1 20 20
        moving(rnet_scoring(constant_score), 0.2, 0, 0, 0),  # 5 1 20 20, square: 3 1 22 20
        moving(onet_scoring(constant_score), 0, 0, 0, -0.5),  # 3 1 22 10
    ).detect(np.zeros((40, 40, 3), np.uint8))
    assert np.abs(boxes_of(moved) - [[3, 1, 22, 10]]).max() < 1e-4


def test_faces_come_largest_first() -> None:
    faces = cascade().detect(frame(150, 400, (30, 40, 24), (150, 30, 80), (300, 40, 48)))
    areas = [face.area for face in faces]
    assert areas == sorted(areas, reverse=True)
    centres = (boxes_of(faces)[:, 0] + boxes_of(faces)[:, 2]) / 2
    assert all(np.abs(centres - middle).min() < 12 for middle in (42, 190, 324))


def test_faces_below_the_smallest_size_are_not_found() -> None:
    image = frame(120, 200, (40, 60, 14))
    assert cascade(min_face_size=20).detect(image)
    assert not cascade(min_face_size=40).detect(image)


def test_a_smallest_face_below_the_window_of_the_first_network_is_rejected() -> None:
    with pytest.raises(ValueError, match="min_face_size is 11"):
        cascade(min_face_size=11)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (19, 19), (19, 300), (20, 20), (21, 20), (12, 12)])
def test_an_image_of_any_size_is_processed(shape: tuple[int, int]) -> None:
    """An image with a side below the smallest face has no faces, even if every window looks like one."""
    image = np.full((*shape, 3), 255, np.uint8)
    assert cascade(square_score).detect(image) == []
    assert bool(cascade(constant_score).detect(image)) == (min(shape) >= 20)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1), st.sampled_from([12, 20, 33]))
def test_no_picture_and_no_network_raises(height: int, width: int, seed: int, min_face_size: int) -> None:
    """Networks that return random values: boxes anywhere, inside out, far outside the image."""
    random = np.random.default_rng(seed)

    def random_values(*shape: int) -> Floats:
        return (random.standard_normal(shape) * random.choice([0.1, 1, 10])).astype(np.float32)

    def pnet(values: Floats) -> list[Floats]:
        cells = cells_of(values)
        return [random_values(1, 4, *cells), random.random((1, 2, *cells), np.float32)]

    def rnet(values: Floats) -> list[Floats]:
        assert values.shape[1:] == (3, 24, 24)
        return [random_values(len(values), 4), random.random((len(values), 2), np.float32)]

    def onet(values: Floats) -> list[Floats]:
        assert values.shape[1:] == (3, 48, 48)
        return [
            random_values(len(values), 4),
            random_values(len(values), 10),
            random.random((len(values), 2), np.float32),
        ]

    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for face in Cascade(pnet, rnet, onet, min_face_size).detect(image):
        assert (face.box.shape, face.landmarks.shape) == ((4,), (5, 2))
        assert (face.box[2:] > face.box[:2]).all()
        assert 0.7 < face.score <= 1


@pytest.mark.parametrize("shape", [(37, 64), (40, 40), (130, 170)])
def test_levels_are_averages_of_whole_areas(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pnet = Recording(pnet_scoring(square_score))
    Cascade(pnet, rnet_scoring(square_score), onet_scoring(square_score)).detect(image)
    assert len(pnet.calls) >= 2
    for number, values in enumerate(pnet.calls):
        height, width = (int(side * 0.6 * 0.709**number + 1) for side in shape)
        assert values.shape == (1, 3, height, width)
        assert np.abs(values[0] - averages(image, height, width)).max() < 1e-5


def test_sums_of_huge_areas_are_exact() -> None:
    """One area has more pixels than a packed sum has bits for; the brightest picture would overflow first."""
    image = np.full((2500, 2400, 3), 255, np.uint8)
    image[::2, :, 1] = 254
    rnet = Recording(rnet_scoring(constant_score))
    assert Cascade(pnet_scoring(constant_score), rnet, onet_scoring(constant_score), min_face_size=2400).detect(image)
    red, green, blue = rnet.calls[0][0]
    assert np.abs(red - 127.5 / 128).max() < 1e-5
    assert np.abs(green - 127.0 / 128).max() < 1e-4
    assert np.abs(blue - 127.5 / 128).max() < 1e-5


@pytest.mark.parametrize(
    ("offsets", "visible"),
    [
        ((0, 0, 0, 0), (0, 0, 20, 20)),
        ((0.4, 0.3, -0.4, -0.3), (5, 5, 14, 14)),  # smaller than R-Net's input: pixels repeat
        ((-0.4, -0.4, 0.4, 0.4), (0, 0, 27, 27)),  # across two edges: only the part inside counts
        ((-0.5, 0, -0.5, 0), (0, 0, 10, 20)),
        ((0.5, 0.5, 0.9, 0.9), (9, 9, 37, 37)),
    ],
)
def test_crops_are_averages_of_the_part_of_the_image_in_the_box(
    offsets: tuple[float, ...], visible: tuple[int, int, int, int]
) -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    rnet = Recording(rnet_scoring(constant_score))
    Cascade(pnet_proposing_first_window(*offsets), rnet, onet_scoring(constant_score)).detect(image)
    left, top, right, bottom = visible
    ((crop,),) = rnet.calls
    assert np.abs(crop - averages(image[top:bottom, left:right], 24, 24)).max() < 1e-5


def test_a_proposal_outside_the_image_is_dropped() -> None:
    """facenet-pytorch raises here (deepface#1264)."""

    def pnet(values: Floats) -> list[Floats]:
        regression, scores = pnet_scoring(constant_score)(values)
        regression[:] = 40
        regression[0, :, 0, 0] = 0
        return [regression, scores]

    rnet = Recording(rnet_scoring(constant_score))
    assert Cascade(pnet, rnet, onet_scoring(constant_score)).detect(np.zeros((60, 60, 3), np.uint8))
    assert sum(len(values) for values in rnet.calls) <= 4  # the first window of each level


def test_a_level_in_strips_gives_the_same_cells_as_the_whole_level() -> None:
    def three_pixels(windows: Floats) -> Floats:
        return (windows[..., 0, 0] + 2 * windows[..., 4, 7] + 3 * windows[..., 11, 11] + 6) / 12

    image = np.random.default_rng(3).integers(0, 60, (400, 400, 3), dtype=np.uint8)
    strips = Recording(pnet_scoring(three_pixels))
    Cascade(strips, rnet_scoring(three_pixels), onet_scoring(three_pixels), min_face_size=12).detect(image)
    by_width: dict[int, list[Floats]] = {}
    for values in strips.calls:
        by_width.setdefault(values.shape[3], []).append(values)
    assert [len(level) for level in by_width.values()][:3] == [3, 2, 1]
    for number, level in enumerate(by_width.values()):
        side = int(400 * 0.709**number + 1)
        _, whole = pnet_scoring(three_pixels)(averages(image, side, side)[np.newaxis])
        cells = np.concatenate([pnet_scoring(three_pixels)(values)[1] for values in level], axis=2)
        assert cells.shape == whole.shape
        assert np.abs(cells - whole).max() < 1e-5


def test_a_face_across_the_border_of_two_strips_is_found() -> None:
    # The first strip of the first level ends at row 176, see the test above.
    faces = cascade(min_face_size=12).detect(frame(400, 400, (150, 172, 8)))
    centres = (boxes_of(faces)[:, :2] + boxes_of(faces)[:, 2:]) / 2
    assert np.abs(centres - (154, 176)).max(axis=1).min() <= 2


def test_the_best_candidates_are_kept_when_there_are_too_many() -> None:
    image = frame(80, 400, *[(20 + 60 * i, 20, 30) for i in range(6)])
    best = max(face.score for face in cascade().detect(image))
    rnet = Recording(rnet_scoring(square_score))
    faces = Cascade(pnet_scoring(square_score), rnet, onet_scoring(square_score), max_candidates=3).detect(image)
    assert [len(values) for values in rnet.calls] == [3]
    assert best == max(face.score for face in faces)


def plain_suppression(boxes: Floats, scores: Floats, limit: float, relative_to_smaller: bool) -> list[int]:
    pixel = 1 if relative_to_smaller else 0
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        for j in kept:
            sides = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]) + pixel
            shared = np.prod(np.maximum(sides, 0))
            areas = [np.prod(box[2:] - box[:2] + pixel) for box in (boxes[i], boxes[j])]
            if shared / (min(areas) if relative_to_smaller else sum(areas) - shared) > limit:
                break
        else:
            kept.append(i)
    return kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.booleans(), st.sampled_from([0.5, 0.7]))
def test_suppression_is_greedy(seed: int, count: int, relative_to_smaller: bool, limit: float) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 30, (count, 2))
    boxes = np.concatenate([corners, corners + random.integers(4, 20, (count, 2))], axis=1).astype(np.float32)
    scores = random.choice(np.array([0.6, 0.7, 0.8, 0.9, 1], np.float32), count)
    expected = plain_suppression(boxes, scores, limit, relative_to_smaller)
    assert expected == suppress(boxes, scores, limit, relative_to_smaller).tolist()


def test_suppression_compares_all_boxes_however_many_there_are() -> None:
    """More boxes than are compared in one array operation."""
    random = np.random.default_rng(5)
    corners = random.integers(0, 100, (400, 2))
    boxes = np.concatenate([corners, corners + 25], axis=1).astype(np.float32)
    scores = random.random(400, np.float32)
    assert suppress(boxes, scores, 0.5).tolist() == plain_suppression(boxes, scores, 0.5, False)


def test_an_overlap_at_the_limit_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    assert suppress(boxes, np.array([0.9, 0.8], np.float32), 0.5).tolist() == [0, 1]
