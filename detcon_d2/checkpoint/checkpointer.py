"""Detectron2's checkpointer with atomic writes, safe loading and strict resume; the same on both backends."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.safe_load.files import load_checkpoint_file
from detcon_d2.checkpoint.safe_load.pickles import UnsafeCheckpointError
from detcon_d2.io.atomic import atomic_file


class DetConCheckpointer(d2.DetectionCheckpointer):
    """A ``DetectionCheckpointer`` whose files never appear half-written and never run code.

    ``last_checkpoint`` is moved only after the file that it names is complete, so a killed run continues from the previous one. Where it is
    missing or wrong, or the file that it names cannot be read, that is logged, and the newest other checkpoint of the folder is taken.
    """

    def __init__(self, *args: Any, max_to_keep: int = 0, **kwargs: Any):
        """
        Args:
            args, kwargs: as for Detectron2's.
            max_to_keep: numbered checkpoints of the run that stay, those from before a resume included; 0: all.
        """
        super().__init__(*args, **kwargs)
        self._max_to_keep = max_to_keep
        self._numbered: list[Path] = []

    def save(self, name: str, **kwargs: Any) -> None:
        """:meth:`write`, tag the file as the last checkpoint, and remove the oldest ones; main process only."""
        if not self.save_dir or not self.save_to_disk:
            return
        path = self.write(name, **kwargs)
        self.tag_last_checkpoint(path.name)
        if _iteration(path) < _FINAL:
            self._numbered = [other for other in self._numbered if other != path] + [path]
        while 0 < self._max_to_keep < len(self._numbered):
            self._numbered.pop(0).unlink(missing_ok=True)

    def write(self, name: str, **kwargs: Any) -> Path:
        """Write ``<save_dir>/<name>.pth`` (model, every checkpointable, ``kwargs``), and return its path."""
        if "metadata" in self.checkpointables and "iteration" in kwargs:
            self.checkpointables["metadata"].completed(kwargs["iteration"] + 1)
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with atomic_file(path, sync=True) as file:
            torch.save(data, file)
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point ``last_checkpoint`` at a file of ``save_dir``."""
        with atomic_file(Path(self.save_dir, "last_checkpoint"), sync=True) as file:
            file.write(last_filename_basename.encode())

    def has_checkpoint(self) -> bool:
        """Whether there is ``last_checkpoint``, or a checkpoint that it could name."""
        return os.path.exists(Path(self.save_dir, "last_checkpoint")) or bool(self._all_checkpoints())

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint that can be read. What is missing or cannot be read is named in the log.

        Raises:
            ValueError: there is none.
        """
        refused = []
        for path in self._newest_first():
            try:
                content = load_checkpoint_file(path, hold=True)
                if "trainer" in self.checkpointables and not (isinstance(content, dict) and {"model", "trainer"} <= content.keys()):
                    raise UnsafeCheckpointError(f"{path} is no checkpoint of a run: it has no optimizer or no model")
            except UnsafeCheckpointError as error:
                self.logger.warning("%s. The checkpoint before it is taken.", error)
                refused.append(path.name)
            else:
                return str(path)
        raise ValueError(
            f"No checkpoint in {self.save_dir} can be read (found: {', '.join(refused) or 'none'}; each is named above). Restore one, or "
            "start anew in another OUTPUT_DIR."
        )

    def _all_checkpoints(self) -> list[Path]:
        """Those of ``save_dir`` that a run can continue, newest first."""
        return sorted(filter(_iteration, Path(self.save_dir).glob("model_*.pth")), key=_iteration, reverse=True)

    def _newest_first(self) -> list[Path]:
        tag, others = Path(self.save_dir, "last_checkpoint"), self._all_checkpoints()
        name = tag.read_bytes().decode(errors="replace").strip() if tag.is_file() else None
        if name and os.path.isfile(named := Path(self.save_dir, name)):
            return [named, *(path for path in others if path != named)]
        problem = "is missing" if name is None else f"names {name!r}, which is not there" if name else "is empty"
        there = ", ".join(path.name for path in others) or "no checkpoint"
        self.logger.warning(
            "%s %s. The folder holds %s: the newest is continued. To start anew, use another OUTPUT_DIR.", tag, problem, there
        )
        return others

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue from ``last_checkpoint`` (everything must fit exactly), or initialise the model from ``path`` ("" for none).

        Raises ValueError: on resume, listing every key that is missing, unexpected or of another shape.
        """
        if resume and self.has_checkpoint():
            path = Path(self.get_checkpoint_file())
            # Checkpoints that are newer than the resumed one cannot be read, or were never tagged: they are the first to go.
            ages = {other: _iteration(other) for other in self._all_checkpoints() if _iteration(other) < _FINAL}
            self._numbered = sorted(ages, key=lambda other: (ages[other] <= (_iteration(path) or _FINAL), ages[other]))
            self._strict = True
            try:
                return self.load(str(path))
            finally:
                self._strict = False
        return self.load(path, checkpointables=[])

    _strict = False
    missing_keys: tuple[str, ...] = ()
    """Keys of the model that the last loaded file did not have."""

    def _load_model(self, checkpoint: Any) -> Any:
        checkpoint["model"] = place_backbone(checkpoint["model"], self.model.state_dict().keys())
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


def place_backbone(state: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """The tensors of a model under the names of another: a backbone of an FPN, as the converter writes it, also fits detectors without.

    ``backbone.bottom_up.X`` becomes ``backbone.X``, or ``roi_heads.X`` (res5 of C4 detectors), where only that is in ``wanted``.
    """
    prefix = "backbone.bottom_up."

    def place(key: str) -> str:
        name = str(key).removeprefix(prefix)
        places = (key, f"backbone.{name}", f"roi_heads.{name}") if str(key).startswith(prefix) else (key,)
        return next((one for one in places if one in wanted), key)

    return {place(key): value for key, value in state.items()}


_FINAL = 10**12


def _iteration(path: Path) -> int:
    """Iterations that a checkpoint of this name has completed; 0 for another file."""
    found = re.fullmatch(r"model_(?:(\d+)|final)\.pth", path.name)
    return 0 if found is None else _FINAL if found[1] is None else int(found[1]) + 1
