"""Regions learned while training: k-means over the features of the whole image, as in ODIN (Henaff et al. 2022, "Object discovery and
representation networks"), R2O (Gokul et al. 2022) and CYBORGS (Wang et al. 2022).

Letters: N images, C channels, (h, w) feature cells of the whole image, P = h * w, K regions, S pixels a side of a view.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.config import kmeans_settings


@torch.no_grad()
def spherical_kmeans(features: torch.Tensor, num_clusters: int, draws: torch.Tensor, iterations: int) -> torch.Tensor:
    """Clusters of each image's cells by cosine similarity, of images apart from each other (Dhillon and Modha 2001).

    A cell joins the centre of highest cosine, ties the lowest number; a centre becomes the l2-normalised mean of its cells, and stays where
    it has none. The first centres are drawn as in k-means++ (Arthur and Vassilvitskii 2007) with 2 - 2 cos, the squared distance on the
    sphere. Everything is computed in float32, under autocast too, and without a host synchronisation.

    Args:
        features: (N, P, C) floating; normalised here.
        num_clusters: K in 1..P.
        draws: (N, >= K) floating in [0, 1): the k-th picks the k-th centre, so that they alone decide.
        iterations: of Lloyd's algorithm, >= 0.

    Returns:
        (N, P) int64 in 0..K-1; a number without cells does not occur.

    Raises:
        ValueError: for other shapes, or more clusters than cells.
    """
    if features.ndim != 3 or draws.ndim != 2 or len(draws) != len(features) or draws.shape[1] < num_clusters:
        raise ValueError(
            f"features has shape {tuple(features.shape)}, draws {tuple(draws.shape)}; expected (N, P, C) and (N, at least {num_clusters})."
        )
    if not 1 <= num_clusters <= features.shape[1]:
        raise ValueError(f"num_clusters is {num_clusters}; expected 1..{features.shape[1]}, the number of cells.")
    with torch.autocast(features.device.type, enabled=False):
        points = F.normalize(features.float(), dim=-1)
        centers = _first_centers(points, num_clusters, draws)
        number = torch.arange(num_clusters, device=points.device)
        for _ in range(iterations):
            nearest = _nearest(points, centers)
            members = (nearest[:, None, :] == number[:, None]).to(points.dtype)
            moved = F.normalize(torch.bmm(members, points), dim=-1)
            centers = torch.where(members.any(-1, keepdim=True), moved, centers)
        return _nearest(points, centers)


def carry_to_view(
    cells: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor, image_sizes: torch.Tensor, view_size: tuple[int, int]
) -> torch.Tensor:
    """The label map of each image's view, from the regions of the image's cells.

    The same as ``ViewTransform.apply_segmentation`` of the cells enlarged to the image by half-pixel nearest neighbours, to the pixel; here
    batched, in integers, without the image-sized map.

    Args:
        cells: (N, h, w) region ids.
        boxes: (N, 4) x0, y0, x1, y1 of the crop in whole pixels of the image.
        flips: (N,) bool.
        image_sizes: (N, 2) height and width of the image in pixels.
        view_size: (H, W) of the view.

    Returns:
        (N, H, W), of the dtype of ``cells``.
    """
    x0, y0, x1, y1 = boxes.long().unbind(1)
    height, width = image_sizes.long().unbind(1)
    rows = _cells_of_pixels(y0, y1, height, cells.shape[1], view_size[0])
    columns = _cells_of_pixels(x0, x1, width, cells.shape[2], view_size[1])
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    image = torch.arange(len(cells), device=cells.device)[:, None, None]
    return cells[image, rows[:, :, None], columns[:, None, :]]


class KMeansRegions:
    """What the model knows of learned regions, beside its weights.

    Attributes:
        in_feature: the encoder's output that is clustered.
        num_clusters: K of this step.
        iterations: of Lloyd's algorithm.
        table: uint8 (images, h, w), regions of all training images by their index, or None where each step learns its own. Not part of
            the model's state: whoever refreshes it keeps it.
    """

    def __init__(self, *, in_feature: str, num_clusters: int, iterations: int):
        """Arguments as the attributes of these names."""
        self.in_feature = in_feature
        self.num_clusters = num_clusters
        self.iterations = iterations
        self.table: np.ndarray | None = None

    @classmethod
    def build(cls, cfg: "d2.CfgNode", shapes: "Mapping[str, d2.ShapeSpec]") -> "KMeansRegions | None":
        """From DETCON.MASKS.KMEANS and the shapes of the encoder's outputs; None where DETCON.MASKS.SOURCE is another.

        Raises:
            ValueError: an output that the encoder does not give, or more regions than it has cells.
        """
        settings = kmeans_settings(cfg)
        if settings is None:
            return None
        if settings.in_feature not in shapes:
            raise ValueError(
                f"DETCON.MASKS.KMEANS.IN_FEATURE is {settings.in_feature!r}, but the backbone gives {sorted(shapes)}. Add it to "
                "MODEL.RESNETS.OUT_FEATURES."
            )
        side = -(-settings.size // shapes[settings.in_feature].stride)
        for key, value in (("K", settings.k), ("K_END", settings.k_end)):
            if value > side * side:
                raise ValueError(
                    f"DETCON.MASKS.KMEANS.{key} is {value}, but {settings.in_feature!r} of a whole image of {settings.size} pixels has "
                    f"{side} x {side} = {side * side} cells; expected at most as many regions. Raise DETCON.MASKS.KMEANS.SIZE, or cluster "
                    "an output of a smaller stride (KMEANS.IN_FEATURE and MODEL.RESNETS.OUT_FEATURES)."
                )
        return cls(in_feature=settings.in_feature, num_clusters=settings.k, iterations=settings.iterations)

    @torch.no_grad()
    def learn(self, encoder: nn.Module, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Regions of whole images: (N, h, w) int64.

        The encoder normalises by its running statistics, so that an image's regions do not depend on its batch; they, and the mode that
        each of its modules is in, stay as they are.

        Args:
            encoder: gives ``in_feature``.
            images: (N, 3, H, W), as the encoder takes them.
            draws: (N, >= K) floating in [0, 1).
        """
        kind = images.device.type
        # Autocast of older versions of torch keeps the weights that it casts here, without gradient, for the forward passes of the views.
        autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False)
        with autocast, _evaluating(encoder):
            features = encoder(images)[self.in_feature]
        n, _, height, width = features.shape
        found = spherical_kmeans(features.flatten(2).transpose(1, 2), self.num_clusters, draws, self.iterations)
        return found.view(n, height, width)

    def look_up(self, records: list[dict]) -> torch.Tensor:
        """Regions of the images of a batch from the table: (N, h, w) int64 on the CPU.

        Args:
            records: the mapper's dicts, with ``index``.
        """
        if self.table is None:
            raise ValueError(
                "DETCON.MASKS.KMEANS.REFRESH_EPOCHS asks for regions of all images, which are not there: train with DetConTrainer, whose "
                "hook computes them, or set REFRESH_EPOCHS 0."
            )
        return torch.from_numpy(self.table[[record["index"] for record in records]]).long()


def _first_centers(points: torch.Tensor, num_clusters: int, draws: torch.Tensor) -> torch.Tensor:
    """k-means++ on the sphere: (N, K, C)."""
    draws = draws.to(points.device, torch.float64)
    distance = points.new_ones(points.shape[:2], dtype=torch.float64)
    centers = []
    for k in range(num_clusters):
        cumulated = distance.cumsum(1)
        # Where no cell differs from the centres so far, the last one is taken again: the lower number of the two keeps all cells.
        chosen = (cumulated <= draws[:, k, None] * cumulated[:, -1:]).sum(1).clamp(max=points.shape[1] - 1)
        center = points[torch.arange(len(points), device=points.device), chosen]
        centers.append(center)
        to_center = (2 - 2 * torch.bmm(points, center[:, :, None])[:, :, 0]).clamp(min=0).double()
        distance = to_center if k == 0 else torch.minimum(distance, to_center)
    return torch.stack(centers, 1)


def _nearest(points: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    # Of several maxima argmax gives the first.
    return torch.bmm(points, centers.transpose(1, 2)).argmax(-1)


def _cells_of_pixels(start: torch.Tensor, end: torch.Tensor, image: torch.Tensor, cells: int, pixels: int) -> torch.Tensor:
    """(N, pixels): the cell, along one axis, of each pixel of a view of the crop start..end."""
    centers = 2 * torch.arange(pixels, device=start.device) + 1
    source = start[:, None] + centers * (end - start)[:, None] // (2 * pixels)
    return (2 * source + 1) * cells // (2 * image[:, None])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
