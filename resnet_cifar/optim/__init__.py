"""Optimizers, learning-rate schedules, regularization."""
