"""A checkpoint of any known style to weights for Detectron2, torchvision or timm."""
