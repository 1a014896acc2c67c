#!/usr/bin/env python
"""A recipe for your own images: configs and a script that is ready to run, each choice with its reason."""

import sys

from detcon_d2.recipe.command import main

if __name__ == "__main__":
    sys.exit(main())
