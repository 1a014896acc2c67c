"""The checkpointer of fvcore, with the file formats of Detectron2 and safe reading."""

from typing import Any

from fvcore.common.checkpoint import Checkpointer
from torch import nn

from ..utils import comm
from ..utils.file_io import PathManager
from .caffe2 import read_caffe2_blobs, rename_caffe2_blob
from .matching import match_by_suffix
from .safe_load import load_file

# Not reported: checkpoints of other versions have or lack these constants, which models create from the config.
_QUIET_MISSING = ("pixel_mean", "pixel_std")
_QUIET_UNEXPECTED = "anchor_generator.cell_anchors"


class DetectionCheckpointer(Checkpointer):
    """Saves and loads a model and other objects that have ``state_dict`` and ``load_state_dict``.

    A ``.pth`` file contains a dict with "model" and the names of the objects, or a bare state dict. A ``.pkl`` file contains a dict of
    numpy arrays under "model" with "__author__", or Caffe2's blobs of a ResNet. The entry "matching_heuristics" in the file, or
    ``?matching_heuristics=True`` after its name, matches names by suffix; names of Caffe2 files are always matched so.
    Files are read without running code from them, unlike in Detectron2.
    """

    _match_names = False

    def __init__(self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any) -> None:
        """
        Args:
            model: may be wrapped in DistributedDataParallel.
            save_dir: the folder of the checkpoints and of the file ``last_checkpoint``, which contains the name of the newest checkpoint.
            save_to_disk: whether this process saves; by default only the main process does.
            checkpointables: name -> object.
        """
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load ``path`` (a file or URL; "" loads nothing). Return the entries of the file that belong to neither model nor objects.

        Raises:
            ValueError: the file contains more than tensors, arrays and plain values.
        """
        path, _, query = path.partition("?")
        if query not in ("", "matching_heuristics=True"):
            raise ValueError(f"{path} has an unknown query {query!r}; expected ?matching_heuristics=True or none.")
        self._match_names = bool(query)
        return super().load(path, *args, **kwargs)

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = load_file(f)
        if not isinstance(checkpoint, dict):
            raise ValueError(f"{f} contains a {type(checkpoint).__name__}; expected a dict of weights, or one with weights under 'model'.")
        if "model" not in checkpoint:
            checkpoint = read_caffe2_blobs(checkpoint) if f.endswith(".pkl") else {"model": checkpoint}
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if self._match_names or checkpoint.get("matching_heuristics"):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            renamed = {rename_caffe2_blob(key): value for key, value in checkpoint["model"].items()}
            checkpoint["model"] = match_by_suffix(self.model.state_dict(), renamed)
        report = super()._load_model(checkpoint)
        report.missing_keys[:] = [key for key in report.missing_keys if key not in _QUIET_MISSING]
        report.unexpected_keys[:] = [key for key in report.unexpected_keys if _QUIET_UNEXPECTED not in key]
        return report
