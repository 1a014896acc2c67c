"""What a method knows about images that it does not see in training: its metrics on held-out images (DETCON.HELD_OUT)."""

import logging
import statistics
from itertools import islice

import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.data import build_pretraining_loader, load_training_records
from detcon_d2.data.datasets import HELD_OUT
from detcon_d2.engine.generators import kept_generators
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.modeling.backbone import evaluating

logger = logging.getLogger(__name__)


class HeldOutHook(d2.HookBase):
    """Puts the method's metrics on held-out images into the event storage as ``held_out/NAME``, every PERIOD iterations and at the end.

    The samples are made as in training and are the same each time; BatchNorm uses its running statistics. Neither the model nor a random
    number generator is changed, so the run is the same with and without this hook. It must run in every process, before the writers.
    """

    def __init__(self, cfg: "d2.CfgNode", model: PretrainingModel):
        """``model`` is not wrapped by DDP. Raises ValueError: no label maps, data sets that cannot be read, or less than a batch."""
        keys = cfg.DETCON.HELD_OUT
        self._cfg, self._model, self._period = cfg, model, keys.PERIOD
        self._records = load_training_records(cfg, type(model).Samples.uses_regions, HELD_OUT)
        self._batches = min(keys.IMAGES, len(self._records)) // cfg.SOLVER.IMS_PER_BATCH
        if not self._batches:
            raise ValueError(
                f"DETCON.HELD_OUT has {min(keys.IMAGES, len(self._records))} images ({', '.join(keys.DATASETS)}, at most IMAGES "
                f"{keys.IMAGES}); expected at least a batch, SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}."
            )

    def after_step(self) -> None:
        """Evaluate where it is due."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period and done % self._period == 0):
            found = self.evaluate()
            for name, value in found.items():
                self.trainer.storage.put_scalar(f"held_out/{name}", value, smoothing_hint=False)
            text = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            logger.info(f"{self._batches * self._cfg.SOLVER.IMS_PER_BATCH} held-out images: {text}")

    def evaluate(self) -> dict[str, float]:
        """The mean of the metrics over the batches of all processes."""
        model, sums = self._model, []
        norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase))
        # Starting a loader draws a random number.
        with kept_generators(), torch.no_grad(), evaluating(norms), d2.EventStorage():
            loader = build_pretraining_loader(self._cfg, self._records, model.sample_maker(self._cfg))
            for batch in islice(loader, self._batches):
                with self.trainer.autocast():
                    embeddings = model.embed(batch)
                sums.append({name: float(value) for name, value in model.metrics(embeddings).items()})
        everything = [one for rows in d2.comm.all_gather(sums) for one in rows]
        return {name: statistics.fmean(one[name] for one in everything) for name in everything[0]}
