"""The pretraining methods: one file is one method."""

from detcon_d2.methods.detcon import DetConB, DetConBase, DetConS

__all__ = ["DetConB", "DetConBase", "DetConS"]
