"""The probe: what a layer's gradients, weights and statistics do while it trains."""
