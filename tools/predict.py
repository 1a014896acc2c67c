#!/usr/bin/env python
"""Draw a detector's boxes and masks on images, and write them as COCO results."""

import sys

from detcon_d2.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
