"""What maps cost over gRPC, each beside a library in this process or beside less: EfficientNet-Lite0, 224 x 224, on this machine.

The server is a process of its own; its lanes use as many threads as this process. The two sides of a row run in turn, round by
round. Nothing is asserted.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property, partial

import lite0  # before what imports torchvision
import torch
from captum.attr import IntegratedGradients
from pytorch_grad_cam import GradCAM
from side_by_side import Row, Sides, run, times
from torchcam.methods import ScoreCAM

import cutaway

LAYER = "_conv_head"
FEW_CHANNELS = "_blocks.15"  # 320, for what runs the network once a channel
SIX = ("grad-cam", "grad-cam++", "xgrad-cam", "hires-cam", "layer-cam", "element-wise-grad-cam")
STEPS = 15
BATCH = 8
CALL_LIMIT = 120  # seconds


class Stage:
    """What the rows measure with, made when the first row asks for it."""

    def __init__(self, stack: ExitStack, threads: int) -> None:
        self.threads = threads
        self._stack = stack

    @cached_property
    def client(self) -> cutaway.Client:
        server = self._stack.enter_context(lite0.running_lite0(threads=self.threads, lane_threads=self.threads, batch=BATCH))
        return self._stack.enter_context(cutaway.Client(server.address, timeout=CALL_LIMIT))

    def maps(self, *cams: cutaway.Cam, picture: bytes | None = None) -> Callable[[], object]:
        """A call that makes maps of a model-ready input, or of a picture."""
        x = picture if picture is not None else self.x.numpy()
        return partial(self.client.introspect, lite0.NAME, x, cams=cams, without_prediction=True)

    @cached_property
    def x(self) -> torch.Tensor:
        return torch.randn(1, *lite0.SHAPE, generator=torch.Generator().manual_seed(1))


def grad_cam(layer: str = LAYER, methods: Sequence[str] = ("grad-cam",)) -> list[cutaway.Cam]:
    return [cutaway.Cam(method, layer) for method in methods]


def against_grad_cam(stage: Stage) -> Sides:
    made = lite0.network().requires_grad_(True)  # as its own examples have it
    theirs = GradCAM(model=made, target_layers=[made.get_submodule(LAYER)])
    against = partial(theirs, input_tensor=stage.x, targets=None)
    return Sides(times(stage.maps(*grad_cam()), 10), times(against, 10), f"at {LAYER}; {stage.threads} threads each")


def against_forward(stage: Stage) -> Sides:
    made = lite0.network()

    def forward() -> None:
        with torch.inference_mode():
            made(stage.x)

    return Sides(times(stage.maps(*grad_cam()), 10), times(forward, 10), f"at {LAYER}; {stage.threads} threads each")


def six_of_one_layer(stage: Stage) -> Sides:
    six = stage.maps(*grad_cam(methods=SIX))
    return Sides(times(six, 10), times(stage.maps(*grad_cam()), 10), f"{', '.join(SIX)} at {LAYER}")


def integrated_gradients(stage: Stage) -> Sides:
    cam = cutaway.Cam("integrated-gradients", steps=STEPS, class_index=281)
    theirs = IntegratedGradients(lite0.network())
    against = partial(theirs.attribute, stage.x, target=281, n_steps=STEPS, method="riemann_middle", internal_batch_size=BATCH)
    return Sides(times(stage.maps(cam), 2), times(against, 2), f"{STEPS} steps, batches of {BATCH}; {stage.threads} threads each")


def score_cam(stage: Stage) -> Sides:
    made = lite0.network()
    theirs = ScoreCAM(made, FEW_CHANNELS, batch_size=BATCH, input_shape=lite0.SHAPE)

    def against() -> None:
        with torch.no_grad():
            theirs(281, made(stage.x), normalized=False)

    cam = cutaway.Cam("score-cam", FEW_CHANNELS, class_index=281)
    setting = f"at {FEW_CHANNELS}, 320 channels, batches of {BATCH}; {stage.threads} threads each"
    return Sides(times(stage.maps(cam), 1), times(against, 1), setting)


def overlay(stage: Stage) -> Sides:
    picture = lite0.photograph()
    ours = stage.maps(cutaway.Cam("grad-cam", LAYER, pictures=("overlay",)), picture=picture)
    alone = stage.maps(*grad_cam(), picture=picture)
    return Sides(times(ours, 10), times(alone, 10), f"a PNG of 451 x 300, {len(picture) / 1e3:.0f} kB")


ROWS = [
    Row("grad-cam", "Grad-CAM over gRPC", "pytorch-grad-cam in process", "<= 0.4", against_grad_cam),
    Row("grad-cam-forward", "Grad-CAM over gRPC", "plain eager forward in process", "<= 1.7", against_forward),
    Row("six", "six gradient CAMs of one layer", "one of them", "<= 1.15", six_of_one_layer),
    Row("integrated-gradients", "integrated gradients over gRPC", "captum in process", "<= 1.1", integrated_gradients),
    Row("score-cam", "Score-CAM over gRPC", "torchcam in process", "<= 1.0", score_cam),
    Row("overlay", "Grad-CAM with an overlay", "the map alone", "15 ms more", overlay),
]


if __name__ == "__main__":
    run(__doc__, ROWS, Stage, {"model": lite0.NAME})
