"""Colorization (Zhang et al. 2016): what colours does each place of a grey image have? And cross-channel prediction after split-brain
autoencoders (Zhang et al. 2017), where one encoder also predicts lightness from colour.

Letters: N images per process, C feature channels, (h, w) feature cells, Q bins.
"""

from functools import partial

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.color_bins import AB_BINS, L_BINS, cell_targets, soft_ab, soft_lightness
from detcon_d2.modeling.heads import CellHead
from detcon_d2.modeling.inputs import LIGHTNESS_SCALE
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import OneView

DIRECTIONS = {"L->ab": ("ab", len(AB_BINS)), "ab->L": ("l", len(L_BINS))}
"""Values of DETCON.COLORIZATION.DIRECTIONS: the name of the head and its bins."""
GRAY = 5.0
"""An image is grey if no pixel has |a| or |b| above this (Zhang et al.); grey images do not count."""


@d2.META_ARCH_REGISTRY.register()
class Colorization(PretrainingModel):
    """The encoder sees lightness as three equal channels, so that it stays an RGB encoder and no colour leaks into its input.

    With both directions it also sees (a, b, (a + b) / 2), in a forward pass of its own. The paper's two half networks are no ResNet that a
    detector could use.
    """

    Samples = OneView

    @d2.configurable
    def __init__(self, *, heads: dict[str, nn.Module], pixel_stride: int, **kwargs):
        """
        Args:
            heads: a :class:`CellHead` for each direction, ``ab`` or ``l``.
            pixel_stride: of the pixels that make the targets.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict(heads)}, **kwargs)
        self.pixel_stride = pixel_stride
        self.online_keys = tuple(f"logits_{name}" for name in heads)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Colorization's keys; crop and flip are those of view 1, whose colours, if they change, are also those of the target."""
        node.COLORIZATION = d2.CfgNode()
        # ("L->ab",): colour from lightness; ("L->ab", "ab->L"): both, for twice the forward passes.
        node.COLORIZATION.DIRECTIONS = ("L->ab",)
        # Channels of the head's hidden layer.
        node.COLORIZATION.HIDDEN_DIM = 256
        # Every so many rows and columns of pixels make the targets; 4 in the paper.
        node.COLORIZATION.PIXEL_STRIDE = 4

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of Colorization's keys."""
        keys, size = cfg.DETCON.COLORIZATION, cfg.DETCON.VIEWS.SIZE
        directions, known = tuple(keys.DIRECTIONS), [("L->ab",), tuple(DIRECTIONS)]
        return [
            (directions in known, "DETCON.COLORIZATION.DIRECTIONS", directions, " or ".join(map(str, known))),
            (keys.HIDDEN_DIM > 0, "DETCON.COLORIZATION.HIDDEN_DIM", keys.HIDDEN_DIM, "at least 1"),
            (1 <= keys.PIXEL_STRIDE <= size, "DETCON.COLORIZATION.PIXEL_STRIDE", keys.PIXEL_STRIDE, f"1..{size}, DETCON.VIEWS.SIZE"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.COLORIZATION
        head = partial(CellHead, feature_channels(cfg, args["encoder"]), keys.HIDDEN_DIM, norm=cfg.DETCON.HEAD_NORM)
        heads = {name: head(out_dim=bins) for name, bins in map(DIRECTIONS.get, keys.DIRECTIONS)}
        return args | {"heads": heads, "pixel_stride": keys.PIXEL_STRIDE}

    def lab_of(self, batch: list[dict]) -> torch.Tensor:
        """The views in CIE Lab, (N, 3, S, S) float32."""
        (view,) = self.images_of(batch)
        return self.to_lab(view)

    def input_of(self, name: str, lab: torch.Tensor) -> torch.Tensor:
        """What the encoder sees where the head ``name`` predicts: lightness for ab; colour around the pixel mean for l."""
        if name == "ab":
            return self.gray_images(lab[:, :1])
        colors = LIGHTNESS_SCALE * torch.cat([lab[:, 1:], lab[:, 1:].mean(1, keepdim=True)], dim=1)
        return (colors / self.pixel_std).contiguous(memory_format=self.memory_format)

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``logits_ab`` and ``target_ab`` (N, 261, h, w), with both directions ``logits_l`` and ``target_l`` (N, 50, h, w); ``colored``
        (N,) bool; ``features`` (N, C) of the grey view."""
        lab, found = self.lab_of(batch), {}
        for name, head in self.heads.items():
            features = self.encoder(self.input_of(name, lab))[self.in_feature]
            found[f"logits_{name}"] = head(features)
            if name == "ab":
                found["features"] = LinearProbe.pool(features)
            if with_targets:
                soft, values = (soft_ab, lab[:, 1:]) if name == "ab" else (soft_lightness, lab[:, :1])
                found[f"target_{name}"] = cell_targets(soft, values, features.shape[2:], self.pixel_stride)
        return found | {"colored": (lab[:, 1:].abs() > GRAY).flatten(1).any(1)}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cross-entropy with the soft targets, mean over cells and directions; the cells of grey images count as 0."""
        losses = [(self._entropies(embeddings, name) * embeddings["colored"][:, None, None]).mean() for name in self.heads]
        return {"loss_colorization": sum(losses) / len(losses)}

    @staticmethod
    def _entropies(embeddings: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        return -(embeddings[f"target_{name}"] * embeddings[f"logits_{name}"].float().log_softmax(1)).sum(1)

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, the share of grey images, and of each direction, over the other images: the share of cells whose most likely bin is
        right; what the batch's most frequent bin would get right, as ``chance``; and ``gain``, by how much the loss is below the entropy of
        the batch's mean target, which is what a model without eyes reaches."""
        colored = embeddings["colored"]
        found = {"projection_std": projection_std(embeddings["features"][:, None]), "gray_images": 1 - colored.float().mean()}
        for name in self.heads:
            suffix = "" if name == "ab" else f"_{name}"
            target, logits = (embeddings[f"{key}_{name}"] * colored[:, None, None, None] for key in ("target", "logits"))
            cells = (colored.sum() * target[0, 0].numel()).clamp(min=1)
            bins = target.argmax(1)[colored]
            counts = torch.bincount(bins.flatten(), minlength=target.shape[1])
            loss = (self._entropies(embeddings, name) * colored[:, None, None]).sum() / cells
            prior = target.sum((0, 2, 3)) / cells
            found |= {
                f"accuracy{suffix}": (logits.argmax(1)[colored] == bins).sum() / cells,
                f"chance{suffix}": counts.max() / cells,
                f"gain{suffix}": torch.special.entr(prior).sum() - loss,
            }
        return found
