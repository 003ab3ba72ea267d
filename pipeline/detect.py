"""MTCNN's cascade over any three networks: image -> faces.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks, IEEE
Signal Processing Letters 23(10), 2016. Numbers and order of operations are those of facenet-pytorch 2.5.3, whose
trained networks are used, so that both find the same faces. The stages, in order:

1. Pyramid. The image is shrunk by 12 / min_face_size, then again and again by 0.709 while its short side holds the
   proposal network's 12 pixels. Shrinking averages whole areas.
2. P-Net looks at every 12 × 12 window (stride 2) of every level and proposes boxes: score >= 0.6, then greedy
   non-maximum suppression at 0.5 in each level and at 0.7 over all of them; each box is moved by its regression and
   made square.
3. R-Net looks at each proposal, shrunk to 24 × 24: score > 0.7, suppression at 0.7, regression, squares.
4. O-Net looks at what is left in 48 × 48: score > 0.7, regression, five landmarks, suppression at 0.7 of the smaller
   box's area.

All averaging is done with one integral image (Crow 1984): the sum over any rectangle is four look-ups, so every level
and every crop of a stage is a few array operations, however large its windows are. The price is 8 bytes of memory a
pixel, once. P-Net sees a level in strips, which gives the same cells (see `_strips`) and bounds the memory.

Differences from facenet-pytorch, all where it raises: an image smaller than a face has no faces; a proposal wholly
outside the image is dropped; at most `MAX_CANDIDATES` boxes go from one stage to the next.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.ports import Face, Image

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.intp]

#: One trained network: pixels (n, 3, h, w) float32, (value - 127.5) / 128, RGB, n at least 1, to
#:
#: - P-Net (n = 1, h and w at least 11): box offsets (1, 4, h', w'), probabilities (1, 2, h', w') of no face and face,
#:   h' = ceil((h - 2) / 2) - 4;
#: - R-Net (24 x 24): box offsets (n, 4), probabilities (n, 2);
#: - O-Net (48 x 48): box offsets (n, 4), landmarks (n, 10) as five x and five y, probabilities (n, 2).
Network: TypeAlias = Callable[[Floats], Sequence[Floats]]

#: Most boxes of one pyramid level, and of all levels together, that are looked at again; the best by score. Photographs
#: have hundreds to a few thousand; a large noisy picture had 45,395 and took the machine with it (deepface#1264).
MAX_CANDIDATES = 20_000

#: P-Net's window and the step from one window to the next, pixels of a level.
_WINDOW = 12
_STRIDE = 2
#: Size of one pyramid level relative to the one before it.
_FACTOR = 0.709
#: Least score of a face in each network; P-Net's own value passes, the others' must be above.
_PNET_SCORE, _RNET_SCORE, _ONET_SCORE = 0.6, 0.7, 0.7
#: Cells of a level that P-Net computes at once; bounds the memory. Shorter strips take longer.
_STRIP_CELLS = 16_384
#: Crops that R-Net and O-Net see at once; bounds the memory.
_CROPS = 256
#: Boxes that suppression compares at once.
_BLOCK = 256

#: How the three channels share one uint64, and the most pixels whose sum fits a channel's share.
_CHANNEL_BITS = np.uint64(21)
_CHANNEL_MASK = np.uint64(2**21 - 1)
_PACKED_PIXELS = (2**21 - 1) // 255
#: Rows of the image that are summed at once; they stay in the cache.
_ROWS = 32


class Cascade:
    """Finds faces with MTCNN; a `FaceDetector`.

    Parameters
    ----------
    pnet, rnet, onet : callable
        The three networks, see `Network`.
    min_face_size : int
        Smallest face that is looked for, pixels, at least 12. The time falls with its square.

    """

    def __init__(self, pnet: Network, rnet: Network, onet: Network, min_face_size: int = 20) -> None:
        if min_face_size < _WINDOW:
            raise ValueError(f"min_face_size is {min_face_size}, the smallest that P-Net sees is {_WINDOW}")
        self._pnet = pnet
        self._rnet = rnet
        self._onet = onet
        self._min_face_size = min_face_size

    def detect(self, image: Image) -> list[Face]:
        """Return every face in `image`, largest box first; an empty list where there is none."""
        areas = _Areas(image)
        boxes = self._propose(areas)
        boxes = self._refine(areas, boxes)
        boxes, scores, landmarks = self._decide(areas, boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        order = np.argsort(-sides.prod(axis=1), kind="stable")
        return [Face(boxes[i], float(scores[i]), landmarks[i]) for i in order if sides[i].min() > 0]

    def _propose(self, areas: "_Areas") -> Floats:
        """Run P-Net over the pyramid; return square boxes (n, 4)."""
        found = [self._propose_at(areas, scale) for scale in _scales(areas, self._min_face_size)]
        if not found:
            return np.empty((0, 4), np.float32)
        boxes, scores, offsets = (np.concatenate(parts) for parts in zip(*found, strict=True))
        keep = suppress(boxes, scores, 0.7)[:MAX_CANDIDATES]
        boxes, offsets = boxes[keep], offsets[keep]
        sides = boxes[:, 2:] - boxes[:, :2]
        return _square(boxes + offsets * np.tile(sides, 2))

    def _propose_at(self, areas: "_Areas", scale: float) -> tuple[Floats, Floats, Floats]:
        """Run P-Net over one level; return boxes (n, 4), scores (n,), offsets (n, 4), suppressed among themselves."""
        rows, columns = (
            _bins(areas.height, int(areas.height * scale + 1)),
            _bins(areas.width, int(areas.width * scale + 1)),
        )
        offsets_found, scores_found, cells_found = [], [], []
        for first, last, first_cell in _strips(rows.shape[1], columns.shape[1]):
            offsets, probabilities = self._pnet(areas.level(rows[:, first:last], columns))
            face = probabilities[0, 1]
            y, x = np.nonzero(face >= _PNET_SCORE)
            offsets_found.append(offsets[0][:, y, x].T)
            scores_found.append(face[y, x])
            cells_found.append(np.stack([x, y + first_cell], axis=1))
        offsets, scores, cells = (np.concatenate(parts) for parts in (offsets_found, scores_found, cells_found))
        if len(scores) > MAX_CANDIDATES:
            best = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
            offsets, scores, cells = offsets[best], scores[best], cells[best]
        corners = (_STRIDE * cells).astype(np.float32)
        boxes = np.concatenate(
            [np.floor((corners + 1) / np.float32(scale)), np.floor((corners + _WINDOW) / np.float32(scale))], axis=1
        )
        keep = suppress(boxes, scores, 0.5)
        return boxes[keep], scores[keep], offsets[keep]

    def _refine(self, areas: "_Areas", boxes: Floats) -> Floats:
        """Run R-Net on square boxes (n, 4); return those it calls faces, moved, square."""
        boxes, windows = areas.inside(boxes)
        if not len(boxes):
            return boxes
        results = [self._rnet(areas.crops(part, 24)) for part in _parts(windows)]
        offsets, probabilities = (np.concatenate(parts) for parts in zip(*results, strict=True))
        scores = probabilities[:, 1]
        passed = scores > _RNET_SCORE
        boxes, offsets, scores = boxes[passed], offsets[passed], scores[passed]
        keep = suppress(boxes, scores, 0.7)
        return _square(_moved(boxes[keep], offsets[keep]))

    def _decide(self, areas: "_Areas", boxes: Floats) -> tuple[Floats, Floats, Floats]:
        """Run O-Net on square boxes (n, 4); return boxes (m, 4), scores (m,), landmarks (m, 5, 2)."""
        boxes, windows = areas.inside(boxes)
        if not len(boxes):
            return boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)
        results = [self._onet(areas.crops(part, 48)) for part in _parts(windows)]
        offsets, points, probabilities = (np.concatenate(parts) for parts in zip(*results, strict=True))
        scores = probabilities[:, 1]
        passed = scores > _ONET_SCORE
        boxes, offsets, points, scores = boxes[passed], offsets[passed], points[passed], scores[passed]
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = points.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, np.newaxis] + boxes[:, np.newaxis, :2] - 1
        boxes = _moved(boxes, offsets)
        keep = suppress(boxes, scores, 0.7, of_smaller=True)
        return boxes[keep], scores[keep], landmarks[keep]


class _Areas:
    """Averages over rectangles of one image, through its integral image.

    The three channels share one uint64: 21 bits each. Sums run modulo 2**64, and differences of such sums are exact
    as long as what they stand for fits its bits, whatever the size of the image.
    """

    def __init__(self, image: Image) -> None:
        self.height, self.width = image.shape[:2]
        sums = np.zeros((self.height + 1, self.width + 1), np.uint64)
        inner = sums[1:, 1:]
        for top in range(0, self.height, _ROWS):  # a few rows at a time stay in the cache
            rows = image[top : top + _ROWS].astype(np.uint64)
            packed = rows[..., 0] | rows[..., 1] << _CHANNEL_BITS | rows[..., 2] << (2 * _CHANNEL_BITS)
            np.cumsum(packed, axis=1, out=inner[top : top + _ROWS])
            for row in range(top, min(top + _ROWS, self.height)):
                sums[row + 1] += sums[row]
        self._sums = sums

    def level(self, rows: Ints, columns: Ints) -> Floats:
        """Return the averages over every pair of a row bin (2, h) and a column bin (2, w), (1, 3, h, w), normalised."""

        def look_up(rows: Ints, columns: Ints) -> NDArray[np.uint64]:
            bands = self._sums[rows[1]] - self._sums[rows[0]]
            sums: NDArray[np.uint64] = np.take(bands, columns[1], axis=1) - np.take(bands, columns[0], axis=1)
            return sums[np.newaxis]

        return _normalised(_channel_sums(look_up, rows, columns), rows[:, np.newaxis], columns[:, np.newaxis])

    def inside(self, boxes: Floats) -> tuple[Floats, Ints]:
        """Return the boxes (n, 4) that show any of the image, and the part x1, y1, x2, y2 that does, whole pixels.

        A box starts one pixel before its truncated corner: the trained networks count pixels from 1.
        """
        windows = np.trunc(boxes).astype(np.intp)
        windows[:, :2] = np.maximum(windows[:, :2], 1) - 1
        windows[:, 2:] = np.minimum(windows[:, 2:], (self.width, self.height))
        visible = (windows[:, 2:] > windows[:, :2]).all(axis=1)
        return boxes[visible], windows[visible]

    def crops(self, windows: Ints, size: int) -> Floats:
        """Return windows (n, 4) shrunk (or, if smaller, repeated) to (n, 3, size, size), normalised."""
        x1, y1, x2, y2 = windows.T[..., np.newaxis]
        rows, columns = y1 + _bins(y2 - y1, size), x1 + _bins(x2 - x1, size)
        sums, stride = self._sums.ravel(), self.width + 1

        def look_up(rows: Ints, columns: Ints) -> NDArray[np.uint64]:
            top, bottom = (rows * stride)[..., np.newaxis]
            left, right = columns[:, :, np.newaxis]
            packed: NDArray[np.uint64] = sums[bottom + right]
            packed -= sums[bottom + left]
            packed -= sums[top + right]
            packed += sums[top + left]
            return packed

        return _normalised(_channel_sums(look_up, rows, columns), rows, columns)


def _channel_sums(look_up: Callable[[Ints, Ints], NDArray[np.uint64]], rows: Ints, columns: Ints) -> Floats:
    """Take the packed sums that `look_up` finds apart: (n, h, w) uint64 -> (n, 3, h, w) float32."""
    heights, widths = rows[1] - rows[0], columns[1] - columns[0]
    if heights.max() * widths.max() > _PACKED_PIXELS:
        if heights.max() > widths.max():
            middle = rows.sum(axis=0) // 2
            halves = [(np.stack([rows[0], middle]), columns), (np.stack([middle, rows[1]]), columns)]
        else:
            middle = columns.sum(axis=0) // 2
            halves = [(rows, np.stack([columns[0], middle])), (rows, np.stack([middle, columns[1]]))]
        first, second = (_channel_sums(look_up, *half) for half in halves)
        return first + second
    packed = look_up(rows, columns)
    sums = np.empty((len(packed), 3, *packed.shape[1:]), np.float32)
    for channel in range(3):
        sums[:, channel] = packed & _CHANNEL_MASK
        packed >>= _CHANNEL_BITS
    return sums


def _normalised(sums: Floats, rows: Ints, columns: Ints) -> Floats:
    """Turn sums (n, 3, h, w) into (average - 127.5) / 128, in place. Bins are (2, n, h) and (2, n, w)."""
    heights, widths = (rows[1] - rows[0])[..., np.newaxis], (columns[1] - columns[0])[:, np.newaxis]
    sums *= (1 / (128 * heights * widths)).astype(np.float32)[:, np.newaxis]
    sums -= np.float32(127.5 / 128)
    return sums


def _scales(areas: _Areas, min_face_size: int) -> Iterator[float]:
    """Yield the size of each pyramid level relative to the image, largest first."""
    scale = _WINDOW / min_face_size
    side = min(areas.height, areas.width) * scale
    while side >= _WINDOW:
        yield scale
        scale *= _FACTOR
        side *= _FACTOR


def _bins(length: int | Ints, count: int) -> Ints:
    """Return where `count` bins over `length` pixels start and end, (2, ..., count).

    Bins are as equal as whole pixels allow and overlap by a pixel where they must (area interpolation).
    """
    index = np.arange(count)
    return np.stack([index * length // count, -(-(index + 1) * length // count)])


def _strips(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield first row, last row + 1 and first row of cells of the strips in which P-Net sees a level.

    A cell sees `_WINDOW` rows and the next one starts `_STRIDE` further, an even number, so that a strip's pooling
    falls on the same rows as the whole level's.
    """
    cells, cells_across = ((side - 1) // 2 - 4 for side in (height, width))
    step = max(1, _STRIP_CELLS // cells_across)
    for first in range(0, cells, step):
        last = first + step
        yield _STRIDE * first, height if last >= cells else _STRIDE * (last - 1) + _WINDOW, first


def _parts(windows: Ints) -> Iterator[Ints]:
    return (windows[start : start + _CROPS] for start in range(0, len(windows), _CROPS))


def _square(boxes: Floats) -> Floats:
    """Return squares (n, 4) with the same centres, as wide as the longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - side * np.float32(0.5)
    return np.concatenate([corner, corner + side], axis=1)


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    """Move each side of boxes (n, 4) by its offset (n, 4), a fraction of the box counted in whole pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets * np.tile(sides, 2)


def suppress(boxes: Floats, scores: Floats, limit: float, of_smaller: bool = False) -> Ints:
    """Non-maximum suppression: go through the boxes by falling score, drop what overlaps a kept one too much.

    Parameters
    ----------
    boxes : (n, 4) float32
    scores : (n,) float32
    limit : float
        Largest overlap that two kept boxes may have.
    of_smaller : bool
        Measure the overlap as a part of the smaller box, sides counted in whole pixels, instead of the union.

    Returns
    -------
    (m,) integers
        The kept rows, best first; of equal scores the earlier row is better.

    """
    order = np.argsort(-scores, kind="stable")
    kept: Ints = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        block = block[~(_overlap(boxes[kept], boxes[block], of_smaller) > limit).any(axis=0)]
        clash = _overlap(boxes[block], boxes[block], of_smaller) > limit
        alive = np.ones(len(block), bool)
        for row in range(len(block)):
            if alive[row]:
                alive[row + 1 :] &= ~clash[row, row + 1 :]
        kept = np.concatenate([kept, block[alive]])
    return kept


def _overlap(a: Floats, b: Floats, of_smaller: bool) -> Floats:
    """Return how much every box of a (n, 4) overlaps every box of b (m, 4), (n, m), 0 to 1."""
    pixel = np.float32(of_smaller)
    x1, y1, x2, y2 = a.T[..., np.newaxis]
    u1, v1, u2, v2 = b.T[:, np.newaxis]
    width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1) + pixel, 0)
    height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1) + pixel, 0)
    shared: Floats = width * height
    first, second = (x2 - x1 + pixel) * (y2 - y1 + pixel), (u2 - u1 + pixel) * (v2 - v1 + pixel)
    overlap: Floats = shared / (np.minimum(first, second) if of_smaller else first + second - shared)
    return overlap
