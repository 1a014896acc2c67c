"""The model zoo: public checkpoints by name, downloaded, checked and converted for Detectron2."""

import argparse
import logging
import sys
from dataclasses import fields

from tabulate import tabulate

from detcon_d2.checkpoint.zoo.catalog import PREFIX, ZOO, find_entry, markdown_table
from detcon_d2.checkpoint.zoo.handler import CACHE_VARIABLE, MIRROR_VARIABLE, CachedEntry, resolve_entry

_EPILOG = f"""
examples
  what there is, and everything known of one
    %(prog)s list
    %(prog)s show detcon_b_r50_in1k
  download, check, convert; prints the weights and the config that fits them
    %(prog)s download detcon_b_r50_in1k
  or let training do it: the name is accepted wherever Detectron2 takes a file, and by convert_to_d2
    detcon_d2 train_net --config-file ... MODEL.WEIGHTS {PREFIX}detcon_b_r50_in1k
  are the files in the cache still the ones that were downloaded?
    %(prog)s verify

A download that was cut continues with the same command. Behind a firewall: put the published file at the place in the error message, or
give a mirror with --mirror or {MIRROR_VARIABLE}. It has the files as URL/NAME/FILE: the cache of another machine, served as it is, will do.
The cache is --cache, or {CACHE_VARIABLE}, or detcon_d2 in $FVCORE_CACHE (default ~/.torch/iopath_cache).
exit status: 0 done; 1 verify found a file that is wrong or missing; 2 nothing done, the message gives the reason
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line (default: that of the process); returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", help=f"folder of the downloads (default: {CACHE_VARIABLE}, see below)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="table of all entries")
    listing.add_argument("--markdown", action="store_true", help="as in MODEL_ZOO.md")
    listing.set_defaults(run=_list)
    show = commands.add_parser("show", help="everything known of one entry")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(run=_show)
    get = commands.add_parser("download", help="download, check and convert")
    get.add_argument("names", metavar="NAME", nargs="+", help="an entry, or NAME/BRANCH for its other encoder")
    get.add_argument("--mirror", metavar="URL", help=f"take the files from URL/NAME/FILE (default: {MIRROR_VARIABLE}, else the publishers)")
    get.add_argument("--no-check", action="store_true", help="do not compare features before and after conversion")
    get.set_defaults(run=_download)
    verify = commands.add_parser("verify", help="compare cached files with their checksums")
    verify.add_argument("names", metavar="NAME", nargs="*")
    verify.set_defaults(run=_verify)
    return parser


def _list(args: argparse.Namespace) -> int:
    if args.markdown:
        print("\n".join(markdown_table(ZOO.values())))
        return 0
    rows = []
    for entry in ZOO.values():
        cached = CachedEntry.of(entry, args.cache)
        size = entry.size or cached.read_record().get("size")
        mebibytes = f"{size / 2**20:.0f} MiB" if size else ""
        state = "converted" if cached.weights(entry.branches[0]).is_file() else "downloaded" if cached.file.is_file() else ""
        rows.append([entry.name, entry.method, f"R-{entry.depth}", entry.epochs, mebibytes, state])
    print(tabulate(rows, ["name", "method", "network", "epochs", "size", "cached"]))
    return 0


def _show(args: argparse.Namespace) -> int:
    """Print everything known of the entry and of its place in the cache."""
    entry, _ = find_entry(args.name)
    cached = CachedEntry.of(entry, args.cache)
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}
    for result in values.pop("published") + values.pop("reproduced"):
        backend = f", {result.backend}" if result.backend else ""
        values[f"AP {result.schedule}, by {result.by}{backend}"] = f"box {result.box_ap}, mask {result.mask_ap}"
    values |= {"cached file": cached.file}
    values |= {f"converted weights, {branch}": cached.weights(branch) for branch in entry.branches}
    values |= {f"recorded {key}": value for key, value in cached.read_record().items() if key != "converted"}
    known = [(key, str(value)) for key, value in values.items() if value not in (None, "")]
    print(tabulate(known, tablefmt="plain", disable_numparse=True))
    return 0


def _download(args: argparse.Namespace) -> int:
    for name in args.names:
        weights = resolve_entry(name, cache=args.cache, mirror=args.mirror, check=not args.no_check)
        print(f"weights  {weights}\nconfig   {weights.with_suffix('.yaml')}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Without names, every file that is in the cache."""
    wrong = 0
    for cached in (CachedEntry.of(find_entry(name)[0], args.cache) for name in args.names or ZOO):
        try:
            if args.names or cached.file.is_file():
                print(f"{cached.entry.name}: ok, sha256 {cached.check_file()}")
        except (ValueError, FileNotFoundError) as error:
            print(f"{cached.entry.name}: WRONG. {error}")
            wrong += 1
    return min(wrong, 1)
