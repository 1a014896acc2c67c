#!/usr/bin/env python
"""Look at data sets before you train: what is in them, what is missing or wrong, and pictures of it."""

import sys

from detcon_d2.masks.commands.check_data import main

if __name__ == "__main__":
    sys.exit(main())
