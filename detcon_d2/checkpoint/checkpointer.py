"""Detectron2's checkpointer with atomic writes, safe loading and strict resume; the same on both backends."""

from pathlib import Path
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file
from detcon_d2.io.atomic import atomic_file


class DetConCheckpointer(d2.DetectionCheckpointer):
    """A ``DetectionCheckpointer`` whose files never appear half-written and never run code.

    ``last_checkpoint`` is moved only after the file that it names is complete, so a killed run continues from the previous one.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` (model, every checkpointable, ``kwargs``) and tag it as the last one; main process only."""
        if not self.save_dir or not self.save_to_disk:
            return
        if "metadata" in self.checkpointables and "iteration" in kwargs:
            self.checkpointables["metadata"].completed(kwargs["iteration"] + 1)
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        file_name = f"{name}.pth"
        path = Path(self.save_dir, file_name)
        self.logger.info("Saving checkpoint to %s", path)
        with atomic_file(path, sync=True) as file:
            torch.save(data, file)
        self.tag_last_checkpoint(file_name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of ``save_dir``."""
        with atomic_file(Path(self.save_dir, "last_checkpoint"), sync=True) as file:
            file.write(last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue from ``last_checkpoint`` (everything must fit exactly), or initialise the model from ``path`` ("" for none).

        Raises ValueError: on resume, listing every key that is missing, unexpected or of another shape.
        """
        if resume and self.has_checkpoint():
            self._strict = True
            try:
                return self.load(self.get_checkpoint_file())
            finally:
                self._strict = False
        return self.load(path, checkpointables=[])

    _strict = False
    missing_keys: tuple[str, ...] = ()
    """Keys of the model that the last loaded file did not have."""

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        self.missing_keys = tuple(incompatible.missing_keys) if incompatible is not None else ()
        if self._strict and incompatible is not None:
            lines = [f"missing in the checkpoint: {key}" for key in incompatible.missing_keys]
            lines += [f"unexpected in the checkpoint: {key}" for key in incompatible.unexpected_keys]
            shapes = incompatible.incorrect_shapes
            lines += [f"{key}: {tuple(found)} in the checkpoint, {tuple(wanted)} in the model" for key, found, wanted in shapes]
            if lines:
                raise ValueError("The checkpoint to resume does not fit the model of this config:\n  " + "\n  ".join(lines))
        return incompatible

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = load_checkpoint_file(filename)
        if not filename.endswith(".pkl"):
            return data if isinstance(data, dict) and "model" in data else {"model": data}
        if "model" in data and "__author__" in data:
            return data
        # A bare dict of arrays (Caffe2's model zoo nests it under "blobs"): names are matched by suffix.
        blobs = data.get("blobs", data)
        blobs = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
