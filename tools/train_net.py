#!/usr/bin/env python
"""Pretrain a ResNet with DetCon, fine-tune a detector from it, or evaluate one, as the config says."""

import detcon_d2.methods  # noqa: F401  (registers the meta-architectures, in spawned processes too)
from detcon_d2.engine import argument_parser, launch, main

if __name__ == "__main__":
    args = argument_parser().parse_args()
    print("Command line:", args)
    launch(main, args)
