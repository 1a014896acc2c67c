"""Supervised contrastive learning (Khosla et al. 2020): SimCLR whose positives are all views of images of the same class."""

import torch

from detcon_d2 import d2
from detcon_d2.losses import sup_con_loss
from detcon_d2.methods.simclr import SimCLR
from detcon_d2.modeling.metrics import image_retrieval_top1, projection_std
from detcon_d2.modeling.probe import LinearProbe, check_labels


@d2.META_ARCH_REGISTRY.register()
class SupCon(SimCLR):
    """As SimCLR, with its keys; the labels of the images choose the positives, so it is no self-supervised method."""

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """SimCLR's keys are its keys."""

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config. Raises ValueError: the data has no labels."""
        args = super().from_config(cfg)
        check_labels("SupCon", args["num_classes"])
        return args

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """As :meth:`SimCLR.embed`, with ``labels`` (N,) int64."""
        return super().embed(batch, with_targets) | {"labels": self.to_device(LinearProbe.labels_of(batch))}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean over both views."""
        e = embeddings
        return {"loss_sup_con": sup_con_loss(e["z1"], e["z2"], e["labels"], temperature=self.temperature)}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As :meth:`SimCLR.metrics`, and the share of images whose nearest view 2 of another image has their class, with its chance."""
        z1, z2, labels = embeddings["z1"], embeddings["z2"], embeddings["labels"]
        found = {"projection_std": projection_std(z1[:, None]), "retrieval_top1": image_retrieval_top1(z1, z2)}
        if len(labels) > 1:
            cosines = torch.nn.functional.normalize(z1.float(), dim=1) @ torch.nn.functional.normalize(z2.float(), dim=1).T
            nearest = cosines.fill_diagonal_(-2).argmax(1)
            same = (labels[:, None] == labels).float().fill_diagonal_(0).sum(1) / (len(labels) - 1)
            found |= {"accuracy": (labels[nearest] == labels).float().mean(), "chance": same.mean()}
        return found
