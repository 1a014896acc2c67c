"""SwAV (Caron et al. 2020): every crop has to predict to which clusters both large crops belong; clusters have equal shares."""

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses import sinkhorn_codes, swav_loss
from detcon_d2.losses.gather import gather_processes, process_rank_and_count
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.inputs import by_resolution
from detcon_d2.modeling.metrics import assignment_entropy, projection_std
from detcon_d2.views.samplers import MultiCrop


class CropQueue(nn.Module):
    """The newest embeddings of both large crops of all processes, zero until they were filled: ``features`` (2, L, D), newest first."""

    features: torch.Tensor

    def __init__(self, size: int, dim: int):
        """
        Args:
            size: L, a multiple of the batch.
            dim: D.
        """
        super().__init__()
        self.register_buffer("features", torch.zeros(2, size, dim))

    def full(self) -> bool:
        """Whether every row was written."""
        return bool(self.features[:, -1].any())

    def push(self, embeddings: torch.Tensor) -> None:
        """Put (2, N, D) of this process, and those of the others, before the rest; the oldest go."""
        new = gather_processes(embeddings.float()).transpose(0, 1).flatten(1, 2)
        self.features.copy_(torch.cat([new, self.features[:, : -new.shape[1]]], dim=1))


@d2.META_ARCH_REGISTRY.register()
class SwAV(PretrainingModel):
    """Crops of one size go through the encoder together, all crops through the heads at once."""

    Samples = MultiCrop
    online_keys = ("scores",)

    @d2.configurable
    def __init__(self, *, projector: nn.Module, prototypes: nn.Linear, queue: CropQueue | None, keys: "d2.CfgNode", **kwargs):
        """
        Args:
            projector: maps C to D.
            prototypes: maps D to K, without bias.
            queue: None: without.
            keys: the node DETCON.SWAV.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"projector": projector, "prototypes": prototypes})}, **kwargs)
        self.memory = nn.ModuleDict({} if queue is None else {"queue": queue})
        self.keys = keys
        self.codes_use_queue = self.frozen = self.fill_queue = False
        self._new: torch.Tensor | None = None
        self.normalise_prototypes()

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """SwAV's keys; VIEWS.LOCAL are its small crops."""
        node.SWAV = d2.CfgNode()
        # K.
        node.SWAV.PROTOTYPES = 3000
        # Of Sinkhorn's algorithm: entropy, and how often rows and columns are rescaled.
        node.SWAV.EPSILON = 0.05
        node.SWAV.ITERATIONS = 3
        # tau of the loss.
        node.SWAV.TEMPERATURE = 0.1
        # The prototypes do not move before this iteration.
        node.SWAV.FREEZE_ITERS = 313
        # Earlier embeddings per large crop, of all processes, that take part in Sinkhorn's algorithm, a multiple of the batch; 0: none.
        # It fills from this epoch on. A batch that is smaller than the number of prototypes needs it.
        node.SWAV.QUEUE = 0
        node.SWAV.QUEUE_EPOCH = 15

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of SwAV's keys."""
        keys, batch = cfg.DETCON.SWAV, cfg.SOLVER.IMS_PER_BATCH
        ranges = {"PROTOTYPES": 2, "ITERATIONS": 1, "FREEZE_ITERS": 0, "QUEUE_EPOCH": 0}
        return [
            *((keys[key] >= low, f"DETCON.SWAV.{key}", keys[key], f"a number >= {low}") for key, low in ranges.items()),
            *((keys[key] > 0, f"DETCON.SWAV.{key}", keys[key], "a number > 0") for key in ("EPSILON", "TEMPERATURE")),
            (
                keys.QUEUE >= 0 and batch > 0 and keys.QUEUE % batch == 0,
                "DETCON.SWAV.QUEUE",
                keys.QUEUE,
                f"0 or a multiple of SOLVER.IMS_PER_BATCH {batch}",
            ),
        ]

    @classmethod
    def doubts(cls, cfg: "d2.CfgNode", num_images: int) -> list[str]:
        """Codes share the prototypes equally among the rows of the batch and the queue; and a long queue is of earlier networks."""
        keys, found = cfg.DETCON.SWAV, []
        rows = cfg.SOLVER.IMS_PER_BATCH + keys.QUEUE
        if keys.PROTOTYPES > rows:
            found.append(
                f"DETCON.SWAV.PROTOTYPES is {keys.PROTOTYPES}; expected at most {rows}, the images of a batch (SOLVER.IMS_PER_BATCH) and "
                "of DETCON.SWAV.QUEUE. Lower it, or raise one of these."
            )
        if keys.QUEUE > num_images / 4:
            found.append(
                f"DETCON.SWAV.QUEUE is {keys.QUEUE} with {num_images} training images; expected at most a quarter of them. Lower it, or "
                "take 0 and fewer DETCON.SWAV.PROTOTYPES."
            )
        return found

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, head, keys = super().from_config(cfg), cfg.DETCON.PROJECTOR, cfg.DETCON.SWAV
        dims = [feature_channels(cfg, args["encoder"]), head.HIDDEN_DIM, head.OUT_DIM]
        return args | {
            "projector": MLP(dims, norm=cfg.DETCON.HEAD_NORM),
            "prototypes": nn.Linear(head.OUT_DIM, keys.PROTOTYPES, bias=False),
            "queue": CropQueue(keys.QUEUE, head.OUT_DIM) if keys.QUEUE else None,
            "keys": keys,
        }

    @torch.no_grad()
    def normalise_prototypes(self) -> None:
        """Every step starts with prototypes of length 1; the optimizer's momentum does not see this."""
        weight = self.heads["prototypes"].weight
        weight.copy_(F.normalize(weight, dim=1))

    def start_step(self, iteration: int, epoch: float) -> None:
        """Normalise the prototypes; decide on freezing and on the queue."""
        self.normalise_prototypes()
        self.frozen = iteration < self.keys.FREEZE_ITERS
        self.fill_queue = "queue" in self.memory and epoch >= self.keys.QUEUE_EPOCH
        self.codes_use_queue = self.fill_queue and self.memory["queue"].full()

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The prototypes at the start of a run."""
        return [self.heads["prototypes"].weight] if self.frozen else []

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``scores`` (N, V, K) of all crops, ``embeddings`` (N, 2, D) of the large ones, of length 1, ``features`` (N, C) of crop 1."""
        views = self.images_of(batch)
        features = by_resolution(lambda images: self.encoder(images)[self.in_feature].mean((2, 3)), views)
        z = F.normalize(self.heads["projector"](torch.cat(features)), dim=1)
        scores = self.heads["prototypes"](z).unflatten(0, (len(views), -1)).transpose(0, 1)
        embeddings = z.detach().unflatten(0, (len(views), -1))[:2].transpose(0, 1)
        return {"scores": scores, "embeddings": embeddings, "features": features[0].detach().float()}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of all pairs of a large crop and another one."""
        scores = embeddings["scores"].unbind(1)
        self._new = embeddings["embeddings"].transpose(0, 1) if self.fill_queue else None
        codes = [self.codes(scores[crop], crop) for crop in range(2)]
        return {"loss_swav": swav_loss(scores, codes, temperature=self.keys.TEMPERATURE)}

    @torch.no_grad()
    def codes(self, scores: torch.Tensor, crop: int) -> torch.Tensor:
        """Assignments (N, K) of a large crop; with the queue, its embeddings are scored by the prototypes of this step."""
        if self.codes_use_queue:
            rank, count = process_rank_and_count()
            queued = self.memory["queue"].features[crop].chunk(count)[rank]
            scores = torch.cat([scores, self.heads["prototypes"](queued).to(scores.dtype)])
            return sinkhorn_codes(scores, epsilon=self.keys.EPSILON, iterations=self.keys.ITERATIONS)[: -len(queued)]
        return sinkhorn_codes(scores, epsilon=self.keys.EPSILON, iterations=self.keys.ITERATIONS)

    def end_step(self) -> None:
        """The queue takes the embeddings of the step."""
        if self._new is not None:
            self.memory["queue"].push(self._new)
            self._new = None

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse of the embeddings, and of the assignments."""
        assignments = (embeddings["scores"][:, 0].float() / self.keys.TEMPERATURE).softmax(1)
        return {"projection_std": projection_std(embeddings["embeddings"][:, :1]), "prototype_entropy": assignment_entropy(assignments)}
