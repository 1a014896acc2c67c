#!/usr/bin/env python
"""Check, merge and convert folders of label maps; see ``--help``."""

import sys

from detcon_d2.masks.commands.merge_masks import main

if __name__ == "__main__":
    sys.exit(main())
