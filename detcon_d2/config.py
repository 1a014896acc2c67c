"""Every config key that DetCon adds to Detectron2's, with the paper's symbol and the published default."""

from detcon_d2 import d2


def add_detcon_config(cfg: "d2.CfgNode") -> None:
    """Add the keys under ``DETCON`` to a Detectron2 config, in place.

    Defaults are DetCon_B's (method.md, table "Networks"); ``configs/Base-DetCon.yaml`` sets the Detectron2 keys that pretraining needs.
    """
    CN = d2.CfgNode
    cfg.DETCON = CN()

    # The backbone's output that is pooled under the masks.
    cfg.DETCON.IN_FEATURE = "res5"
    # Set the last BatchNorm gamma of each residual block to zero after building.
    cfg.DETCON.ZERO_INIT_RESIDUAL = True
    # Multiplies the channels of every stage of build_detcon_resnet_backbone.
    cfg.DETCON.WIDTH_MULTIPLIER = 1
    # Of strided convolutions and max pooling in build_detcon_resnet_backbone and build_detcon_resnet_fpn_backbone. "symmetric": all sides
    # alike, as Detectron2 and torchvision do; "same": bottom and right more, as TensorFlow and the released JAX models do.
    cfg.DETCON.BACKBONE = CN()
    cfg.DETCON.BACKBONE.PADDING = "symmetric"
    # Run the network in the channels_last memory format.
    cfg.DETCON.CHANNELS_LAST = True
    # torch.compile of the encoders by this backend, "inductor" as a rule; "": off.
    cfg.DETCON.COMPILE = ""

    # g: Linear(C, HIDDEN_DIM, bias) BN ReLU Linear(HIDDEN_DIM, OUT_DIM, no bias), on every sampled region.
    cfg.DETCON.PROJECTOR = CN()
    cfg.DETCON.PROJECTOR.HIDDEN_DIM = 4096
    cfg.DETCON.PROJECTOR.OUT_DIM = 256
    # q, DetCon_B only: the same form, OUT_DIM of the projector in and out.
    cfg.DETCON.PREDICTOR = CN()
    cfg.DETCON.PREDICTOR.HIDDEN_DIM = 4096
    # BatchNorm of both heads: "SyncBN", "BN" or "naiveSyncBN"; the trainer picks the kind that world size and device allow.
    cfg.DETCON.HEAD_NORM = "SyncBN"

    # Target network. "cosine": 1 - (1 - MOMENTUM) (cos(pi t / T) + 1) / 2, from MOMENTUM to 1; "constant": MOMENTUM.
    cfg.DETCON.EMA = CN()
    cfg.DETCON.EMA.MOMENTUM = 0.99
    cfg.DETCON.EMA.SCHEDULE = "cosine"
    # "copy": the target starts as the online weights; "random": from its own initialisation, as in the released code.
    cfg.DETCON.EMA.INIT = "copy"

    # Linear classifier on mean-pooled, stop-gradient features of view 1; trained only where the data set has labels.
    cfg.DETCON.PROBE = CN()
    cfg.DETCON.PROBE.ENABLED = True
    # Number of classes; 0: taken from the data set (no labels, no probe).
    cfg.DETCON.PROBE.NUM_CLASSES = 0

    # Geometry of the two views.
    cfg.DETCON.VIEWS = CN()
    cfg.DETCON.VIEWS.SIZE = 224
    # Crop: area as a fraction of the image, uniform; aspect ratio (w / h), log-uniform.
    cfg.DETCON.VIEWS.CROP_AREA = (0.08, 1.0)
    cfg.DETCON.VIEWS.CROP_ASPECT = (3.0 / 4.0, 4.0 / 3.0)
    # 1: a crop that is larger than the image is clamped to it (the released code). More: it is sampled again so often, and then the largest
    # central crop is taken (torchvision, with 10).
    cfg.DETCON.VIEWS.CROP_ATTEMPTS = 1
    cfg.DETCON.VIEWS.FLIP_PROB = 0.5
    # "bicubic_tf": a = -0.5, no antialias (the released code); "bicubic_torch": a = -0.75, no antialias;
    # "bicubic_pil" and "bilinear_pil": antialiased.
    cfg.DETCON.VIEWS.INTERPOLATION = "bicubic_tf"

    # Small crops of the methods with multi-crop (SwAV, DINO), after the two views: their number, side and area.
    cfg.DETCON.VIEWS.LOCAL = CN()
    cfg.DETCON.VIEWS.LOCAL.COUNT = 0
    cfg.DETCON.VIEWS.LOCAL.SIZE = 96
    cfg.DETCON.VIEWS.LOCAL.CROP_AREA = (0.05, 0.14)

    # Images per process that pass through the networks at once, for batches that do not fit into memory; 0: all of them. The loss is that
    # of the whole batch (gradient caching), for one more forward pass; BatchNorm's statistics are those of each part.
    cfg.DETCON.MICRO_BATCH = 0

    # Photometric augmentation. A pair is (view 1, view 2); a third value is for small crops, which otherwise have view 2's.
    cfg.DETCON.AUG = CN()
    # "dm_pix": additive brightness, per-channel contrast, HSV saturation (the released code); "torchvision": multiplicative.
    cfg.DETCON.AUG.OPERATORS = "dm_pix"
    cfg.DETCON.AUG.JITTER_PROB = (0.8, 0.8)
    cfg.DETCON.AUG.BRIGHTNESS = 0.4
    cfg.DETCON.AUG.CONTRAST = 0.4
    cfg.DETCON.AUG.SATURATION = 0.2
    cfg.DETCON.AUG.HUE = 0.1
    cfg.DETCON.AUG.GRAY_PROB = (0.2, 0.2)
    cfg.DETCON.AUG.BLUR_PROB = (1.0, 0.1)
    cfg.DETCON.AUG.BLUR_SIGMA = (0.1, 2.0)
    # Kernel length as a fraction of the view's side, made odd: 224 -> 23 taps.
    cfg.DETCON.AUG.BLUR_KERNEL = 0.1
    cfg.DETCON.AUG.SOLARIZE_PROB = (0.0, 0.2)
    cfg.DETCON.AUG.SOLARIZE_THRESHOLD = 0.5
    # "exact": in float32, as the released code; "fast": in 8 bits, several times as fast, with regions reduced to feature cells at once.
    # Both modes use the same random numbers; a view differs by a mean of less than 1 of 255, mostly rounding.
    cfg.DETCON.AUG.MODE = "exact"
    # Of jitter, grey, blur and solarizing: "worker": in the loader; "device": in the model, a batch at a time, exact in either MODE.
    cfg.DETCON.AUG.WHERE = "worker"

    # Regions. SOURCE "files": label maps written by tools/generate_masks.py; "grid": GRID x GRID cells of the full image, no files.
    # "kmeans": learned while training, see KMEANS; no files.
    cfg.DETCON.MASKS = CN()
    cfg.DETCON.MASKS.SOURCE = "files"
    # One folder of label maps per entry of DATASETS.TRAIN, in the same order.
    cfg.DETCON.MASKS.ROOTS = ()
    # Where images have several label maps (fh_scales): 0..layers - 1, or -1: one is sampled each time an image is shown, for both views.
    cfg.DETCON.MASKS.LAYER = -1
    cfg.DETCON.MASKS.GRID = 2
    # Seconds after which the run stops if a worker process brings no batch, for example because a network disk hangs; 0: it waits.
    cfg.DETCON.LOADER_TIMEOUT = 1800
    # Of an image that cannot be read, in pretraining, fine-tuning and evaluation. "refuse": it stops the run and is named; "skip": it is
    # named in the log, and another image takes its place in training, while evaluation leaves it out.
    cfg.DETCON.ON_BAD_IMAGE = "refuse"

    # How images are read.
    cfg.DETCON.DATA = CN()
    # Samples wider than 8 bits. (low, high): these become 0 and 255, values between them linearly. (): the highest bit that an image uses
    # becomes the highest of its 8 bits; images of one sensor can then differ in brightness by a factor of 2.
    cfg.DETCON.DATA.WIDE_RANGE = ()
    # Largest image in pixels; 0: Pillow's limit, 179 million.
    cfg.DETCON.DATA.MAX_PIXELS = 0
    # Side in pixels of the square tiles that larger images are cut into, in pretraining and for its label maps (--tiles of generate_masks);
    # each tile then is an image of its own. The last row and column are moved inside, so that every tile is full. 0: whole images.
    # Every process opens all images at the start, for their sizes, and decodes a whole image for one tile: per megapixel of JPEG about
    # 27 ms, or 6 ms with AUG.MODE "fast".
    cfg.DETCON.DATA.TILES = 0
    # Share of the annotations of a data set that may be left out or look wrong; above it, training and evaluation are refused.
    cfg.DETCON.DATA.MAX_LEFT_OUT = 0.1

    cfg.DETCON.SOLVER = CN()
    # "LARS", "SGD" or "AdamW".
    cfg.DETCON.SOLVER.OPTIMIZER = "LARS"
    # LARS trust coefficient, and the kind of LARS: "byol", "simclr", "larc" (SwAV) or "pixpro"; see solver/lars.py.
    cfg.DETCON.SOLVER.ETA = 0.001
    cfg.DETCON.SOLVER.LARS_KIND = "byol"
    # Weight decay and LARS adaptation of biases and norms, too (MoCo, SwAV, supervised).
    cfg.DETCON.SOLVER.DECAY_ALL = False
    # Peak learning rate = BASE_LR_256 * IMS_PER_BATCH / 256, written to SOLVER.BASE_LR; 0: SOLVER.BASE_LR is used as it is.
    cfg.DETCON.SOLVER.BASE_LR_256 = 0.3
    # Run length and linear warm-up in epochs, written to SOLVER.MAX_ITER and WARMUP_ITERS; 0: those are used as they are.
    cfg.DETCON.SOLVER.EPOCHS = 0.0
    cfg.DETCON.SOLVER.WARMUP_EPOCHS = 0.0
    # Epochs at which WarmupMultiStepLR multiplies the learning rate by SOLVER.GAMMA, written to SOLVER.STEPS; (): SOLVER.STEPS stays.
    cfg.DETCON.SOLVER.STEP_EPOCHS = ()
    # Hold the learning rate constant within each epoch, at the schedule's value for its start (MoCo v2, DenseCL).
    cfg.DETCON.SOLVER.LR_PER_EPOCH = False
    # Autocast dtype when SOLVER.AMP.ENABLED: "bf16" or "fp16" (fp16 scales the loss and needs a GPU).
    cfg.DETCON.SOLVER.AMP_DTYPE = "bf16"
    # How many of the newest checkpoints are kept, in addition to model_final.pth; 0 keeps all.
    cfg.DETCON.SOLVER.MAX_TO_KEEP = 5
    # Refuse to resume with another method, depth, seed, batch, list of images, length or mask parameters than the checkpoint's.
    cfg.DETCON.SOLVER.STRICT_RESUME = True

    # Iterations between two lines of the log, for which the metrics of learning (collapse, retrieval, regions, probe) are computed.
    cfg.DETCON.LOG_PERIOD = 20

    # Images that are not trained on, as in DATASETS.TRAIN: the method's metrics on IMAGES of them, in whole batches, are logged as
    # held_out/* every PERIOD iterations and at the end. PERIOD 0: only at the end. ROOTS are their label maps, as MASKS.ROOTS.
    cfg.DETCON.HELD_OUT = CN()
    cfg.DETCON.HELD_OUT.DATASETS = ()
    cfg.DETCON.HELD_OUT.ROOTS = ()
    cfg.DETCON.HELD_OUT.IMAGES = 1000
    cfg.DETCON.HELD_OUT.PERIOD = 0

    # Refuse to fine-tune when channel order, pixel statistics, stride placement, depth, channels or norm contradict MODEL.WEIGHTS.
    cfg.DETCON.CHECK_WEIGHTS = True

    # The best checkpoint of fine-tuning: model_best.pth has the highest value of this metric, "bbox/AP" for example, among the evaluations
    # of TEST.EVAL_PERIOD and the last; with several data sets "NAME/bbox/AP"; "": none.
    cfg.DETCON.TEST = CN()
    cfg.DETCON.TEST.BEST_METRIC = ""
    # Training ends after this number of evaluations in a row without a new best one; 0: never.
    cfg.DETCON.TEST.EARLY_STOPPING = 0

    # Fine-tuning a detector (tools/train_net.py with a MODEL.META_ARCHITECTURE other than DetCon's).
    cfg.DETCON.FINETUNE = CN()
    # Name of the protocol ("standard", "4conv1fc", "detcon", or your own); results and checkpoints carry it.
    cfg.DETCON.FINETUNE.PROTOCOL = ""
    # The batch that learning rate and schedule of the config are meant for. Another SOLVER.IMS_PER_BATCH rescales BASE_LR, and inversely
    # MAX_ITER, STEPS, WARMUP_ITERS, CHECKPOINT_PERIOD and EVAL_PERIOD, except for keys given on the command line; 0: never.
    cfg.DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH = 0
    # "SGD": Detectron2's, with momentum; "AdamW": for short schedules. Both read SOLVER.BASE_LR, WEIGHT_DECAY and CLIP_GRADIENTS.
    cfg.DETCON.FINETUNE.OPTIMIZER = "SGD"
    # "default": Detectron2's, from the INPUT keys; "scale_jitter": long side JITTER_SIZE x U(JITTER_SCALE), crop JITTER_SIZE x JITTER_SIZE.
    cfg.DETCON.FINETUNE.AUGMENTATION = "default"
    cfg.DETCON.FINETUNE.JITTER_SCALE = (0.8, 1.25)
    cfg.DETCON.FINETUNE.JITTER_SIZE = 1024
    # Train on this part of the images with annotations, in (0, 1]; LABEL_SEED alone chooses them, and 1 % is a part of 10 %.
    cfg.DETCON.FINETUNE.LABEL_FRACTION = 1.0
    cfg.DETCON.FINETUNE.LABEL_SEED = 0

    # Semantic segmentation: SemanticSegmentor with build_detcon_dilated_resnet_backbone and FCNHead. Stride of res5: 8, 16 or 32.
    cfg.DETCON.SEM_SEG = CN()
    cfg.DETCON.SEM_SEG.OUTPUT_STRIDE = 16
    # Of the head's two 3x3 convolutions.
    cfg.DETCON.SEM_SEG.DILATION = 6
    # One more 3x3 convolution of the head's input and the output of the others.
    cfg.DETCON.SEM_SEG.CONCAT_INPUT = False
    # Probability with which a channel before the last convolution is dropped.
    cfg.DETCON.SEM_SEG.DROPOUT = 0.0
    # Weight of the loss of an auxiliary branch on the first of MODEL.SEM_SEG_HEAD.IN_FEATURES; 0: no such branch.
    cfg.DETCON.SEM_SEG.AUXILIARY_WEIGHT = 0.0
    # Of the interpolation of logits.
    cfg.DETCON.SEM_SEG.ALIGN_CORNERS = True
    # Training crops of INPUT.CROP.SIZE are sampled again, at most ten times, while one class has more of the labelled pixels; 1: never.
    cfg.DETCON.SEM_SEG.CATEGORY_MAX_AREA = 1.0
    # Random brightness, contrast, saturation and hue in training.
    cfg.DETCON.SEM_SEG.PHOTOMETRIC = False
    # Evaluation: side and step of square windows whose logits are averaged; 0: the whole image at once.
    cfg.DETCON.SEM_SEG.WINDOW = 0
    cfg.DETCON.SEM_SEG.WINDOW_STRIDE = 0

    # Keys of the methods; registering them needs all methods, which is why they are imported here and not above. The parts of detectors and
    # segmentors that configs name are registered, too.
    from detcon_d2.methods import pretraining_class, pretraining_names
    from detcon_d2.modeling import res5_heads, segmentation  # noqa: F401

    for name in pretraining_names():
        pretraining_class(name).add_config(cfg.DETCON)
