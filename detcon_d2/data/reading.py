"""What a config says about reading images, and about images that cannot be read."""

import logging

from detcon_d2 import d2
from detcon_d2.io.images import ImageReadError, Reading
from detcon_d2.io.names import printable

logger = logging.getLogger(__name__)


def reading_from_config(cfg: "d2.CfgNode") -> Reading:
    """The options in DETCON.DATA. Raises ValueError for values that make no sense."""
    return Reading(tuple(cfg.DETCON.DATA.WIDE_RANGE), cfg.DETCON.DATA.MAX_PIXELS, cfg.DETCON.DATA.TILES)


class RefusedImageError(ValueError):
    """An image that cannot be read, and must not be skipped; the message is one line."""

    def __init__(self, message: str):
        """``message`` may also be the traceback that a loader gets from its worker process, which ends with the message."""
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.strip().rpartition("\n")[2].removeprefix(name))


class BadImages:
    """DETCON.ON_BAD_IMAGE: what becomes of images that cannot be read."""

    def __init__(self, policy: str, skipped: str = "another image takes its place"):
        """
        Args:
            policy: "refuse" or "skip".
            skipped: what becomes of an image that is skipped.

        Raises ValueError: another ``policy``.
        """
        if policy not in ("refuse", "skip"):
            raise ValueError(f"DETCON.ON_BAD_IMAGE is {policy!r}; expected 'refuse' or 'skip'.")
        self._skip, self._skipped = policy == "skip", skipped
        self._warned: set[str] = set()

    def skip(self, error: ImageReadError, where: str = "") -> None:
        """Warn, once per file and process. Raises RefusedImageError if images are not skipped; ``where``: a sentence for its message."""
        if not self._skip:
            remedy = f"Repair or remove it, or set DETCON.ON_BAD_IMAGE skip: then {self._skipped}."
            raise RefusedImageError(f"{error}.{where} {remedy}") from None
        if error.path not in self._warned:
            self._warned.add(error.path)
            logger.warning("Skipped, %s (DETCON.ON_BAD_IMAGE skip): %s", self._skipped, error)

    @staticmethod
    def too_many(count: int, record: dict, where: str = "") -> RefusedImageError:
        """The error to raise after ``count`` images in a row, of which ``record`` was the last."""
        return RefusedImageError(
            f"{count} images in a row could not be read{where}, the last {printable(record['file_name'])}; expected a data set of which "
            "most images can be read. Check DATASETS.TRAIN and that its disk is there."
        )
