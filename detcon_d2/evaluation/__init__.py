"""The encoder after pretraining: features before and after conversion, feature maps of images, and region similarity."""
