"""Faces in a picture that was posted on its side or upside down, without the EXIF that would say so.

MTCNN finds only faces that are nearly upright. So the picture is turned, and what is found is placed in the posted one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.ports import Face, FaceDetector, Image


@dataclass(frozen=True, eq=False)
class TurnedPicture:
    """A picture after some quarter turns, and the faces that were found in it.

    Parameters
    ----------
    image : (H, W, 3) uint8
        The turned picture, in which the faces are upright.
    faces : sequence of Face
        In pixels of `image`, largest first.
    quarter_turns : int
        How often the posted picture was turned counter-clockwise to give `image`, 0 to 3.

    """

    image: Image
    faces: Sequence[Face]
    quarter_turns: int = 0

    def in_posted_picture(self, face: Face) -> Face:
        """Return one of the faces in pixels of the posted picture.

        The box has its sides parallel to those of that picture. The landmarks keep their order: the first one is the
        left eye of the upright face.
        """
        corners = self._posted(face.box.reshape(2, 2))
        box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
        return Face(box, face.score, self._posted(face.landmarks))

    def _posted(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Place points (n, 2), x and y from the left upper corner of the turned picture, in the posted picture."""
        height, width = self.image.shape[:2]
        x, y = points.T
        turned_back = {0: (x, y), 1: (height - y, x), 2: (width - x, height - y), 3: (y, width - x)}
        return np.stack(turned_back[self.quarter_turns], axis=1).astype(np.float32)


def find_faces(image: Image, detector: FaceDetector, try_rotations: bool) -> TurnedPicture:
    """Find the faces of a picture; where it shows none, try its three other turns if `try_rotations` is set.

    Of several turns that show faces, the one with the highest score counts: a chance find in a wrong turn scores less.
    """
    posted = TurnedPicture(image, detector.detect(image))
    if posted.faces or not try_rotations:
        return posted
    best = posted
    for quarter_turns in (1, 3, 2):
        turned = np.ascontiguousarray(np.rot90(image, quarter_turns))
        candidate = TurnedPicture(turned, detector.detect(turned), quarter_turns)
        best = max(best, candidate, key=_highest_score)
    return best


def _highest_score(picture: TurnedPicture) -> float:
    return max((face.score for face in picture.faces), default=0.0)
