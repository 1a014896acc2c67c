"""Pretrain a ResNet with DetCon, fine-tune a detector from it, or evaluate one, as the config says."""

import os
import sys

import detcon_d2.methods  # noqa: F401  (registers the meta-architectures and backbones)
from detcon_d2.engine.launch import check_processes, launch
from detcon_d2.engine.main import argument_parser
from detcon_d2.engine.main import main as run
from detcon_d2.model_zoo import find_config


def main(argv: list[str] | None = None) -> int | None:
    """Parse the command line and start the processes of the job; returns 2 for an unknown config or impossible processes, else None."""
    args = argument_parser().parse_args(argv)
    try:
        args.config_file = find_config(args.config_file)
        check_processes(args)
    except ValueError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        return 2
    print("Command line:", args)
    launch(run, args)
    return None
