"""The training loop against what people use."""
