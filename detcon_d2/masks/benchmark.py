"""How fast label maps are made and read. What is compared takes turns, so that both see the same machine; medians.

Times of one process are processor time (``time.process_time``): what other programs do to them is small.
"""

import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage

from detcon_d2.io.images import read_image
from detcon_d2.io.specs import list_images
from detcon_d2.masks.generate import generate
from detcon_d2.masks.generators import felzenszwalb
from detcon_d2.masks.generators.fh import FelzenszwalbRegions, FelzenszwalbScales
from detcon_d2.masks.store.formats import create_store
from detcon_d2.masks.store.read import read_label_map

SIZES = ((500, 375), (640, 480))
IMAGENET_IMAGES = 1_281_167
_CORES = 16
_PAPER = {"scale": 1000.0, "sigma": 0.8, "min_size": 1000}
_BUNDLED = ("astronaut", "chelsea", "coffee", "rocket")

Row = dict[str, str | float]


def load_photos(folder: str | None, limit: int) -> list[np.ndarray]:
    """Photographs: at most ``limit`` below a folder, evenly spaced, or the four in scikit-image. uint8 (H, W, 3) RGB."""
    if folder is None:
        return [getattr(skimage.data, name)() for name in _BUNDLED][:limit]
    records = list_images(f"folder:{folder}")
    return [read_image(records[index]["file_name"]) for index in np.unique(np.linspace(0, len(records) - 1, limit).astype(int))]


def fh_section(photos: list[np.ndarray], rounds: int) -> Iterator[Row]:
    """This package's FH beside scikit-image's, and the sort of scikit-image alone."""
    for width, height in SIZES:
        ours, theirs, sorts = [], [], []
        for image in _resized(photos, width, height):
            label_maps: list[np.ndarray] = []
            costs = _costs(image)
            times = _alternate(
                rounds,
                lambda: label_maps.append(felzenszwalb.felzenszwalb(image, **_PAPER)),  # noqa: B023
                lambda: label_maps.append(skimage.segmentation.felzenszwalb(image, **_PAPER)),  # noqa: B023
                lambda: np.argsort(costs),  # noqa: B023
            )
            if not all(np.array_equal(label_maps[0], other) for other in label_maps):
                raise RuntimeError(f"found other regions than scikit-image {skimage.__version__} has; expected the same: please report it")
            for column, values in zip((ours, theirs, sorts), times):
                column += values
        yield _compare("fh", width, height, "scikit-image", ours, theirs) | {
            "argsort_ms": _ms(sorts),
            "argsort_share_of_scikit_image": statistics.median(sorts) / statistics.median(theirs),
        }


def scales_section(photos: list[np.ndarray], rounds: int) -> Iterator[Row]:
    """Several scales together beside one after the other."""
    generator, rng = FelzenszwalbScales(), np.random.default_rng(0)
    single = [
        FelzenszwalbRegions(scale=scale, sigma=generator.sigma, min_size=size) for scale, size in zip(generator.scales, generator.min_sizes)
    ]
    for width, height in SIZES:
        together, apart = [], []
        for image in _resized(photos, width, height):
            times = _alternate(rounds, lambda: generator(image, rng), lambda: [one(image, rng) for one in single])  # noqa: B023
            together += times[0]
            apart += times[1]
        yield _compare(f"fh_scales ({generator.layers})", width, height, "each alone", together, apart)


def storage_section(photos: list[np.ndarray], rounds: int) -> Iterator[Row]:
    """Reading FH label maps as training does: from tars beside from PNG."""
    for width, height in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            records = _write_photos(_resized(photos, width, height), Path(folder) / "photos", 16)
            references = {}
            for file_format in ("tar", "png"):
                store = create_store(Path(folder) / file_format, FelzenszwalbRegions(), "folder:photos", file_format)
                generate(records, FelzenszwalbRegions(), store, progress=False)
                references[file_format] = sorted(store.references().values())
            # One at a time, as training does: memory for many at once would cost more than unpacking them.
            reads = [lambda paths=paths: deque(map(read_label_map, paths), maxlen=0) for paths in references.values()]
            tar, png = ([seconds / len(records) for seconds in times] for times in _alternate(rounds, *reads))
            sizes = [
                sum(path.stat().st_size for path in (Path(folder) / name).rglob("*") if path.suffix in (".png", ".tar"))
                for name in references
            ]
        yield _compare("reading tars", width, height, "PNG", tar, png) | {
            "bytes": sizes[0] / len(records),
            "than_bytes": sizes[1] / len(records),
        }


def workers_section(photos: list[np.ndarray], rounds: int, workers: int = 2, images: int = 160) -> Iterator[Row]:
    """Whole runs, from JPEG to label map on disk: several processes beside one, without what starting them costs.

    Where cores are not idle the wall clock says little; the processor time of an image still shows whether processes hinder each other.
    """
    if workers < 2:
        raise ValueError(f"section workers: found {workers} process; expected at least 2, to compare with one")
    width, height = SIZES[0]
    with tempfile.TemporaryDirectory() as folder:
        records = _write_photos(_resized(photos, width, height), Path(folder) / "photos", images)
        costs: dict[int, list[np.ndarray]] = {1: [], workers: []}
        for round_ in range(max(1, rounds // 3)):
            for count, values in costs.items():
                values.append(_cost_of_image(records, Path(folder) / f"{round_}-{count}", count))
    (wall, cpu), (wall_several, cpu_several) = (np.median(values, axis=0) for values in costs.values())
    yield {
        "name": f"{workers} processes",
        "size": f"{width}x{height}",
        "images_per_s": 1 / wall_several,
        "than": "1 process",
        "than_images_per_s": 1 / wall,
        "ratio": wall / wall_several,
        "cpu_ms_per_image": 1000 * cpu_several,
        "than_cpu_ms_per_image": 1000 * cpu,
        "ratio_by_cpu": workers * cpu / cpu_several,
        "imagenet_hours_on_16_cores": IMAGENET_IMAGES * cpu / _CORES / 3600,
    }


SECTIONS: dict[str, Callable[..., Iterator[Row]]] = {
    "fh": fh_section,
    "scales": scales_section,
    "storage": storage_section,
    "workers": workers_section,
}


def describe(row: Row) -> str:
    """A row as a line."""
    if "ms" not in row:
        return (
            f"{row['name']:<14} {row['size']}  {row['images_per_s']:6.1f} images/s, {row['than']} {row['than_images_per_s']:.1f}   "
            f"ratio {row['ratio']:.2f}; processor time of an image {row['cpu_ms_per_image']:.1f} ms, {row['than']} "
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


def _alternate(rounds: int, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function in each round, after one round that does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for round_ in range(rounds + 1):
        for function, values in zip(functions, times):
            started = time.process_time()
            function()
            if round_:
                values.append(time.process_time() - started)
    return times


def _compare(name: str, width: int, height: int, other: str, ours: list[float], theirs: list[float]) -> Row:
    ratios = [b / a for a, b in zip(ours, theirs)]
    return {
        "name": name,
        "size": f"{width}x{height}",
        "ms": _ms(ours),
        "than": other,
        "than_ms": _ms(theirs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def _ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


def _resized(photos: list[np.ndarray], width: int, height: int) -> list[np.ndarray]:
    """All images as wide and high as asked: whole pictures, smaller ones by area, larger ones by cubic interpolation."""
    methods = [cv2.INTER_AREA if photo.shape[1] > width else cv2.INTER_CUBIC for photo in photos]
    return [np.ascontiguousarray(cv2.resize(photo, (width, height), interpolation=how)) for photo, how in zip(photos, methods)]


def _costs(image: np.ndarray) -> np.ndarray:
    """What scikit-image sorts."""
    smooth = skimage.filters.gaussian(skimage.util.img_as_float64(image), sigma=[0.8, 0.8, 0], mode="reflect", channel_axis=-1)
    pairs = (
        (smooth[:, 1:], smooth[:, :-1]),
        (smooth[1:], smooth[:-1]),
        (smooth[1:, 1:], smooth[:-1, :-1]),
        (smooth[1:, :-1], smooth[:-1, 1:]),
    )
    return np.concatenate([np.linalg.norm(first - second, axis=-1).ravel() for first, second in pairs])


def _write_photos(images: list[np.ndarray], folder: Path, count: int) -> list[dict]:
    """The images in turn as ``count`` JPEG files; returns their records."""
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:05d}.jpg"), images[index % len(images)][..., ::-1])
    return list_images(f"folder:{folder}")


def _cost_of_image(records: list[dict], root: Path, workers: int) -> np.ndarray:
    """Seconds an image, wall clock and processor; from the difference of a long and a short run, which is free of the start."""
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
