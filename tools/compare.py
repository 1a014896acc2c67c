#!/usr/bin/env python
"""Lay finished runs side by side: curves, budgets, AP and probes, in one table and one HTML file that needs no network."""

import sys

from detcon_d2.quickstart.compare.command import main

if __name__ == "__main__":
    sys.exit(main())
