#!/usr/bin/env python
"""Show sources of regions side by side; see ``--help``."""

import sys

from detcon_d2.masks.commands.visualize_masks import main

if __name__ == "__main__":
    sys.exit(main())
