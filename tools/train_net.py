#!/usr/bin/env python
"""Pretrain a ResNet with DetCon, fine-tune a detector from it, or evaluate one, as the config says."""

import sys

from detcon_d2.cli.train_net import main

if __name__ == "__main__":
    sys.exit(main())
