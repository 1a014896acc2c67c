"""A partial re-implementation of Detectron2's public API in pure Python. This is not Detectron2.

It contains only what DetCon uses and is written from the documented behaviour, on top of fvcore, torchvision, iopath and pycocotools.
:mod:`detcon_d2.d2` chooses it when Detectron2 itself is not installed. Module paths, config keys, parameter names and file formats are
those of Detectron2.
"""

__version__ = "0.6+subset"
