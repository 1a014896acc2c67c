"""Evaluation of models on data sets; public names of ``detectron2.evaluation``."""

from ..missing import missing_name
from .coco_evaluation import COCOEvaluator
from .evaluator import inference_on_dataset
from .testing import print_csv_format

__all__ = ["COCOEvaluator", "inference_on_dataset", "print_csv_format"]
__getattr__ = missing_name(__name__)
