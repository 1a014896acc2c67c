#!/usr/bin/env python
"""The model zoo: public checkpoints by name, downloaded, checked and converted for Detectron2."""

import sys

from detcon_d2.checkpoint.zoo.command import main

if __name__ == "__main__":
    sys.exit(main())
