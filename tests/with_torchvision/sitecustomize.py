"""On PYTHONPATH of a server under test: torchvision imports there too, though its wheel's operators are of another PyTorch build.

Python imports this at its start. What has to be done first is done when torchvision is first imported, and not before.
"""

import sys
from importlib.abc import MetaPathFinder


class _First(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # noqa: ANN
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules["_torchvision_operators"] = library  # they last as long as this object
        return


sys.meta_path.insert(0, _First())
