"""Scores of sources of regions against the ground truth of a data set, as a table, JSON or bar chart."""

import json
import math
import os
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.io.images import PLAIN, Reading
from detcon_d2.io.tiles import read_record
from detcon_d2.masks.scoring.contact_sheet import Source, StoredRegions, named_layers
from detcon_d2.masks.scoring.ground_truth import read_ground_truth
from detcon_d2.masks.scoring.scores import LabelMapScores, mean, score_label_map
from detcon_d2.masks.worker import map_records

_SHARES = {"covering": "covering", "boundary_recall": "boundary recall", "asa": "ASA", "best_overlap": "best overlap"}
_HEADINGS = _SHARES | {"regions": "regions", "median_regions": "median", "milliseconds": "ms"}


def score_sources(
    sources: dict[str, Source], records: list[dict], *, workers: int = 1, progress: bool = True, reading: Reading = PLAIN
) -> list[dict]:
    """Score sources, by title, on the same images, which are records of ``list_bsds`` or ``list_coco``.

    A source with several layers has a result for each, with the time of all. One worker works in this process, several are processes.
    ``reading``: how images are read.

    Returns:
        for each source: ``source``, its title; ``images``, their number; the means over the images of ``covering``, ``boundary_recall``
        and ``asa``; ``best_overlap``, the mean over all objects of all images and people of their best intersection over union (shares in
        0..1, NaN if no image has anything to agree with); ``regions`` and ``median_regions``, mean and median number of regions of an
        image; ``milliseconds``, the median processor time to make the regions of an image that is in memory, None for stored label maps.

    Raises ValueError: no sources, or an image, ground truth or label map that cannot be read or has another size; names it.
    """
    if not sources:
        raise ValueError("found no sources of regions; expected at least one")
    found: dict[str, list[tuple[LabelMapScores, float | None]]] = {}
    results = map_records(partial(_score_image, sources=sources, reading=reading), records, workers)
    with closing(results), tqdm(results, total=len(records), unit=" images", disable=not progress) as bar:
        for title, scores, seconds in (layer for image in bar for layer in image):
            found.setdefault(title, []).append((scores, seconds))
    return [_summarise(title, *zip(*layers)) for title, layers in found.items()]


def _score_image(record: dict, sources: dict[str, Source], reading: Reading) -> list[tuple[str, LabelMapScores, float | None]]:
    """(title, scores, seconds of all layers together) of every layer."""
    image = read_record(record, reading)
    truths = read_ground_truth(record, *image.shape[:2])
    results = []
    for title, source in sources.items():
        started = time.process_time()
        layers = named_layers(title, source, image, record)
        seconds = None if isinstance(source, StoredRegions) else time.process_time() - started
        results += [(name, score_label_map(label_map, truths), seconds) for name, label_map in layers]
    return results


def _summarise(title: str, scores: tuple[LabelMapScores, ...], seconds: tuple[float | None, ...]) -> dict:
    with_objects = [one for one in scores if one.objects]
    overlaps, weights = [one.best_overlap for one in with_objects], [one.objects for one in with_objects]
    return {
        "source": title,
        "images": len(scores),
        **{name: mean([getattr(one, name) for one in scores]) for name in ("covering", "boundary_recall", "asa")},
        "best_overlap": float(np.average(overlaps, weights=weights)) if overlaps else float("nan"),
        "regions": float(np.mean([one.regions for one in scores])),
        "median_regions": float(np.median([one.regions for one in scores])),
        "milliseconds": None if None in seconds else 1000 * float(np.median(seconds)),
    }


def format_table(results: list[dict], markdown: bool = False) -> str:
    """A line for each result; ``markdown``: as a table of a Markdown file."""
    lines = [[f"`{one['source']}`" if markdown else one["source"], *(_format(name, one[name]) for name in _HEADINGS)] for one in results]
    alignment = ["left"] + ["right"] * len(_HEADINGS)
    style = "pipe" if markdown else "simple"
    return tabulate(lines, ["source", *_HEADINGS.values()], tablefmt=style, disable_numparse=True, colalign=alignment)


def write_json(results: list[dict], path: str | os.PathLike) -> None:
    """A list of objects with the keys of :func:`score_sources`; null for missing numbers."""
    rows = [{name: None if _is_missing(value) else value for name, value in one.items()} for one in results]
    _write(path, json.dumps(rows, indent=2) + "\n")


def write_chart(results: list[dict], path: str | os.PathLike, title: str) -> None:
    """Bars of every score, as SVG; the best source of a share has another colour. Raises ValueError for another extension."""
    from detcon_d2.io.charts import Panel, bar_chart  # only here: matplotlib takes half a second to load

    if not str(path).endswith(".svg"):
        raise ValueError(f"chart: found {path}; expected the name of an .svg")
    panels = []
    for name in (name for name in _HEADINGS if name != "median_regions"):
        values, share = [one[name] for one in results], name in _SHARES
        best = max((value for value in values if not _is_missing(value)), default=None)
        colors = [int(share and value == best) for value in values]
        panels.append(Panel(_HEADINGS[name], values, [_format(name, value) for value in values], 1.0 if share else None, colors))
    _write(path, bar_chart([one["source"] for one in results], panels, title))


def _format(name: str, value: float | None) -> str:
    if _is_missing(value):
        return "-"
    return f"{value:.3f}" if name in _SHARES else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _write(path: str | os.PathLike, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, text.encode())
