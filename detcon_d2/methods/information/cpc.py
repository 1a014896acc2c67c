"""CPC, contrastive predictive coding (van den Oord et al. 2018; Hénaff et al. 2020): the patches above predict those below.

Letters: N images per process, G patches along each side of a view, P pixels per side of a patch, C feature channels, D dimensions, K
distances.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses.pretext.cpc import cpc_loss, predicted_rows
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.patches import OverlappingPatches, grid_side
from detcon_d2.views.samplers import OneView

DIRECTIONS = ("down", "right", "up", "left")
"""Values of DETCON.CPC.DIRECTIONS, in the order of quarter turns of the grid."""


class RowContext(nn.Module):
    """Convolutions over the grid that see a row, its neighbours within it and the rows above, never those below."""

    def __init__(self, channels: int, dim: int, layers: int):
        super().__init__()
        self.first = nn.Conv2d(channels, dim, 1)
        self.layers = nn.ModuleList(nn.Conv2d(dim, dim, (2, 3)) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, G, G) -> (N, dim, G, G)."""
        x = self.first(x)
        for layer in self.layers:
            # One row above and a column on each side.
            x = x + layer(F.pad(x.relu(), (1, 1, 1, 0)))
        return x


class PatchSamples(OverlappingPatches):
    """View 1, which the model cuts into patches; with DETCON.CPC.PATCH_AUG the patches."""

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> OneView:
        """As :meth:`OneView.from_config`, with DETCON.CPC."""
        keys = cfg.DETCON.CPC
        if not keys.PATCH_AUG:
            return OneView.from_config(cfg, stride)
        return super().from_config(cfg, stride, patch=keys.PATCH, step=step_of(keys), drop_prob=keys.DROP_PROB)


@d2.META_ARCH_REGISTRY.register()
class CPC(PretrainingModel):
    """The view is cut into overlapping patches, each of which is encoded by itself; one network summarises the rows above.

    Each of the G x G places has a forward pass of its own, with one patch per image: BatchNorm's statistics would otherwise tie the patches
    of an image to each other, which gives the answer away. (CPC v2 uses LayerNorm instead, which no detector's ResNet has.) The rest of
    CPC v2 are keys.
    """

    Samples = PatchSamples
    online_keys = ("predictions", "targets")

    @d2.configurable
    def __init__(self, *, heads: dict[str, nn.Module], keys: "d2.CfgNode", **kwargs):
        """
        Args:
            heads: ``context``, a :class:`RowContext`; ``predict``, a 1x1 convolution to K D; ``target``, one from C to D.
            keys: the node DETCON.CPC.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict(heads)}, **kwargs)
        self.keys = keys

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """CPC's keys."""
        node.CPC = d2.CfgNode()
        # P, and the pixels from one patch to the next; 0: half of P, so that a view of 256 pixels has 7 x 7 patches of 64.
        node.CPC.PATCH = 64
        node.CPC.STEP = 0
        # CPC v2: each patch is mirrored (VIEWS.FLIP_PROB) and recoloured (as view 1) by itself, and two of its channels are dropped with
        # the probability DROP_PROB.
        node.CPC.PATCH_AUG = False
        node.CPC.DROP_PROB = 0.0
        # Rows are predicted from FIRST rows above to as far as the grid reaches; the next row shares half of its pixels.
        node.CPC.FIRST = 2
        # Ways in which the grid is read; CPC v1 has "down" alone, v2 all four.
        node.CPC.DIRECTIONS = ("down",)
        # Channels and layers of the network that summarises the rows above.
        node.CPC.CONTEXT_DIM = 256
        node.CPC.CONTEXT_LAYERS = 5
        # D.
        node.CPC.DIM = 64

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of CPC's keys."""
        keys, size = cfg.DETCON.CPC, cfg.DETCON.VIEWS.SIZE
        known = set(keys.DIRECTIONS) <= set(DIRECTIONS) and len(set(keys.DIRECTIONS)) == len(keys.DIRECTIONS) > 0
        cuts = keys.PATCH > 1 and (keys.STEP > 0 or (keys.STEP == 0 and keys.PATCH % 2 == 0))
        fits = cuts and (size - keys.PATCH) % step_of(keys) == 0 and 0 < keys.FIRST < grid_side(size, keys.PATCH, step_of(keys))
        expected = f"such that the steps fill DETCON.VIEWS.SIZE, {size}, and the grid has more than FIRST rows"
        return [
            (cuts, "DETCON.CPC.PATCH", keys.PATCH, "an even number of pixels, or STEP > 0"),
            (fits or not cuts, "DETCON.CPC.PATCH, STEP and FIRST", (keys.PATCH, keys.STEP, keys.FIRST), expected),
            (0 <= keys.DROP_PROB <= keys.PATCH_AUG, "DETCON.CPC.DROP_PROB", keys.DROP_PROB, "a probability in [0, 1], 0 without PATCH_AUG"),
            (known, "DETCON.CPC.DIRECTIONS", tuple(keys.DIRECTIONS), f"one or more of {', '.join(DIRECTIONS)}"),
            *((keys[key] > 0, f"DETCON.CPC.{key}", keys[key], "at least 1") for key in ("CONTEXT_DIM", "CONTEXT_LAYERS", "DIM")),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.CPC
        channels = feature_channels(cfg, args["encoder"])
        distances = grid_side(cfg.DETCON.VIEWS.SIZE, keys.PATCH, step_of(keys)) - keys.FIRST
        heads = {
            "context": RowContext(channels, keys.CONTEXT_DIM, keys.CONTEXT_LAYERS),
            "predict": nn.Conv2d(keys.CONTEXT_DIM, distances * keys.DIM, 1, bias=False),
            "target": nn.Conv2d(channels, keys.DIM, 1, bias=False),
        }
        return args | {"heads": heads, "keys": keys}

    def patches_of(self, batch: list[dict]) -> torch.Tensor:
        """(G * G, N, 3, P, P): the patches row by row, cut out of the view or as the loader made them."""
        views = self.images_of(batch)
        if "channels" in batch[0]:
            channels = self.to_device(torch.stack([sample["channels"] for sample in batch], dim=1))
            return torch.stack(views) * channels[..., None, None]
        side, step = self.keys.PATCH, step_of(self.keys)
        return views[0].unfold(2, side, step).unfold(3, side, step).permute(2, 3, 0, 1, 4, 5).flatten(0, 1)

    def encode_patches(self, patches: torch.Tensor) -> torch.Tensor:
        """(G * G, N, 3, P, P) -> (N, C, G, G): the mean over the cells of each patch."""
        maps = [self.encoder(place.contiguous(memory_format=self.memory_format))[self.in_feature] for place in patches]
        side = math.isqrt(len(patches))
        return torch.stack([one.mean((2, 3)) for one in maps], dim=2).unflatten(2, (side, side))

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``predictions`` (N, directions, K, G, G, D) and ``targets`` (N, directions, G, G, D), of the grid as each direction reads it;
        ``features`` (N, C), the mean of the patches."""
        grid = self.encode_patches(self.patches_of(batch))
        predictions, targets = [], []
        for direction in self.keys.DIRECTIONS:
            turned = grid.rot90(DIRECTIONS.index(direction), (2, 3))
            found = self.heads["predict"](self.heads["context"](turned)).unflatten(1, (-1, self.keys.DIM))
            predictions.append(found.permute(0, 1, 3, 4, 2))
            targets.append(self.heads["target"](turned).permute(0, 2, 3, 1))
        features = LinearProbe.pool(grid)
        return {"predictions": torch.stack(predictions, 1), "targets": torch.stack(targets, 1), "features": features}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over the directions."""
        pairs = zip(embeddings["predictions"].unbind(1), embeddings["targets"].unbind(1), strict=True)
        return {"loss_cpc": torch.stack([cpc_loss(*pair, first=self.keys.FIRST) for pair in pairs]).mean()}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, and the share of predictions whose nearest patch in this process's batch is the right one, with its chance."""
        predictions, targets = embeddings["predictions"][:, 0].float(), embeddings["targets"][:, 0].float()
        images, side = targets.shape[:2]
        places = torch.arange(images * side * side, device=targets.device).view(images, side, side)
        right = [
            (rows.flatten(0, 2) @ targets.flatten(0, 2).T).argmax(1) == places[:, below].flatten()
            for rows, below in predicted_rows(predictions, self.keys.FIRST)
        ]
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "accuracy": torch.cat(right).float().mean(),
            "chance": torch.tensor(1 / places.numel()),
        }


def step_of(keys: "d2.CfgNode") -> int:
    """Pixels from one patch to the next, of the node DETCON.CPC."""
    return keys.STEP or keys.PATCH // 2
