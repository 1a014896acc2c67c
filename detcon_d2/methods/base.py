"""What every pretraining method is: :class:`PretrainingModel`. Trainer, loader, converter and reports know this class and no method.

Letters: N images per process, C feature channels, (h, w) feature cells.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.methods.hook import MethodHook
from detcon_d2.modeling.backbone import zero_init_residual
from detcon_d2.modeling.ema import update_ema
from detcon_d2.modeling.inputs import SampleInputs
from detcon_d2.modeling.probe import LinearProbe
from detcon_d2.views.samplers import SampleMaker


class PretrainingModel(SampleInputs):
    """Encoder, probe, preparation of the views, log metrics, target updates and inference; a subclass adds heads and a loss.

    A subclass is registered in META_ARCH_REGISTRY, sets the class attributes, extends :meth:`from_config`, and implements :meth:`embed` and
    :meth:`criterion`. Nothing in it is random: random numbers come with the sample. Names of parameters are fixed: ``encoder.*``, which the
    converter takes, ``heads.*``, ``target.*`` for EMA copies, ``memory.*`` for queues, centres and banks (DetCon's heads are older).
    """

    Samples: ClassVar[type[SampleMaker]]
    """Makes what the loader sends of each image."""
    online_keys: ClassVar[tuple[str, ...]]
    """The entries of :meth:`embed` through which the loss reaches the parameters."""
    trains_all_features: ClassVar[bool] = False  # each output of the encoder, so that it may be a feature pyramid
    ema_lead: ClassVar[int] = 0  # after step s the target moves with the momentum of step s + ema_lead

    def __init__(self, *, encoder: nn.Module, heads: Mapping[str, nn.Module], in_feature: str, num_classes: int = 0, **inputs):
        """``encoder`` is a Detectron2 backbone with the output ``in_feature``, which the method uses; each of ``heads`` is an attribute
        of that name. The online linear probe has ``num_classes``, 0: no probe. ``inputs`` are those of :class:`SampleInputs`."""
        super().__init__(**inputs)
        self.encoder = encoder
        # Between encoder and probe: checkpoints hold the optimizer's state in this order.
        for name, head in heads.items():
            self.add_module(name, head)
        self.in_feature = in_feature
        shape = encoder.output_shape()[in_feature]
        self.stride = shape.stride
        self.probe = LinearProbe(shape.channels, num_classes) if num_classes else None

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config; a subclass adds ``heads`` and what else it takes."""
        detcon = cfg.DETCON
        encoder = d2.build_backbone(cfg)
        if detcon.IN_FEATURE not in (found := encoder.output_shape()):
            raise ValueError(
                f"DETCON.IN_FEATURE is {detcon.IN_FEATURE!r}, but the backbone gives {sorted(found)}. Add it to RESNETS.OUT_FEATURES."
            )
        if isinstance(encoder, d2.FPN):
            cls._check_pyramid(encoder.size_divisibility, detcon.VIEWS.SIZE)
        if detcon.ZERO_INIT_RESIDUAL:
            zero_init_residual(encoder)
        return {
            "encoder": encoder,
            "in_feature": detcon.IN_FEATURE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "num_classes": detcon.PROBE.NUM_CLASSES if detcon.PROBE.ENABLED else 0,
            "channels_last": detcon.CHANNELS_LAST,
            "photometric_on_device": detcon.AUG.WHERE == "device",
            "metrics_period": detcon.LOG_PERIOD,
        }

    @classmethod
    def _check_pyramid(cls, step: int, size: int) -> None:
        """Raises ValueError if a feature pyramid whose coarsest level has cells of ``step`` pixels does not suit method and views."""
        if not cls.trains_all_features:
            raise ValueError(
                f"MODEL.BACKBONE.NAME is that of a feature pyramid, of which {cls.__name__} trains DETCON.IN_FEATURE alone; the other "
                "levels would stay random. Expected 'build_detcon_resnet_backbone', and an IN_FEATURE such as 'res5'."
            )
        if size % step:
            raise ValueError(
                f"DETCON.VIEWS.SIZE is {size}; expected a multiple of {step} pixels, so that the levels of the feature pyramid fit each "
                f"other. Set it to {-(-size // step) * step}."
            )

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """Add the method's own keys to ``node``, which is cfg.DETCON, in place. It is called for every registered method."""

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """What the method requires: (whether it is fulfilled, key, value found, what is expected) each."""
        return []

    @classmethod
    def doubts(cls, cfg: "d2.CfgNode", num_images: int) -> list[str]:
        """Settings that can run, but are likely to teach little with so many training images: found, expected and remedy, for the log."""
        return []

    def sample_maker(self, cfg: "d2.CfgNode") -> SampleMaker:
        """Makes the samples of the loader."""
        return self.Samples.from_config(cfg, self.stride)

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """What loss and metrics need of the samples of this process; the first axis of each tensor is the image: parts can be joined.

        The :attr:`online_keys` have a graph, the other entries do not; ``features`` (N, C) of ``LinearProbe.pool`` is among them. Without
        ``with_targets`` it leaves out what gets no gradient and only the loss needs.
        """
        raise NotImplementedError

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The named losses of a batch, scalars. It gathers over processes itself."""
        raise NotImplementedError

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Scalars of this process's batch that show whether the model learns; the log has them as ``learning/NAME``."""
        return {}

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(EMA copy, online module) each; the copies move after each optimizer step."""
        return []

    def hooks(self, cfg: "d2.CfgNode", records: list[dict]) -> list[MethodHook]:
        """Hooks of the method for a run on ``records``; they come before all others."""
        return []

    def describe(self, cfg: "d2.CfgNode") -> dict[str, str]:
        """What a checkpoint holds about the method and a resumed run compares."""
        branches = "online in encoder.*" + (", EMA in target.encoder.*" if len(self._encoders()) > 1 else "")
        return {"method": type(self).__name__, "encoder": branches, "mask_parameters": "none"}

    def start_step(self, iteration: int, epoch: float) -> None:
        """Called before each step with its number and the epochs passed, for what depends on them or is not trained by the gradient."""

    def frozen_parameters(self) -> list[nn.Parameter]:
        """What this step does not move, neither by its gradient nor by momentum or weight decay."""
        return []

    def end_step(self) -> None:
        """Called after each optimizer step: queues and centres take in what the step computed."""

    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * online, for the parameters of all :meth:`target_pairs`."""
        for target, online in self.target_pairs():
            update_ema(target, online, momentum)

    def compile_encoders(self, backend: str) -> None:
        """torch.compile of the encoder and its EMA copy, in place, by one of ``torch.compiler.list_backends(())``."""
        for encoder in self._encoders():
            encoder.compile(backend=backend, dynamic=False)

    def _encoders(self) -> list[nn.Module]:
        return [self.encoder, *(target for target, online in self.target_pairs() if online is self.encoder)]

    def forward(
        self, batched_inputs: list[dict], gradients: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """
        Args:
            batched_inputs: in training samples of :attr:`Samples`; in evaluation Detectron2's ``{"image": (3, H, W) RGB in 0..255}``.
            gradients: of the loss of a larger batch with respect to this part's :attr:`online_keys`, for DETCON.MICRO_BATCH.

        Returns:
            In training the named losses, with labels also ``loss_probe``; with ``gradients`` one ``loss_share`` in place of the method's
            losses: a number whose gradient to the parameters is this part's share of that loss's. In evaluation one
            ``{"features": (C, h, w)}`` per image. In training an EventStorage must be open, as for Detectron2's models.
        """
        if not self.training:
            return self.inference(batched_inputs)
        embeddings = self.embed(batched_inputs, with_targets=gradients is None)
        if gradients is None:
            losses = self.logged_criterion(embeddings)
        else:
            losses = {"loss_share": sum((embeddings[key].to(g.dtype) * g).sum() for key, g in gradients.items())}
        if self.probe is not None:
            labels = self.to_device(LinearProbe.labels_of(batched_inputs))
            losses["loss_probe"], accuracy = self.probe.loss(embeddings["features"], labels)
            self._log({"probe/accuracy": accuracy} if self._metrics_due() else {})
        return losses

    def logged_criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """:meth:`criterion`; at the iterations of the log, :meth:`metrics` go to the event storage."""
        if self._metrics_due():
            with torch.no_grad():
                self._log({f"learning/{name}": value for name, value in self.metrics(embeddings).items()})
        return self.criterion(embeddings)

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict]) -> list[dict[str, torch.Tensor]]:
        """Features of whole images; each image's map without the padding of the batch."""
        images = [self.normalise(record["image"].to(self.pixel_mean.device)) for record in batched_inputs]
        batch = d2.ImageList.from_tensors(images, self.encoder.size_divisibility)
        features = self.encoder(batch.tensor.contiguous(memory_format=self.memory_format))[self.in_feature]
        cells = [[-(-side // self.stride) for side in size] for size in batch.image_sizes]
        return [{"features": feature[:, :height, :width]} for feature, (height, width) in zip(features, cells, strict=True)]
