"""Entries of shards: what goes in comes out, and damage never does."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zlib_ng import zlib_ng

from detcon_d2.masks.store import entries
from detcon_d2.masks.store.entries import failure_reason, is_intact, pack_entry, pack_failure, unpack_entry

STACKS = hnp.arrays(
    np.uint16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12), elements=st.sampled_from([0, 1, 7, 255, 256, 1000, 65534, 65535])
)


@given(STACKS)
def test_every_layer_comes_back(stack):
    entry = pack_entry(stack)
    for layer, label_map in enumerate(stack):
        found = unpack_entry(entry, layer)
        assert found.dtype == np.uint16 and found.flags.writeable
        np.testing.assert_array_equal(found, label_map)
    assert failure_reason(entry) is None
    with pytest.raises(ValueError, match=f"found {len(stack)} layer"):
        unpack_entry(entry, len(stack))


def test_entries_are_read_with_and_without_zlib_ng(monkeypatch):
    stack = np.random.default_rng(0).integers(0, 300, (2, 40, 60), dtype=np.uint16)
    entry = pack_entry(stack)
    assert entries.decompress is zlib_ng.decompress
    for decompress in (zlib_ng.decompress, zlib.decompress):
        monkeypatch.setattr(entries, "decompress", decompress)
        for layer, label_map in enumerate(stack):
            np.testing.assert_array_equal(unpack_entry(entry, layer), label_map)


def test_few_ids_take_8_bits_and_many_16():
    ids = np.random.default_rng(0).permutation(256).astype(np.uint16).reshape(1, 16, 16)
    assert len(pack_entry(ids)) < 300 < len(pack_entry(ids + 1)) and pack_entry(ids)[4] == 8 and pack_entry(ids + 1)[4] == 16


@given(STACKS, st.data())
def test_any_changed_or_missing_byte_is_noticed(stack, data):
    entry = pack_entry(stack)
    position, change = data.draw(st.integers(0, len(entry) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(entry)
    changed[position] ^= change
    for damaged in (bytes(changed), entry[:position], entry + b"\0"):
        assert not is_intact(damaged)
        with pytest.raises(ValueError, match="damaged"):
            unpack_entry(damaged)


@given(st.text())
def test_a_failure_keeps_its_reason_and_is_no_label_map(reason):
    entry = pack_failure(reason.encode("utf-8", "ignore").decode())
    assert failure_reason(entry) == reason.encode("utf-8", "ignore").decode() and is_intact(entry)
    with pytest.raises(ValueError, match="could not be used"):
        unpack_entry(entry)
