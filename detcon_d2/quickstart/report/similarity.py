"""Region-similarity maps of the report: one object's embedding against its own image and against the next with its category."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch

from detcon_d2.evaluation.similarity import cosine_map, region_embedding, separation, upsample
from detcon_d2.quickstart.report.images import outline, picture
from detcon_d2.quickstart.report.inputs import LabelledImages

_HEAT_OPACITY = 0.7


@dataclass(frozen=True)
class Pair:
    """A query region and an image to search: indices of both images, and the region's category and mask bool (H, W)."""

    query: int
    target: int
    category: int
    mask: np.ndarray


def choose_pairs(images: LabelledImages, num_images: int) -> list[Pair]:
    """Every pair of an object and the next image with its category, within the first images; no choice by result.

    For each category and each image that has it, the largest object of the category, sorted by image: the i-th pair is the same whatever
    the encoder.
    """
    pairs = []
    objects = [images.objects(index) for index in range(min(num_images, len(images)))]
    for category in images.categories:
        of_category = [[thing for thing in things if thing.category == category] for things in objects]
        holders = [index for index, things in enumerate(of_category) if things]
        for query, target in pairwise(holders):
            pairs.append(Pair(query, target, category, max(of_category[query], key=lambda thing: thing.mask.sum()).mask))
    return sorted(pairs, key=lambda pair: (pair.query, pair.category))


def spread_out(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """The first pairs of which each brings a new category and a new query image, at most ``count``."""
    chosen: list[Pair] = []
    for pair in pairs:
        if all(pair.category != other.category and pair.query != other.query for other in chosen):
            chosen.append(pair)
    return chosen[:count]


def category_mask(images: LabelledImages, index: int, category: int) -> np.ndarray:
    """bool (H, W): all objects of a category in an image; the category must be in it."""
    return np.any([thing.mask for thing in images.objects(index) if thing.category == category], axis=0)


def mean_separations(images: LabelledImages, pairs: Sequence[Pair], features: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Means over the pairs of :func:`~detcon_d2.evaluation.similarity.separation`; NaN without pairs.

    Args:
        images: the validation images.
        pairs: see :func:`choose_pairs`.
        features: (C, h, w) of the image of each index.

    Returns:
        of the region itself in its own image, and of the category's objects in the target image.
    """
    own, other = [], []
    for pair in pairs:
        region, objects = torch.from_numpy(pair.mask), torch.from_numpy(category_mask(images, pair.target, pair.category))
        embedding = region_embedding(features[pair.query], region)
        own.append(separation(cosine_map(features[pair.query], embedding), region))
        other.append(separation(cosine_map(features[pair.target], embedding), objects))
    return _mean(own), _mean(other)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else float("nan")


def similarity_strips(images: LabelledImages, pair: Pair, encoders: dict[str, Sequence[torch.Tensor]]) -> str:
    """Query image above, target image below; beside each the cosine maps of every encoder.

    The colours of an encoder go from the lowest to the highest cosine of its two maps, which the captions give.

    Args:
        images: the validation images.
        pair: region and image to search.
        encoders: title -> (C, h, w) features of the image of each index.
    """
    name = images.categories[pair.category]
    rows = [
        (pair.query, pair.mask, f"query: this {name}"),
        (pair.target, category_mask(images, pair.target, pair.category), f"another image with a {name}"),
    ]
    tiles = {index: [picture(images.image(index), mask.shape, outline(mask), caption)] for index, mask, caption in rows}
    for title, features in encoders.items():
        embedding = region_embedding(features[pair.query], torch.from_numpy(pair.mask))
        maps = {index: upsample(cosine_map(features[index], embedding), mask.shape).numpy() for index, mask, _ in rows}
        low, high = min(m.min() for m in maps.values()), max(m.max() for m in maps.values())
        for index, mask, _ in rows:
            image = heat(images.image(index), (maps[index] - low) / max(high - low, 1e-6))
            tiles[index].append(picture(image, mask.shape, outline(mask), f"{title}: cosine {low:.2f} to {high:.2f}"))
    return "".join(f'<div class="strip" style="--n:{len(row)}">{"".join(row)}</div>' for row in tiles.values())


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map (H, W) in [0, 1] in colours, dark to bright, over the grey image uint8 (H, W, 3): uint8 (H, W, 3) RGB."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    levels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(colors, _HEAT_OPACITY, gray, 1 - _HEAT_OPACITY, 0)
