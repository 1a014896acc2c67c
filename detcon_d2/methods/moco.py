"""MoCo v1 and v2 (He et al. 2020, Chen et al. 2020): a query has to find the EMA network's key of its image among earlier keys."""

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.losses import info_nce_logits, info_nce_loss
from detcon_d2.losses.gather import gather_processes, process_rank_and_count
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.ema import check_copied, target_network
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.metrics import projection_std
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.modeling.queue import FeatureQueue
from detcon_d2.views.samplers import ShuffledViews


@d2.META_ARCH_REGISTRY.register()
class MoCo(PretrainingModel):
    """View 1 is the query, view 2 the key. BatchNorm is per process (MODEL.RESNETS.NORM BN), over groups of BN_GROUP images; the keys go
    through the network in another order than the queries, so that statistics do not tell which key belongs to which query."""

    Samples = ShuffledViews
    online_keys = ("query",)

    @d2.configurable
    def __init__(self, *, heads: dict[str, nn.Module], queues: dict[str, FeatureQueue], temperature: float, bn_group: int, **kwargs):
        """
        Args:
            heads: ``projector``, maps C to D.
            queues: ``queue`` of D features.
            temperature: tau of the loss.
            bn_group: images per forward pass; 0: all of a process.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict(heads)}, **kwargs)
        self.target = target_network(encoder=self.encoder, **heads)
        self.memory = nn.ModuleDict(queues)
        self.temperature = temperature
        self.bn_group = bn_group
        self.new_keys: dict[str, torch.Tensor] = {}

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """MoCo's keys; PROJECTOR.HIDDEN_DIM 0 is v1's linear projector."""
        node.MOCO = d2.CfgNode()
        # K: keys in the queue, a multiple of the batch.
        node.MOCO.QUEUE = 65536
        # tau of the loss: 0.07 in v1, 0.2 in v2.
        node.MOCO.TEMPERATURE = 0.2
        # Images that share BatchNorm's statistics in a process; the authors have 32 on each of 8 GPUs. 0: all of a process.
        node.MOCO.BN_GROUP = 32

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of MoCo's keys, and what shuffled BatchNorm excludes."""
        keys, batch, part = cfg.DETCON.MOCO, cfg.SOLVER.IMS_PER_BATCH, cfg.DETCON.MICRO_BATCH
        return [
            *check_copied(cfg),
            (keys.TEMPERATURE > 0, "DETCON.MOCO.TEMPERATURE", keys.TEMPERATURE, "a number > 0"),
            (keys.BN_GROUP >= 0, "DETCON.MOCO.BN_GROUP", keys.BN_GROUP, "a number of images, or 0 for all of a process"),
            (
                keys.QUEUE > 0 and batch > 0 and keys.QUEUE % batch == 0,
                "DETCON.MOCO.QUEUE",
                keys.QUEUE,
                f"a positive multiple of SOLVER.IMS_PER_BATCH {batch}",
            ),
            (part == 0, "DETCON.MICRO_BATCH", part, "0: keys are shuffled over the whole batch; DETCON.MOCO.BN_GROUP sets the groups"),
        ]

    @classmethod
    def doubts(cls, cfg: "d2.CfgNode", num_images: int) -> list[str]:
        """In a long queue many negatives are other views of the query's own image."""
        queue = cfg.DETCON.MOCO.QUEUE
        if queue <= num_images / 4:
            return []
        advice = "Lower it (4096 is usual for 50,000 images), and DETCON.EMA.MOMENTUM with it (0.99)."
        return [f"DETCON.MOCO.QUEUE is {queue} with {num_images} training images; expected at most a quarter of them. {advice}"]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, head, keys = super().from_config(cfg), cfg.DETCON.PROJECTOR, cfg.DETCON.MOCO
        hidden = [head.HIDDEN_DIM] if head.HIDDEN_DIM else []
        return args | {
            "heads": {"projector": MLP([feature_channels(cfg, args["encoder"]), *hidden, head.OUT_DIM])},
            "queues": {"queue": FeatureQueue(head.OUT_DIM, keys.QUEUE)},
            "temperature": keys.TEMPERATURE,
            "bn_group": keys.BN_GROUP,
        }

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and heads."""
        return [(target, self.encoder if name == "encoder" else self.heads[name]) for name, target in self.target.items()]

    def encode(self, encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w), in groups that share BatchNorm's statistics."""
        return torch.cat([encoder(group)[self.in_feature] for group in images.split(self.bn_group or len(images))])

    @torch.no_grad()
    def encode_keys(self, images: torch.Tensor, batch: list[dict]) -> torch.Tensor:
        """(N, C, h, w) of the target encoder; the images of all processes go through it in the order of their random numbers."""
        draws = self.to_device(torch.tensor([sample["shuffle"] for sample in batch], dtype=torch.float64))
        order = gather_processes(draws).flatten().argsort()
        rank, _ = process_rank_and_count()
        own = slice(rank * len(batch), (rank + 1) * len(batch))
        shuffled = gather_processes(images).flatten(0, 1)[order[own]].contiguous(memory_format=self.memory_format)
        features = gather_processes(self.encode(self.target["encoder"], shuffled).contiguous()).flatten(0, 1)
        return features[order.argsort()[own]]

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``query`` and ``key`` (N, D), not normalised; ``features`` (N, C) of view 1."""
        view1, view2 = self.images_of(batch)
        features = self.encode(self.encoder, view1)
        query = self.heads["projector"](features.mean((2, 3)))
        with torch.no_grad():
            targets = {"key": self.target["projector"](self.encode_keys(view2, batch).mean((2, 3)))} if with_targets else {}
        return {"query": query, **targets, "features": LinearProbe.pool(features)}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cross-entropy with the key as the right class, among the queue."""
        query, key = embeddings["query"], embeddings["key"]
        self.new_keys = {"queue": key}
        return {"loss_moco": info_nce_loss(query, key, self.memory["queue"].features, temperature=self.temperature)}

    def end_step(self) -> None:
        """The keys of all processes replace the oldest of the queue: they are no negatives of their own step."""
        for name, keys in self.new_keys.items():
            self.memory[name].enqueue(keys)
        self.new_keys = {}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, and how often the key is nearer than the whole queue."""
        logits = info_nce_logits(embeddings["query"], embeddings["key"], self.memory["queue"].features, temperature=self.temperature)
        return {"projection_std": projection_std(embeddings["query"][:, None]), "key_top1": (logits.argmax(1) == 0).float().mean()}
