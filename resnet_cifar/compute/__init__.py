"""The arithmetic: device, precision, one optimizer update, the sums of an epoch."""
