"""How photographs are prepared for well-known training recipes."""

from cutaway_server.models.mnist.networks import MEAN, STD
from cutaway_server.models.preprocessing import ImageSpec

PRESETS = {
    # As torchvision's and most of timm's classifiers are evaluated.
    "imagenet": ImageSpec(
        color="rgb",
        height=224,
        width=224,
        resize_shorter=256,
        resample="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    # Inception v3 of its paper: -1 … 1. The same as torchvision's preset with `transform_input: true` gives the first convolution.
    "inception": ImageSpec(
        color="rgb",
        height=299,
        width=299,
        resize_shorter=342,
        resample="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "mnist": ImageSpec(
        color="gray",
        height=28,
        width=28,
        resize_shorter=28,
        resample="bilinear",
        mean=(MEAN,),
        std=(STD,),
        invert_bright_background=True,
    ),
}
