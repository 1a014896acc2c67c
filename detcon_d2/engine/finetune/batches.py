"""The batches of fine-tuning, which a resumed run continues exactly: the same images with the same augmentation.

The order is Detectron2's ``TrainingSampler``'s, grouped by aspect ratio as Detectron2 does. With worker processes, the generators are
seeded for each image by its position, so the number of workers does not matter. Without, images share the generators of the trainer.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from detcon_d2 import d2
from detcon_d2.data.loader import init_worker, limit_opencv_threads
from detcon_d2.engine.finetune.mapper import DetectionMapper
from detcon_d2.engine.generators import States, generator_states, set_generator_states
from detcon_d2.views.position import Stream, position_rng

Position = tuple[int, int]
"""Position of an image in the stream of its process, and its index in the records."""


class Groups:
    """Collects what arrives one by one into batches of images that are all wider than high, or all not; or into batches of any images."""

    def __init__(self, records: Sequence[dict], batch_size: int, by_aspect_ratio: bool):
        self._wide = [by_aspect_ratio and record.get("width", 0) > record.get("height", 0) for record in records]
        self._batch_size = batch_size
        self.waiting: dict[bool, list] = {False: [], True: []}

    def add(self, index: int, item: object) -> list | None:
        """The batch that is complete with this item of image ``index``, if one is."""
        group = self.waiting[self._wide[index]]
        group.append(item)
        if len(group) < self._batch_size:
            return None
        self.waiting[self._wide[index]] = []
        return group


def position_batches(indices: Iterable[int], groups: Groups) -> Iterator[list[Position]]:
    """Batches without end."""
    for position, index in enumerate(indices):
        batch = groups.add(index, (position, index))
        if batch is not None:
            yield batch


class SeededImages(Dataset):
    """Maps a :data:`Position` to a sample, for worker processes."""

    def __init__(self, records: Dataset, mapper: DetectionMapper, seed: int):
        self._records, self._mapper, self._seed = records, mapper, seed
        self._rank, self._world_size = d2.comm.get_rank(), d2.comm.get_world_size()

    def __getitem__(self, item: Position) -> dict:
        position, index = item
        seed = int(position_rng(self._seed, position * self._world_size + self._rank, Stream.FINETUNE).integers(2**32))
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return self._mapper(self._records[index])


class TrainerBatches(IterableDataset):
    """Batches that are loaded in the trainer's process, with its generators, from batch ``start`` on.

    An image can wait for others of its shape while later ones are used. A resumed run loads those that wait again, each with the states
    that the generators had before.
    """

    def __init__(
        self, records: Dataset, mapper: DetectionMapper, indices: Iterable[int], groups: Groups, start: int, waiting: Sequence[States]
    ):
        """
        Args:
            records: of the images.
            mapper: record -> sample.
            indices: of the images of this process, without end.
            groups: without images.
            start: number of batches that are left out.
            waiting: of :meth:`waiting_states` after batch ``start - 1``; without them, the generators go on as they are.
        """
        self._records, self._mapper, self._groups = records, mapper, groups
        self._stream, batches = enumerate(indices), 0
        while batches < start:
            position, index = next(self._stream)
            batches += groups.add(index, (position, index)) is not None
        left = sorted(position for group in groups.waiting.values() for position in group)
        groups.waiting = {False: [], True: []}
        for number, position in enumerate(left):
            if len(waiting) == len(left):
                set_generator_states(waiting[number])
            groups.add(position[1], self._load(position))

    def __iter__(self) -> Iterator[list[dict]]:
        for position in self._stream:
            batch = self._groups.add(position[1], self._load(position))
            if batch is not None:
                yield [sample for _, _, sample in batch]

    def waiting_states(self) -> list[States]:
        """The states that the generators had before each of the images that wait was loaded."""
        waiting = [item for group in self._groups.waiting.values() for item in group]
        return [states for _, states, _ in sorted(waiting, key=lambda item: item[0])]

    def _load(self, position: Position) -> tuple[int, States, dict]:
        states = generator_states()
        return position[0], states, self._mapper(self._records[position[1]])


def build_batches(
    cfg: "d2.CfgNode",
    records: list[dict],
    mapper: DetectionMapper,
    *,
    seed: int,
    num_workers: int,
    start: int = 0,
    waiting: Sequence[States] = (),
) -> DataLoader:
    """This process's share of batches of SOLVER.IMS_PER_BATCH, without end; see :class:`TrainerBatches` for the arguments."""
    batch_size = cfg.SOLVER.IMS_PER_BATCH // d2.comm.get_world_size()
    indices = d2.TrainingSampler(len(records), seed=seed)
    # Serialised once for both: a worker process would copy the memory of dicts when it reads them.
    mapper.others = stored = d2.DatasetFromList(records, copy=False, serialize=True)
    groups = Groups(records, batch_size, cfg.DATALOADER.ASPECT_RATIO_GROUPING)
    limit_opencv_threads()
    if not num_workers:
        return DataLoader(TrainerBatches(stored, mapper, indices, groups, start, waiting), batch_size=None, collate_fn=list)
    return DataLoader(
        SeededImages(stored, mapper, seed),
        batch_sampler=islice(position_batches(indices, groups), start, None),
        num_workers=num_workers,
        collate_fn=list,
        worker_init_fn=init_worker,
        timeout=cfg.DETCON.LOADER_TIMEOUT,
    )
