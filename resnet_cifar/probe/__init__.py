"""The probe: gradients, weights and batch statistics of every layer while it trains."""
