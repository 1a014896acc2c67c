"""Regions learned while training: k-means over the features of the whole image, as in ODIN (Hénaff et al. 2022, "Object discovery and
representation networks"), R2O (Gokul et al. 2022) and CYBORGS (Wang et al. 2022). DETCON.MASKS.SOURCE kmeans gives them to any method that
pools regions.

Letters: N images, (h, w) feature cells of the whole image, K regions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import evaluating
from detcon_d2.modeling.inputs import joined
from detcon_d2.modeling.kmeans import carry_to_view, spherical_kmeans
from detcon_d2.modeling.regions import downsample_label_map
from detcon_d2.views.samplers import WholeImage


def add_learned_regions_config(node: "d2.CfgNode") -> None:
    """Add the keys KMEANS to ``node``, which is cfg.DETCON.MASKS, in place."""
    # k-means over the EMA encoder's features of the whole image (of the only encoder, where there is no EMA copy).
    node.KMEANS = d2.CfgNode()
    # K: regions of an image, at most the number of feature cells and 256.
    node.KMEANS.K = 8
    # K moves linearly to this number over training, as in R2O; 0: it stays.
    node.KMEANS.K_END = 0
    node.KMEANS.ITERATIONS = 10
    # The whole image is resized to SIZE x SIZE, whatever its aspect ratio; 0: VIEWS.SIZE. A larger one gives more cells, and finer regions.
    node.KMEANS.SIZE = 0
    # The backbone's output that is clustered, one of MODEL.RESNETS.OUT_FEATURES; "": DETCON.IN_FEATURE.
    node.KMEANS.IN_FEATURE = ""
    # 0: regions of each batch in each step; E: of all images at the start of every E-th epoch, kept in OUTPUT_DIR/kmeans until the next.
    node.KMEANS.REFRESH_EPOCHS = 0


@dataclass(frozen=True)
class KMeansSettings:
    """DETCON.MASKS.KMEANS with its defaults resolved.

    Attributes:
        k, k_end: regions of an image in the first and the last iteration.
        iterations: of Lloyd's algorithm.
        size: side of the whole image in pixels.
        in_feature: the backbone's output that is clustered.
        refresh_epochs: E; 0: each step.
    """

    k: int
    k_end: int
    iterations: int
    size: int
    in_feature: str
    refresh_epochs: int

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", shapes: "Mapping[str, d2.ShapeSpec]") -> "KMeansSettings":
        """
        Args:
            cfg: the config.
            shapes: of the encoder's outputs.

        Raises ValueError for values out of range, an output that the encoder lacks, or more regions than cells.
        """
        keys = cfg.DETCON.MASKS.KMEANS
        checks = [
            (1 <= keys.K <= 256, "K", "1..256 regions per image"),
            (0 <= keys.K_END <= 256, "K_END", "1..256 regions per image, or 0 for K all the time"),
            (keys.ITERATIONS >= 1, "ITERATIONS", "at least 1"),
            (keys.SIZE >= 0, "SIZE", "a side in pixels, or 0 for that of the views"),
            (keys.REFRESH_EPOCHS >= 0, "REFRESH_EPOCHS", "a number of epochs, or 0 for every step"),
        ]
        wrong = [f"DETCON.MASKS.KMEANS.{key} is {keys[key]!r}; expected {expected}." for ok, key, expected in checks if not ok]
        if wrong:
            raise ValueError("\n".join(wrong))
        size, in_feature = keys.SIZE or cfg.DETCON.VIEWS.SIZE, keys.IN_FEATURE or cfg.DETCON.IN_FEATURE
        if in_feature not in shapes:
            raise ValueError(
                f"DETCON.MASKS.KMEANS.IN_FEATURE is {in_feature!r}, but the backbone gives {sorted(shapes)}. Add it to "
                "MODEL.RESNETS.OUT_FEATURES."
            )
        side = -(-size // shapes[in_feature].stride)
        for key in ("K", "K_END"):
            if keys[key] > side * side:
                raise ValueError(
                    f"DETCON.MASKS.KMEANS.{key} is {keys[key]}, but {in_feature!r} of a whole image of {size} pixels has "
                    f"{side} x {side} = {side * side} cells; expected at most as many regions. Raise DETCON.MASKS.KMEANS.SIZE, or cluster "
                    "an output of a smaller stride (KMEANS.IN_FEATURE and MODEL.RESNETS.OUT_FEATURES)."
                )
        return cls(keys.K, keys.K_END or keys.K, keys.ITERATIONS, size, in_feature, keys.REFRESH_EPOCHS)

    def clusters(self, iteration: int, max_iter: int) -> int:
        """K at an iteration: on the line from ``k`` at the first of ``max_iter`` iterations to ``k_end`` at the last."""
        return round(self.k + (self.k_end - self.k) * min(iteration / max(max_iter - 1, 1), 1.0))


@dataclass(eq=False)
class LearnedRegions:
    """What a model knows of its learned regions, besides its weights. It is no part of the model's state.

    Attributes:
        settings: the config.
        whole_image: makes what k-means needs of an image.
        num_clusters: K of this step.
        table: uint8 (images, h, w), regions of all training images by their index; None where each step learns its own.
    """

    settings: KMeansSettings
    whole_image: WholeImage
    num_clusters: int
    table: np.ndarray | None = None

    @classmethod
    def build(cls, cfg: "d2.CfgNode", shapes: "Mapping[str, d2.ShapeSpec]") -> "LearnedRegions | None":
        """From a config and the shapes of the encoder's outputs; None where DETCON.MASKS.SOURCE is not kmeans.

        Raises ValueError as :meth:`KMeansSettings.from_config`.
        """
        if cfg.DETCON.MASKS.SOURCE != "kmeans":
            return None
        settings = KMeansSettings.from_config(cfg, shapes)
        draws, fast = max(settings.k, settings.k_end), cfg.DETCON.AUG.MODE == "fast"
        return cls(settings, WholeImage(cfg.SEED, settings.size, cfg.DETCON.VIEWS.INTERPOLATION, draws, fast), settings.k)

    @property
    def whole_image_of_samples(self) -> WholeImage | None:
        """What samples need to have; None where regions are refreshed by epochs."""
        return None if self.settings.refresh_epochs else self.whole_image

    def describe(self) -> str:
        """One line for logs and checkpoints."""
        return " ".join(["kmeans", *(f"{key}={value}" for key, value in asdict(self.settings).items())])

    @torch.no_grad()
    def learn(self, model: PretrainingModel, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Regions of whole images: (N, h, w) int64 on the model's device.

        The encoder normalises by its running statistics, so that an image's regions do not depend on its batch; they, and the mode of
        each of its modules, stay as they are.

        Args:
            model: has a ``region_encoder``.
            images: (N, 3, H, W) uint8 RGB.
            draws: (N, >= K) floating in [0, 1).
        """
        images = model.normalise(model.to_device(images)).contiguous(memory_format=model.memory_format)
        kind = images.device.type
        # Autocast of older versions of torch keeps the weights that it casts here, without gradient, for the forward passes of the views.
        autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False)
        with autocast, evaluating(model.region_encoder.modules()):
            features = model.region_encoder(images)[self.settings.in_feature]
        n, _, height, width = features.shape
        cells = features.flatten(2).transpose(1, 2)
        return spherical_kmeans(cells, self.num_clusters, model.to_device(draws), self.settings.iterations).view(n, height, width)

    def cells_of_views(self, model: PretrainingModel, batch: list[dict]) -> list[torch.Tensor]:
        """The regions of each view's feature cells, (N, h, w) each, learned from the whole images or looked up."""
        if not self.settings.refresh_epochs:
            regions = self.learn(model, *(joined([sample[key] for sample in batch]) for key in ("full_image", "kmeans_draws")))
        elif self.table is not None:
            regions = model.to_device(torch.from_numpy(self.table[[sample["index"] for sample in batch]]).long())
        else:
            raise ValueError(
                "DETCON.MASKS.KMEANS.REFRESH_EPOCHS asks for regions of all images, which are not there: train with DetConTrainer, whose "
                "hook computes them, or set REFRESH_EPOCHS 0."
            )
        sizes = model.to_device(torch.tensor([[sample["height"], sample["width"]] for sample in batch]))
        cells = []
        for i, view in enumerate(batch[0]["views"]):
            flips = model.to_device(torch.tensor([sample["views"][i]["flip"] for sample in batch]))
            label_maps = carry_to_view(regions, model.stacked(batch, i, "box"), flips, sizes, view["image"].shape[-2:])
            cells.append(downsample_label_map(label_maps, tuple(-(-side // model.stride) for side in label_maps.shape[-2:])))
        return cells
