"""``@configurable`` translates a config into arguments, on classes and on functions."""

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


@pytest.fixture
def cfg(config):
    return config.get_cfg()


def test_explicit_arguments_go_through(config):
    assert make_class(config.configurable)(1, 2, bias=4).arguments == (1, 2, 4)


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
def test_a_config_and_overrides_are_translated(config, cfg, args, kwargs, expected):
    layer = make_class(config.configurable)
    assert layer(cfg, *args, **kwargs).arguments == expected
    if not args:
        assert layer(cfg=cfg, **kwargs).arguments == expected


def test_a_subclass_is_built_by_its_own_from_config(config, cfg):
    class Wide(make_class(config.configurable)):
        @classmethod
        def from_config(cls, cfg, **kwargs):
            return {**super().from_config(cfg), "width": 99, **kwargs}

    assert Wide(cfg).arguments == (99, "Wide", 3)
    assert Wide(cfg, bias=0).arguments == (99, "Wide", 0)


def test_unknown_overrides_are_a_type_error(config, cfg):
    with pytest.raises(TypeError, match="zz"):
        make_class(config.configurable)(cfg, zz=1)


def test_a_class_without_from_config_is_refused(config, cfg):
    class Bare:
        @config.configurable
        def __init__(self, a):
            pass

    with pytest.raises(AttributeError, match="from_config"):
        Bare(cfg)


def test_from_config_must_be_a_classmethod_that_takes_cfg_first(config, cfg):
    class NoClassmethod:
        @config.configurable
        def __init__(self, a):
            pass

        def from_config(self, cfg):
            return {}

    class OtherName:
        @config.configurable
        def __init__(self, a):
            pass

        @classmethod
        def from_config(cls, config):
            return {}

    for cls in (NoClassmethod, OtherName):
        with pytest.raises(TypeError, match="from_config"):
            cls(cfg)


def test_functions_take_configs_too(config, cfg):
    @config.configurable(from_config=lambda cfg, n=5: {"a": cfg.SEED, "b": n})
    def build(a, b=2, c=3):
        return a, b, c

    assert build(1) == (1, 2, 3)
    assert build(cfg) == build(cfg=cfg) == (-1, 5, 3)
    assert build(cfg, c=5, n=8) == (-1, 8, 5)
    assert build(cfg, b=9) == (-1, 9, 3)
    assert build.from_config(cfg) == {"a": -1, "b": 5}


def test_a_plain_function_without_from_config_is_refused(config):
    with pytest.raises(AssertionError, match="configurable"):

        @config.configurable
        def build(a):
            pass


def test_signature_and_docstring_are_kept(config):
    layer = make_class(config.configurable)
    assert layer.__init__.__doc__ == "Doc."
    assert list(inspect.signature(layer).parameters) == ["width", "depth", "bias"]
