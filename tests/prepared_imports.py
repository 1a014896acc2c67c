"""What the server of :mod:`tests.prepared` imports: all that training uses, with what torch and the package import at their first use."""

import gc

import torch
import torch._dynamo  # by every optimizer
import torch.distributed.nn
import torch.utils.tensorboard  # noqa: F401

import detcon_d2.checkpoint
import detcon_d2.cli.train_net
import detcon_d2.engine
import detcon_d2.methods  # noqa: F401
import tests.conftest  # noqa: F401
from detcon_d2 import d2

for name in dir(d2):
    getattr(d2, name, None)  # the subset does not have all of Detectron2
# The collector would write to every object, and copy the memory that the processes share.
gc.collect()
gc.freeze()
