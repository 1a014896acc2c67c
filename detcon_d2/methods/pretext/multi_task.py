"""Several pretext tasks at once on one encoder (Doersch and Zisserman 2017): the loss is the weighted sum of theirs.

Each task has its own inputs and heads and a forward pass of its own, as its images differ in kind; only the encoder is shared. The lasso
over units and the harmonised grey inputs of the paper are not built.

Letters: N images per process, C feature channels.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.views.geometry import ViewTransform
from detcon_d2.views.samplers import SampleMaker


def task_class(name: str) -> type[PretrainingModel] | None:
    """The registered method of that name; None where there is none."""
    return d2.META_ARCH_REGISTRY.get(name) if name in d2.META_ARCH_REGISTRY else None


def _can_share(method: type[nn.Module]) -> bool:
    """Whether a registered class is a method that needs no regions, no clips and no hooks of its own."""
    if not issubclass(method, PretrainingModel) or method.hooks is not PretrainingModel.hooks:
        return False
    return not method.Samples.uses_regions and not method.Samples.needs_frames


class TaskSamples(SampleMaker):
    """The samples of all tasks from one decoded image; each is what the task alone would get at this position."""

    def __init__(self, makers: Mapping[str, SampleMaker]):
        """``makers`` by the name of the task."""
        self.makers = dict(makers)

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", stride: int) -> "TaskSamples":
        """Those of DETCON.MULTITASK.TASKS."""
        return cls({name: task_class(name).Samples.from_config(cfg, stride) for name in cfg.DETCON.MULTITASK.TASKS})

    @property
    def needs_partner(self) -> bool:
        """Whether a task needs another image."""
        return any(maker.needs_partner for maker in self.makers.values())

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """Those of the tasks, one after the other."""
        return [transform for maker in self.makers.values() for transform in maker.sample_geometry(position, height, width)]

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int, partner: np.ndarray | None = None) -> dict:
        """``views`` of the tasks, one after the other; their other entries as ``TASK/NAME``; and ``TASK/views``, the numbers of a task's
        first view and of the one after its last."""
        sample: dict = {"views": []}
        for name, maker in self.makers.items():
            found = maker(image, label_map, position, *([partner] if maker.needs_partner else []))
            first, views = len(sample["views"]), found.pop("views")
            sample["views"] += views
            sample |= {f"{name}/{key}": value for key, value in found.items()} | {f"{name}/views": (first, first + len(views))}
        return sample


@d2.META_ARCH_REGISTRY.register()
class MultiTask(PretrainingModel):
    """The tasks are models of their own, but their encoder is this one's, and their heads are ``heads.TASK``."""

    Samples = TaskSamples

    @d2.configurable
    def __init__(self, *, tasks: dict[str, PretrainingModel], weights: tuple[float, ...], **kwargs):
        """
        Args:
            tasks: the models by name.
            weights: of their losses.
            **kwargs: as for :class:`PretrainingModel`, without ``heads``.
        """
        super().__init__(heads={"heads": nn.ModuleDict({name: task.heads for name, task in tasks.items()})}, **kwargs)
        # In a plain dict, as the encoder would have the names of every task in a checkpoint.
        self.tasks, self.weights = tasks, weights
        for task in tasks.values():
            task.encoder = self.encoder
        self.online_keys = tuple(f"{name}/{key}" for name, task in tasks.items() for key in task.online_keys)

    @classmethod
    def add_config(cls, node: "d2.CfgNode") -> None:
        """MultiTask's keys; each task has its own."""
        node.MULTITASK = d2.CfgNode()
        # Values of MODEL.META_ARCHITECTURE: methods without target networks, queues, regions and hooks.
        node.MULTITASK.TASKS = ("Rotation", "RelativePosition", "Colorization")
        # Of their losses; empty: 1 each.
        node.MULTITASK.WEIGHTS = ()

    @classmethod
    def check_config(cls, cfg: "d2.CfgNode") -> list[tuple[bool, str, object, str]]:
        """The tasks, and what each of them requires."""
        names, weights = tuple(cfg.DETCON.MULTITASK.TASKS), tuple(cfg.DETCON.MULTITASK.WEIGHTS)
        tasks = [task_class(name) for name in names]
        fit = all(one and one is not cls and _can_share(one) for one in tasks)
        good = [weight > 0 for weight in weights]
        expected = "different methods of single images, without regions and hooks"
        return [
            (fit and 0 < len(names) == len(set(names)), "DETCON.MULTITASK.TASKS", names, expected),
            (len(good) in (0, len(names)) and all(good), "DETCON.MULTITASK.WEIGHTS", weights, "a number > 0 for each task, or none"),
            *(row for one in tasks if fit for row in one.check_config(cfg)),
        ]

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments of the constructor from a config. Raises ValueError for a task with a target network or a memory."""
        keys = cfg.DETCON.MULTITASK
        tasks = {name: task_class(name)(cfg) for name in keys.TASKS}
        for name, task in tasks.items():
            if more := sorted({key.split(".")[0] for key in task.state_dict()} - {"encoder", "heads", "probe"}):
                raise ValueError(f"DETCON.MULTITASK.TASKS has {name}, which has {', '.join(more)}; expected methods with heads alone.")
        return super().from_config(cfg) | {"tasks": tasks, "weights": tuple(keys.WEIGHTS) or (1.0,) * len(tasks)}

    def sample_maker(self, cfg: "d2.CfgNode") -> SampleMaker:
        """Each task's own."""
        return TaskSamples({name: task.sample_maker(cfg) for name, task in self.tasks.items()})

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        for task in self.tasks.values():
            # Their pixel statistics; encoder and heads are this model's.
            task._buffers.update({name: fn(buffer) for name, buffer in task._buffers.items()})
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "MultiTask":
        """As :class:`nn.Module`'s; the tasks follow."""
        for task in getattr(self, "tasks", {}).values():
            task.training = mode
        return super().train(mode)

    def start_step(self, iteration: int, epoch: float) -> None:
        """Of every task."""
        for task in self.tasks.values():
            task.start_step(iteration, epoch)

    def embed(self, batch: list[dict], with_targets: bool = True) -> dict[str, torch.Tensor]:
        """The entries of each task as ``TASK/NAME``; ``features`` (N, C) of the first."""
        found = {}
        for name, task in self.tasks.items():
            first, end = batch[0][f"{name}/views"]
            own = [
                {**sample, **{key.partition("/")[2]: value for key, value in sample.items() if key.startswith(f"{name}/")}}
                | {"views": sample["views"][first:end]}
                for sample in batch
            ]
            embeddings = task.embed(own, with_targets)
            found.setdefault("features", embeddings["features"])
            found |= {f"{name}/{key}": value for key, value in embeddings.items()}
        return found

    def _own(self, embeddings: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
        return {key.partition("/")[2]: value for key, value in embeddings.items() if key.startswith(f"{name}/")}

    def criterion(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tasks' losses times their weights."""
        losses = {}
        for (name, task), weight in zip(self.tasks.items(), self.weights, strict=True):
            losses |= {key: weight * loss for key, loss in task.criterion(self._own(embeddings, name)).items()}
        return losses

    def metrics(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Those of each task as ``TASK_NAME``; ``projection_std``, ``accuracy`` and ``chance`` are those of the first."""
        every = {name: task.metrics(self._own(embeddings, name)) for name, task in self.tasks.items()}
        first = next(iter(every.values()))
        found = {name: first[name] for name in ("projection_std", "accuracy", "chance") if name in first}
        return found | {f"{name}_{key}": value for name, metrics in every.items() for key, value in metrics.items()}
