"""A resumed run reports changed keys, and refuses those that make it another run."""

import logging

import pytest

from detcon_d2 import add_detcon_config, d2
from detcon_d2.checkpoint.run_config import RunConfig


def config(*opts: object) -> RunConfig:
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.merge_from_list(list(opts))
    return RunConfig(cfg)


@pytest.mark.parametrize(("key", "value", "line"), [("MAX_PIXELS", 10**9, "0 -> 1000000000"), ("MAX_LEFT_OUT", 0.5, "0.1 -> 0.5")])
def test_another_limit_on_what_is_read_is_reported_in_one_line(key, value, line, caplog):
    with caplog.at_level(logging.INFO):
        config(f"DETCON.DATA.{key}", value).load_state_dict(config().state_dict())
    assert [record.getMessage() for record in caplog.records] == [f"Changed since the checkpoint: DETCON.DATA.{key} {line}."]


@pytest.mark.parametrize(("key", "value"), [("TILES", 1024), ("WIDE_RANGE", (0, 100))])
def test_another_cut_or_range_of_the_images_is_another_run(key, value):
    with pytest.raises(ValueError, match=rf"DETCON\.DATA\.{key}: .* in the checkpoint, .* in this run"):
        config(f"DETCON.DATA.{key}", value).load_state_dict(config().state_dict())
