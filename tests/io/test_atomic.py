"""Files are complete or absent, whatever happens while they are written."""

import errno
from pathlib import Path

import pytest

from detcon_d2.io import atomic
from detcon_d2.io.atomic import atomic_file, write_bytes_atomically


def write_to_disk(path: Path, data: bytes) -> None:
    with atomic_file(path, sync=True) as file:
        file.write(data)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("write", [write_bytes_atomically, write_to_disk])
def test_a_failing_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch, write, error):
    (tmp_path / "a").write_bytes(b"old")

    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", fail)
        with pytest.raises(type(error)) as caught:
            write(tmp_path / "a", b"new")
    assert isinstance(error, KeyboardInterrupt) or f"cannot write {tmp_path}/a: No space left" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"
    write(str(tmp_path / "a"), b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_written_file_has_the_usual_permissions(tmp_path: Path):
    (tmp_path / "usual").write_bytes(b"")
    write_to_disk(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_interrupt_of_the_keyboard_stays_one_where_torch_reports_something_else(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "a") as file:
        try:
            file.write(b"half")
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            # As torch.save does, which ends its zip file and finds less than it wrote.
            raise RuntimeError("unexpected pos 258240 vs 258136")  # noqa: B904
    assert not list(tmp_path.iterdir())
