"""DenseCL (Wang et al. 2021): MoCo v2, and the same contrast for feature cells, each with the most similar cell of the other view."""

from functools import partial

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.losses import DenseCLEmbeddings, densecl_losses, densecl_match
from detcon_d2.methods.moco import MoCo
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.modeling.queue import FeatureQueue


@d2.META_ARCH_REGISTRY.register()
class DenseCL(MoCo):
    """The dense queue takes one vector per image: the mean of its key's dense embeddings."""

    online_keys = ("query", "dense_query")

    @d2.configurable
    def __init__(self, *, dense_weight: float, dense_from: int, **kwargs):
        """
        Args:
            dense_weight: lambda in [0, 1], weight of the dense loss.
            dense_from: the first iteration with it.
            **kwargs: as for :class:`MoCo`, with ``dense_projector`` in ``heads`` and ``dense_queue`` in ``queues``.
        """
        super().__init__(**kwargs)
        self.dense_weight = dense_weight
        self.dense_from = dense_from
        self._weight = 0.0 if dense_from else dense_weight

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """DenseCL's own keys; the others are MoCo's."""
        node.DENSECL = d2.CfgNode()
        # lambda: weight of the dense loss; the global one has 1 - lambda.
        node.DENSECL.WEIGHT = 0.5
        # Iterations without the dense loss; an author advises 10,000, the released configs have none.
        node.DENSECL.START_ITER = 0

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of the keys."""
        keys = cfg.DETCON.DENSECL
        return [
            *super().check_config(cfg),
            (0 <= keys.WEIGHT <= 1, "DETCON.DENSECL.WEIGHT", keys.WEIGHT, "a weight in [0, 1]"),
            (keys.START_ITER >= 0, "DETCON.DENSECL.START_ITER", keys.START_ITER, "an iteration >= 0"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config; both projectors have two layers of the same sizes.

        The global one is initialised as the authors' linear layers are, the dense one as their convolutions, which have torch's default
        (``openselfsup/models/necks.py``)."""
        args, head, keys = super().from_config(cfg), cfg.DETCON.PROJECTOR, cfg.DETCON.DENSECL
        dims = [feature_channels(cfg, args["encoder"]), head.HIDDEN_DIM or head.OUT_DIM, head.OUT_DIM]
        init = partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu")
        args["heads"] = {"projector": MLP(dims, init=init), "dense_projector": MLP(dims)}
        args["queues"]["dense_queue"] = FeatureQueue(head.OUT_DIM, cfg.DETCON.MOCO.QUEUE)
        return args | {"dense_weight": keys.WEIGHT, "dense_from": keys.START_ITER}

    def start_step(self, iteration: int, epoch: float) -> None:
        """The dense loss starts at its iteration."""
        self._weight = self.dense_weight if iteration >= self.dense_from else 0.0

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """As MoCo's, with ``dense_query`` and ``dense_key`` (N, D, h, w), not normalised, and ``match`` (N, h*w): a key cell per cell."""
        view1, view2 = self.images_of(batch)
        features = self.encode(self.encoder, view1)
        query = self._project(self.heads["projector"], self.heads["dense_projector"], features)
        targets = self._targets(features.detach(), view2, batch) if with_targets else {}
        return {"query": query.image, "dense_query": query.cells, **targets, "features": LinearProbe.pool(features)}

    @torch.no_grad()
    def _targets(self, query_features: torch.Tensor, view2: torch.Tensor, batch: list[dict]) -> dict[str, torch.Tensor]:
        features = self.encode_keys(view2, batch)
        key = self._project(self.target["projector"], self.target["dense_projector"], features)
        return {"key": key.image, "dense_key": key.cells, "match": densecl_match(query_features, features)}

    @staticmethod
    def _project(projector: nn.Module, dense_projector: nn.Module, features: torch.Tensor) -> DenseCLEmbeddings:
        cells = dense_projector(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return DenseCLEmbeddings(projector(features.mean((2, 3))), cells)

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weighted global and dense InfoNCE."""
        e = embeddings
        query, key = DenseCLEmbeddings(e["query"], e["dense_query"]), DenseCLEmbeddings(e["key"], e["dense_key"])
        self.new_keys = {"queue": key.image, "dense_queue": key.cells.mean((2, 3))}
        queues = [self.memory[name].features for name in self.new_keys]
        options = {"temperature": self.temperature, "dense_weight": self._weight}
        image_loss, dense_loss = densecl_losses(query, key, e["match"], *queues, **options)
        return {"loss_global": image_loss, "loss_dense": dense_loss}
