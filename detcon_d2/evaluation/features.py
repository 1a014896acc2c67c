"""The features of all images of a data set, computed once and kept on disk in parts."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, functional
from tqdm import tqdm

from detcon_d2.evaluation.frozen import FrozenEncoder
from detcon_d2.evaluation.labelled import LabelledImages, read_pixels
from detcon_d2.io.atomic import atomic_file, remove_leftovers
from detcon_d2.io.images import ImageReadError

_BATCHES_PER_PART = 32


def whole_image(image: np.ndarray, size: int | None) -> torch.Tensor:
    """The pixels that a frozen encoder gets of an image: uint8 (3, H, W).

    Args:
        image: uint8 (H, W, 3).
        size: side of the centre crop, after the shorter side is resized to size * 256 / 224 pixels (Pillow, bicubic); None: as it is.
    """
    picture = Image.fromarray(image)
    if size is not None:
        picture = functional.resize(picture, round(size * 256 / 224), interpolation=InterpolationMode.BICUBIC)
        picture = functional.center_crop(picture, size)
    return functional.pil_to_tensor(picture)


def extract_features(
    encoder: FrozenEncoder, images: LabelledImages, folder: Path, *, size: int | None, batch_size: int = 64, num_workers: int = 0
) -> torch.Tensor:
    """The pooled features of all images, in their order: float32 (N, C) on the CPU.

    Parts of 32 batches are written to a folder below ``folder``, whose name is a hash of encoder, images and sizes. A part that is there is
    not computed again: an interrupted call continues, with the same result to the bit, and a later call only reads.

    Args:
        encoder, images: whose features, of what.
        folder: for the parts; it is made if it is absent.
        size: see :func:`whole_image`; None requires that all images have one size.
        batch_size: images per forward pass.
        num_workers: processes that read images; 0 reads in this one.

    Raises ValueError: an image that cannot be read or has another size, or features that are not finite.
    """
    key = hashlib.sha256(repr((encoder.digest(), images.digest(), size, batch_size)).encode()).hexdigest()
    folder = Path(folder) / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    rows = batch_size * _BATCHES_PER_PART
    parts = {folder / f"{start:09d}.npy": range(start, min(start + rows, len(images))) for start in range(0, len(images), rows)}
    missing = {path: list(torch.tensor(part).split(batch_size)) for path, part in parts.items() if not path.exists()}
    loader = DataLoader(
        _Pixels(images, size),
        batch_sampler=[batch.tolist() for batches in missing.values() for batch in batches],
        num_workers=num_workers,
        collate_fn=_stack,
        # With a generator of its own, the loader does not change the global one.
        generator=torch.Generator(),
    )
    done = len(images) - sum(len(parts[path]) for path in missing)
    with tqdm(desc=f"features of {images.spec}", total=len(images), initial=done, unit="image") as bar:
        loaded = iter(loader)
        for path, batches in missing.items():
            outputs = []
            for batch in batches:
                outputs.append(_features(encoder, next(loaded)).cpu())
                bar.update(len(batch))
            with atomic_file(path, sync=True) as file:
                np.save(file, torch.cat(outputs).numpy(), allow_pickle=False)
    return torch.from_numpy(np.concatenate([np.load(path, allow_pickle=False) for path in parts]))


def _features(encoder: FrozenEncoder, pixels: torch.Tensor | str) -> torch.Tensor:
    if isinstance(pixels, str):
        raise ValueError(pixels)
    features = encoder(pixels)
    if not torch.isfinite(features).all():
        raise ValueError("The encoder's features are not finite: the pretraining diverged. Take an earlier checkpoint.")
    return features


class _Pixels(Dataset):
    """Pixels of an image. What is wrong with one is returned as text: errors of loader processes reach the user as a traceback."""

    def __init__(self, images: LabelledImages, size: int | None):
        self._files, self._size = images.files, size

    def __getitem__(self, index: int) -> torch.Tensor | str:
        try:
            return whole_image(read_pixels(self._files[index]), self._size)
        except ImageReadError as error:
            return f"{error}. Repair it or remove it from the data set."


def _stack(items: list[torch.Tensor | str]) -> torch.Tensor | str:
    if errors := [item for item in items if isinstance(item, str)]:
        return errors[0]
    if len(sizes := sorted({tuple(item.shape[1:]) for item in items})) > 1:
        return (
            f"Found images of {' and '.join(f'{h} x {w}' for h, w in sizes[:2])} pixels; expected one size. Give --size 224, for example."
        )
    return torch.stack(items)
