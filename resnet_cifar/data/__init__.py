"""Data sets, images on the device, augmentation."""
