"""Relative position (Doersch et al. 2015): at which of the eight neighbouring places of a tile was another tile of the image?

Letters: N images per process, T = 9 tiles of each, C feature channels.
"""

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.methods.tiles.patches import PatchModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.metrics import projection_std, share_right

CENTER = 4
NEIGHBOURS = (0, 1, 2, 3, 5, 6, 7, 8)
"""The tiles around the central one, row by row; class k of a pair is the number of the tile's entry here."""
EDGES = (1, 3, 4, 6)
"""The classes of the tiles above, to the left, to the right and below."""


@d2.META_ARCH_REGISTRY.register()
class RelativePosition(PatchModel):
    """The central tile with each of the others, 8 pairs an image; every tile is encoded once."""

    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, classifier: nn.Module, **kwargs):
        """
        Args:
            classifier: maps 2 C, the central tile's features and the other's, to the 8 classes.
            **kwargs: as for :class:`PatchModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"classifier": classifier})}, **kwargs)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """RelativePosition's own keys; the others are those of PATCHES."""
        super().add_config(node)
        node.RELATIVE_POSITION = d2.CfgNode()
        # Width of the classifier's hidden layer, which has BatchNorm and ReLU.
        node.RELATIVE_POSITION.HIDDEN_DIM = 4096

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of RelativePosition's keys."""
        hidden = cfg.DETCON.RELATIVE_POSITION.HIDDEN_DIM
        return [*super().check_config(cfg), (hidden > 0, "DETCON.RELATIVE_POSITION.HIDDEN_DIM", hidden, "at least 1")]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args = super().from_config(cfg)
        dims = [2 * feature_channels(cfg, args["encoder"]), cfg.DETCON.RELATIVE_POSITION.HIDDEN_DIM, len(NEIGHBOURS)]
        classifier = MLP(dims, norm=cfg.DETCON.HEAD_NORM, bias=False)
        for layer, std in zip(classifier.layers, (0.01, 0.005)):  # of MMSelfSup
            nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(classifier.layers[-1].bias)
        return args | {"classifier": classifier}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, 8, 8) of the pairs in the order of their classes, ``features`` (N, C): the mean over the tiles."""
        tiles = self.pooled_tiles(self.tiles_of(batch))
        others = tiles[:, NEIGHBOURS]
        pairs = torch.cat([tiles[:, CENTER, None].expand_as(others), others], dim=2)
        return {"logits": self.heads["classifier"](pairs), "features": tiles.detach().mean(1).float()}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy over all pairs."""
        logits = embeddings["logits"].float()
        return {"loss_relative_position": F.cross_entropy(logits.flatten(0, 1), _labels(logits).flatten())}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of right answers, that of neighbours which share an edge or a corner, and what guessing gets right."""
        labels = _labels(embeddings["logits"])
        right, edge = embeddings["logits"].argmax(2) == labels, torch.isin(labels, labels.new_tensor(EDGES))
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "accuracy": right.float().mean(),
            "accuracy_edges": share_right(right, edge),
            "accuracy_corners": share_right(right, ~edge),
            "chance": torch.tensor(1 / len(NEIGHBOURS)),
        }


def _labels(logits: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(NEIGHBOURS), device=logits.device).expand(logits.shape[:2])
