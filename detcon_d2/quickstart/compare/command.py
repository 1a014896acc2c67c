"""Lay finished runs side by side: curves, budgets, AP and probes, in one table and one HTML file that needs no network."""

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.compare.document import document
from detcon_d2.quickstart.compare.runs import read_runs
from detcon_d2.quickstart.compare.table import notes_of, settings_of, table_of

_EPILOG = """
examples
  two pretrainings: losses, collapse, online probe, and what each has cost
    %(prog)s output/simclr output/detcon_b
  with Mask R-CNN fine-tuned from each and the kNN and linear probe of each: give all folders, in any order. The metadata of the
  checkpoints tell which fine-tuning and which evaluation started from which pretraining
    %(prog)s output/*/pretrain output/*/finetune output/*/probe
  a folder that is no run stands for the runs in it, up to two folders deep
    %(prog)s output/evidence/easy --output easy.html
  names of your own; the folders of one run are joined by commas
    %(prog)s "DetCon, FH=output/b_fh,output/b_fh_mask_rcnn" "DetCon, grid=output/b_grid,output/b_grid_mask_rcnn"

what a DIR may be
  OUTPUT_DIR of a pretraining (config.yaml, metrics.json, checkpoints); of a fine-tuning or --eval-only (results.json); the output of
  evaluate_encoder (evaluation.json). A fine-tuning whose pretraining is not given still shows the budget of its pretraining, which its
  checkpoint has.

what is compared
  images seen, and the encoder's forward passes in units of one crop of 224 x 224, trained + without gradient (EMA copy): SimCLR 2 + 0 per
  image, BYOL and DetCon_B 2 + 2, MoCo 1 + 1, SwAV 3.1 + 0. They are counted while training. A run that is not finished is shown as such.
  Below the table are notes on all that must be equal for a fair comparison and is not. Compare within one protocol, never across.

exit status: 0 written; 2 nothing written, the message gives the reason
"""


def main(argv: list[str] | None = None) -> int:
    """Write the page and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="DIR", help="folders of runs, or NAME=DIR,DIR for one run of several folders")
    parser.add_argument("--output", type=Path, default="compare.html", metavar="FILE", help="html file to write (default: compare.html)")
    args = parser.parse_args(argv)
    try:
        runs = read_runs(args.runs)
        head, rows = table_of(runs)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(args.output, document(runs).encode("utf-8"))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(tabulate(rows, head, tablefmt="github", disable_numparse=True))
    print("", *(f"- {note}" for note in notes_of(runs)), sep="\n")
    for kind in ("pretraining", "fine-tuning"):
        settings = settings_of(runs, kind)
        print(f"\n{kind}, settings that differ: {', '.join(settings)}" if settings else "", end="")
    print(f"\n{args.output}: open it in a browser")
    return 0
