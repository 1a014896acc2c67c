"""``@configurable`` translates a config into the arguments of a class."""

import inspect

import pytest


def make_class(configurable):
    class Layer:
        @configurable
        def __init__(self, width, depth=2, *, bias=3):
            """Doc."""
            self.arguments = width, depth, bias

        @classmethod
        def from_config(cls, cfg, extra=None):
            return {"width": cfg.SEED, "depth": extra or cls.__name__}

    return Layer


@pytest.fixture
def config(backend):
    return backend.get("config")


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((), {}, (-1, "Layer", 3)),
        ((), {"bias": 7}, (-1, "Layer", 7)),
        ((), {"extra": 9}, (-1, 9, 3)),
        ((5,), {"bias": 1}, (-1, 5, 1)),
        ((5,), {"depth": 1}, (-1, 1, 3)),
        ((), {"width": 8}, (8, "Layer", 3)),
    ],
)
def test_a_config_and_overrides_are_translated(config, args, kwargs, expected):
    layer, cfg = make_class(config.configurable), config.get_cfg()
    assert layer(cfg, *args, **kwargs).arguments == expected
    if not args:
        assert layer(cfg=cfg, **kwargs).arguments == expected
    assert layer(1, 2, bias=4).arguments == (1, 2, 4) and list(inspect.signature(layer).parameters) == ["width", "depth", "bias"]


def test_a_subclass_is_built_by_its_own_from_config(config):
    class Wide(make_class(config.configurable)):
        @classmethod
        def from_config(cls, cfg, **kwargs):
            return {**super().from_config(cfg), "width": 99, **kwargs}

    assert Wide(config.get_cfg(), bias=0).arguments == (99, "Wide", 0)


def test_unknown_arguments_and_a_missing_or_wrong_from_config_are_refused(config):
    with pytest.raises(TypeError, match="zz"):
        make_class(config.configurable)(config.get_cfg(), zz=1)

    class Base:
        @config.configurable
        def __init__(self, a):
            pass

    for from_config, error in ((None, AttributeError), (lambda self, cfg: {}, TypeError), (classmethod(lambda cls, config: {}), TypeError)):
        with pytest.raises(error, match="from_config"):
            type("Wrong", (Base,), {"from_config": from_config} if from_config else {})(config.get_cfg())
