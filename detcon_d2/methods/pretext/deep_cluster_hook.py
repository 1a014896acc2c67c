"""The rounds of DeepCluster: clusters of all images by the network of the moment, and a new classifier for them.

Letters: D images of the data set, K clusters, C feature channels.
"""

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.data.loader import build_whole_image_loader
from detcon_d2.methods.hook import RefreshHook
from detcon_d2.modeling.kmeans import kmeans, normalised_mutual_information, second_moments, whitening
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import to_planes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CentralSquare:
    """The middle of an image without augmentation: of the shorter side 224 of 256 parts, as the authors cut it.

    Attributes:
        size: side in pixels that it is resized to.
        interpolation: a key of ``INTERPOLATIONS``.
        fast: whether to resize in 8 bits, as the fast views do.
    """

    size: int
    interpolation: str
    fast: bool

    def __call__(self, image: np.ndarray, position: int) -> dict[str, torch.Tensor]:
        """``image`` uint8 (3, size, size) of an image uint8 (H, W, 3) RGB; the position does not matter."""
        height, width = image.shape[:2]
        side = max(min(height, width) * 224 // 256, 1)
        square = ViewTransform((width - side) // 2, (height - side) // 2, side, side, False, self.size, self.interpolation)
        pixels = square.apply_image_uint8(image) if self.fast else np.rint(square.apply_image(image) * 255).astype(np.uint8)
        return {"image": to_planes(pixels)}


@dataclass(eq=False)
class ClusterHook(RefreshHook):
    """Starts a round every REFRESH_EPOCHS: features of all images, principal components, k-means, labels, a new classifier.

    The file of a round has the labels, int32 (D,). First centres and classifier are drawn from (SEED, round). The classifier's state in
    the optimizer is removed, because its momentum is that of the old clusters. Each round logs the share of images in the largest cluster,
    the number of empty clusters and, where the run was not resumed at this very iteration, the normalised mutual information with the
    clusters before: it should rise from round to round.
    """

    folder, prefix, rows, dtype, axes = "clusters", "iter", "clusters", np.int32, ()

    @property
    def refresh_epochs(self) -> int:
        """See DETCON.DEEP_CLUSTER."""
        return self.cfg.DETCON.DEEP_CLUSTER.REFRESH_EPOCHS

    def use(self, table: np.ndarray) -> None:
        """See the base class."""
        self.model.use_labels(table)

    def refresh(self, iteration: int) -> None:
        """The round that begins with this iteration."""
        before = self.model.labels
        super().refresh(iteration)
        classifier = self.model.heads["classifier"]
        _, weight = self._random_numbers(iteration)
        self.model.reset_classifier(torch.from_numpy(weight))
        for parameter in classifier.parameters():
            self.trainer.optimizer.state.pop(parameter, None)
        sizes = np.bincount(self.model.labels, minlength=classifier.out_features)
        found = {"empty_clusters": int((sizes == 0).sum()), "largest_cluster": sizes.max() / sizes.sum()}
        if before is not None:
            found["nmi_with_last_round"] = normalised_mutual_information(before, self.model.labels)
        for name, value in found.items():
            self.trainer.storage.put_scalar(f"learning/{name}", float(value), smoothing_hint=False)
        logger.info("Round %d: %s", self.round_of(iteration), ", ".join(f"{name} {value:.4g}" for name, value in found.items()))

    def compute(self, iteration: int) -> np.ndarray | None:
        """Each process computes the features of its share of the images; the main process clusters their components."""
        start, keys = time.perf_counter(), self.cfg.DETCON.DEEP_CLUSTER
        shares = d2.comm.gather(self._components())
        if not d2.comm.is_main_process():
            return None
        points = torch.from_numpy(np.concatenate(shares)).to(self.model.pixel_mean.device)
        draws, _ = self._random_numbers(iteration)
        labels = kmeans(points, keys.K, torch.from_numpy(draws), keys.ITERATIONS).int().cpu().numpy()
        logger.info("Clusters of %d images by k-means, K = %d: %.0f s.", len(labels), keys.K, time.perf_counter() - start)
        return labels

    def _components(self) -> np.ndarray:
        """float32 (images, at most COMPONENTS), normalised, of this process's share; the whitening is that of all images."""
        keys, views = self.cfg.DETCON, self.cfg.DETCON.VIEWS
        square = CentralSquare(views.SIZE, views.INTERPOLATION, keys.AUG.MODE == "fast")
        loader = build_whole_image_loader(self.cfg, self.records, square, 0)
        channels = self.model.heads["classifier"].in_features
        found, moments = [torch.empty(0, channels)], torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
        moments = self.model.to_device(moments)
        for batch in tqdm(loader, desc="features of all images", unit="batch", disable=not d2.comm.is_main_process()):
            with self.trainer.autocast():
                features = self.model.whole_features(batch["image"])
            moments += second_moments(features)
            found.append(features.cpu())
        total = torch.stack(d2.comm.all_gather(moments.cpu())).sum(0)
        mean, matrix = whitening(total, keys.DEEP_CLUSTER.COMPONENTS)
        return torch.cat([F.normalize((features - mean) @ matrix, dim=1) for features in found]).numpy()

    def _random_numbers(self, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of the first centres float64 (K,) in [0, 1), and the classifier's first weight float32 (K, C), N(0, 0.01)."""
        classifier = self.model.heads["classifier"]
        rng = position_rng(self.cfg.SEED, self.round_of(iteration), Stream.CLUSTERS)
        return rng.random(classifier.out_features), 0.01 * rng.standard_normal(classifier.weight.shape, dtype=np.float32)
