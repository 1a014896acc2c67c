#!/usr/bin/env python
"""Speed of the input pipeline on one core: two views with regions from JPEGs on disk, compared with torchvision and lightly.

The images are scikit-image's photographs at ImageNet's usual size; everything is written to a temporary folder. lightly is measured if it
is installed.
"""

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib import resources
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import describe_machine
from PIL import Image, ImageOps
from pipeline_peers import one_hot_cells, peer_pipelines
from timing import OURS, alternate, benchmark_parser, median_ratio, write_json

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.data import PretrainingMapper, build_pretraining_loader, load_training_records
from detcon_d2.io.images import read_image_fast
from detcon_d2.masks import build_generator, label_map_to_cells, list_images, read_image, read_label_map
from detcon_d2.masks.generate import generate
from detcon_d2.masks.store.formats import create_store
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.photometric import PhotometricTransform
from detcon_d2.views.photometric_uint8 import apply_photometric_uint8
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import RegionViews, to_planes

VARIANTS = {
    f"{OURS}, exact": {"MODE": "exact"},
    f"{OURS}, fast": {"MODE": "fast"},
    f"{OURS}, fast, label maps in tars": {"MODE": "fast", "label_maps": "tar"},
    f"{OURS}, fast, colours on the device": {"MODE": "fast", "WHERE": "device", "label_maps": "tar"},
}
"""Name -> arguments of :func:`make_config`."""
# Photographs in the package of scikit-image.
_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_QUALITY = 90
_STRIDE = 32
_BATCH, _WARM_BATCHES = 32, 2
_EPILOG = """
examples
  python tools/benchmarks/pipeline.py --profile --json pipeline.json
  python tools/benchmarks/pipeline.py --workers 0 1 2 4 8 --images 512 --rounds 3
"""


def write_dataset(folder: Path, size: tuple[int, int]) -> None:
    """Write ``images/*.jpg``, and their FH regions as PNGs in ``png`` and as tars in ``tar``.

    Args:
        folder: an existing folder.
        size: (width, height) of the images in pixels.
    """
    write_images(folder / "images", size)
    source, generator = f"folder:{folder / 'images'}", build_generator("fh")
    for file_format in ("png", "tar"):
        generate(list_images(source), generator, create_store(folder / file_format, generator, source, file_format), progress=False)


def write_images(folder: Path, size: tuple[int, int], copies: int = 1) -> None:
    """Write scikit-image's photographs, each ``copies`` times, as JPEGs of ``size`` (width, height) into a new folder."""
    folder.mkdir(parents=True)
    for name in _PHOTOS:
        with Image.open(resources.files("skimage") / "data" / name) as photo:
            fitted = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.LANCZOS)
        for copy in range(copies):
            fitted.save(folder / f"{Path(name).stem}_{copy}.jpg", quality=_QUALITY)


def make_config(folder: Path, label_maps: str = "png", **aug: str) -> "d2.CfgNode":
    """DetCon_B's config for the data set.

    Args:
        folder: written by :func:`write_dataset`.
        label_maps: "png" or "tar".
        aug: values for keys of DETCON.AUG.
    """
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.SEED = 0
    cfg.DATASETS.TRAIN = (f"folder:{folder / 'images'}",)
    cfg.DETCON.MASKS.ROOTS = (str(folder / label_maps),)
    cfg.DETCON.AUG.update(aug)
    return cfg


def compare_pipelines(folder: Path, images: int, rounds: int) -> list[dict]:
    """All variants and all installed peers, alternated.

    Args:
        folder: written by :func:`write_dataset`.
        images: images per measurement.
        rounds: measurements of each pipeline.

    Returns:
        Medians of each pipeline: "name", "images_per_second" by the wall clock, "images_per_cpu_second" by the processor time of this
        process, which other programs on the machine affect less, and "times_fastest_peer" by the processor time.
    """
    cfg = make_config(folder)
    names, label_maps = _files(_repeat(load_training_records(cfg), images))
    peers = {name: partial(_call_all, peer, names, label_maps) for name, peer in peer_pipelines(cfg.DETCON.VIEWS.SIZE).items()}
    ours = {name: _mapper_calls(make_config(folder, **options), images) for name, options in VARIANTS.items()}
    clocks = alternate(peers | ours, rounds, clock=lambda: np.array([time.perf_counter(), time.process_time()]))
    wall, cpu = ({name: [values[index] for values in pairs] for name, pairs in clocks.items()} for index in range(2))
    fastest = min(peers, key=lambda name: statistics.median(cpu[name]))
    return [
        {
            "name": name,
            "images_per_second": images / statistics.median(wall[name]),
            "images_per_cpu_second": images / statistics.median(cpu[name]),
            "times_fastest_peer": median_ratio(cpu[fastest], cpu[name]),
        }
        for name in clocks
    ]


def compare_cells(folder: Path, num_ids: int, rounds: int) -> dict[str, float]:
    """Milliseconds per view that regions to cells take in a batch of 32, by name.

    Args:
        folder: written by :func:`write_dataset`.
        num_ids: channels of the one-hot; the released code has 256.
        rounds: measurements of each function.
    """
    cfg = make_config(folder)
    maps = _repeat([read_label_map(record["label_map_file_name"]) for record in load_training_records(cfg)], _BATCH)
    samples = _samples(cfg)
    size = (cfg.DETCON.VIEWS.SIZE // _STRIDE,) * 2
    views = [samples.sample_geometry(index, *label_map.shape)[0] for index, label_map in enumerate(maps)]
    batch = torch.from_numpy(np.stack([view.apply_segmentation(label_map) for view, label_map in zip(views, maps)]).astype(np.int64))
    functions = {
        # A quarter of the batch at a time: the whole batch would take 5 GB.
        "one-hot and average pool": lambda: [one_hot_cells(part, num_ids, size[0]) for part in batch.split(_BATCH // 4)],
        "label map of the view, then cells": lambda: [label_map_to_cells(v.apply_segmentation(m), size) for v, m in zip(views, maps)],
        "cells from the crop": lambda: [view.apply_cells(label_map, size)[0] for view, label_map in zip(views, maps)],
    }
    found = [np.concatenate([np.asarray(part).reshape(-1, *size) for part in function()]) for function in functions.values()]
    assert all((cells == found[0]).all() for cells in found)
    seconds = alternate(functions, rounds, clock=time.process_time)
    return {name: 1000 * statistics.median(values) / _BATCH for name, values in seconds.items()}


def profile_stages(folder: Path, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time per image (two views) in each stage, for both modes."""
    cfg = make_config(folder)
    samples = _samples(cfg)
    cells = (cfg.DETCON.VIEWS.SIZE // _STRIDE,) * 2
    names, png = _files(_repeat(load_training_records(cfg), images))
    _, tars = _files(_repeat(load_training_records(make_config(folder, "tar")), images))
    pictures = {name: read_image(name) for name in set(names)}
    maps = {name: read_label_map(label_map) for name, label_map in zip(names, png)}
    sampled = [_sample_views(samples, position, *pictures[name].shape[:2]) for position, name in enumerate(names)]
    views, transforms = zip(*(pair for pairs in sampled for pair in pairs))
    pictures, maps = ([found[name] for name in names for _ in range(2)] for found in (pictures, maps))
    exact = list(map(ViewTransform.apply_image, views, pictures))
    fast = list(map(ViewTransform.apply_image_uint8, views, pictures))
    sample = partial(_sample_views, samples, height=375, width=500)
    # Stage -> for both modes the function and the lists of its arguments.
    stages = {
        "decode": ((read_image, names), (read_image_fast, names)),
        "read label map, PNG": ((read_label_map, png),) * 2,
        "read label map, tar": ((read_label_map, tars),) * 2,
        "draw": ((sample, range(images)),) * 2,
        "crop and resize": ((ViewTransform.apply_image, views, pictures), (ViewTransform.apply_image_uint8, views, pictures)),
        "regions": ((lambda view, label_map: view.apply_cells(label_map, cells), views, maps),) * 2,
        "to planes": ((to_planes, exact), (to_planes, fast)),
    }
    for name, others_off in {
        "jitter and grey": {"blur_sigma": None, "solarize_threshold": None},
        "blur": {"jitter": (), "gray": False, "solarize_threshold": None},
        "solarize": {"jitter": (), "gray": False, "blur_sigma": None},
    }.items():
        part = [replace(transform, **others_off) for transform in transforms]
        stages[name] = (PhotometricTransform.apply_image, part, exact), (apply_photometric_uint8, part, fast)
    calls = {(name, mode): partial(_call_all, *call) for name, pair in stages.items() for mode, call in zip(("exact", "fast"), pair)}
    seconds = alternate(calls, rounds, clock=time.process_time)
    return {name: {mode: 1000 * statistics.median(seconds[name, mode]) / images for mode in ("exact", "fast")} for name in stages}


def measure_workers(folder: Path, workers: list[int], images: int) -> dict[str, dict[int, float]]:
    """Images/s of the training loader by the wall clock, by mode and number of worker processes (0: this process)."""
    return {
        mode: {count: _loader_speed(make_config(folder, "tar", MODE=mode), count, images) for count in workers}
        for mode in ("exact", "fast")
    }


def _mapper_calls(cfg: "d2.CfgNode", images: int) -> Callable[[], None]:
    """Makes both views of the images at the first ``images`` positions."""
    return partial(_call_all, PretrainingMapper.from_config(cfg, _samples(cfg)), _repeat(load_training_records(cfg), images), range(images))


def _call_all(function: Callable, *arguments: Iterable) -> None:
    """Call a function for all arguments and keep no result: as in training, the next call reuses the memory of the last."""
    deque(map(function, *arguments), maxlen=0)


def _files(records: list[dict]) -> tuple[list[str], list[str]]:
    """Image files and label maps of the records."""
    return [record["file_name"] for record in records], [record["label_map_file_name"] for record in records]


def _repeat(items: list, count: int) -> list:
    """``count`` items, from the beginning again after the last."""
    return [items[index % len(items)] for index in range(count)]


def _samples(cfg: "d2.CfgNode") -> RegionViews:
    """DetCon's sample maker for a backbone that ends with res5."""
    return RegionViews.from_config(cfg, _STRIDE)


def _sample_views(samples: RegionViews, position: int, height: int, width: int) -> list[tuple[ViewTransform, PhotometricTransform]]:
    """The transforms that are sampled for both views of an image."""
    rng = position_rng(0, position, Stream.PHOTOMETRIC)
    geometry = samples.sample_geometry(position, height, width)
    return [(view, augmentation.sample(rng)) for view, augmentation in zip(geometry, samples.photometric)]


def _loader_speed(cfg: "d2.CfgNode", workers: int, images: int) -> float:
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SOLVER.IMS_PER_BATCH = _BATCH
    batches, count = iter(build_pretraining_loader(cfg, load_training_records(cfg), _samples(cfg))), -(-images // _BATCH)
    deque(islice(batches, _WARM_BATCHES), maxlen=0)
    start = time.perf_counter()
    deque(islice(batches, count), maxlen=0)
    return count * _BATCH / (time.perf_counter() - start)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__, _EPILOG, rounds=5)
    parser.add_argument("--images", type=int, default=64, help="images per measurement (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("W", "H"), help="size of the images (default: 500 375)")
    parser.add_argument("--ids", type=int, default=256, help="channels of the one-hot that cells are compared with (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="also measure each stage")
    parser.add_argument("--workers", type=int, nargs="+", default=[], help="also measure the loader with these numbers of processes")
    return parser.parse_args()


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    result = {"machine": describe_machine(), "images": args.images, "rounds": args.rounds, "size": list(args.size)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder, tuple(args.size))
        result["pipelines"] = compare_pipelines(folder, args.images, args.rounds)
        for row in result["pipelines"]:
            speeds = f"{row['images_per_second']:7.1f} images/s  {row['images_per_cpu_second']:7.1f} per CPU second"
            print(f"{row['name']:<36}{speeds}  {row['times_fastest_peer']:6.2f} x the fastest peer")
        result["cells_ms"] = compare_cells(folder, args.ids, args.rounds)
        for label, milliseconds in result["cells_ms"].items():
            print(f"{label:<36}{milliseconds:9.3f} ms per view")
        if args.profile:
            result["stages_ms"] = profile_stages(folder, args.images, args.rounds)
            for stage, modes in result["stages_ms"].items():
                print(f"{stage:<36}{modes['exact']:9.3f} ms exact {modes['fast']:9.3f} ms fast, per image")
        if args.workers:
            result["workers"] = measure_workers(folder, args.workers, args.images)
            for mode, speed in result["workers"].items():
                print(f"loader, {mode}: " + ", ".join(f"{count} workers {value:.0f} images/s" for count, value in speed.items()))
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
