"""What the commands share: generators and sources of regions on the command line, lists of images, exit status."""

import argparse
import importlib
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields

from detcon_d2.io.annotated.checks import check_annotations, no_annotations, refusals
from detcon_d2.io.annotated.kinds import is_annotated_spec
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.images import PLAIN, Reading
from detcon_d2.io.specs import is_dataset_spec, list_images
from detcon_d2.io.tiles import describe_tiles
from detcon_d2.masks.command_lines import flag_of
from detcon_d2.masks.generators.base import RegionGenerator, element_type, write_value
from detcon_d2.masks.generators.registry import REGION_GENERATOR_REGISTRY, build_generator
from detcon_d2.masks.scoring.contact_sheet import Source, StoredRegions
from detcon_d2.masks.store.index import FORMATS, SHARDS

_DEST = "generator_"
_NO_MASKS = "give --boxes to make regions of their boxes"


def make_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser that prints these texts as they are."""
    return argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None, run: Callable[[argparse.Namespace], int | None]) -> int:
    """Parse the command line and run a command; returns its exit status. A user's error is one line on stderr and status 2."""
    args = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that is not UTF-8 must not end a command that has done its work. stderr does this by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        return run(args) or 0
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def load_records(spec: str, generator: RegionGenerator | None = None, max_left_out: float = 0.1, reading: Reading = PLAIN) -> list[dict]:
    """The images of a data set spec, or of a name in Detectron2's catalog; for a generator that needs annotations, with checked ones.

    Raises:
        ValueError: as :func:`list_images`, or annotations of which none is there or too many cannot be used (see :func:`refusals`).
    """
    if generator is not None and generator.needs_annotations and is_annotated_spec(spec):
        data = read_annotated(spec, reading)
        # The generator compares each size with that of the decoded image.
        check_annotations(data, masks=not generator.params().get("boxes"), boxes=False, files=False, reading=reading)
        print("\n".join(data.summary()))
        if wrong := refusals(data, max_left_out, no_masks=_NO_MASKS, skip_images=True, categories=False, key="--max-left-out"):
            raise ValueError("\n".join(wrong))
        if empty := no_annotations(data):
            raise ValueError(f"{empty}; expected objects, of which this generator makes the regions")
        return data.records
    if is_dataset_spec(spec):
        return list_images(spec)
    # By name: only a catalog needs torch and Detectron2, which the masks do not import.
    return importlib.import_module("detcon_d2.data.datasets").load_records(spec)


def format_argument(text: str) -> str:
    """``--format``: refuses the format of earlier versions with a message that names the new one."""
    if text == SHARDS:
        raise argparse.ArgumentTypeError("shards are no longer written; use tar, whose label maps are read as fast")
    if text not in FORMATS:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected one of {', '.join(FORMATS)}")
    return text


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    """``--generator`` and a flag for each parameter of any registered generator."""
    names = sorted(REGION_GENERATOR_REGISTRY)
    parser.add_argument("--generator", default="fh", choices=names, metavar="NAME", help=f"{', '.join(names)} (default: fh)")
    group = parser.add_argument_group("parameters of the generators (lists: comma separated)")
    users: dict[str, dict] = {}
    for name in names:
        for one in fields(REGION_GENERATOR_REGISTRY[name]):
            users.setdefault(one.name, {})[name] = one
    for param, by_name in users.items():
        name, one = next(iter(by_name.items()))
        defaults = {user: write_value(other.default) for user, other in by_name.items()}
        same = len(set(defaults.values())) == 1
        default = defaults[name] if same else ", ".join(f"{user} {value}" for user, value in defaults.items())
        text = f"{', '.join(by_name)}: {one.metadata['help']}{f' (default: {default})' if default else ''}"
        metavar = one.metadata["metavar"] or param.rsplit("_", 1)[-1].upper()
        value = {"nargs": "?", "const": "true"} if element_type(one) is bool else {}
        group.add_argument(flag_of(name, param), dest=_DEST + param, metavar=metavar, help=text.replace("%", "%%"), **value)


def generator_from(args: argparse.Namespace) -> RegionGenerator:
    """The generator that the parsed flags describe; raises ValueError as :func:`build_generator`."""
    given = {name.removeprefix(_DEST): text for name, text in vars(args).items() if name.startswith(_DEST) and text is not None}
    return build_generator(args.generator, **given)


def parse_generator(text: str) -> RegionGenerator:
    """``NAME param=value ...``, quoted as in a shell, lists comma separated; raises ValueError as :func:`generator_from`."""
    name, *pairs = shlex.split(text) or [""]
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"source {text!r}: found {wrong[0]!r}; expected NAME param=value ..., for example 'fh scale=300 min_size=100'")
    return build_generator(name, **{param.replace("-", "_"): value for param, value in (pair.split("=", 1) for pair in pairs)})


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """``--wide-range`` and ``--max-pixels``: how images are read."""
    text = "samples wider than 8 bits that become 0 and 255, as DETCON.DATA.WIDE_RANGE (default: its rule)"
    parser.add_argument("--wide-range", nargs=2, type=float, default=(), metavar=("LOW", "HIGH"), help=text)
    parser.add_argument("--max-pixels", type=int, default=0, metavar="N", help="largest image (default: Pillow's limit, 179 million)")


def add_tiles_argument(parser: argparse.ArgumentParser) -> None:
    """``--tiles``."""
    text = "cut larger images into tiles of N x N pixels, as DETCON.DATA.TILES (default: whole images)"
    parser.add_argument("--tiles", type=int, default=0, metavar="N", help=text)


def reading_from(args: argparse.Namespace) -> Reading:
    """How images are read; raises ValueError for values that make no sense."""
    return Reading(tuple(args.wide_range), args.max_pixels, getattr(args, "tiles", 0))


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """``--source`` and ``--masks``, both repeatable."""
    parser.add_argument(
        "--source", action="append", default=[], metavar="'NAME param=value ...'",
        help="a generator and its parameters; repeat for several (default: every generator with its defaults)",
    )  # fmt: skip
    parser.add_argument("--masks", action="append", default=[], metavar="DIR", help="label maps made by generate_masks.py; repeatable")


def sources_from(args: argparse.Namespace, annotated: bool) -> dict[str, Source]:
    """Title -> source of :func:`add_source_arguments`, in the order given, generators first. By default they are all generators that need
    no parameter and no clips; COCO's annotations only if the images are ``annotated``. Raises ValueError as :func:`build_generator`, or for
    a folder without label maps."""
    usable = [cls for cls in REGION_GENERATOR_REGISTRY.values() if (annotated or not cls.needs_annotations) and not cls.needs_frames]
    default = [cls.name for cls in usable if not any(one.metadata.get("required") for one in fields(cls))]
    texts = args.source or ([] if args.masks else default)
    sources: dict[str, Source] = {text: parse_generator(text) for text in texts}
    names = [os.path.basename(os.path.abspath(root)) for root in args.masks]
    titles = [name if names.count(name) == 1 else root for name, root in zip(names, args.masks)]
    return sources | {title: StoredRegions(root) for title, root in zip(titles, args.masks)}


def stored_tiles(sources: dict[str, Source]) -> dict[str, int]:
    """Title -> side of the tiles of each folder of label maps, pixels; 0: of whole images."""
    return {title: source.tiles for title, source in sources.items() if isinstance(source, StoredRegions)}


def check_stored_tiles(sources: dict[str, Source], tiles: int, remedy: str) -> None:
    """Raise ValueError for a folder of label maps of other tiles than of this side."""
    for title, found in stored_tiles(sources).items():
        if found != tiles:
            raise ValueError(f"{title}: found label maps of {describe_tiles(found)}; expected those of {describe_tiles(tiles)}: {remedy}")
