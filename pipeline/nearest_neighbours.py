"""The search in the gallery: which stored vector is nearest to each query.

This is the only place that searches. Another index (a tree, a graph, a library such as FAISS) replaces
`NearestNeighbours`; `Gallery.nearest` needs nothing but its constructor and `find`.
"""

import numpy as np
from numpy.typing import NDArray


class NearestNeighbours:
    """Exact search by Euclidean distance that compares each query with every stored vector.

    Parameters
    ----------
    vectors : (n, d) float32
        The vectors to search, finite, n at least 1. They are not copied and must not change afterwards.

    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors
        self._squared_norms: NDArray[np.float32] = np.einsum("ij,ij->i", vectors, vectors)

    def find(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Find the stored vector that is nearest to each query.

        One matrix product ranks all stored vectors g for a query q, by |g|^2 - 2 q.g in float32; the missing |q|^2 is
        the same for all of them. Where two vectors are close, this difference cancels: an error of about 1e-7 in the
        square is an error of 3e-4 in the distance. Therefore the distance of the nearest vector, and of that one only,
        is computed again from q - g in float64. If the squared distances of two stored vectors differ by less than
        1e-7, either one may be returned.

        Parameters
        ----------
        queries : (m, d) float32
            Finite; m may be 0.

        Returns
        -------
        rows : (m,) integers
            The nearest stored vector of each query, 0 to n - 1.
        distances : (m,) float64
            Its Euclidean distance, at least 0.

        """
        rows = np.argmin(self._squared_norms - 2 * (queries @ self._vectors.T), axis=1)
        distances: NDArray[np.float64] = np.linalg.norm(queries.astype(np.float64) - self._vectors[rows], axis=1)
        return rows, distances
