#!/usr/bin/env python
"""Write report.html of a quickstart's folder: curves, AP, detections and region-similarity maps in one file that needs no network."""

import argparse
import sys
from pathlib import Path

from detcon_d2.quickstart.report.inputs import quickstart_arms
from detcon_d2.quickstart.report.report import write_report


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="output folder of make quickstart")
    parser.add_argument("--output", type=Path, help="html file to write (default: report.html in the folder)")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse_args()
    output = args.output or args.folder / "report.html"
    try:
        write_report(args.folder, quickstart_arms(args.folder), output)
        print(f"{output}: open it in a browser")
    except (ValueError, FileNotFoundError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
