"""Completing damaged jigsaws (Kim et al. 2018): jigsaw of grey tiles, one of which is missing; what colours have the others, and what
colours has the missing one?

Letters: N images per process, T = 9 tiles of each, C feature channels, D features per tile, (h, w) feature cells of a tile, Q bins.
"""

import math

import numpy as np
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.methods.pretext.colorization import GRAY
from detcon_d2.methods.tiles.jigsaw import Jigsaw, ShuffledPatches
from detcon_d2.methods.tiles.patches import standardise
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.color_bins import AB_BINS, cell_targets, soft_ab
from detcon_d2.modeling.heads import CellHead
from detcon_d2.views.permutations import TILES

COLORS = ("shown", "missing")
"""The tasks on colours."""


class DamagedPatches(ShuffledPatches):
    """Tiles in a random order, and the place of one that the model takes out; it is never a foreign one."""

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, partner: np.ndarray | None = None) -> dict:
        """As :meth:`ShuffledPatches.__call__`, with ``missing`` bool (9,), True at one place."""
        missing = np.arange(TILES) == self.sample_puzzle(position)[2][-1]
        return super().__call__(image, label_map, position, partner) | {"missing": torch.from_numpy(missing)}


@d2.META_ARCH_REGISTRY.register()
class DamagedJigsaw(Jigsaw):
    """Three heads on the same tiles: jigsaw's; colorization's on the cells of each tile that is shown; and a linear one, which sees what
    jigsaw's classifier sees, for the cells of the missing tile. Each loss is in parts of that of a uniform guess."""

    Samples = DamagedPatches
    online_keys = ("logits", *(f"logits_{name}" for name in COLORS))

    @d2.configurable
    def __init__(self, *, weights: tuple[float, float, float], pixel_stride: int, **kwargs):
        """
        Args:
            weights: of jigsaw, and of the colours of shown and of missing tiles.
            pixel_stride: of the pixels that make the targets.
            **kwargs: as for :class:`Jigsaw`, with the heads ``shown``, a :class:`CellHead`, and ``missing``, from T D to Q h w.
        """
        super().__init__(**kwargs)
        self.weights, self.pixel_stride = weights, pixel_stride

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Its own key; the others are those of JIGSAW, PATCHES and COLORIZATION."""
        node.DAMAGED_JIGSAW = d2.CfgNode()
        # Of the losses of the order, of the colours of shown tiles and of those of the missing tile; the authors' are not known.
        node.DAMAGED_JIGSAW.WEIGHTS = (1.0, 1.0, 1.0)

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Jigsaw's, the weights, and that colours are left alone."""
        weights, color = tuple(cfg.DETCON.DAMAGED_JIGSAW.WEIGHTS), cfg.DETCON.PATCHES.COLOR
        good = len(weights) == 3 and min(weights) > 0
        return [
            *super().check_config(cfg),
            (good, "DETCON.DAMAGED_JIGSAW.WEIGHTS", weights, "three numbers > 0"),
            (color == "none", "DETCON.PATCHES.COLOR", color, "'none', as the tiles are grey and their colours are targets"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.COLORIZATION
        encoder = args["encoder"]
        side = -(-cfg.DETCON.PATCHES.TILE // encoder.output_shape()[args["in_feature"]].stride)
        heads = {
            "shown": CellHead(feature_channels(cfg, encoder), keys.HIDDEN_DIM, len(AB_BINS), norm=cfg.DETCON.HEAD_NORM),
            "missing": nn.Linear(TILES * cfg.DETCON.JIGSAW.TILE_DIM, len(AB_BINS) * side**2),
        }
        weights = tuple(cfg.DETCON.DAMAGED_JIGSAW.WEIGHTS)
        return args | {"heads": args["heads"] | heads, "weights": weights, "pixel_stride": keys.PIXEL_STRIDE}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """As :meth:`Jigsaw.embed`; of the tiles ``logits_shown`` and ``target_shown`` (N, T, Q, h, w), of the missing one
        ``logits_missing`` and ``target_missing`` (N, 1, Q, h, w); ``tiles_shown`` (N, T) and ``tiles_missing`` (N, 1) bool: which tiles
        count, none of a grey image."""
        missing = self.to_device(torch.stack([sample["missing"] for sample in batch]))
        lab = self.to_lab(torch.stack(self.images_of(batch), dim=1).flatten(0, 1))
        tiles = self.gray_images(lab[:, :1])
        if self.normalize == "tile":
            tiles = standardise(tiles * self.pixel_std).contiguous(memory_format=self.memory_format)
        maps = self.encoder(tiles.masked_fill(missing.flatten()[:, None, None, None], 0))[self.in_feature]
        rows, found = self.solve(maps.mean((2, 3)).unflatten(0, missing.shape), batch)
        found["logits_shown"] = self.heads["shown"](maps).unflatten(0, missing.shape)
        found["logits_missing"] = self.heads["missing"](rows).view(len(batch), 1, -1, *maps.shape[2:])
        colored = (lab[:, 1:].abs() > GRAY).flatten(1).any(1).view(missing.shape).any(1, keepdim=True)
        found |= {"tiles_shown": colored & ~missing, "tiles_missing": colored}
        if with_targets:
            target = cell_targets(soft_ab, lab[:, 1:], maps.shape[2:], self.pixel_stride).unflatten(0, missing.shape)
            found |= {"target_shown": target, "target_missing": target[missing][:, None]}
        return found

    @staticmethod
    def entropies(embeddings: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        """Cross-entropy of each image's tiles with the soft targets, mean over the cells that count, 0 where none does: (N,)."""
        counts = embeddings[f"tiles_{name}"].float()
        cells = -(embeddings[f"target_{name}"] * embeddings[f"logits_{name}"].float().log_softmax(2)).sum(2).mean((2, 3))
        return (cells * counts).sum(1) / counts.sum(1).clamp(min=1)

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean over the images of each of the three losses, times its weight, divided by the logarithm of the number of its classes."""
        losses = {"loss_jigsaw": super().criterion(embeddings)["loss_jigsaw"] / math.log(len(self.permutations))}
        losses |= {f"loss_{name}": self.entropies(embeddings, name).mean() / math.log(len(AB_BINS)) for name in COLORS}
        return {name: weight * loss for weight, (name, loss) in zip(self.weights, losses.items(), strict=True)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Jigsaw's; and for both kinds of tiles ``gain``, by how much the cross-entropy is below the entropy of the batch's mean target."""
        found = super().metrics(embeddings)
        for name in COLORS:
            target = embeddings[f"target_{name}"][embeddings[f"tiles_{name}"]].mean((2, 3))
            entropy = torch.special.entr(target.sum(0) / max(len(target), 1)).sum()
            colored = embeddings[f"tiles_{name}"].any(1)
            found[f"gain_{name}"] = entropy - self.entropies(embeddings, name).sum() / colored.sum().clamp(min=1)
        return found
