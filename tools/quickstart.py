#!/usr/bin/env python
"""From built-in images to the AP of a pretrained Mask R-CNN, in minutes on two CPU cores. Stages that are finished are not run again.

Environment: QUICKSTART_OUTPUT, folder (default output/quickstart); QUICKSTART_SEED, of data and training (default 0).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from detcon_d2.quickstart.quickstart import run_quickstart


def parse_args() -> argparse.Namespace:
    """Flags; their defaults come from the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=os.environ.get("QUICKSTART_OUTPUT", "output/quickstart"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=os.environ.get("QUICKSTART_SEED", "0"), help="of data set, pretraining and fine-tuning")
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"the seed is {args.seed}; expected a number >= 0")
    return args


if __name__ == "__main__":
    args = parse_args()
    try:
        run_quickstart(Path(__file__).resolve().parents[1], args.output, args.seed)
    except (ValueError, OSError) as error:
        sys.exit(f"quickstart: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"quickstart: a stage failed (exit code {error.returncode}), see above. Run again to continue: finished stages are kept.")
    except KeyboardInterrupt:
        sys.exit("quickstart: interrupted. Run again to continue: finished stages are kept.")
