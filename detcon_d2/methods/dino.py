"""DINO (Caron et al. 2021) on a ResNet: a student predicts, from every crop, what its EMA teacher outputs for the large crops."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses import dino_loss, next_center
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import feature_channels
from detcon_d2.modeling.ema import check_copied, target_network
from detcon_d2.modeling.heads import MLP
from detcon_d2.modeling.inputs import by_resolution
from detcon_d2.modeling.metrics import assignment_entropy, projection_std
from detcon_d2.views.samplers import MultiCrop


class DINOHead(nn.Module):
    """An MLP of three layers with GELU, l2 normalisation, and a linear layer whose rows have length 1."""

    def __init__(self, in_dim: int, hidden_dim: int, bottleneck_dim: int, out_dim: int, norm: str):
        """
        Args:
            in_dim, hidden_dim, bottleneck_dim, out_dim: C, the hidden layers', the last layer's input and K.
            norm: BatchNorm after the hidden layers, a name that Detectron2's ``get_norm`` knows; "": none.
        """
        super().__init__()
        init = partial(nn.init.trunc_normal_, std=0.02)
        self.mlp = MLP([in_dim, hidden_dim, hidden_dim, bottleneck_dim], norm=norm, activation=nn.GELU, init=init)
        self.last = nn.Linear(bottleneck_dim, out_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, C) -> (rows, K)."""
        return F.linear(F.normalize(self.mlp(x), dim=1), F.normalize(self.last.weight, dim=1))


class Center(nn.Module):
    """The running mean of the teacher's outputs: ``mean`` (K,), 0 at the start."""

    mean: torch.Tensor

    def __init__(self, dim: int):
        """``dim``: K."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))


@d2.META_ARCH_REGISTRY.register()
class DINO(PretrainingModel):
    """Crops of one size go through the encoder together; the teacher sees the two large ones, in train mode."""

    Samples = MultiCrop
    online_keys = ("student",)

    @d2.configurable
    def __init__(self, *, head: DINOHead, keys: "d2.CfgNode", **kwargs):
        """
        Args:
            head: maps C to K.
            keys: the node DETCON.DINO.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({"head": head})}, **kwargs)
        self.target = target_network(encoder=self.encoder, head=head)
        self.memory = nn.ModuleDict({"center": Center(keys.OUT_DIM)})
        self.keys = keys
        self.teacher_temperature = self.temperature_at(0)
        self.frozen = False
        self._next_center: torch.Tensor | None = None

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """DINO's keys; VIEWS.LOCAL are its small crops."""
        node.DINO = d2.CfgNode()
        # K, and the sizes of the head's layers before.
        node.DINO.OUT_DIM = 65536
        node.DINO.HIDDEN_DIM = 2048
        node.DINO.BOTTLENECK_DIM = 256
        # BatchNorm after the head's hidden layers, as DETCON.HEAD_NORM.
        node.DINO.NORM_IN_HEAD = False
        node.DINO.STUDENT_TEMPERATURE = 0.1
        # The teacher's moves from WARMUP_TEMPERATURE to TEACHER_TEMPERATURE over the first WARMUP_EPOCHS, once per epoch.
        node.DINO.TEACHER_TEMPERATURE = 0.04
        node.DINO.WARMUP_TEMPERATURE = 0.04
        node.DINO.WARMUP_EPOCHS = 0
        node.DINO.CENTER_MOMENTUM = 0.9
        # The head's last layer does not move in the first epochs.
        node.DINO.FREEZE_EPOCHS = 1.0

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of DINO's keys."""
        keys = cfg.DETCON.DINO
        temperatures = ("STUDENT_TEMPERATURE", "TEACHER_TEMPERATURE", "WARMUP_TEMPERATURE")
        return [
            *check_copied(cfg),
            *((keys[key] > 0, f"DETCON.DINO.{key}", keys[key], "a number > 0") for key in temperatures),
            *((keys[key] >= 0, f"DETCON.DINO.{key}", keys[key], "a number >= 0") for key in ("WARMUP_EPOCHS", "FREEZE_EPOCHS")),
            (0 <= keys.CENTER_MOMENTUM <= 1, "DETCON.DINO.CENTER_MOMENTUM", keys.CENTER_MOMENTUM, "a number in [0, 1]"),
            (keys.OUT_DIM >= 2, "DETCON.DINO.OUT_DIM", keys.OUT_DIM, "at least 2 outputs"),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args, keys = super().from_config(cfg), cfg.DETCON.DINO
        norm = cfg.DETCON.HEAD_NORM if keys.NORM_IN_HEAD else ""
        channels = feature_channels(cfg, args["encoder"])
        return args | {"head": DINOHead(channels, keys.HIDDEN_DIM, keys.BOTTLENECK_DIM, keys.OUT_DIM, norm), "keys": keys}

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and head."""
        return [(self.target["encoder"], self.encoder), (self.target["head"], self.heads["head"])]

    def temperature_at(self, epoch: float) -> float:
        """Of the teacher: ``linspace(WARMUP_TEMPERATURE, TEACHER_TEMPERATURE, WARMUP_EPOCHS)`` at the whole epochs, then the last value."""
        keys = self.keys
        part = min(int(epoch) / max(keys.WARMUP_EPOCHS - 1, 1), 1.0) if keys.WARMUP_EPOCHS else 1.0
        return keys.WARMUP_TEMPERATURE + part * (keys.TEACHER_TEMPERATURE - keys.WARMUP_TEMPERATURE)

    def start_step(self, iteration: int, epoch: float) -> None:
        """The teacher's temperature, and whether the last layer moves."""
        self.teacher_temperature = self.temperature_at(epoch)
        self.frozen = epoch < self.keys.FREEZE_EPOCHS

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The head's last layer at the start of a run."""
        return list(self.heads["head"].last.parameters()) if self.frozen else []

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """``student`` (N, V, K), ``teacher`` (N, 2, K), ``bottleneck`` (N, D) and ``features`` (N, C) of crop 1."""
        views = self.images_of(batch)
        features = by_resolution(lambda images: self.encoder(images)[self.in_feature].mean((2, 3)), views)
        student = self.heads["head"](torch.cat(features)).unflatten(0, (len(views), -1)).transpose(0, 1)
        targets = {"teacher": self._teach(views[:2])} if with_targets else {}
        return {"student": student, **targets, "features": features[0].detach().float()}

    @torch.no_grad()
    def _teach(self, views: list[torch.Tensor]) -> torch.Tensor:
        features = self.target["encoder"](torch.cat(views))[self.in_feature].mean((2, 3))
        return self.target["head"](features).unflatten(0, (2, -1)).transpose(0, 1)

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of all pairs of a large crop and another one."""
        student, teacher = (embeddings[key].transpose(0, 1) for key in ("student", "teacher"))
        center = self.memory["center"].mean
        self._next_center = next_center(teacher, center, momentum=self.keys.CENTER_MOMENTUM)
        temperatures = {"student_temperature": self.keys.STUDENT_TEMPERATURE, "teacher_temperature": self.teacher_temperature}
        return {"loss_dino": dino_loss(student, teacher, center, **temperatures)}

    def end_step(self) -> None:
        """The centre follows the teacher's outputs."""
        if self._next_center is not None:
            self.memory["center"].mean.copy_(self._next_center)
            self._next_center = None

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse of the student's outputs, and whether the teacher uses all of its outputs (1) or one (0)."""
        teacher = embeddings["teacher"].flatten(0, 1).float()
        labels = ((teacher - self.memory["center"].mean) / self.teacher_temperature).softmax(1)
        return {"projection_std": projection_std(embeddings["student"][:, :1]), "teacher_entropy": assignment_entropy(labels)}
