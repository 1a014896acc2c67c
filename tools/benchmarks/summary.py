#!/usr/bin/env python
"""One page, with ratios and charts, of what the other tools of this folder measured and wrote as JSON."""

import argparse
import json
import sys
from pathlib import Path

from detcon_d2.benchmark.summary import FILES, Run, summary_page
from detcon_d2.io.atomic import write_atomically

_EPILOG = f"""
Reads {", ".join(f"{name}.json" for name in FILES)}; what is missing is left out, and named.

examples
  python tools/benchmarks/summary.py output/bench                                # output/bench/summary.html
  python tools/benchmarks/summary.py run1 run2 run3 --output three_runs.html    # three runs of make bench BENCH=run1, run2, run3
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="of one run each, all on the same machine")
    parser.add_argument("--output", type=Path, metavar="HTML", help="default: summary.html in the first folder")
    return parser.parse_args()


def read_run(folder: Path) -> Run:
    """The figures of a folder.

    Raises:
        ValueError: it holds none, or a file is no JSON.
    """
    run = {}
    for path in (folder / f"{name}.json" for name in FILES):
        if path.is_file():
            try:
                run[path.stem] = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is no JSON ({error}); measure again, or remove it.") from error
    if not run:
        raise ValueError(f"{folder} holds none of {', '.join(f'{name}.json' for name in FILES)}: run make bench BENCH={folder} first.")
    return run


if __name__ == "__main__":
    args = parse_args()
    output = args.output or args.folders[0] / "summary.html"
    try:
        html = summary_page([read_run(folder) for folder in args.folders])
        write_atomically(output, lambda file: file.write(html.encode()))
    except (ValueError, OSError) as error:
        sys.exit(f"summary.py: {error}")
    print(f"{output}: open it in a browser")
