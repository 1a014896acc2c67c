#!/usr/bin/env python
"""Does pretraining raise AP? Pretrains and fine-tunes every arm over several seeds on built-in images, and writes the table.

Some three hours on two CPU cores with instructions for bf16; without them five times as long, so take --epochs 5 there. Stop it when you
like: the same command continues arm by arm, and the table holds what has finished.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from detcon_d2.quickstart.experiment import TRAINING, WORLDS, run_evidence
from detcon_d2.quickstart.runs import ROWS

_EXAMPLES = """examples
  evidence.py --rows random detcon_s grid --worlds easy                        # one comparison
  evidence.py --rows detcon_b --output output/fp32 -- SOLVER.AMP.ENABLED False    # the same arm in full precision, a folder of its own

"""
_DEFAULT_ROWS = [row.name for row in ROWS.values() if not row.optional]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES + "rows\n" + "\n".join(f"  {row.name:<16} {row.title}" for row in ROWS.values()),
    )
    parser.add_argument("--output", type=Path, default="output/evidence", help="folder to write to (default: output/evidence)")
    parser.add_argument(
        "--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="easy: material mostly agrees with the category; hard: never"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=_DEFAULT_ROWS, help=f"which arms (default: {' '.join(_DEFAULT_ROWS)})")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of pretraining and fine-tuning (default: 0 1 2)")
    parser.add_argument(
        "--epochs", type=float, default=TRAINING.pretrain_epochs, help=f"of pretraining (default: {TRAINING.pretrain_epochs:g})"
    )
    jobs = max(1, min(8, os.cpu_count() or 1))
    parser.add_argument("--jobs", type=int, default=jobs, help=f"arms side by side; they share the cores (default here: {jobs})")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config options of every pretraining, after --: KEY VALUE ...")
    args = parser.parse_args()
    if args.opts[:1] == ["--"]:
        del args.opts[0]
    return args


if __name__ == "__main__":
    args = parse_args()
    checkout = Path(__file__).resolve().parents[1]
    try:
        training = dataclasses.replace(TRAINING, pretrain_epochs=args.epochs, pretrain_options=tuple(args.opts))
        print(run_evidence(checkout, args.output, args.worlds, args.rows, args.seeds, args.jobs, training))
    except (ValueError, OSError) as error:
        sys.exit(f"evidence: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"evidence: a stage failed (exit code {error.returncode}), see above. Run again to continue: finished stages are kept.")
    except KeyboardInterrupt:
        sys.exit("evidence: interrupted. Run again to continue: finished stages are kept.")
