"""Region generators: an image in, one or several label maps out."""
