"""A partial re-implementation of Detectron2's public API in pure Python. This is not Detectron2.

It holds only what DetCon uses, is written from the documented behaviour on top of fvcore, torchvision and iopath, and is chosen by
:mod:`detcon_d2.d2` when Detectron2 itself is not installed. Module paths, config keys, parameter names and file formats are Detectron2's.
"""

__version__ = "0.6+subset"
