"""Trained networks: loaded, evaluated, used for prediction, exported."""
