"""AMDIM (Bachman et al. 2019): Deep InfoMax across two views, between levels of the network.

The loss is that of the paper; the network is an ordinary ResNet, not the paper's, which limits how far its cells see.
Letters: N images per process, C feature channels, L locations, D dimensions.
"""

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses.pretext import dim
from detcon_d2.methods.information.dim import InfoMax, ShortcutMLP, split_own
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import TwoViews

PAIRS = ("1->5", "1->7", "5->5")
"""Values of DETCON.AMDIM.PAIRS: source and target, named after the sides of the authors' maps. "1": the mean of IN_FEATURE; "5": its cells;
"7": the cells of LOCAL_FEATURE, averaged to as many."""


class SharedFlipViews(TwoViews):
    """Two views that are both mirrored or not, and the random numbers that choose one location of each."""

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """As :meth:`TwoViews.sample_geometry`, with the flip of view 1."""
        first, second = super().sample_geometry(position, height, width)
        return [first, replace(second, flip=first.flip)]

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """As :meth:`TwoViews.__call__`, with ``locations`` float32 (2,) in [0, 1)."""
        draws = position_rng(self.seed, position, Stream.PRETEXT).random(2, dtype=np.float32)
        return super().__call__(image, label_map, position) | {"locations": torch.from_numpy(draws)}


@d2.META_ARCH_REGISTRY.register()
class AMDIM(InfoMax):
    """One forward pass per view; the sum over the pairs of levels of the mean over both directions."""

    Samples = SharedFlipViews

    @d2.configurable
    def __init__(self, **kwargs):
        """Arguments as :class:`InfoMax`, with a head for each level: "1", "5", "7"."""
        super().__init__(**kwargs)
        self.pairs = tuple(tuple(pair.split("->")) for pair in self.keys.PAIRS)
        self.online_keys = tuple(f"level{level}_{view}" for view in (1, 2) for level in self.heads)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """AMDIM's keys."""
        node.AMDIM = d2.CfgNode()
        # The output behind the level "7"; it must be among RESNETS.OUT_FEATURES.
        node.AMDIM.LOCAL_FEATURE = "res5"
        node.AMDIM.PAIRS = PAIRS
        # D; the authors' networks have 1,536 and 2,560.
        node.AMDIM.UNITS = 1024
        # Scores are softly clipped to (-CLIP, CLIP), and their mean square has the weight SCORE_PENALTY (the authors' README and costs.py).
        node.AMDIM.CLIP = 20.0
        node.AMDIM.SCORE_PENALTY = 0.05

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of AMDIM's keys."""
        keys, pairs, batch = cfg.DETCON.AMDIM, tuple(cfg.DETCON.AMDIM.PAIRS), cfg.SOLVER.IMS_PER_BATCH
        known = 0 < len(pairs) == len(set(pairs)) and set(pairs) <= set(PAIRS)
        return [
            (known, "DETCON.AMDIM.PAIRS", pairs, f"one or more of {PAIRS}"),
            (keys.UNITS > 0, "DETCON.AMDIM.UNITS", keys.UNITS, "at least 1"),
            (keys.CLIP > 0, "DETCON.AMDIM.CLIP", keys.CLIP, "a number > 0"),
            (keys.SCORE_PENALTY >= 0, "DETCON.AMDIM.SCORE_PENALTY", keys.SCORE_PENALTY, "a number >= 0"),
            (batch > 1, "SOLVER.IMS_PER_BATCH", batch, "at least 2: the other images are the negatives"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, norm = super().from_config(cfg), cfg.DETCON.HEAD_NORM
        shapes, keys = args["encoder"].output_shape(), args["keys"]
        outputs = {"1": args["in_feature"], "5": args["in_feature"], "7": args["local_feature"]}
        levels = sorted({level for pair in keys.PAIRS for level in pair.split("->")})
        return args | {"heads": {level: ShortcutMLP(shapes[outputs[level]].channels, keys.UNITS, norm) for level in levels}}

    def levels_of(self, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The levels of one view, (N, L, D) each."""
        top, local = maps[self.in_feature], maps[self.local_feature]
        found = {
            "1": lambda: top.mean((2, 3))[:, None],
            "5": lambda: self.cells(top),
            "7": lambda: self.cells(F.adaptive_avg_pool2d(local, top.shape[2:])),
        }
        return {level: head(found[level]()) for level, head in self.heads.items()}

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``level1_1`` ... (N, L, D) of each level and view, ``locations`` (N, 2), ``features`` (N, C) of view 1."""
        found = {"locations": self.to_device(torch.stack([sample["locations"] for sample in batch]))}
        for number, view in enumerate(self.images_of(batch), 1):
            maps = self.encoder(view)
            found |= {f"level{level}_{number}": value for level, value in self.levels_of(maps).items()}
            if number == 1:
                found["features"] = LinearProbe.pool(maps[self.in_feature])
        return found

    def source(self, embeddings: dict[str, torch.Tensor], level: str, view: int) -> torch.Tensor:
        """(N, D) / sqrt(D): the sampled location of a level of a view."""
        rows = embeddings[f"level{level}_{view}"]
        index = (embeddings["locations"][:, view - 1] * rows.shape[1]).long().clamp(max=rows.shape[1] - 1)
        return rows[torch.arange(len(rows), device=rows.device), index] / rows.shape[2] ** 0.5

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """InfoNCE of the clipped scores, and the penalty of the scores before."""
        losses, squares = [], []
        for one, other in self.pairs:
            for view in (1, 2):
                own, others = dim.location_scores(self.source(embeddings, one, view), embeddings[f"level{other}_{3 - view}"])
                losses.append(dim.nce(dim.clipped(own, self.keys.CLIP), dim.clipped(others, self.keys.CLIP)) / 2)
                total = own.square().sum() + others.masked_fill(others == -torch.inf, 0).square().sum()
                squares.append(total / others.numel() / 2)
        return {"loss_amdim": sum(losses), "loss_scores": self.keys.SCORE_PENALTY * sum(squares)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, retrieval of the locations of view 2 in this process's batch by each pair, and the share of scores that are nearly
        clipped (above nine tenths of CLIP), where gradients vanish."""
        scores = {}
        for one, other in self.pairs:
            source, local = self.source(embeddings, one, 1).float(), embeddings[f"level{other}_2"].float()
            scores[f"{one}_{other}"] = split_own(torch.einsum("nd,mld->nml", source, local))
        near = [dim.clipped(own, self.keys.CLIP).abs() > 0.9 * self.keys.CLIP for own, _ in scores.values()]
        found = {"projection_std": projection_std(embeddings["features"][:, None]), "clipped": torch.cat(near, dim=1).float().mean()}
        return found | self.figures(scores)
