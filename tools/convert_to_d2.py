#!/usr/bin/env python
"""Turn a checkpoint of any known style into weights for Detectron2's Mask R-CNN (or torchvision, timm), with the config that fits them."""

import sys

from detcon_d2.checkpoint.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
