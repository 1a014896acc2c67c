"""The path manager that resolves every file name: local paths, http(s) addresses, and ``detectron2://`` for the files of the model zoo."""

from typing import IO, Any

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

PathManager = _PathManager()
"""The path manager of the subset. Handlers of further prefixes are registered here."""


class _ModelZooHandler(PathHandler):
    def _get_supported_prefixes(self) -> list[str]:
        return ["detectron2://"]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return PathManager.get_local_path(path.replace("detectron2://", "https://dl.fbaipublicfiles.com/detectron2/"), **kwargs)

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> IO:
        return open(self._get_local_path(path), mode, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(_ModelZooHandler())
