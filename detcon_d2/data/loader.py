"""The loaders of pretraining: the same images for any number of workers and processes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from detcon_d2 import d2
from detcon_d2.data.mapper import Companions, PretrainingMapper, check_frames
from detcon_d2.data.reading import BadImages, reading_from_config
from detcon_d2.data.sampler import PositionSampler
from detcon_d2.io.images import ImageReadError, Reading
from detcon_d2.io.tiles import read_record
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.samplers import SampleMaker

_MAX_REPLACEMENTS = 20
_JOB_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_PARENT_CHECK_SECONDS = 5


class PositionDataset(Dataset):
    """Maps (position, index) to a mapper's output, and decides what an unreadable image means."""

    def __init__(
        self, records: list[dict], mapper: Callable[[dict, int], dict], *, seed: int, on_bad_image: str, samples: SampleMaker | None = None
    ):
        """
        Args:
            records: the images.
            mapper: called with a record and a position.
            seed: >= 0; replacements follow from it and the position.
            on_bad_image: "refuse": raise; "skip": another image takes the position, with one warning per file (and worker).
            samples: whether records come with a partner or frames; None: with neither.

        Raises ValueError: another ``on_bad_image``, or records without the frames that the samples need.
        """
        if samples is not None:
            check_frames(records, samples)
        # Serialised: workers share one buffer in place of a million dicts.
        self._records = d2.DatasetFromList(records, copy=False, serialize=True)
        self._mapper = mapper
        self._seed = seed
        self._samples = samples
        self._companions, self._partners = "", None
        if samples is not None:
            self._partners = samples.partners(records) if samples.needs_partner else None
            self._companions = "its partner" if samples.needs_partner else "a frame of its clip" if samples.needs_frames else ""
        self._bad_images = BadImages(on_bad_image)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        """The views of image ``index`` at ``position``.

        Raises ValueError: an unreadable image, with file, position and remedy; many in a row when skipping.
        """
        position, index = item
        rng = position_rng(self._seed, position, Stream.REPLACEMENT)
        companions = Companions(self._samples, self._seed, position, self._partners) if self._companions else None
        for _ in range(_MAX_REPLACEMENTS):
            record = companions(self._records, index) if companions else self._records[index]
            try:
                return self._mapper(record, position)
            except ImageReadError as error:
                shown = f", or {self._companions}" if self._companions else ""
                self._bad_images.skip(error, f" It is image {index} of the training data{shown}, at position {position}.")
            index = int(rng.integers(len(self._records)))
        raise BadImages.too_many(_MAX_REPLACEMENTS, record, f" at position {position}")


def build_pretraining_loader(cfg: "d2.CfgNode", records: list[dict], samples: SampleMaker, *, start_iteration: int = 0) -> "BatchLoader":
    """Batches of this process: lists of IMS_PER_BATCH / world size dicts of :class:`PretrainingMapper`, without end.

    Args:
        cfg: the config; SEED, SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS and everything under DETCON.
        records: the training images, the same list in every process.
        samples: makes the sample of an image.
        start_iteration: of the first batch; a resumed run continues the stream exactly.

    Raises ValueError: config or data that cannot work, with key, found and expected.
    """
    size = cfg.SOLVER.IMS_PER_BATCH
    share = {"rank": d2.comm.get_rank(), "world_size": d2.comm.get_world_size()}
    sampler = PositionSampler(len(records), seed=cfg.SEED, batch_size=size, start_iteration=start_iteration, **share)
    mapper = PretrainingMapper.from_config(cfg, samples)
    return _build(BatchLoader, cfg, records, mapper, samples, sampler=sampler, collate_fn=_pack)


def build_whole_image_loader(
    cfg: "d2.CfgNode", records: list[dict], make: Callable[[np.ndarray, int], dict[str, torch.Tensor]], first_position: int
) -> DataLoader:
    """This process's share of all images, once, whole and in order, for hooks that look at the data set.

    Args:
        cfg: the config; SEED, SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS and DETCON.ON_BAD_IMAGE.
        records: the images; process r of R takes the r-th of R equal parts.
        make: called with an image, uint8 (H, W, 3) RGB, and its position.
        first_position: position of image 0; image i has ``first_position + i``.

    Returns:
        Batches of what ``make`` returns, in the order of the records. Where unreadable images are skipped, training never shows them, and
        another image takes their place here.
    """
    rank, world_size = d2.comm.get_rank(), d2.comm.get_world_size()
    share = np.arange(len(records) * rank // world_size, len(records) * (rank + 1) // world_size)
    mapper = partial(_make_whole, make, reading_from_config(cfg))
    return _build(DataLoader, cfg, records, mapper, sampler=np.stack([first_position + share, share], axis=1))


def _make_whole(
    make: Callable[[np.ndarray, int], dict[str, torch.Tensor]], reading: Reading, record: dict, position: int
) -> dict[str, torch.Tensor]:
    return make(read_record(record, reading), position)


def _build(
    kind: type[DataLoader],
    cfg: "d2.CfgNode",
    records: list[dict],
    mapper: Callable[[dict, int], dict],
    samples: SampleMaker | None = None,
    **options,
) -> DataLoader:
    limit_opencv_threads()
    return kind(
        PositionDataset(records, mapper, seed=cfg.SEED, on_bad_image=cfg.DETCON.ON_BAD_IMAGE, samples=samples),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // d2.comm.get_world_size(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        worker_init_fn=init_worker,
        timeout=cfg.DETCON.LOADER_TIMEOUT if cfg.DATALOADER.NUM_WORKERS else 0,
        pin_memory=cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available(),
        # The loader samples a seed for its workers. With a generator of its own, the global one does not change.
        generator=torch.Generator().manual_seed(cfg.SEED),
        **options,
    )


class BatchLoader(DataLoader):
    """Batches as lists of mapper dicts, whose tensors are parts of one tensor per batch and kind; ``collate_fn`` is :func:`_pack`.

    A tensor that crosses processes costs a file descriptor: a batch of 128 dicts as they are would hold 1,024, the usual limit.
    """

    def __iter__(self) -> Iterator[list[dict]]:
        """Endless lists of this process's share of a batch."""
        return map(_unpack, super().__iter__())


def _pack(samples: list[dict]) -> tuple[list[dict], list[dict]]:
    """Samples without tensors; and the tensors of each view and of the samples themselves, stacked."""
    views = range(len(samples[0]["views"]))
    plain = [_plain(sample) | {"views": [_plain(view) for view in sample["views"]]} for sample in samples]
    return plain, [_stack([sample["views"][i] for sample in samples]) for i in views] + [_stack(samples)]


def _plain(values: dict) -> dict:
    return {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}


def _stack(parts: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([part[name] for part in parts]) for name, value in parts[0].items() if isinstance(value, torch.Tensor)}


def _unpack(packed: tuple[list[dict], list[dict]]) -> list[dict]:
    """The inverse of :func:`_pack`."""
    samples, stacked = packed
    for index, sample in enumerate(samples):
        for part, tensors in zip([*sample["views"], sample], stacked, strict=True):
            part.update({name: tensor[index] for name, tensor in tensors.items()})
    return samples


def init_worker(worker: int) -> None:
    """What every worker process of a loader does first: one OpenCV thread, and signals of a scheduler are left to the main process."""
    limit_opencv_threads()
    # SLURM sends SIGTERM to every process of a job, a terminal SIGINT. Workers ignore it unless it comes from their parent, so that the
    # trainer can finish its step and save. macOS cannot tell who sent a signal, so workers exit there at once.
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _JOB_SIGNALS)
        threading.Thread(target=_obey_only, args=(os.getppid(),), daemon=True).start()


def _obey_only(parent: int) -> None:
    # A worker may be blocked on its queue when the parent is killed, so it also checks that the parent is alive.
    while os.getppid() == parent:
        info = signal.sigtimedwait(_JOB_SIGNALS, _PARENT_CHECK_SECONDS)
        if info is not None and info.si_pid == parent:
            break
    os._exit(0)


def limit_opencv_threads() -> None:
    """One OpenCV thread. It must be called before workers with :func:`init_worker` are forked: there the pool has no threads, and the call
    would hang if it were not skipped."""
    if cv2.getNumThreads() > 1:
        cv2.setNumThreads(1)
