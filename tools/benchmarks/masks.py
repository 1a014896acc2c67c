#!/usr/bin/env python
"""Speed of making and reading region masks on this machine: FH compared with scikit-image, tars with PNG, several processes with one."""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # The libraries below read these when they are loaded.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import cv2
import numpy as np
import skimage
from timing import OURS, alternate, benchmark_parser, write_json

from detcon_d2.io.images import read_image
from detcon_d2.io.specs import list_images
from detcon_d2.masks.generate import generate
from detcon_d2.masks.generators import felzenszwalb
from detcon_d2.masks.generators.felzenszwalb import FelzenszwalbRegions, FelzenszwalbScales
from detcon_d2.masks.store.formats import create_store
from detcon_d2.masks.store.index import library_versions
from detcon_d2.masks.store.png import read_label_map

SIZES = ((500, 375), (640, 480))
_PAPER = {"scale": 1000.0, "sigma": 0.8, "min_size": 1000}
_BUNDLED = ("astronaut", "chelsea", "coffee", "rocket")
_IMAGENET_IMAGES, _CORES = 1_281_167, 16
_EPILOG = """
sections
  fh       Felzenszwalb-Huttenlocher with the paper's parameters at 500x375 and 640x480, compared with skimage.segmentation.felzenszwalb.
           Different label maps are an error. scikit-image cannot be faster than its np.argsort, which is measured alone; ours avoids it.
  scales   generator fh_scales compared with its scales one after another
  storage  reading a label map as in training: from tars compared with from PNG
  workers  whole runs from JPEG to label map: N processes compared with one, and the hours for ImageNet on 16 idle cores of this speed,
           with 1,281,167 images of 500x375 (they are smaller on average) and disks that are fast enough

"A ms, B ms ratio R": the first takes A, the second B, and R is the median of B / A over all rounds. Times are processor times of one core
with one thread. Section workers also has wall-clock times, which need as many idle cores as processes.

examples
  python tools/benchmarks/masks.py
  python tools/benchmarks/masks.py --sections fh --images /data/photos --rounds 15 --json masks.json
  python tools/benchmarks/masks.py --sections workers --workers 16
"""


def load_photos(folder: str | None, limit: int) -> list[np.ndarray]:
    """At most ``limit`` photographs of a folder, evenly spaced, or of the four in scikit-image. uint8 (H, W, 3) RGB."""
    if folder is None:
        return [getattr(skimage.data, name)() for name in _BUNDLED][:limit]
    records = list_images(f"folder:{folder}")
    return [read_image(records[index]["file_name"]) for index in np.unique(np.linspace(0, len(records) - 1, limit).astype(int))]


def compare_fh(photos: list[np.ndarray], rounds: int) -> Iterator[dict]:
    """Our FH compared with scikit-image's, and the sort of scikit-image alone.

    Raises:
        RuntimeError: the label maps differ.
    """
    ours, theirs = felzenszwalb.felzenszwalb, skimage.segmentation.felzenszwalb

    def functions(image: np.ndarray) -> dict[str, Callable[[], object]]:
        calls = {OURS: partial(ours, image, **_PAPER), "scikit-image": partial(theirs, image, **_PAPER)}
        return calls | {"argsort": partial(np.argsort, _costs(image))}

    for size in SIZES:
        images = _resize(photos, size)
        if not all(np.array_equal(ours(image, **_PAPER), theirs(image, **_PAPER)) for image in images):
            raise RuntimeError(f"found other regions than scikit-image {skimage.__version__} makes; expected the same: please report it")
        seconds = _time_images(images, rounds, functions)
        sort, whole = (statistics.median(seconds[name]) for name in ("argsort", "scikit-image"))
        yield _row("fh", size, seconds, "scikit-image") | {"argsort_ms": 1000 * sort, "argsort_share_of_scikit_image": sort / whole}


def compare_scales(photos: list[np.ndarray], rounds: int) -> Iterator[dict]:
    """Several scales of FH together compared with one after another."""
    together, rng = FelzenszwalbScales(), np.random.default_rng(0)
    parameters = zip(together.scales, together.min_sizes)
    single = [FelzenszwalbRegions(scale=scale, sigma=together.sigma, min_size=min_size) for scale, min_size in parameters]

    def functions(image: np.ndarray) -> dict[str, Callable[[], object]]:
        return {OURS: lambda: together(image, rng), "each alone": lambda: [one(image, rng) for one in single]}

    for size in SIZES:
        yield _row(f"fh_scales ({together.layers})", size, _time_images(_resize(photos, size), rounds, functions), "each alone")


def compare_storage(photos: list[np.ndarray], rounds: int) -> Iterator[dict]:
    """Reading FH label maps as in training: from tars compared with from PNG."""
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder, generator = Path(name), FelzenszwalbRegions()
            records = _write_photos(_resize(photos, size), folder / "photos", 16)
            reads, nbytes = {}, []
            for label, file_format in ((OURS, "tar"), ("PNG", "png")):
                store = create_store(folder / file_format, generator, "folder:photos", file_format)
                generate(records, generator, store, progress=False)
                # One at a time, as in training; memory for many label maps at once would take longer than unpacking them.
                reads[label] = partial(_read_all, sorted(store.references().values()))
                files = (folder / file_format).rglob("*")
                nbytes.append(sum(path.stat().st_size for path in files if path.suffix in (".png", ".tar")) / len(records))
            seconds = alternate(reads, rounds, clock=time.process_time)
        seconds = {label: [value / len(records) for value in values] for label, values in seconds.items()}
        yield _row("reading tars", size, seconds, "PNG") | {"bytes": nbytes[0], "than_bytes": nbytes[1]}


def compare_workers(photos: list[np.ndarray], rounds: int, workers: int = 2, images: int = 160) -> Iterator[dict]:
    """Whole runs from JPEG to label map: several processes compared with one, without the time that starting them takes.

    On a busy machine the wall clock says little; the processor time per image still shows whether the processes slow each other down.

    Raises:
        ValueError: fewer than two workers.
    """
    if workers < 2:
        raise ValueError(f"section workers: found {workers} process; expected at least 2, to compare with one")
    with tempfile.TemporaryDirectory() as folder:
        records = _write_photos(_resize(photos, SIZES[0]), Path(folder) / "photos", images)
        costs: dict[int, list[np.ndarray]] = {1: [], workers: []}
        for index in range(max(1, rounds // 3)):
            for count, values in costs.items():
                values.append(_cost_per_image(records, Path(folder) / f"{index}-{count}", count))
    (wall, cpu), (wall_several, cpu_several) = (np.median(values, axis=0) for values in costs.values())
    yield {
        "name": f"{workers} processes",
        "size": "{}x{}".format(*SIZES[0]),
        "images_per_s": 1 / wall_several,
        "than": "1 process",
        "than_images_per_s": 1 / wall,
        "ratio": wall / wall_several,
        "cpu_ms_per_image": 1000 * cpu_several,
        "than_cpu_ms_per_image": 1000 * cpu,
        "ratio_by_cpu": workers * cpu / cpu_several,
        "imagenet_hours_on_16_cores": _IMAGENET_IMAGES * cpu / _CORES / 3600,
    }


SECTIONS: dict[str, Callable[..., Iterator[dict]]] = {
    "fh": compare_fh,
    "scales": compare_scales,
    "storage": compare_storage,
    "workers": compare_workers,
}


def describe_row(row: dict) -> str:
    """A result of a section as text."""
    if "ms" not in row:
        return (
            f"{row['name']:<14} {row['size']}  {row['images_per_s']:6.1f} images/s, {row['than']} {row['than_images_per_s']:.1f}   "
            f"ratio {row['ratio']:.2f}; processor time per image {row['cpu_ms_per_image']:.1f} ms, {row['than']} "
            f"{row['than_cpu_ms_per_image']:.1f} ms, so ratio {row['ratio_by_cpu']:.2f} on idle cores; "
            f"ImageNet {row['imagenet_hours_on_16_cores']:.1f} h on {_CORES} cores"
        )
    line = (
        f"{row['name']:<14} {row['size']}  {row['ms']:7.2f} ms, {row['than']} {row['than_ms']:.2f} ms   "
        f"ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})   {1000 / row['ms']:.1f} images/s"
    )
    if "bytes" in row:
        line += f"; {row['bytes'] / 1000:.1f} kB, {row['than']} {row['than_bytes'] / 1000:.1f} kB"
    if "argsort_ms" in row:
        line += f"; np.argsort alone {row['argsort_ms']:.1f} ms, {row['argsort_share_of_scikit_image']:.0%} of scikit-image"
    return line


def _row(name: str, size: tuple[int, int], seconds: dict[str, list[float]], other: str) -> dict:
    """Ours compared with ``other``, as plain values."""
    ratios = [b / a for a, b in zip(seconds[OURS], seconds[other], strict=True)]
    return {
        "name": name,
        "size": "{}x{}".format(*size),
        "ms": 1000 * statistics.median(seconds[OURS]),
        "than": other,
        "than_ms": 1000 * statistics.median(seconds[other]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def _time_images(
    images: list[np.ndarray], rounds: int, functions: Callable[[np.ndarray], dict[str, Callable[[], object]]]
) -> dict[str, list[float]]:
    """Processor seconds in each round for each image, by the names of an image's ``functions``."""
    seconds = defaultdict(list)
    for image in images:
        for name, values in alternate(functions(image), rounds, clock=time.process_time).items():
            seconds[name] += values
    return seconds


def _read_all(references: list[str]) -> None:
    deque(map(read_label_map, references), maxlen=0)


def _resize(photos: list[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Whole photographs at (width, height) ``size``: larger ones are reduced by area, smaller ones enlarged by cubic interpolation."""
    methods = [cv2.INTER_AREA if photo.shape[1] > size[0] else cv2.INTER_CUBIC for photo in photos]
    return [np.ascontiguousarray(cv2.resize(photo, size, interpolation=how)) for photo, how in zip(photos, methods)]


def _costs(image: np.ndarray) -> np.ndarray:
    """The costs of all edges, which scikit-image sorts."""
    smooth = skimage.filters.gaussian(skimage.util.img_as_float64(image), sigma=[0.8, 0.8, 0], mode="reflect", channel_axis=-1)
    pairs = (
        (smooth[:, 1:], smooth[:, :-1]),
        (smooth[1:], smooth[:-1]),
        (smooth[1:, 1:], smooth[:-1, :-1]),
        (smooth[1:, :-1], smooth[:-1, 1:]),
    )
    return np.concatenate([np.linalg.norm(first - second, axis=-1).ravel() for first, second in pairs])


def _write_photos(images: list[np.ndarray], folder: Path, count: int) -> list[dict]:
    """Write ``count`` JPEG files, repeating the images; returns their records."""
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), images[index % len(images)][..., ::-1])
    return list_images(f"folder:{folder}")


def _cost_per_image(records: list[dict], root: Path, workers: int) -> np.ndarray:
    """Wall-clock and processor seconds per image: the difference of a long and a short run, which does not contain the start."""
    generator = FelzenszwalbRegions()
    few, seconds = records[: len(records) // 4], []
    for part in (few, records):
        store = create_store(root / str(len(part)), generator, "folder:photos")
        before = os.times()
        summary = generate(part, generator, store, workers=workers, progress=False)
        if summary.made != len(part):
            raise RuntimeError(f"found {summary.made} label maps; expected {len(part)}: {summary.failed}")
        seconds.append((summary.seconds, sum(os.times()[:4]) - sum(before[:4])))
    return np.subtract(seconds[1], seconds[0]) / (len(records) - len(few))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__, _EPILOG, rounds=9)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure (default: everything)")
    parser.add_argument("--images", metavar="DIR", help="photographs, which are resized (default: four that come with scikit-image)")
    parser.add_argument("--limit", type=int, default=4, metavar="N", help="largest number of photographs (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes in section workers (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure, and print each result as soon as it is known."""
    args = parse_args()
    cv2.setNumThreads(1)
    photos = load_photos(args.images, args.limit)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "fh": felzenszwalb.implementation()}
    machine |= library_versions()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    rows = []
    for section in args.sections:
        options = {"workers": args.workers} if section == "workers" else {}
        for row in SECTIONS[section](photos, args.rounds, **options):
            rows.append({"section": section} | row)
            print(describe_row(row), flush=True)
    if args.json:
        write_json(args.json, {"machine": machine, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
