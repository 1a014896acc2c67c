"""Sources of regions against the ground truth of a data set: the scores of each, as a table, json or bar chart."""

import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.io.images import read_image
from detcon_d2.masks.generators.base import RegionGenerator
from detcon_d2.masks.scoring.bar_chart import Panel, bar_chart
from detcon_d2.masks.scoring.ground_truth import read_ground_truth
from detcon_d2.masks.scoring.scores import LabelMapScores, mean, score_label_map
from detcon_d2.masks.store.stored import StoredRegions
from detcon_d2.masks.worker import image_rng, obey_parent, one_thread_each


@dataclass(frozen=True)
class SourceScores:
    """A source over a data set; shares in 0..1, NaN where no image has anything to agree with.

    Attributes:
        source: its title.
        images: how many were scored.
        covering: mean over the images of :attr:`LabelMapScores.covering`; likewise boundary_recall and asa.
        best_overlap: mean over all objects of all images (and people) of their best intersection over union.
        regions: mean number of regions of an image.
        median_regions: its median.
        milliseconds: median processor time to make the regions of an image that is in memory; None for those read from files.
    """

    source: str
    images: int
    covering: float
    boundary_recall: float
    asa: float
    best_overlap: float
    regions: float
    median_regions: float
    milliseconds: float | None


@dataclass(frozen=True)
class _Sample:
    """One image and one layer of a source."""

    title: str
    scores: LabelMapScores
    seconds: float | None


_COLUMNS = {
    "covering": "covering",
    "boundary_recall": "boundary recall",
    "asa": "ASA",
    "best_overlap": "best overlap",
    "regions": "regions",
    "median_regions": "median",
    "milliseconds": "ms",
}
_SHARES = ("covering", "boundary_recall", "asa", "best_overlap")
_sources: dict[str, RegionGenerator] = {}


def score_sources(
    sources: dict[str, RegionGenerator], records: list[dict], *, workers: int = 1, progress: bool = True
) -> list[SourceScores]:
    """Score sources on the same images.

    Args:
        sources: title -> generator; one that makes several label maps an image has a line for each, with the time of all.
        records: of ``list_bsds`` or ``list_coco``.
        workers: processes; 1 works in this one.
        progress: show a progress bar.

    Raises:
        ValueError: no sources; an image, ground truth or label map that cannot be read, or of another size; names it.
    """
    if not sources:
        raise ValueError("found no sources of regions; expected at least one")
    samples: dict[str, list[_Sample]] = {}
    results = _in_this_process(sources, records) if workers <= 1 else _in_processes(sources, records, workers)
    with closing(results), tqdm(total=len(records), unit=" images", disable=not progress) as bar:
        for image in results:
            bar.update()
            for sample in image:
                samples.setdefault(sample.title, []).append(sample)
    return [_summarise(title, found) for title, found in samples.items()]


def _in_this_process(sources: dict[str, RegionGenerator], records: list[dict]) -> Iterator[list[_Sample]]:
    _start(sources)
    for record in records:
        yield _score_image(record)


def _in_processes(sources: dict[str, RegionGenerator], records: list[dict], workers: int) -> Iterator[list[_Sample]]:
    context = multiprocessing.get_context("spawn")  # as in generate: forking a process with threads can hang
    with one_thread_each(), ProcessPoolExecutor(workers, context, _start_worker, (sources,)) as pool:
        try:
            yield from pool.map(_score_image, records)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(sources: dict[str, RegionGenerator]) -> None:
    obey_parent()
    _start(sources)


def _start(sources: dict[str, RegionGenerator]) -> None:
    global _sources
    _sources = sources


def _score_image(record: dict) -> list[_Sample]:
    image = read_image(record["file_name"])
    truths = read_ground_truth(record, *image.shape[:2])
    samples = []
    for title, source in _sources.items():
        started = time.process_time()
        layers = named_layers(title, source, image, record)
        seconds = None if isinstance(source, StoredRegions) else time.process_time() - started
        samples += [_Sample(name, score_label_map(label_map, truths), seconds) for name, label_map in layers]
    return samples


def named_layers(title: str, source: RegionGenerator, image: np.ndarray, record: dict) -> list[tuple[str, np.ndarray]]:
    """The label maps of an image, each uint16 (H, W) with its title: ``title``, or ``title [layer]`` where there are several.

    Raises:
        ValueError: as the source does, or for label maps of another size.
    """
    label_maps = source(image, image_rng(record["key"]), record)
    label_maps = label_maps[None] if label_maps.ndim == 2 else label_maps
    if label_maps.shape[1:] != image.shape[:2]:
        found, expected = (f"{shape[1]} x {shape[0]}" for shape in (label_maps.shape[1:], image.shape[:2]))
        raise ValueError(
            f"the label map of {record['key']} from {source.name} {source.params()} is {found} (width x height), but {record['file_name']} "
            f"is {expected}; expected the same size: make the label maps of these images"
        )
    return [(title if len(label_maps) == 1 else f"{title} [{layer}]", label_map) for layer, label_map in enumerate(label_maps)]


def _summarise(title: str, samples: list[_Sample]) -> SourceScores:
    scores = [sample.scores for sample in samples]
    with_objects = [one for one in scores if one.objects]
    weights = [one.objects for one in with_objects]
    times = [sample.seconds for sample in samples if sample.seconds is not None]
    return SourceScores(
        source=title,
        images=len(samples),
        **{name: mean([getattr(one, name) for one in scores]) for name in ("covering", "boundary_recall", "asa")},
        best_overlap=float(np.average([one.best_overlap for one in with_objects], weights=weights)) if weights else float("nan"),
        regions=float(np.mean([one.regions for one in scores])),
        median_regions=float(np.median([one.regions for one in scores])),
        milliseconds=1000 * float(np.median(times)) if times else None,
    )


def format_table(results: list[SourceScores], markdown: bool = False) -> str:
    """A line for each source; ``markdown``: as a table of a Markdown file."""
    rows = [[f"`{one.source}`" if markdown else one.source, *(_cell(name, getattr(one, name)) for name in _COLUMNS)] for one in results]
    style = "pipe" if markdown else "simple"
    alignment = ["left"] + ["right"] * len(_COLUMNS)
    return tabulate(rows, ["source", *_COLUMNS.values()], tablefmt=style, disable_numparse=True, colalign=alignment)


def _cell(name: str, value: float | None) -> str:
    if _is_missing(value):
        return "-"
    return f"{value:.3f}" if name in _SHARES else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def write_json(results: list[SourceScores], path: str | os.PathLike) -> None:
    """A list of objects as :class:`SourceScores`; null for what is no number."""
    rows = [{name: None if _is_missing(value) else value for name, value in asdict(one).items()} for one in results]
    _write(path, json.dumps(rows, indent=2) + "\n")


def write_chart(results: list[SourceScores], path: str | os.PathLike, title: str) -> None:
    """Bars of every score, beside each other, as SVG. Raises ValueError for another extension."""
    if not str(path).endswith(".svg"):
        raise ValueError(f"chart: found {path}; expected the name of an .svg")
    panels = []
    for name, head in _COLUMNS.items():
        if name != "median_regions":
            values = [getattr(one, name) for one in results]
            panels.append(Panel(head, values, [_cell(name, value) for value in values], 1.0 if name in _SHARES else None))
    _write(path, bar_chart([one.source for one in results], panels, title))


def _write(path: str | os.PathLike, text: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, text.encode())
