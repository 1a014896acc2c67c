"""Methods that learn from the tiles of an image: their order, their places, what is missing."""
