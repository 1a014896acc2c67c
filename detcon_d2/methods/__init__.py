"""The pretraining methods: one file is one method, more in the folders here. Importing this package registers every one of them in
META_ARCH_REGISTRY."""

import importlib
import pkgutil

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


def pretraining_class(name: str) -> type[PretrainingModel] | None:
    """The method of that name, for MODEL.META_ARCHITECTURE; None for a detector or an unknown name."""
    found = d2.META_ARCH_REGISTRY.get(name) if name in d2.META_ARCH_REGISTRY else None
    return found if isinstance(found, type) and issubclass(found, PretrainingModel) else None


def pretraining_names() -> list[str]:
    """The names of all registered methods, sorted."""
    return sorted(name for name, _ in d2.META_ARCH_REGISTRY if pretraining_class(name))
