#!/usr/bin/env python
"""What a frozen encoder is worth: kNN and a linear probe of its features on labelled images."""

import sys

from detcon_d2.cli.evaluate_encoder import main

if __name__ == "__main__":
    sys.exit(main())
