"""Pretext tasks: labels that are made from the image itself, such as an angle or a position. One file is one task."""
