"""The meta-architectures DetConS (SimCLR-style) and DetConB (BYOL-style).

Letters: N images of this process, M drawn regions a view, C feature channels, (h, w) feature cells, D embedding dimensions.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.losses.detcon import detcon_loss
from detcon_d2.modeling.backbone import zero_init_residual
from detcon_d2.modeling.ema import update_ema
from detcon_d2.modeling.embeddings import Embeddings, View
from detcon_d2.modeling.heads import DetConHead
from detcon_d2.modeling.kmeans import KMeansRegions, carry_to_view
from detcon_d2.modeling.metrics import mean_distinct_regions, positive_fraction, projection_std, region_retrieval_top1
from detcon_d2.modeling.regions import downsample_label_map, ids_from_draws, pool_masked_features, sample_mask_ids
from detcon_d2.views.photometric_device import finish_views


class DetConBase(nn.Module):
    """What both variants share: encoder, projector, probe, preparation of the views, log figures, inference.

    The encoder's parameters are named ``encoder.*``, as the exact key map of the converter expects.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        projector: DetConHead,
        in_feature: str,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        num_samples: int = 16,
        temperature: float = 0.1,
        local_negatives: bool = True,
        num_classes: int = 0,
        channels_last: bool = True,
        metrics_period: int = 20,
        kmeans: KMeansRegions | None = None,
    ):
        """
        Args:
            encoder: a Detectron2 backbone with the output ``in_feature``.
            projector: maps that output's channels to D.
            in_feature: the output that is pooled under the masks.
            pixel_mean, pixel_std: RGB statistics in 0..255.
            num_samples: M.
            temperature: tau of the loss.
            local_negatives: other regions of the same image are negatives.
            num_classes: of the online linear probe; 0 for none.
            channels_last: memory format of the images.
            metrics_period: iterations between two computations of the is-it-learning figures.
            kmeans: learns the regions; None: the views bring them.
        """
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.in_feature = in_feature
        self.num_samples = num_samples
        self.temperature = temperature
        self.local_negatives = local_negatives
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.metrics_period = metrics_period
        self.kmeans = kmeans
        channels = encoder.output_shape()[in_feature].channels
        self.probe = nn.Linear(channels, num_classes) if num_classes else None
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float32).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float32).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        detcon = cfg.DETCON
        encoder = d2.build_backbone(cfg)
        shapes = encoder.output_shape()
        if detcon.IN_FEATURE not in shapes:
            raise ValueError(
                f"DETCON.IN_FEATURE is {detcon.IN_FEATURE!r}, but the backbone gives {sorted(shapes)}. Add it to RESNETS.OUT_FEATURES."
            )
        if detcon.ZERO_INIT_RESIDUAL:
            zero_init_residual(encoder)
        channels = shapes[detcon.IN_FEATURE].channels
        return {
            "encoder": encoder,
            "projector": DetConHead(channels, detcon.PROJECTOR.HIDDEN_DIM, detcon.PROJECTOR.OUT_DIM, detcon.HEAD_NORM),
            "in_feature": detcon.IN_FEATURE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "num_samples": detcon.NUM_SAMPLES,
            "temperature": detcon.TEMPERATURE,
            "local_negatives": detcon.LOCAL_NEGATIVES,
            "num_classes": detcon.PROBE.NUM_CLASSES if detcon.PROBE.ENABLED else 0,
            "channels_last": detcon.CHANNELS_LAST,
            "metrics_period": detcon.LOG_PERIOD,
            "kmeans": KMeansRegions.build(cfg, shapes),
        }

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.pixel_mean.device

    @property
    def region_encoder(self) -> nn.Module:
        """The encoder whose features are clustered where regions are learned."""
        return self.encoder

    def compile_encoders(self, backend: str) -> None:
        """torch.compile of every encoder, in place: names of parameters, checkpoints and what is computed stay as they are.

        Args:
            backend: one of ``torch.compiler.list_backends(())``.
        """
        for encoder in {self.encoder, self.region_encoder}:
            encoder.compile(backend=backend, dynamic=False)

    def forward(
        self, batched_inputs: list[dict], gradients: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """
        Args:
            batched_inputs: in training the mapper's dicts (``views``, optional ``label``); in evaluation Detectron2's
                ``{"image": (3, H, W) RGB in 0..255}``.
            gradients: of the loss of a larger batch with respect to these images' embeddings, both (N, M, D), for DETCON.MICRO_BATCH:
                ``loss_detcon`` is then no loss, but a number whose gradient to the parameters is these images' share of that loss's.

        Returns:
            In training ``{"loss_detcon": scalar}``, with labels also ``loss_probe``; in evaluation one
            ``{"features": (C, h, w)}`` an image. In training an EventStorage must be open, as for all of Detectron2's models.
        """
        if not self.training:
            return self.inference(batched_inputs)
        embeddings, features = self._embed_batch(batched_inputs, with_targets=gradients is None)
        losses = {"loss_detcon": self.contrast(embeddings) if gradients is None else embeddings.dot(gradients)}
        if self.probe is not None:
            losses["loss_probe"] = self._probe_loss(features, batched_inputs)
        return losses

    def embed(self, batched_inputs: list[dict]) -> Embeddings:
        """What the loss needs of a batch, as :meth:`forward` has it in training."""
        return self._embed_batch(batched_inputs, with_targets=True)[0]

    def contrast(self, embeddings: Embeddings) -> torch.Tensor:
        """The loss of a batch, scalar; its figures go to the event storage."""
        self._log_learning(embeddings)
        online1, online2 = embeddings.online1, embeddings.online2
        target1, target2 = embeddings.targets
        ids = embeddings.ids1, embeddings.ids2
        return detcon_loss(online1, online2, target1, target2, *ids, temperature=self.temperature, local_negatives=self.local_negatives)

    def _embed_batch(self, batched_inputs: list[dict], with_targets: bool) -> tuple[Embeddings, torch.Tensor]:
        """Also the online features of view 1 (N, C, h, w)."""
        if self.kmeans is not None:
            batched_inputs = self._add_learned_label_maps(batched_inputs)
        views = (self._prepare_view([record["views"][i] for record in batched_inputs]) for i in range(2))
        return self._embed_views(*views, with_targets)

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict]) -> list[dict[str, torch.Tensor]]:
        """Features of whole images; each image's map without the padding of the batch."""
        images = [self._normalise(record["image"].to(self.device)) for record in batched_inputs]
        batch = d2.ImageList.from_tensors(images, self.encoder.size_divisibility)
        stride = self.encoder.output_shape()[self.in_feature].stride
        features = self.encoder(batch.tensor.contiguous(memory_format=self.memory_format))[self.in_feature]
        return [
            {"features": feature[:, : -(-height // stride), : -(-width // stride)]}
            for feature, (height, width) in zip(features, batch.image_sizes, strict=True)
        ]

    @torch.no_grad()
    def learn_regions(self, images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Regions of whole images, by k-means of :attr:`region_encoder`'s features: (N, h, w) int64 on the model's device.

        Args:
            images: (N, 3, H, W) uint8 RGB.
            draws: (N, at least K) floating in [0, 1).
        """
        images = self._normalise(images.to(self.device, non_blocking=True)).contiguous(memory_format=self.memory_format)
        return self.kmeans.learn(self.region_encoder, images, draws.to(self.device, non_blocking=True))

    def _add_learned_label_maps(self, records: list[dict]) -> list[dict]:
        """Copies of the mapper's dicts whose views have a ``label_map``."""
        if "full_image" in records[0]:
            cells = self.learn_regions(*(torch.stack([record[key] for record in records]) for key in ("full_image", "kmeans_draws")))
        else:
            cells = self.kmeans.look_up(records).to(self.device, non_blocking=True)
        sizes = self._from_host([[record["height"], record["width"]] for record in records])
        label_maps = []
        for views in zip(*(record["views"] for record in records), strict=True):
            boxes = torch.stack([view["box"] for view in views]).to(self.device, non_blocking=True)
            flips = self._from_host([view["flip"] for view in views])
            label_maps.append(carry_to_view(cells, boxes, flips, sizes, views[0]["image"].shape[-2:]))
        return [
            record | {"views": [view | {"label_map": maps[n]} for view, maps in zip(record["views"], label_maps, strict=True)]}
            for n, record in enumerate(records)
        ]

    def _embed_views(self, view1: View, view2: View, with_targets: bool) -> tuple[Embeddings, torch.Tensor]:
        """Also the online features of view 1 (N, C, h, w)."""
        raise NotImplementedError

    def _from_host(self, values: list) -> torch.Tensor:
        # With device= the host would wait until all earlier work is done.
        return torch.tensor(values).to(self.device, non_blocking=True)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        # Statistics are in 0..255 as everywhere in Detectron2; in training float views come in [0, 1].
        images = images.float() * 255.0 if self.training and images.is_floating_point() else images.float()
        return (images - self.pixel_mean) / self.pixel_std

    def _prepare_view(self, views: list[dict]) -> View:
        images = torch.stack([view["image"] for view in views]).to(self.device, non_blocking=True)
        images = self._normalise(finish_views(images, views)).contiguous(memory_format=self.memory_format)
        if "cells" in views[0]:
            cells = torch.stack([view["cells"] for view in views]).to(self.device, non_blocking=True)
        else:
            label_maps = torch.stack([view["label_map"] for view in views]).to(self.device, non_blocking=True)
            stride = self.encoder.output_shape()[self.in_feature].stride
            cells = downsample_label_map(label_maps, tuple(-(-side // stride) for side in images.shape[-2:]))
        if "draws" in views[0]:
            draws = torch.stack([view["draws"] for view in views]).to(self.device, non_blocking=True)
            return View(images, cells, ids_from_draws(cells, draws))
        return View(images, cells, sample_mask_ids(cells, self.num_samples))

    def _embed(self, view: View, encoder: nn.Module, projector: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, C, h, w) and projections (N, M, D) of one view, in a forward pass of its own: BatchNorm is per view."""
        features = encoder(view.images)[self.in_feature]
        return features, projector(pool_masked_features(features, view.cells, view.ids))

    def _probe_loss(self, features: torch.Tensor, batched_inputs: list[dict]) -> torch.Tensor:
        if any("label" not in record for record in batched_inputs):
            raise ValueError("The online probe needs a 'label' in every record; set DETCON.PROBE.ENABLED False for data without labels.")
        labels = self._from_host([record["label"] for record in batched_inputs])
        logits = self.probe(features.detach().mean(dim=(2, 3)).float())
        if self._metrics_due():
            accuracy = (logits.argmax(1) == labels).float().mean()
            d2.get_event_storage().put_scalar("probe/accuracy", accuracy.item(), smoothing_hint=False)
        return F.cross_entropy(logits.float(), labels)

    def _metrics_due(self) -> bool:
        # Together with the writers, which write after iterations period - 1, 2 * period - 1, ...
        return (d2.get_event_storage().iter + 1) % self.metrics_period == 0

    @torch.no_grad()
    def _log_learning(self, batch: Embeddings) -> None:
        """Is it learning? Figures of this process's batch, to the event storage."""
        if not self._metrics_due():
            return
        figures = {
            "learning/projection_std": projection_std(batch.projection1, batch.ids1),
            "learning/positive_fraction": positive_fraction(batch.ids1, batch.ids2),
            "learning/regions_per_view": (mean_distinct_regions(batch.cells1) + mean_distinct_regions(batch.cells2)) / 2,
            "learning/retrieval_top1": region_retrieval_top1(batch.online1, batch.targets[1], batch.ids1, batch.ids2),
        }
        for name, value in figures.items():
            d2.get_event_storage().put_scalar(name, float(value), smoothing_hint=False)


@d2.META_ARCH_REGISTRY.register()
class DetConS(DetConBase):
    """DetCon on SimCLR: both views through the same weights, gradient to both sides of the loss."""

    @d2.configurable
    def __init__(self, **kwargs):
        """Arguments as :class:`DetConBase`."""
        super().__init__(**kwargs)

    def _embed_views(self, view1: View, view2: View, with_targets: bool) -> tuple[Embeddings, torch.Tensor]:
        features, z1 = self._embed(view1, self.encoder, self.projector)
        _, z2 = self._embed(view2, self.encoder, self.projector)
        return Embeddings(z1, z2, None, None, z1, view1.ids, view2.ids, view1.cells, view2.cells), features


@d2.META_ARCH_REGISTRY.register()
class DetConB(DetConBase):
    """DetCon on BYOL: a predictor on the online side, an EMA copy of encoder and projector as the target.

    The target runs in train mode with BatchNorm statistics and buffers of its own; :meth:`update_target` belongs after the optimizer step.
    """

    @d2.configurable
    def __init__(self, *, predictor: DetConHead, target_encoder: nn.Module, target_projector: nn.Module, **kwargs):
        """
        Args:
            predictor: maps D to D.
            target_encoder, target_projector: as ``encoder`` and ``projector``; they receive no gradient.
            **kwargs: as :class:`DetConBase`.
        """
        super().__init__(**kwargs)
        self.predictor = predictor
        self.target = nn.ModuleDict({"encoder": target_encoder, "projector": target_projector}).requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config."""
        args = super().from_config(cfg)
        out_dim = cfg.DETCON.PROJECTOR.OUT_DIM
        args["predictor"] = DetConHead(out_dim, cfg.DETCON.PREDICTOR.HIDDEN_DIM, out_dim, cfg.DETCON.HEAD_NORM)
        if cfg.DETCON.EMA.INIT == "copy":
            source = args
        elif cfg.DETCON.EMA.INIT == "random":
            source = super().from_config(cfg)
        else:
            raise ValueError(f"DETCON.EMA.INIT is {cfg.DETCON.EMA.INIT!r}; expected 'copy' or 'random'.")
        args["target_encoder"] = copy.deepcopy(source["encoder"])
        args["target_projector"] = copy.deepcopy(source["projector"])
        return args

    @property
    def region_encoder(self) -> nn.Module:
        """The target's: it changes slowly, and so do the regions."""
        return self.target["encoder"]

    def update_target(self, momentum: float) -> None:
        """target = momentum * target + (1 - momentum) * online, for the parameters of encoder and projector."""
        update_ema(self.target["encoder"], self.encoder, momentum)
        update_ema(self.target["projector"], self.projector, momentum)

    def _embed_views(self, view1: View, view2: View, with_targets: bool) -> tuple[Embeddings, torch.Tensor]:
        features, z1 = self._embed(view1, self.encoder, self.projector)
        p1 = self.predictor(z1)
        _, z2 = self._embed(view2, self.encoder, self.projector)
        p2 = self.predictor(z2)
        t1 = t2 = None
        if with_targets:
            with torch.no_grad():
                t1, t2 = (self._embed(view, self.target["encoder"], self.target["projector"])[1] for view in (view1, view2))
        return Embeddings(p1, p2, t1, t2, z1, view1.ids, view2.ids, view1.cells, view2.cells), features
