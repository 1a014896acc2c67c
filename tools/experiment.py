#!/usr/bin/env python
"""Compare pretraining methods on your own data, over seeds, budgets and numbers of labels."""

import sys

from detcon_d2.experiment.command import main

if __name__ == "__main__":
    sys.exit(main())
