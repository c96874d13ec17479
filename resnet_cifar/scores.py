"""Scores of logits: confusion, calibration. No torch; accuracy and loss are `step.score`.

Everything takes logits float [n, classes] and labels int [n]; float16 logits are computed with in
float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities float64 [n, classes]."""
    return np.asarray(special.softmax(logits.astype(np.float64), axis=1))


def confusion_matrix(logits: Floats, labels: Integers) -> NDArray[np.int64]:
    """Counts int64 [classes, classes]: row the true class, column the predicted one."""
    classes = logits.shape[1]
    flat = labels.astype(np.int64) * classes + logits.argmax(axis=1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


class Reliability(NamedTuple):
    """Images by confidence, the predicted class's probability: equal-width bins (lo, hi]."""

    images: NDArray[np.int64]  # [bins]
    confidence: NDArray[np.float64]  # mean of the bin's images; NaN in an empty bin
    accuracy: NDArray[np.float64]  # fraction


def reliability(logits: Floats, labels: Integers, bins: int = 15) -> Reliability:
    """Accuracy by confidence, as a reliability diagram draws it (Guo et al. 2017)."""
    probabilities = softmax(logits)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            count,
            np.bincount(which, weights=confidence, minlength=bins) / count,
            np.bincount(which, weights=correct, minlength=bins) / count,
        )


def expected_calibration_error(logits: Floats, labels: Integers, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017), a fraction.

    Σ_b (n_b / n) |accuracy_b − confidence_b| over the bins of `reliability`.
    """
    table = reliability(logits, labels, bins)
    full = table.images > 0
    gap = np.abs(table.accuracy - table.confidence)[full]
    return float((table.images[full] * gap).sum() / len(labels))
