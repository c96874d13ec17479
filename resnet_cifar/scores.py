"""What logits are worth: accuracy, loss, per class, confusion, calibration. numpy only.

Everything takes logits float [n, classes] and labels int [n]; float16 logits are computed with in
float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Log-probabilities float64 [n, classes]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


def accuracy(logits: Floats, labels: Integers) -> float:
    """Fraction of images whose largest logit is their label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def cross_entropy(logits: Floats, labels: Integers) -> float:
    """Mean negative log-likelihood, nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def confusion_matrix(logits: Floats, labels: Integers) -> NDArray[np.int64]:
    """Counts int64 [classes, classes]: row the true class, column the predicted one."""
    classes = logits.shape[1]
    flat = labels.astype(np.int64) * classes + logits.argmax(axis=1)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def expected_calibration_error(logits: Floats, labels: Integers, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017), a fraction.

    Σ_b (n_b / n) |accuracy_b − confidence_b| over equal-width bins (lo, hi] of the confidence,
    the probability of the predicted class.
    """
    probabilities = np.exp(log_softmax(logits))
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
