"""Scores of logits: confusion, calibration. No torch; accuracy and loss are `step.score`.

Everything takes logits float [n, classes] and labels int [n]; float16 logits are computed with in
float64.
"""

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


def expected_calibration_error(logits: Floats, labels: Integers, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017), a fraction.

    Σ_b (n_b / n) |accuracy_b − confidence_b| over equal-width bins (lo, hi] of confidence, the
    predicted class's probability.
    """
    probabilities = softmax(logits)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of_image = np.ceil(confidence * bins).astype(int)
    return float(np.abs(np.bincount(bin_of_image, correct - confidence)).sum() / len(labels))
