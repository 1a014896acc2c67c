"""VINCE (Gordon et al. 2020): MoCo whose key is a view of another frame of the query's clip.

Left out: the authors take four frames of each clip, and all their keys are positives of each query.
"""

import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.methods.moco import MoCo
from detcon_d2.methods.video.frames import Frames, check_gaps
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import ShuffledViews


class FrameViews(Frames, ShuffledViews):
    """One view of each of two frames, in random order."""

    needs_frames = 2

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int | None) -> "FrameViews":
        """As :meth:`TwoViews.from_config`, with DETCON.VINCE."""
        return super().from_config(cfg, stride, frame_gaps=tuple(cfg.DETCON.VINCE.GAPS))

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, frames: list[np.ndarray]) -> dict:
        """As :meth:`ShuffledViews.__call__`; each view has the ``box`` that it has in its frame."""
        if position_rng(self.seed, position, Stream.PRETEXT).random() < 0.5:
            frames = frames[::-1]
        transforms = [self.sample_geometry(position, *frame.shape[:2])[view] for view, frame in enumerate(frames)]
        shuffle = position_rng(self.seed, position, Stream.SHUFFLE).random()
        return {"views": self.render_each(transforms, frames, position), "shuffle": shuffle}


@d2.META_ARCH_REGISTRY.register()
class VINCE(MoCo):
    """Its keys are those of DETCON.MOCO and DETCON.VINCE."""

    Samples = FrameViews

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """VINCE's own key; the others are MoCo's."""
        node.VINCE = d2.CfgNode()
        # Least and largest gap between the two frames, in frames; 0 for the largest: as the clip allows.
        node.VINCE.GAPS = (1, 0)

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """Ranges of the keys."""
        return [*super().check_config(cfg), check_gaps("DETCON.VINCE.GAPS", cfg.DETCON.VINCE.GAPS)]

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """MoCo's loss."""
        return {"loss_vince": super().criterion(embeddings)["loss_moco"]}

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Collapse, and how often the key of the other frame is nearer than the whole queue, with its chance."""
        found = super().metrics(embeddings)
        chance = torch.tensor(1 / (1 + self.memory["queue"].features.shape[1]))
        return {"projection_std": found["projection_std"], "accuracy": found["key_top1"], "chance": chance}
