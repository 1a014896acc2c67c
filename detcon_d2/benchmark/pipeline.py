"""Speed of the input pipeline on one core: two views with regions from files, ours beside what a user would write instead."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.benchmark.pipeline_data import Loader, make_config
from detcon_d2.benchmark.pipeline_peers import Peer, one_hot_cells, peers
from detcon_d2.benchmark.timing import alternate, median_ratio
from detcon_d2.data import build_detcon_train_loader
from detcon_d2.io.images import read_image_fast
from detcon_d2.masks import label_map_to_cells, read_image, read_label_map
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.photometric import PhotometricTransform
from detcon_d2.views.photometric_uint8 import apply_photometric_uint8
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.render import feature_cells, to_planes

VARIANTS = {
    "ours, exact": {"MODE": "exact"},
    "ours, fast": {"MODE": "fast"},
    "ours, fast, label maps in tars": {"MODE": "fast", "label_maps": "tar"},
    "ours, fast, colours on the device": {"MODE": "fast", "WHERE": "device", "label_maps": "tar"},
}
"""Name -> keys of DETCON.AUG, and where the label maps are."""
_BATCH = 32
_WARM_BATCHES = 2


@dataclass(frozen=True)
class Speed:
    """One pipeline.

    Attributes:
        name: of the pipeline.
        images_per_second: by the clock on the wall, median of the rounds.
        images_per_cpu_second: by the time of this process, which others on the machine change less.
        times_fastest_peer: median over the rounds, by the time of this process.
    """

    name: str
    images_per_second: float
    images_per_cpu_second: float
    times_fastest_peer: float

    def __str__(self) -> str:
        speeds = f"{self.images_per_second:7.1f} images/s  {self.images_per_cpu_second:7.1f} a CPU second"
        return f"{self.name:<36}{speeds}  {self.times_fastest_peer:6.2f} x the fastest peer"


def use_one_core() -> None:
    """OpenCV and torch keep to one thread."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def compare_pipelines(folder: Path, images: int, rounds: int) -> list[Speed]:
    """Every variant and every installed peer, in turns.

    Args:
        folder: of :func:`write_dataset`.
        images: of one measurement.
        rounds: measurements of each.
    """
    loaders = {name: Loader(make_config(folder, **keys), images) for name, keys in VARIANTS.items()}
    records = loaders["ours, fast"].records
    rivals = {name: _repeat(peer, records, images) for name, peer in peers(make_config(folder).DETCON.VIEWS.SIZE).items()}
    timed = {name: _CpuTimer(function) for name, function in (rivals | loaders).items()}
    wall = alternate(timed, rounds)
    cpu = {name: timer.seconds[-rounds:] for name, timer in timed.items()}
    fastest = min(rivals, key=lambda name: statistics.median(cpu[name]))
    return [
        Speed(name, images / statistics.median(wall[name]), images / statistics.median(cpu[name]), median_ratio(cpu[fastest], cpu[name]))
        for name in timed
    ]


def compare_cells(folder: Path, num_ids: int, rounds: int) -> dict[str, float]:
    """Regions to cells, milliseconds a view in a batch of 32: one-hot and average pool; our two steps; from the crop at once.

    Args:
        folder: of :func:`write_dataset`.
        num_ids: channels of the one-hot; the released code has 256.
        rounds: measurements of each.
    """
    views, maps, size = _crops(folder, _BATCH)
    label_maps = [view.apply_segmentation(label_map) for view, label_map in zip(views, maps)]
    batch = torch.from_numpy(np.stack(label_maps).astype(np.int64))

    def one_hot() -> list[torch.Tensor]:
        # A quarter at a time: the whole batch would take 5 GB.
        return [one_hot_cells(part, num_ids, size[0]) for part in batch.split(_BATCH // 4)]

    functions = {
        "one-hot and average pool": one_hot,
        "label map of the view, then cells": lambda: [label_map_to_cells(v.apply_segmentation(m), size) for v, m in zip(views, maps)],
        "cells from the crop": lambda: [view.apply_cells(label_map, size) for view, label_map in zip(views, maps)],
    }
    found = [np.concatenate([np.asarray(part).reshape(-1, *size) for part in function()]) for function in functions.values()]
    assert all((cells == found[0]).all() for cells in found)
    seconds = alternate(functions, rounds, clock=time.process_time)
    return {name: 1000 * statistics.median(values) / _BATCH for name, values in seconds.items()}


def profile_stages(folder: Path, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of CPU time an image (two views) in each stage, for both modes."""
    cfg = make_config(folder)
    loader = Loader(cfg, images)
    records = [loader.records[index % len(loader.records)] for index in range(images)]
    pictures = {record["file_name"]: read_image(record["file_name"]) for record in loader.records}
    maps = {record["file_name"]: read_label_map(record["label_map_file_name"]) for record in loader.records}
    tars = Loader(make_config(folder, "tar"), images).records
    drawn = [_draw(loader, position, *pictures[record["file_name"]].shape[:2]) for position, record in enumerate(records)]
    crops = [(view, record["file_name"]) for record, pairs in zip(records, drawn) for view, _ in pairs]
    transforms = [transform for pairs in drawn for _, transform in pairs]
    exact = [view.apply_image(pictures[name]) for view, name in crops]
    fast = [view.apply_image_uint8(pictures[name]) for view, name in crops]
    cells = feature_cells(cfg)
    stages = {
        "decode": (_each(read_image, records, "file_name"), _each(read_image_fast, records, "file_name")),
        "read label map, PNG": (_each(read_label_map, records, "label_map_file_name"),) * 2,
        "read label map, tar": (_each(read_label_map, tars * (images // len(tars)), "label_map_file_name"),) * 2,
        "draw": (lambda: _drain(_draw(loader, position, 375, 500) for position in range(images)),) * 2,
        "crop and resize": (
            lambda: _drain(view.apply_image(pictures[name]) for view, name in crops),
            lambda: _drain(view.apply_image_uint8(pictures[name]) for view, name in crops),
        ),
        "regions": (
            lambda: _drain(view.apply_segmentation(maps[name]).astype(np.int32) for view, name in crops),
            lambda: _drain(view.apply_cells(maps[name], cells) for view, name in crops),
        ),
        "to planes": (lambda: _drain(to_planes(image) for image in exact), lambda: _drain(to_planes(image) for image in fast)),
    }
    for name, part in _photometric_parts(transforms).items():
        stages[name] = (
            lambda part=part: _drain(transform.apply_image(image) for transform, image in zip(part, exact)),
            lambda part=part: _drain(apply_photometric_uint8(transform, image) for transform, image in zip(part, fast)),
        )
    functions = {(name, mode): pair[i] for name, pair in stages.items() for i, mode in enumerate(("exact", "fast"))}
    seconds = alternate(functions, rounds, clock=time.process_time)
    return {name: {mode: 1000 * statistics.median(seconds[name, mode]) / images for mode in ("exact", "fast")} for name in stages}


def measure_workers(folder: Path, workers: list[int], images: int) -> dict[str, dict[int, float]]:
    """Images/s by the clock on the wall of the training loader, by mode and number of worker processes (0: this one)."""
    return {
        mode: {count: _loader_speed(make_config(folder, "tar", MODE=mode), count, images) for count in workers}
        for mode in ("exact", "fast")
    }


def as_json(speeds: list[Speed]) -> list[dict]:
    """Plain values."""
    return [asdict(speed) for speed in speeds]


class _CpuTimer:
    """Calls a function and notes the CPU time of this process."""

    def __init__(self, function: Callable[[], object]):
        self.function = function
        self.seconds = []

    def __call__(self) -> None:
        start = time.process_time()
        self.function()
        self.seconds.append(time.process_time() - start)


def _repeat(peer: Peer, records: list[dict], images: int) -> Callable[[], None]:
    def run() -> None:
        for index in range(images):
            record = records[index % len(records)]
            peer(record["file_name"], record["label_map_file_name"])

    return run


def _each(function: Callable[[str], object], records: list[dict], key: str) -> Callable[[], object]:
    return lambda: _drain(function(record[key]) for record in records)


def _drain(results: Iterable[object]) -> None:
    """Make all of them, keep none: as in training, the next one finds the memory of the last."""
    deque(results, maxlen=0)


def _draw(loader: Loader, position: int, height: int, width: int) -> list[tuple[ViewTransform, PhotometricTransform]]:
    """What the mapper draws for both views."""
    geometry, photometric = (position_rng(0, position, stream) for stream in (Stream.GEOMETRY, Stream.PHOTOMETRIC))
    mapper = loader.mapper
    return [(mapper.geometry.sample_view(geometry, height, width), augmentation.sample(photometric)) for augmentation in mapper.photometric]


def _photometric_parts(transforms: list[PhotometricTransform]) -> dict[str, list[PhotometricTransform]]:
    return {
        "jitter and grey": [replace(transform, blur_sigma=None, solarize_threshold=None) for transform in transforms],
        "blur": [replace(transform, jitter=(), gray=False, solarize_threshold=None) for transform in transforms],
        "solarize": [replace(transform, jitter=(), gray=False, blur_sigma=None) for transform in transforms],
    }


def _crops(folder: Path, count: int) -> tuple[list[ViewTransform], list[np.ndarray], tuple[int, int]]:
    """``count`` views, the label maps of their images, and the cells of a view."""
    loader = Loader(make_config(folder), 0)
    maps = [read_label_map(record["label_map_file_name"]) for record in loader.records]
    maps = [maps[index % len(maps)] for index in range(count)]
    return [_draw(loader, index, *m.shape)[0][0] for index, m in enumerate(maps)], maps, feature_cells(make_config(folder))


def _loader_speed(cfg: "d2.CfgNode", workers: int, images: int) -> float:
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SOLVER.IMS_PER_BATCH = _BATCH
    batches = iter(build_detcon_train_loader(cfg))
    for _ in islice(batches, _WARM_BATCHES):
        pass
    count = -(-images // _BATCH)
    start = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return count * _BATCH / (time.perf_counter() - start)
