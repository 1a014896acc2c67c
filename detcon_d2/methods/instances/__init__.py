"""Contrast of images or classes beyond the methods of the comparison; they are registered as those of :mod:`detcon_d2.methods`."""
