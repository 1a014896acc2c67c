"""Jigsaw (Noroozi and Favaro 2016): in which of P orders are the nine tiles of an image shown? Jigsaw++ (Noroozi et al. 2018) replaces some
of them by tiles of another image.

Letters: N images per process, T = 9 tiles of each, P permutations, C feature channels, D features per tile.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.methods.tiles.patches import PatchModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import normalise_rows
from detcon_d2.modeling.metrics import projection_std, share_right
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.patches import Patches
from detcon_d2.views.permutations import TILES, permutations


class ShuffledPatches(Patches):
    """Tiles in the order of a random permutation; the flip comes before, so it changes no label."""

    def __init__(self, *, permutations: np.ndarray, foreign_tiles: int = 0, **kwargs):
        """
        Args:
            permutations: int64 (P, 9).
            foreign_tiles: up to so many tiles, a uniform number, are those of the same places of the partner.
            **kwargs: as for :class:`Patches`.
        """
        super().__init__(**kwargs)
        self.permutations, self.foreign_tiles = permutations, foreign_tiles

    @property
    def needs_partner(self) -> bool:
        """Whether tiles of another image are mixed in."""
        return self.foreign_tiles > 0

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "ShuffledPatches":
        """As :meth:`Patches.from_config`, with DETCON.JIGSAW."""
        keys = cfg.DETCON.JIGSAW
        return super().from_config(cfg, stride, permutations=permutations(keys.PERMUTATIONS), foreign_tiles=keys.FOREIGN_TILES)

    def sample_puzzle(self, position: int) -> tuple[int, int, np.ndarray]:
        """The number of the permutation, that of the foreign tiles, and the places in a random order, the foreign ones first."""
        _, rng = self.sample_colors(position)
        number, count = int(rng.integers(len(self.permutations))), int(rng.integers(self.foreign_tiles + 1))
        return number, count, rng.permutation(TILES)

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """The tiles in the order in which they are shown."""
        tiles = super().sample_geometry(position, height, width)
        return [tiles[tile] for tile in self.permutations[self.sample_puzzle(position)[0]]]

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, partner: np.ndarray | None = None) -> dict:
        """As :meth:`Patches.__call__`, with ``permutation`` and ``foreign``, the number of foreign tiles, int64 scalars. A foreign view has
        the ``box`` that it has in the partner."""
        (colors, _), (number, count, order) = self.sample_colors(position), self.sample_puzzle(position)
        foreign = set(order[:count].tolist())
        images = [partner if place in foreign else image for place in range(TILES)]
        own = self.sample_geometry(position, *image.shape[:2])
        others = self.sample_geometry(position, *partner.shape[:2]) if foreign else own
        tiles = [others[place] if place in foreign else own[place] for place in range(TILES)]
        labels = {"permutation": torch.tensor(number), "foreign": torch.tensor(count)}
        return {"views": self.render_each(tiles, images, position), "colors": torch.from_numpy(colors)} | labels


@d2.META_ARCH_REGISTRY.register()
class Jigsaw(PatchModel):
    """Each tile through the encoder and one shared layer; a linear classifier on all of them side by side."""

    Samples = ShuffledPatches
    online_keys = ("logits",)

    @d2.configurable
    def __init__(self, *, heads: dict[str, nn.Module], permutations: np.ndarray, foreign_tiles: int, **kwargs):
        """
        Args:
            heads: ``tile`` maps C to D, ``norm`` normalises D, ``classifier`` maps T D to P.
            permutations: int64 (P, 9).
            foreign_tiles: the most that an image has.
            **kwargs: as for :class:`PatchModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict(heads)}, **kwargs)
        self.register_buffer("permutations", torch.tensor(permutations), persistent=False)
        self.foreign_tiles = foreign_tiles

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Jigsaw's own keys; the others are those of PATCHES."""
        super().add_config(node)
        node.JIGSAW = d2.CfgNode()
        # "agl9": 72 of least distance 8; "psl28": 504 of least distance 7; "1000": so many, chosen greedily (11 seconds).
        node.JIGSAW.PERMUTATIONS = "psl28"
        # D: features per tile (VISSL).
        node.JIGSAW.TILE_DIM = 1000
        # Jigsaw++: up to so many tiles of an image, a uniform number, are of another one; 0: none, 2 in the paper. Every sample then reads
        # two images.
        node.JIGSAW.FOREIGN_TILES = 0

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of Jigsaw's keys."""
        keys = cfg.DETCON.JIGSAW
        return [
            *super().check_config(cfg),
            (keys.TILE_DIM > 0, "DETCON.JIGSAW.TILE_DIM", keys.TILE_DIM, "at least 1"),
            (0 <= keys.FOREIGN_TILES <= 6, "DETCON.JIGSAW.FOREIGN_TILES", keys.FOREIGN_TILES, "0..6: fewer tiles tell no order"),
        ]

    @classmethod
    def doubts(cls, cfg: "d2.CfgNode", num_images: int) -> list[str]:
        """Too many permutations for the images."""
        count, most = len(permutations(cfg.DETCON.JIGSAW.PERMUTATIONS)), num_images // 50
        text = f"DETCON.JIGSAW.PERMUTATIONS makes {count} classes of {num_images} training images; expected at most {most}, a fiftieth"
        return [] if count <= most else [f"{text}: the images are remembered before an order is learned. 'agl9' has 72."]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.JIGSAW
        orders, dim = permutations(keys.PERMUTATIONS), keys.TILE_DIM
        heads = {
            "tile": nn.Linear(feature_channels(cfg, args["encoder"]), dim, bias=False),
            "norm": d2.get_norm(cfg.DETCON.HEAD_NORM, dim),
            "classifier": nn.Linear(TILES * dim, len(orders)),
        }
        return args | {"heads": heads, "permutations": orders, "foreign_tiles": keys.FOREIGN_TILES}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits`` (N, P), ``labels`` and ``foreign`` (N,) int64, ``features`` (N, C): the mean over the tiles."""
        return self.solve(self.pooled_tiles(self.tiles_of(batch)), batch)[1]

    def solve(self, tiles: torch.Tensor, batch: list[dict]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """From the pooled features of the tiles (N, T, C): what the classifier sees, (N, T D), and the entries of :meth:`embed`."""
        rows = normalise_rows(self.heads["norm"], self.heads["tile"](tiles.flatten(0, 1))).relu().view(len(tiles), -1)
        labels, foreign = (self.to_device(torch.stack([sample[key] for sample in batch])) for key in ("permutation", "foreign"))
        found = {"logits": self.heads["classifier"](rows), "labels": labels, "foreign": foreign}
        return rows, found | {"features": tiles.detach().mean(1).float()}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean cross-entropy; ln P where all orders are alike."""
        return {"loss_jigsaw": F.cross_entropy(embeddings["logits"].float(), embeddings["labels"])}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of right orders, what guessing gets right, the share of tiles that the answer puts at their place; and in
        Jigsaw++ the share of right orders by the number of foreign tiles (0 without such an image)."""
        guess, labels, foreign = embeddings["logits"].argmax(1), embeddings["labels"], embeddings["foreign"]
        right = guess == labels
        numbers = range(self.foreign_tiles + 1) if self.foreign_tiles else ()
        return {
            "projection_std": projection_std(embeddings["features"][:, None]),
            "accuracy": right.float().mean(),
            "chance": torch.tensor(1 / len(self.permutations)),
            "right_places": (self.permutations[guess] == self.permutations[labels]).float().mean(),
            **{f"accuracy_foreign_{number}": share_right(right, foreign == number) for number in numbers},
        }
