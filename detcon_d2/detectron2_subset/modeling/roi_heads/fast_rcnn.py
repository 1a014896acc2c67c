"""Class and box of each proposal (Girshick, arXiv 1504.08083). Letters: R proposals of all images, Ri of image i, K classes, K + 1 with
background, the last."""

import torch
from fvcore.nn import smooth_l1_loss
from torch import nn

from ...config import CfgNode, configurable
from ...layers import ShapeSpec, batched_nms, cat, cross_entropy
from ...structures import Boxes, Instances
from ...utils.events import get_event_storage
from ..box_regression import Box2BoxTransform

Predictions = tuple[torch.Tensor, torch.Tensor]


def fast_rcnn_inference_single_image(
    boxes: torch.Tensor, scores: torch.Tensor, image_shape: tuple[int, int], score_thresh: float, nms_thresh: float, topk_per_image: int
) -> tuple[Instances, torch.Tensor]:
    """Clip, keep scores above ``score_thresh``, suppress within each class, keep the best ``topk_per_image`` (negative: all).

    ``boxes``: (Ri, K * 4), or (Ri, 4) for all classes; ``scores``: (Ri, K + 1). Rows with NaN or infinity are dropped first. Returns
    instances with ``pred_boxes``, ``scores``, ``pred_classes``, best first, and the index (int64) of each among the finite rows.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    clipped, scores = Boxes(boxes[finite].reshape(-1, 4)), scores[finite, :-1]
    clipped.clip(image_shape)
    rows, classes = (scores > score_thresh).nonzero(as_tuple=True)
    chosen, scores = select_class(clipped.tensor.view(-1, boxes.shape[1] // 4, 4)[rows], classes), scores[rows, classes]
    keep = batched_nms(chosen, scores, classes, nms_thresh)
    keep = keep[:topk_per_image] if topk_per_image >= 0 else keep
    return Instances(image_shape, pred_boxes=Boxes(chosen[keep]), scores=scores[keep], pred_classes=classes[keep]), rows[keep]


def select_class(per_class: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(R, K or 1, ...) -> (R, ...): what belongs to each row's class; all there is where classes share it."""
    return per_class[torch.arange(len(classes), device=classes.device), classes if per_class.shape[1] > 1 else 0]


def _log_classification(scores: torch.Tensor, classes: torch.Tensor) -> None:
    """``fast_rcnn/*``: accuracy of all and of foreground proposals, and the share of foreground that is taken for background."""
    predicted, background = scores.argmax(dim=1), scores.shape[1] - 1
    foreground, right = (classes >= 0) & (classes < background), (predicted == classes).float()
    if len(classes):
        get_event_storage().put_scalar("fast_rcnn/cls_accuracy", right.mean())
    if foreground.any():
        get_event_storage().put_scalar("fast_rcnn/fg_cls_accuracy", right[foreground].mean())
        get_event_storage().put_scalar("fast_rcnn/false_negative", (predicted[foreground] == background).float().mean())


class FastRCNNOutputLayers(nn.Module):
    """``cls_score``: K + 1 logits, ``bbox_pred``: 4 deltas a class, or 4 in all."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
    ) -> None:
        """``num_classes``: K. ``smooth_l1_beta``: where the loss of the deltas turns from quadratic to linear, 0: L1.

        ``loss_weight``: of both losses, or by name ("loss_cls", "loss_box_reg"; 1 where not given). ValueError for another loss type.
        """
        super().__init__()
        if box_reg_loss_type != "smooth_l1":
            raise ValueError(f"BBOX_REG_LOSS_TYPE {box_reg_loss_type!r} is not in the subset; use 'smooth_l1' or install detectron2.")
        size = input_shape.channels * (input_shape.height or 1) * (input_shape.width or 1)
        self.cls_score = nn.Linear(size, num_classes + 1)
        self.bbox_pred = nn.Linear(size, 4 if cls_agnostic_bbox_reg else 4 * num_classes)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.num_classes, self.box2box_transform, self.smooth_l1_beta = num_classes, box2box_transform, smooth_l1_beta
        self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image = test_score_thresh, test_nms_thresh, test_topk_per_image
        self.loss_weight = loss_weight if isinstance(loss_weight, dict) else {"loss_cls": loss_weight, "loss_box_reg": loss_weight}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Reads ``MODEL.ROI_BOX_HEAD``, ``MODEL.ROI_HEADS`` and ``TEST.DETECTIONS_PER_IMAGE``."""
        box, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS
        test = {"test_score_thresh": heads.SCORE_THRESH_TEST, "test_nms_thresh": heads.NMS_THRESH_TEST}
        test |= {"test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE, "num_classes": heads.NUM_CLASSES, "input_shape": input_shape}
        loss = {"smooth_l1_beta": box.SMOOTH_L1_BETA, "box_reg_loss_type": box.BBOX_REG_LOSS_TYPE}
        loss |= {"loss_weight": {"loss_box_reg": box.BBOX_REG_LOSS_WEIGHT}, "cls_agnostic_bbox_reg": box.CLS_AGNOSTIC_BBOX_REG}
        return {"box2box_transform": Box2BoxTransform(weights=box.BBOX_REG_WEIGHTS), **test, **loss}

    def forward(self, x: torch.Tensor) -> Predictions:
        """Features (R, ...) of the boxes -> logits (R, K + 1) and deltas (R, K * 4 or 4)."""
        return self.cls_score(x.flatten(start_dim=1)), self.bbox_pred(x.flatten(start_dim=1))

    def losses(self, predictions: Predictions, proposals: list[Instances]) -> dict[str, torch.Tensor]:
        """``loss_cls``: mean cross entropy; ``loss_box_reg``: see :meth:`box_reg_loss`; both weighted. Logs ``fast_rcnn/*`` scalars.

        ``proposals``: each image's, with ``proposal_boxes``, ``gt_classes`` (K = background) and, where there are objects, ``gt_boxes``.
        """
        scores, deltas = predictions
        classes, boxes = cat([one.gt_classes for one in proposals]), cat([one.proposal_boxes.tensor for one in proposals])
        # Images without objects have no gt_boxes and no foreground: any box does.
        targets = cat([(one.gt_boxes if one.has("gt_boxes") else one.proposal_boxes).tensor for one in proposals])
        _log_classification(scores, classes)
        losses = {"loss_cls": cross_entropy(scores, classes), "loss_box_reg": self.box_reg_loss(boxes, targets, deltas, classes)}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def box_reg_loss(
        self, proposal_boxes: torch.Tensor, gt_boxes: torch.Tensor, pred_deltas: torch.Tensor, gt_classes: torch.Tensor
    ) -> torch.Tensor:
        """Smooth L1 of the deltas of each foreground proposal's class, summed and divided by R, so that every proposal counts the same
        however many are foreground. Boxes (R, 4), deltas as :meth:`forward` makes them, classes (R,)."""
        foreground = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero()[:, 0]
        predicted = select_class(pred_deltas[foreground].unflatten(1, (-1, 4)), gt_classes[foreground])
        wanted = self.box2box_transform.get_deltas(proposal_boxes[foreground], gt_boxes[foreground])
        return smooth_l1_loss(predicted, wanted, self.smooth_l1_beta, reduction="sum") / max(len(gt_classes), 1)

    def inference(self, predictions: Predictions, proposals: list[Instances]) -> tuple[list[Instances], list[torch.Tensor]]:
        """Detections of each image and the proposals they came from; see :func:`fast_rcnn_inference_single_image`."""
        boxes, scores = self.predict_boxes(predictions, proposals), self.predict_probs(predictions, proposals)
        images, limits = zip(boxes, scores, [one.image_size for one in proposals]), (self.test_score_thresh, self.test_nms_thresh)
        found = [fast_rcnn_inference_single_image(*image, *limits, self.test_topk_per_image) for image in images]
        return [instances for instances, _ in found], [rows for _, rows in found]

    def predict_boxes(self, predictions: Predictions, proposals: list[Instances]) -> tuple[torch.Tensor, ...]:
        """For each image (Ri, K * 4 or 4): the proposals moved by the deltas."""
        boxes = cat([one.proposal_boxes.tensor for one in proposals])
        return self.box2box_transform.apply_deltas(predictions[1], boxes).split([len(one) for one in proposals])

    def predict_probs(self, predictions: Predictions, proposals: list[Instances]) -> tuple[torch.Tensor, ...]:
        """For each image (Ri, K + 1): softmax of the logits."""
        return predictions[0].softmax(dim=-1).split([len(one) for one in proposals])
