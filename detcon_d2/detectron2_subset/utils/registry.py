"""Registries of names: those of fvcore."""

from fvcore.common.registry import Registry

__all__ = ["Registry"]
