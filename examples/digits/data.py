"""Data of the digits example: scikit-learn's handwritten digits, enlarged to 32x32.

Needs only numpy and scikit-learn; nothing is downloaded. The 1797 digits are divided once, with a fixed seed:
60 of each class train the network (see ``train.py``), and the remaining 1197 are what :func:`digits` yields.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

IMAGE_SIZE = 32
TRAIN_PER_CLASS = 60
SPLIT_SEED = 0

_RAW_SIZE = 8
_RAW_MAX = 16.0
_MEAN = 0.5
_STD = 0.5


def _interpolation(source: int, target: int) -> npt.NDArray[np.float64]:
    """Return the matrix of linear interpolation from ``source`` to ``target`` points, edges held."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0.0, source - 1.0)
    low = np.minimum(position.astype(np.int64), source - 2)
    weight = position - low
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    matrix[rows, low] = 1.0 - weight
    matrix[rows, low + 1] = weight
    return matrix


def preprocess(raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Turn raw digits ``[N, 8, 8]`` with values 0..16 into network inputs ``[N, 1, 32, 32]`` in -1..1."""
    matrix = _interpolation(_RAW_SIZE, IMAGE_SIZE)
    enlarged = matrix @ (raw / _RAW_MAX) @ matrix.T
    return ((enlarged - _MEAN) / _STD).astype(np.float32)[:, np.newaxis]


def split(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the shuffled indices of the training items and of the held-out items."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[order[labels[order] == label][:TRAIN_PER_CLASS]] = True
    return order[chosen[order]], order[~chosen[order]]


def load() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return every digit as a network input ``[1797, 1, 32, 32]``, and its label."""
    bunch = load_digits()
    return preprocess(bunch.images), bunch.target.astype(np.int64)


def digits() -> Iterator[tuple[npt.NDArray[np.float32], int]]:
    """Yield ``(image, label)`` for each held-out digit: float32 ``[1, 32, 32]`` and an int 0..9."""
    images, labels = load()
    _, held_out = split(labels)
    for index in held_out:
        yield images[index], int(labels[index])
