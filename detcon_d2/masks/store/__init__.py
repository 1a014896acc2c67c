"""Label maps on disk: one PNG an image, or packed in a few large files."""
