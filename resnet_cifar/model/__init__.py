"""Networks and their normalisation layers."""
