"""The released JAX networks, from their file to a Mask R-CNN that predicts: through the converter, its YAML and the start-up check."""

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.checkpoint import DetConCheckpointer, check_weights, describe_missing
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.spec import BackboneSpec
from detcon_d2.engine.setup import load_config
from tests.checkpoint.released import backbone_tensors, haiku_trees, write_npy

_SMALL = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.FPN.OUT_CHANNELS", "16"]
_SMALL += ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"]


@pytest.mark.parametrize("depth", [50, 200])
def test_released_network_predicts_in_mask_rcnn(depth, tmp_path):
    # A quarter of the channels; the full widths are those of the conversion tests.
    spec = BackboneSpec(depth, stem_out_channels=16, res2_out_channels=64, width_per_group=16)
    params, state = haiku_trees(backbone_tensors(spec), root=f"res_net{depth}")
    source = write_npy(tmp_path / "released.npy", {"params": params, "state": state})
    weights = tmp_path / "weights.pkl"
    convert(source, weights)

    cfg = load_config(str(weights.with_suffix(".yaml")), _SMALL)
    assert (cfg.MODEL.WEIGHTS, cfg.DETCON.BACKBONE.PADDING) == (str(weights), "same")
    assert "The config agrees" in check_weights(cfg, cfg.MODEL.WEIGHTS)[0]
    model = d2.build_model(cfg)
    checkpointer = DetConCheckpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    assert describe_missing(checkpointer.missing_keys) == "newly initialised, as expected: FPN, RPN, box head, mask head"
    loaded = model.backbone.bottom_up.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in backbone_tensors(spec).items())

    image = torch.randint(0, 256, (3, 70, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        instances = model.eval()([{"image": image, "height": 140, "width": 192}])[0]["instances"]
    assert instances.image_size == (140, 192) and torch.isfinite(instances.scores).all()
