"""Class and box of each proposal (Girshick, arXiv 1504.08083).

Letters: R proposals of all images, Ri proposals of image i, K classes. The last of K + 1 logits is the background.
"""

import torch
from fvcore.nn import smooth_l1_loss
from torch import nn
from torchvision import ops

from ...config import CfgNode, configurable
from ...layers import ShapeSpec
from ...structures import Boxes, Instances
from ...utils.events import get_event_storage
from ..box_regression import Box2BoxTransform

Predictions = tuple[torch.Tensor, torch.Tensor]


def fast_rcnn_inference_single_image(
    boxes: torch.Tensor, scores: torch.Tensor, image_shape: tuple[int, int], score_thresh: float, nms_thresh: float, topk_per_image: int
) -> tuple[Instances, torch.Tensor]:
    """Clip boxes, keep scores above ``score_thresh``, suppress overlapping boxes of each class, and keep the best ``topk_per_image``.

    ``boxes``: (Ri, K * 4), or (Ri, 4) for all classes; ``scores``: (Ri, K + 1); ``topk_per_image`` negative: keep all. Rows with NaN or
    infinity are removed first. Returns instances with ``pred_boxes``, ``scores`` and ``pred_classes``, best first, and the position (int64)
    of each among the finite rows.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    clipped, scores = Boxes(boxes[finite].reshape(-1, 4)), scores[finite, :-1]
    clipped.clip(image_shape)
    rows, classes = (scores > score_thresh).nonzero(as_tuple=True)
    chosen, scores = select_class(clipped.tensor.view(-1, boxes.shape[1] // 4, 4)[rows], classes), scores[rows, classes]
    keep = ops.batched_nms(chosen, scores, classes, nms_thresh)
    keep = keep[:topk_per_image] if topk_per_image >= 0 else keep
    return Instances(image_shape, pred_boxes=Boxes(chosen[keep]), scores=scores[keep], pred_classes=classes[keep]), rows[keep]


def select_class(per_class: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(R, K or 1, ...) -> (R, ...): the entry of each row's class; with 1, all classes share the entry."""
    return per_class[torch.arange(len(classes), device=classes.device), classes if per_class.shape[1] > 1 else 0]


def _log_classification(scores: torch.Tensor, classes: torch.Tensor) -> None:
    """Record ``fast_rcnn/*``: accuracy of all and of foreground proposals, and the fraction of foreground classified as background."""
    predicted, background = scores.argmax(dim=1), scores.shape[1] - 1
    foreground, right = (classes >= 0) & (classes < background), (predicted == classes).float()
    if len(classes):
        get_event_storage().put_scalar("fast_rcnn/cls_accuracy", right.mean())
    if foreground.any():
        get_event_storage().put_scalar("fast_rcnn/fg_cls_accuracy", right[foreground].mean())
        get_event_storage().put_scalar("fast_rcnn/false_negative", (predicted[foreground] == background).float().mean())


class FastRCNNOutputLayers(nn.Module):
    """``cls_score``: K + 1 logits; ``bbox_pred``: 4 offsets per class, or 4 for all classes."""

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
        loss_weight: float | dict[str, float] = 1.0,
    ) -> None:
        """
        Args:
            input_shape: shape of the features of a box.
            box2box_transform: of the offsets.
            num_classes: K.
            test_score_thresh, test_nms_thresh, test_topk_per_image: see :func:`fast_rcnn_inference_single_image`.
            cls_agnostic_bbox_reg: all classes share one box.
            smooth_l1_beta: the error at which the box loss changes from quadratic to linear; 0: L1.
            loss_weight: factor of both losses, or the factors by name ("loss_cls", "loss_box_reg"; default 1).
        """
        super().__init__()
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
        """Read ``MODEL.ROI_BOX_HEAD``, ``MODEL.ROI_HEADS`` and ``TEST.DETECTIONS_PER_IMAGE``.

        NotImplementedError for another BBOX_REG_LOSS_TYPE than smooth_l1.
        """
        box, heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS
        if box.BBOX_REG_LOSS_TYPE != "smooth_l1":
            raise NotImplementedError(
                f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE {box.BBOX_REG_LOSS_TYPE!r} is not in the subset; install detectron2"
            )
        test = {"test_score_thresh": heads.SCORE_THRESH_TEST, "test_nms_thresh": heads.NMS_THRESH_TEST}
        test |= {"test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE, "num_classes": heads.NUM_CLASSES, "input_shape": input_shape}
        loss = {"smooth_l1_beta": box.SMOOTH_L1_BETA, "loss_weight": {"loss_box_reg": box.BBOX_REG_LOSS_WEIGHT}}
        loss |= {"cls_agnostic_bbox_reg": box.CLS_AGNOSTIC_BBOX_REG}
        return {"box2box_transform": Box2BoxTransform(weights=box.BBOX_REG_WEIGHTS), **test, **loss}

    def forward(self, x: torch.Tensor) -> Predictions:
        """Features (R, ...) of the boxes -> logits (R, K + 1) and offsets (R, K * 4 or 4)."""
        return self.cls_score(x.flatten(start_dim=1)), self.bbox_pred(x.flatten(start_dim=1))

    def losses(self, predictions: Predictions, proposals: list[Instances]) -> dict[str, torch.Tensor]:
        """Return ``loss_cls``, the mean cross entropy, and ``loss_box_reg``, see :meth:`box_reg_loss`. Records ``fast_rcnn/*`` scalars.

        ``proposals``: those of each image, with ``proposal_boxes``, ``gt_classes`` (K = background) and, if the image has objects,
        ``gt_boxes``.
        """
        scores, deltas = predictions
        classes, boxes = torch.cat([one.gt_classes for one in proposals]), torch.cat([one.proposal_boxes.tensor for one in proposals])
        # Images without objects have no gt_boxes and no foreground, so their target boxes are not used.
        targets = torch.cat([(one.gt_boxes if one.has("gt_boxes") else one.proposal_boxes).tensor for one in proposals])
        _log_classification(scores, classes)
        # The mean over no proposals would be NaN; this sum is 0 and has a gradient.
        loss_cls = nn.functional.cross_entropy(scores, classes) if len(classes) else scores.sum() * 0.0
        losses = {"loss_cls": loss_cls, "loss_box_reg": self.box_reg_loss(boxes, targets, deltas, classes)}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def box_reg_loss(
        self, proposal_boxes: torch.Tensor, gt_boxes: torch.Tensor, pred_deltas: torch.Tensor, gt_classes: torch.Tensor
    ) -> torch.Tensor:
        """Return smooth L1 of the offsets of each foreground proposal's class, summed and divided by R. Dividing by R gives each
        foreground proposal the same weight in every batch. Boxes (R, 4), offsets as returned by :meth:`forward`, classes (R,)."""
        foreground = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero()[:, 0]
        predicted = select_class(pred_deltas[foreground].unflatten(1, (-1, 4)), gt_classes[foreground])
        wanted = self.box2box_transform.get_deltas(proposal_boxes[foreground], gt_boxes[foreground])
        return smooth_l1_loss(predicted, wanted, self.smooth_l1_beta, reduction="sum") / max(len(gt_classes), 1)

    def inference(self, predictions: Predictions, proposals: list[Instances]) -> tuple[list[Instances], list[torch.Tensor]]:
        """Return the detections of each image and the positions of their proposals; see :func:`fast_rcnn_inference_single_image`."""
        sizes = [len(one) for one in proposals]
        sources = torch.cat([one.proposal_boxes.tensor for one in proposals])
        boxes = self.box2box_transform.apply_deltas(predictions[1], sources).split(sizes)
        scores = predictions[0].softmax(dim=-1).split(sizes)
        limits = self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image
        images = zip(boxes, scores, [one.image_size for one in proposals])
        found = [fast_rcnn_inference_single_image(*image, *limits) for image in images]
        return [instances for instances, _ in found], [rows for _, rows in found]
