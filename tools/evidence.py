#!/usr/bin/env python
"""Does pretraining raise AP? Compares methods over several seeds on built-in images, resumable run by run."""

import sys

from detcon_d2.quickstart.evidence import main

if __name__ == "__main__":
    sys.exit(main())
