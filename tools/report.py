#!/usr/bin/env python
"""Write report.html of a quickstart's folder: curves, AP, detections and region-similarity maps in one file that needs no network."""

import sys

from detcon_d2.quickstart.report.report import main

if __name__ == "__main__":
    sys.exit(main())
