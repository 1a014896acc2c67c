#!/usr/bin/env python
"""Make the region masks (label maps) that DetCon contrasts; see ``--help``."""

import sys

from detcon_d2.masks.commands.generate_masks import main

if __name__ == "__main__":
    sys.exit(main())
