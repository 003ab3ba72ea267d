"""Face detection with MTCNN: a cascade of three networks that turns an image into faces.

Zhang, Zhang, Li, Qiao: Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks, IEEE
Signal Processing Letters 23(10), 2016. The numbers and the order of operations are those of facenet-pytorch 2.5.3,
because its trained networks are used and both should find the same faces. The stages, in order:

1. Pyramid. The image is shrunk by 12 / min_face_size, then repeatedly by 0.709 as long as its short side is at least
   12 pixels, P-Net's window. Each pixel of a level is the average of an area of the image.
2. P-Net scores every 12 × 12 window (stride 2) of every level. Boxes with a score >= 0.6 go through greedy
   non-maximum suppression, at 0.5 within a level and at 0.7 over all levels. Then each box is moved by its regression
   and made square.
3. R-Net scores each of these boxes, shrunk to 24 × 24. Boxes with a score > 0.7 go through suppression at 0.7,
   regression, and are made square again.
4. O-Net scores the remaining boxes, shrunk to 48 × 48. Boxes with a score > 0.7 get their regression and five
   landmarks, and go through suppression at an overlap of 0.7 of the smaller box's area.

All averages come from one integral image (Crow 1984). The sum over any rectangle takes four look-ups, so a level, or
all crops of a stage, takes a few array operations, however large the areas are. It costs 8 bytes of memory per pixel
of the image. P-Net processes a level in strips to limit the memory; the result is the same (see `_strips`).

facenet-pytorch raises in three cases in which this code does not: an image smaller than a face has no faces; a
proposal that is completely outside the image is dropped; at most `max_candidates` boxes enter a stage.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.ports import Face, Image

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.intp]

#: One trained network. It takes pixels (n, 3, h, w) float32, RGB as (value - 127.5) / 128, n at least 1, and returns
#:
#: - P-Net (n = 1, h and w at least 11): box offsets (1, 4, h', w'), probabilities (1, 2, h', w') of "no face" and
#:   "face", where h' = ceil((h - 2) / 2) - 4;
#: - R-Net (24 x 24): box offsets (n, 4), probabilities (n, 2);
#: - O-Net (48 x 48): box offsets (n, 4), landmarks (n, 10) as five x and five y, probabilities (n, 2).
Network: TypeAlias = Callable[[Floats], Sequence[Floats]]

#: Photographs have hundreds to a few thousand candidates; a large noisy picture had 45,395 and exhausted the machine
#: (deepface#1264).
MAX_CANDIDATES = 20_000

#: Size of P-Net's window, and the step from one window to the next, in pixels of a level.
_WINDOW = 12
_STRIDE = 2
#: Size of one pyramid level relative to the one before it.
_FACTOR = 0.709
#: Score that a face needs in each network. P-Net accepts the score itself, R-Net and O-Net only higher ones.
_PNET_SCORE, _RNET_SCORE, _ONET_SCORE = 0.6, 0.7, 0.7
#: Cells of a level that P-Net computes in one call. Limits the memory; shorter strips take longer.
_STRIP_CELLS = 16_384
#: Crops that R-Net and O-Net process in one call. Limits the memory.
_BATCH_CROPS = 256
#: Boxes that suppression compares in one array operation.
_SUPPRESSION_BLOCK = 256

#: The three channels share one uint64, 21 bits each. `_PACKED_PIXELS` is the most pixels whose sum fits 21 bits.
_CHANNEL_BITS = np.uint64(21)
_CHANNEL_MASK = np.uint64(2**21 - 1)
_PACKED_PIXELS = (2**21 - 1) // 255
#: Rows of the image that are summed in one step: few enough to stay in the processor's cache.
_SUM_ROWS = 32


class Cascade:
    """Finds faces with MTCNN; a `FaceDetector`.

    Parameters
    ----------
    pnet, rnet, onet : callable
        The three networks, see `Network`.
    min_face_size : int
        Side of the smallest face that is found, in pixels, at least 12. The time falls with its square.
    max_candidates : int
        Most boxes of one pyramid level, and of all levels together, that are kept: those with the best scores.

    Raises
    ------
    ValueError
        `min_face_size` is below 12.

    """

    def __init__(
        self,
        pnet: Network,
        rnet: Network,
        onet: Network,
        min_face_size: int = 20,
        max_candidates: int = MAX_CANDIDATES,
    ) -> None:
        if min_face_size < _WINDOW:
            raise ValueError(
                f"min_face_size is {min_face_size}, but the smallest face that P-Net can find is {_WINDOW}"
            )
        self._pnet = pnet
        self._rnet = rnet
        self._onet = onet
        self._min_face_size = min_face_size
        self._max_candidates = max_candidates

    def detect(self, image: Image) -> list[Face]:
        """Return all faces in `image`, largest box first; an empty list if it shows none."""
        integral = _IntegralImage(image)
        boxes = self._propose(integral)
        boxes = self._refine(integral, boxes)
        boxes, scores, landmarks = self._decide(integral, boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        order = np.argsort(-sides.prod(axis=1), kind="stable")
        return [Face(boxes[i], float(scores[i]), landmarks[i]) for i in order if sides[i].min() > 0]

    def _propose(self, integral: "_IntegralImage") -> Floats:
        """Run P-Net over the pyramid; return square boxes (n, 4)."""
        levels = [self._propose_at(integral, scale) for scale in _scales(integral, self._min_face_size)]
        if not levels:
            return np.empty((0, 4), np.float32)
        boxes, scores, offsets = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        keep = suppress(boxes, scores, 0.7)[: self._max_candidates]
        boxes, offsets = boxes[keep], offsets[keep]
        sides = boxes[:, 2:] - boxes[:, :2]
        return _square(boxes + offsets * np.tile(sides, 2))

    def _propose_at(self, integral: "_IntegralImage", scale: float) -> tuple[Floats, Floats, Floats]:
        """Run P-Net over one level; return the boxes (n, 4), scores (n,) and offsets (n, 4) that suppression keeps."""
        rows, columns = (
            _bins(integral.height, int(integral.height * scale + 1)),
            _bins(integral.width, int(integral.width * scale + 1)),
        )
        strip_offsets, strip_scores, strip_cells = [], [], []
        for first, last, first_cell in _strips(rows.shape[1], columns.shape[1]):
            offsets, probabilities = self._pnet(integral.level(rows[:, first:last], columns))
            face = probabilities[0, 1]
            y, x = np.nonzero(face >= _PNET_SCORE)
            strip_offsets.append(offsets[0][:, y, x].T)
            strip_scores.append(face[y, x])
            strip_cells.append(np.stack([x, y + first_cell], axis=1))
        offsets, scores, cells = (np.concatenate(parts) for parts in (strip_offsets, strip_scores, strip_cells))
        if len(scores) > self._max_candidates:
            best = np.argsort(-scores, kind="stable")[: self._max_candidates]
            offsets, scores, cells = offsets[best], scores[best], cells[best]
        corners = (_STRIDE * cells).astype(np.float32)
        boxes = np.concatenate(
            [np.floor((corners + 1) / np.float32(scale)), np.floor((corners + _WINDOW) / np.float32(scale))], axis=1
        )
        keep = suppress(boxes, scores, 0.5)
        return boxes[keep], scores[keep], offsets[keep]

    def _refine(self, integral: "_IntegralImage", boxes: Floats) -> Floats:
        """Run R-Net on square boxes (n, 4); return those that are faces, moved and made square, (m, 4)."""
        boxes, windows = integral.inside(boxes)
        if not len(boxes):
            return boxes
        results = [self._rnet(integral.crops(batch, 24)) for batch in _batches(windows)]
        offsets, probabilities = (np.concatenate(parts) for parts in zip(*results, strict=True))
        scores = probabilities[:, 1]
        passed = scores > _RNET_SCORE
        boxes, offsets, scores = boxes[passed], offsets[passed], scores[passed]
        keep = suppress(boxes, scores, 0.7)
        return _square(_apply_offsets(boxes[keep], offsets[keep]))

    def _decide(self, integral: "_IntegralImage", boxes: Floats) -> tuple[Floats, Floats, Floats]:
        """Run O-Net on square boxes (n, 4); return boxes (m, 4), scores (m,), landmarks (m, 5, 2)."""
        boxes, windows = integral.inside(boxes)
        if not len(boxes):
            return boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)
        results = [self._onet(integral.crops(batch, 48)) for batch in _batches(windows)]
        offsets, points, probabilities = (np.concatenate(parts) for parts in zip(*results, strict=True))
        scores = probabilities[:, 1]
        passed = scores > _ONET_SCORE
        boxes, offsets, points, scores = boxes[passed], offsets[passed], points[passed], scores[passed]
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = points.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, np.newaxis] + boxes[:, np.newaxis, :2] - 1
        boxes = _apply_offsets(boxes, offsets)
        keep = suppress(boxes, scores, 0.7, relative_to_smaller=True)
        return boxes[keep], scores[keep], landmarks[keep]


class _IntegralImage:
    """The integral image of one image, which gives averages over rectangles.

    The three channels share one uint64, 21 bits each. The sums are taken modulo 2**64. A difference of two sums is
    exact as long as the true difference of each channel fits into 21 bits, whatever the size of the image.
    """

    def __init__(self, image: Image) -> None:
        self.height, self.width = image.shape[:2]
        sums = np.zeros((self.height + 1, self.width + 1), np.uint64)
        inner = sums[1:, 1:]
        for top in range(0, self.height, _SUM_ROWS):
            rows = image[top : top + _SUM_ROWS].astype(np.uint64)
            packed = rows[..., 0] | rows[..., 1] << _CHANNEL_BITS | rows[..., 2] << (2 * _CHANNEL_BITS)
            np.cumsum(packed, axis=1, out=inner[top : top + _SUM_ROWS])
            for row in range(top, min(top + _SUM_ROWS, self.height)):
                sums[row + 1] += sums[row]
        self._sums = sums

    def level(self, rows: Ints, columns: Ints) -> Floats:
        """Return one pyramid level, (1, 3, h, w), normalised: averages over row bins (2, h) and column bins (2, w)."""

        def look_up(rows: Ints, columns: Ints) -> NDArray[np.uint64]:
            bands = self._sums[rows[1]] - self._sums[rows[0]]
            sums: NDArray[np.uint64] = np.take(bands, columns[1], axis=1) - np.take(bands, columns[0], axis=1)
            return sums[np.newaxis]

        return _normalised(_channel_sums(look_up, rows, columns), rows[:, np.newaxis], columns[:, np.newaxis])

    def inside(self, boxes: Floats) -> tuple[Floats, Ints]:
        """Return the boxes (n, 4) that overlap the image, and the overlaps x1, y1, x2, y2 in whole pixels, (n, 4).

        A window starts one pixel before the truncated corner of its box, because the trained networks count from 1.
        """
        windows = np.trunc(boxes).astype(np.intp)
        windows[:, :2] = np.maximum(windows[:, :2], 1) - 1
        windows[:, 2:] = np.minimum(windows[:, 2:], (self.width, self.height))
        visible = (windows[:, 2:] > windows[:, :2]).all(axis=1)
        return boxes[visible], windows[visible]

    def crops(self, windows: Ints, size: int) -> Floats:
        """Return windows (n, 4) as crops (n, 3, size, size), normalised. Pixels of smaller windows are repeated."""
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
    """Split the packed sums from `look_up`, (n, h, w) uint64, into channels, (n, 3, h, w) float32.

    If an area has too many pixels for a packed sum, its two halves are summed separately.
    """
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
    """Convert sums (n, 3, h, w) to (average - 127.5) / 128, in place. Bins are (2, n, h) and (2, n, w)."""
    heights, widths = (rows[1] - rows[0])[..., np.newaxis], (columns[1] - columns[0])[:, np.newaxis]
    sums *= (1 / (128 * heights * widths)).astype(np.float32)[:, np.newaxis]
    sums -= np.float32(127.5 / 128)
    return sums


def _scales(integral: _IntegralImage, min_face_size: int) -> Iterator[float]:
    """Yield the scale of each pyramid level relative to the image, largest first."""
    scale = _WINDOW / min_face_size
    side = min(integral.height, integral.width) * scale
    while side >= _WINDOW:
        yield scale
        scale *= _FACTOR
        side *= _FACTOR


def _bins(length: int | Ints, count: int) -> Ints:
    """Return the starts and ends of `count` bins over `length` pixels, (2, ..., count).

    The bins are as equal as whole pixels allow. Neighbours overlap by a pixel if necessary (area interpolation).
    """
    index = np.arange(count)
    return np.stack([index * length // count, -(-(index + 1) * length // count)])


def _strips(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield the first row, the last row + 1, and the first row of cells of each strip of a level.

    A cell covers `_WINDOW` rows. The next one starts `_STRIDE` rows further; because that is an even number, P-Net's
    pooling groups the same rows in a strip as in the whole level.
    """
    cells, cells_across = ((side - 1) // 2 - 4 for side in (height, width))
    step = max(1, _STRIP_CELLS // cells_across)
    for first in range(0, cells, step):
        last = first + step
        yield _STRIDE * first, height if last >= cells else _STRIDE * (last - 1) + _WINDOW, first


def _batches(windows: Ints) -> Iterator[Ints]:
    return (windows[start : start + _BATCH_CROPS] for start in range(0, len(windows), _BATCH_CROPS))


def _square(boxes: Floats) -> Floats:
    """Return squares (n, 4) with the same centres, as wide as the longer sides of the boxes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides * np.float32(0.5) - side * np.float32(0.5)
    return np.concatenate([corner, corner + side], axis=1)


def _apply_offsets(boxes: Floats, offsets: Floats) -> Floats:
    """Move each side of boxes (n, 4) by its offset (n, 4): a fraction of the box, whose side counts whole pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets * np.tile(sides, 2)


def suppress(boxes: Floats, scores: Floats, limit: float, relative_to_smaller: bool = False) -> Ints:
    """Greedy non-maximum suppression: from the best score down, drop each box that overlaps a kept one too much.

    Parameters
    ----------
    boxes : (n, 4) float32
    scores : (n,) float32
    limit : float
        Largest overlap that two kept boxes may have, 0 to 1.
    relative_to_smaller : bool
        If false, the overlap is a fraction of the union of the two boxes. If true, it is a fraction of the smaller box,
        and sides count whole pixels.

    Returns
    -------
    (m,) integers
        The kept rows, best score first. Of equal scores the earlier row comes first.

    """
    order = np.argsort(-scores, kind="stable")
    kept: Ints = order[:0]
    for start in range(0, len(order), _SUPPRESSION_BLOCK):
        block = order[start : start + _SUPPRESSION_BLOCK]
        block = block[~(_overlap(boxes[kept], boxes[block], relative_to_smaller) > limit).any(axis=0)]
        overlaps = _overlap(boxes[block], boxes[block], relative_to_smaller) > limit
        kept_in_block = np.ones(len(block), bool)
        for row in range(len(block)):
            if kept_in_block[row]:
                kept_in_block[row + 1 :] &= ~overlaps[row, row + 1 :]
        kept = np.concatenate([kept, block[kept_in_block]])
    return kept


def _overlap(a: Floats, b: Floats, relative_to_smaller: bool) -> Floats:
    """Return the overlaps (n, m), 0 to 1, of all boxes a (n, 4) with all boxes b (m, 4)."""
    pixel = np.float32(relative_to_smaller)
    x1, y1, x2, y2 = a.T[..., np.newaxis]
    u1, v1, u2, v2 = b.T[:, np.newaxis]
    width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1) + pixel, 0)
    height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1) + pixel, 0)
    shared: Floats = width * height
    first, second = (x2 - x1 + pixel) * (y2 - y1 + pixel), (u2 - u1 + pixel) * (v2 - v1 + pixel)
    overlap: Floats = shared / (np.minimum(first, second) if relative_to_smaller else first + second - shared)
    return overlap
