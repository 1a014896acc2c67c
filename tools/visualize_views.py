#!/usr/bin/env python
"""Draw images, regions, and both views with regions in the same colours: look at this before a long run."""

import sys

from detcon_d2.cli.visualize_views import main

if __name__ == "__main__":
    sys.exit(main())
