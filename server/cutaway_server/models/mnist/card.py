"""The model card: what a network's weights were made from, how, and how well they do, in figures that were measured."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import nn

from cutaway_server.models.mnist.digits import Digits
from cutaway_server.models.mnist.networks import MEAN, STD


@dataclass(frozen=True)
class Measured:
    """What a training run knows at its end.

    Attributes:
        source: the file or folder that the digits came from, its name only.
        digits: all of them, in the file's order.
        held_out: how many of them were; the others trained the network.
        wrong: how many of the held-out ones the network gets wrong.
        seed: what drew the split, the first weights, the shuffling, the jitter and the dropout.
        recipe: epochs, optimiser, augmentation, in words.
    """

    source: str
    digits: Digits
    held_out: int
    wrong: int
    seed: int
    recipe: str

    @property
    def accuracy(self) -> float:
        """Share of the held-out digits that the network gets right, 0 to 1."""
        return 1 - self.wrong / self.held_out

    @property
    def standard_error(self) -> float:
        """Of that share, as of a share of independent draws."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.held_out)


def model_card(name: str, summary: str, network: nn.Module, measured: Measured) -> str:
    """The card as Markdown."""
    return CARD.format(
        name=name,
        summary=summary,
        mean=MEAN,
        std=STD,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        layers=_layer_rows(network),
        measured=measured,
        count=len(measured.digits),
        trained_on=len(measured.digits) - measured.held_out,
        percent=100 * measured.accuracy,
        error=100 * measured.standard_error,
        digest=_digest(measured.digits),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


def _layer_rows(network: nn.Module) -> str:
    """One table row for each module that has none inside."""
    leaves = ((path, module) for path, module in network.named_modules() if not list(module.children()))
    return "\n".join(f"| `{path}` | `{module}` |" for path, module in leaves)


def _digest(digits: Digits) -> str:
    """SHA-256 of the image bytes, then the label bytes: the same digits give the same, whatever file held them."""
    return hashlib.sha256(digits.images.tobytes() + digits.labels.tobytes()).hexdigest()


CARD = """\
# {name}

{summary}

| | |
|---|---|
| input | `[N, 1, 28, 28]` float32: `(pixel / 255 - {mean}) / {std}`, pixels 0 to 255, the digit light on black |
| output | `[N, 10]` float32: the logits of the digits 0 to 9 |
| parameters | {parameters:,} |
| held-out accuracy | {percent:.2f} %: {measured.wrong:,} of {measured.held_out:,} wrong; \
standard error {error:.2f} percentage points |
| licence of the weights | Apache-2.0, as the project |

## Data

{count:,} MNIST digits from `{measured.source}`, SHA-256 of images and labels `{digest}`.
MNIST is by Y. LeCun, C. Cortes and C. Burges; CC BY-SA 3.0 as commonly stated.

Split by seed {measured.seed}: {measured.held_out:,} digits were held out and never trained on; the other \
{trained_on:,} trained the network.

## Training

{measured.recipe}

The weights are those after the last epoch; the held-out digits had no part in choosing them.
Made by `python -m cutaway_server.models.mnist.training` with torch {torch} on {threads} CPU threads: with both and the
seed the same, one machine makes the same weights again.

## Layers

The modules. Operations that are none, such as `F.relu`, stand in the network's `forward` in `networks.py`.

| name | module |
|---|---|
{layers}

## Limits

For showing how a network sees, not for reading mail. The accuracy is that on digits of the same source as those it
trained on, centred and scaled as MNIST centres and scales them; it is not the figure on MNIST's published test set.
"""
