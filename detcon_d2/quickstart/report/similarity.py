"""Region-similarity maps of the report: one object's embedding compared with its own image and with the next image of its category."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import torch

from detcon_d2.evaluation.similarity import cosine_map, region_embedding, separation
from detcon_d2.quickstart.report.images import outline, picture, strip
from detcon_d2.quickstart.report.inputs import LabelledImages

_HEAT_OPACITY = 0.7


class Pair(NamedTuple):
    """A query region and an image to search.

    Attributes:
        query, target: indices of the two images.
        category: COCO id of the region.
        region: bool (H, W), the query object in its image.
        objects: bool (H, W), all objects of the category in the target image.
    """

    query: int
    target: int
    category: int
    region: np.ndarray
    objects: np.ndarray


def choose_pairs(images: LabelledImages, num_images: int) -> list[Pair]:
    """Every pair of an object and the next image with its category, within the first images; results play no part in the choice.

    For each category and each image that has it, the largest object of the category, sorted by image.
    """
    pairs = []
    objects = [images.objects(index) for index in range(min(num_images, len(images)))]
    for category in images.categories:
        masks = [[thing.mask for thing in things if thing.category == category] for things in objects]
        for query, target in pairwise(index for index, found in enumerate(masks) if found):
            pairs.append(Pair(query, target, category, max(masks[query], key=np.sum), np.any(masks[target], axis=0)))
    return sorted(pairs, key=lambda pair: (pair.query, pair.category))


def spread_out(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """The first pairs that each add a new category and a new query image, at most ``count``."""
    chosen: list[Pair] = []
    for pair in pairs:
        if all(pair.category != other.category and pair.query != other.query for other in chosen):
            chosen.append(pair)
    return chosen[:count]


def _cosine_maps(pair: Pair, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity with the query region in the query image and in the target image, each (h, w)."""
    embedding = region_embedding(features[pair.query], torch.from_numpy(pair.region))
    return cosine_map(features[pair.query], embedding), cosine_map(features[pair.target], embedding)


def mean_separations(pairs: Sequence[Pair], features: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Means over the pairs of :func:`~detcon_d2.evaluation.similarity.separation`; NaN without pairs.

    Args:
        pairs: see :func:`choose_pairs`.
        features: (C, h, w) of the image of each index.

    Returns:
        of the region itself in its own image, and of the category's objects in the target image.
    """
    values = []
    for pair in pairs:
        masks = torch.from_numpy(pair.region), torch.from_numpy(pair.objects)
        values += [separation(similarity, mask) for similarity, mask in zip(_cosine_maps(pair, features), masks)]
    own, other = torch.tensor(values, dtype=torch.float64).view(-1, 2).nanmean(dim=0).tolist()
    return own, other


def similarity_strips(images: LabelledImages, pair: Pair, encoders: dict[str, Sequence[torch.Tensor]]) -> str:
    """Two rows, the query image and the target image, each with the cosine maps of every encoder.

    The colours of an encoder go from the lowest to the highest cosine of its two maps, which the captions give. The encoders are
    title -> (C, h, w) features of the image of each index.
    """
    name = images.categories[pair.category]
    photos, masks = [images.image(pair.query), images.image(pair.target)], [pair.region, pair.objects]
    columns = [list(zip(photos, [f"query: this {name}", f"another image with a {name}"]))]
    for title, features in encoders.items():
        maps = [cv2.resize(found.numpy(), mask.shape[::-1]) for found, mask in zip(_cosine_maps(pair, features), masks)]
        low, high = min(found.min() for found in maps), max(found.max() for found in maps)
        caption = f"{title}: cosine {low:.2f} to {high:.2f}"
        columns.append([(heat(photo, (found - low) / max(high - low, 1e-6)), caption) for photo, found in zip(photos, maps)])
    return "".join(strip([picture(image, outline(mask), caption) for image, caption in row]) for row, mask in zip(zip(*columns), masks))


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A map (H, W) in [0, 1] in colours, dark to bright, over the grey image uint8 (H, W, 3): uint8 (H, W, 3) RGB."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    levels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(colors, _HEAT_OPACITY, gray, 1 - _HEAT_OPACITY, 0)
