"""What a sample looks like: geometry, photometric augmentation, randomness by position."""
