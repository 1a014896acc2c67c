"""Pictures of the report: detections, and how similar one object's embedding is to its own image and to the next one."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from detcon_d2.evaluation.similarity import cosine_map, region_embedding, separation
from detcon_d2.masks.overlay import region_color
from detcon_d2.quickstart.report.inputs import LabelledImages, Thing


def draw_detections(images: LabelledImages, detections: dict[str, list[list[Thing]]]) -> np.ndarray:
    """The objects of the first images, and the detections of each method in them: uint8 (H, W, 3) RGB, two images in each row.

    Masks have the colours of their categories. Objects and correct detections are filled, other detections are dotted.
    """
    count = len(next(iter(detections.values())))
    figure, cells = _grid((count + 1) // 2, ["ground truth", *detections] * 2)
    for index in range(count):
        objects = images.objects(index)
        _draw_things(next(cells), images, index, objects, f"{len(objects)} object{'' if len(objects) == 1 else 's'}")
        for found in (things[index] for things in detections.values()):
            _draw_things(next(cells), images, index, found, f"{sum(thing.correct for thing in found)} of {len(objects)} correct")
    return _pixels(figure)


def _draw_things(axes: Axes, images: LabelledImages, index: int, things: Sequence[Thing], caption: str) -> None:
    image = images.image(index)
    _draw_image(axes, image, caption)
    for thing in things:
        color = np.array(region_color(thing.category)) / 255
        _draw_outline(axes, thing.mask, color, "solid" if thing.correct else "dotted")
        axes.contourf(thing.mask, [0.5, 1.5], colors=[color], alpha=0.35 if thing.correct else 0.0)
        text = images.categories[thing.category] + ("" if thing.score is None else f" {thing.score:.2f}")
        # Centred on the box, but inside the image.
        x, y = np.clip(np.array(thing.box[:2]) + np.array(thing.box[2:]) / 2, 0.15 * len(image), 0.85 * len(image))
        effects = [withStroke(linewidth=2, foreground="black")]
        axes.text(x, y, text, color="white", size=7, ha="center", va="center", weight="bold", path_effects=effects)


class Pair(NamedTuple):
    """The indices of a query image and of an image to search, and the COCO id of a category.

    ``region`` bool (H, W) is the query object in its image, ``objects`` bool (H, W) are all objects of the category in the target image.
    """

    query: int
    target: int
    category: int
    region: np.ndarray
    objects: np.ndarray


def choose_pairs(images: LabelledImages, num_images: int) -> list[Pair]:
    """Every pair of an object and the next image with its category, within the first images, sorted by category, then by image.

    The object is the largest of its category in its image; results play no part in the choice.
    """
    pairs = []
    objects = [images.objects(index) for index in range(min(num_images, len(images)))]
    for category in images.categories:
        masks = [[thing.mask for thing in things if thing.category == category] for things in objects]
        for query, target in pairwise(index for index, found in enumerate(masks) if found):
            pairs.append(Pair(query, target, category, max(masks[query], key=np.sum), np.any(masks[target], axis=0)))
    return pairs


def _cosine_maps(pair: Pair, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Similarity with the query region in the query image and in the target image, each (h, w)."""
    embedding = region_embedding(features[pair.query], torch.from_numpy(pair.region))
    return [cosine_map(features[index], embedding) for index in (pair.query, pair.target)]


def mean_separations(pairs: Sequence[Pair], features: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Means over the pairs of :func:`~detcon_d2.evaluation.similarity.separation`; NaN without pairs.

    The first is that of the region itself in its own image, the second that of the category's objects in the target image. The features
    are (C, h, w) of the image of each index.
    """
    values = []
    for pair in pairs:
        masks = torch.from_numpy(pair.region), torch.from_numpy(pair.objects)
        values += [separation(similarity, mask) for similarity, mask in zip(_cosine_maps(pair, features), masks)]
    own, other = torch.tensor(values, dtype=torch.float64).view(-1, 2).nanmean(dim=0).tolist()
    return own, other


def draw_similarity(images: LabelledImages, pairs: Sequence[Pair], encoders: dict[str, Sequence[torch.Tensor]]) -> np.ndarray:
    """The query and the target image of each pair with the cosine maps of every encoder: uint8 (H, W, 3) RGB, a row for each pair.

    The colours of an encoder go from the lowest to the highest cosine of its two maps, which the captions give. The encoders are
    title -> (C, h, w) features of the image of each index.
    """
    figure, cells = _grid(len(pairs), ["image", *encoders] * 2)
    for pair in pairs:
        name = images.categories[pair.category]
        maps = [_cosine_maps(pair, features) for features in encoders.values()]
        sides = ((pair.query, pair.region, f"query: this {name}"), (pair.target, pair.objects, f"next image: {name}"))
        for side, (index, mask, caption) in enumerate(sides):
            image = images.image(index)
            _draw_image(axes := next(cells), image, caption)
            _draw_outline(axes, mask)
            for both in maps:
                low, high = (float(extreme(torch.cat([found.flatten() for found in both]))) for extreme in (torch.min, torch.max))
                _draw_image(axes := next(cells), image.mean(axis=2), f"cosine {low:.2f} to {high:.2f}")
                colors = {"cmap": "inferno", "vmin": low, "vmax": high, "alpha": 0.7, "interpolation": "bilinear"}
                axes.imshow(both[side].numpy(), extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5), **colors)
                _draw_outline(axes, mask)
    return _pixels(figure)


def _grid(rows: int, headings: Sequence[str]) -> tuple[Figure, Iterator[Axes]]:
    """A figure and its axes, row by row; those in which nothing is drawn remain invisible."""
    figure = Figure(figsize=(10.4, 10.4 / len(headings) * 1.12 * rows + 0.2), dpi=120, layout="constrained")
    axes = figure.subplots(rows, len(headings), squeeze=False)
    for top, heading in zip(axes[0], headings):
        top.set_title(heading, size=9)
    for one in axes.flat:
        one.set_axis_off()
    return figure, iter(axes.flat)


def _draw_image(axes: Axes, image: np.ndarray, caption: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.text(0, 1.02 * len(image), caption, size=8, va="top")


def _draw_outline(axes: Axes, mask: np.ndarray, color: object = "white", style: str = "solid") -> None:
    axes.contour(mask, [0.5], colors=["black"], linewidths=2.5, alpha=0.6)
    axes.contour(mask, [0.5], colors=[color], linewidths=1.5, linestyles=style)


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
