"""Which names of MODEL.META_ARCHITECTURE are pretraining methods; every other one is a detector."""

from detcon_d2 import d2
from detcon_d2.methods.base import PretrainingModel


def pretraining_class(name: str) -> type[PretrainingModel] | None:
    """The method of that name; None for a detector or an unknown name."""
    found = d2.META_ARCH_REGISTRY.get(name) if name in d2.META_ARCH_REGISTRY else None
    return found if isinstance(found, type) and issubclass(found, PretrainingModel) else None


def pretraining_names() -> list[str]:
    """The names of all registered methods, sorted."""
    return sorted(name for name, _ in d2.META_ARCH_REGISTRY if pretraining_class(name))
