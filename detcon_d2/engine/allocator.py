"""Memory of CPU training: kept by the process between steps, as CUDA's caching allocator keeps the device's."""

import ctypes
import sys

# Of malloc.h; mallopt(3) describes them.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep large blocks that are freed, in place of giving them back to the system and clearing new ones in every step.

    Every step of pretraining asks for the same blocks again, so the process's memory does not grow. It holds for the whole process and for
    what it forks.

    Returns:
        Whether this is glibc's malloc and it obeyed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # -1 is documented to switch trimming off, 0 to allow no block of its own; mallopt returns 1 on success.
    return mallopt is not None and all([mallopt(_M_TRIM_THRESHOLD, -1) == 1, mallopt(_M_MMAP_MAX, 0) == 1])
