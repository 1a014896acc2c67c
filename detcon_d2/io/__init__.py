"""Files: the image reader, data set specs, references into large files, tar members, atomic writing. No torch, no Detectron2."""
