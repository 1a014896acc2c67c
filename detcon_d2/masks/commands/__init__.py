"""The commands behind tools/*_masks.py: each module has ``main(argv=None)``, which returns the exit status."""
