#!/usr/bin/env python
"""The model zoo: public checkpoints by name, downloaded, checked and converted for Detectron2."""

import argparse
import logging
import sys

from tabulate import tabulate

from detcon_d2.checkpoint import ZOO, resolve_entry
from detcon_d2.checkpoint.zoo.entries import markdown_table
from detcon_d2.checkpoint.zoo.resolve import CACHE_VARIABLE, MIRROR_VARIABLE, PREFIX, cached_state, describe, parse, place, verify_cached
from detcon_d2.evaluation.features import verify_conversion

_EPILOG = f"""
examples
  what there is, and everything known of one
    python tools/zoo.py list
    python tools/zoo.py show detcon_b_r50_in1k
  download, check, convert; prints the weights and the config that fits them
    python tools/zoo.py download detcon_b_r50_in1k
  or let training do it: the name goes wherever Detectron2 takes a file, and into tools/convert_to_d2.py
    python tools/train_net.py --config-file ... MODEL.WEIGHTS {PREFIX}detcon_b_r50_in1k
  are the files in the cache still the ones that were downloaded?
    python tools/zoo.py verify

A download that was cut continues with the same command. Behind a firewall: put the published file where the error message says, or name
a mirror with --mirror or {MIRROR_VARIABLE}. It has the files as URL/NAME/FILE, so the cache of another machine, served as it is, will do.
The cache is --cache, or {CACHE_VARIABLE}, or detcon_d2 in $FVCORE_CACHE (default ~/.torch/iopath_cache).
exit status: 0 done; 1 verify found a file that is wrong or missing; 2 nothing done, the message says why
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", help=f"folder of the downloads (default: {CACHE_VARIABLE}, see below)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="table of all entries")
    listing.add_argument("--markdown", action="store_true", help="as in MODEL_ZOO.md")
    commands.add_parser("show", help="everything known of one entry").add_argument("name", metavar="NAME")
    get = commands.add_parser("download", help="download, check and convert")
    get.add_argument("names", metavar="NAME", nargs="+", help="an entry, or NAME/BRANCH for its other encoder")
    get.add_argument("--mirror", metavar="URL", help=f"take the files from URL/NAME/FILE (default: {MIRROR_VARIABLE}, else the publishers)")
    get.add_argument("--no-check", action="store_true", help="do not compare features before and after conversion")
    commands.add_parser("verify", help="compare cached files with their checksums").add_argument("names", metavar="NAME", nargs="*")
    return parser.parse_args()


def show_list(args: argparse.Namespace) -> int:
    """Print the table."""
    if args.markdown:
        print("\n".join(markdown_table(ZOO.values())))
        return 0
    rows = []
    for entry in ZOO.values():
        where = place(entry, args.cache)
        size = entry.size or where.read_record().get("size")
        mebibytes = f"{size / 2**20:.0f} MiB" if size else ""
        rows.append([entry.name, entry.method, f"R-{entry.depth}", entry.epochs, mebibytes, cached_state(where)])
    print(tabulate(rows, ["name", "method", "network", "epochs", "size", "cached"]))
    return 0


def show(args: argparse.Namespace) -> int:
    """Print one entry and where it lies."""
    print(tabulate(describe(place(parse(args.name)[0], args.cache)).items(), tablefmt="plain", disable_numparse=True))
    return 0


def download(args: argparse.Namespace) -> int:
    """Resolve every name, and say where the weights and their config are."""
    for name in args.names:
        weights = resolve_entry(name, cache=args.cache, mirror=args.mirror, verify=None if args.no_check else verify_conversion)
        print(f"weights  {weights}\nconfig   {weights.with_suffix('.yaml')}")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Compare files with checksums; without names, every file that is cached."""
    wrong = 0
    for where in (place(parse(name)[0], args.cache) for name in args.names or ZOO):
        try:
            if args.names or where.file.is_file():
                print(verify_cached(where))
        except (ValueError, FileNotFoundError) as error:
            print(f"{where.entry.name}: WRONG. {error}")
            wrong += 1
    return min(wrong, 1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    run = {"list": show_list, "show": show, "download": download, "verify": verify}
    try:
        args = parse_args()
        sys.exit(run[args.command](args))
    except (ValueError, OSError) as error:
        print(f"zoo.py: {error}", file=sys.stderr)
        sys.exit(2)
