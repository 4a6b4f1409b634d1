"""torchvision for tests, imported from here: its wheel's C++ operators may have been built against another torch build."""

from importlib.util import find_spec
from pathlib import Path

import torch

_spec = find_spec("torchvision")
assert _spec is not None
assert _spec.origin is not None
try:
    for extension in Path(_spec.origin).parent.glob("_C.*"):
        torch.ops.load_library(extension)
except OSError:  # without them it imports all the same, but for two that it describes to PyTorch as soon as it is imported
    _operators = torch.library.Library("torchvision", "DEF")  # they last as long as this object
    for name in ("nms", "qnms"):
        _operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import models, ops  # noqa: E402
from torchvision.models import feature_extraction  # noqa: E402

__all__ = ["feature_extraction", "models", "ops"]
