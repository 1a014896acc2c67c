#!/usr/bin/env python
"""Score sources of regions against ground truth; see ``--help``."""

import sys

from detcon_d2.masks.commands.score_masks import main

if __name__ == "__main__":
    sys.exit(main())
