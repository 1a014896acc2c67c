"""The process keeps freed memory, so that the next block of the same size costs no page faults."""

import platform
import subprocess
import sys

import pytest

from detcon_d2.engine import allocator

PROBE = """
import ctypes, resource, runpy, sys

PR_SET_THP_DISABLE = 41  # of linux/prctl.h: with huge pages there are few faults in both cases
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
if len(sys.argv) > 1:
    assert runpy.run_path(sys.argv[1])["keep_freed_memory"]()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_the_next_block_of_the_same_size_costs_no_page_faults():
    usual, kept = (int(subprocess.check_output([sys.executable, "-c", PROBE, *file], text=True)) for file in ([], [allocator.__file__]))
    assert kept < 100 < usual, (kept, usual)


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
