"""Training and evaluating detectors."""
