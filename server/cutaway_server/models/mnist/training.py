"""Train the MNIST networks: `python -m cutaway_server.models.mnist.training DIGITS` makes weights, ONNX, cards, samples."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save
from torch import Tensor, nn

from cutaway_server.models.mnist.card import Measured, model_card
from cutaway_server.models.mnist.digits import (
    Bytes,
    Digits,
    DigitsRefused,
    Split,
    draw_per_class,
    read_digits,
    split_digits,
)
from cutaway_server.models.mnist.export import write_onnx
from cutaway_server.models.mnist.networks import MEAN, STD, GapNet, Net

SHIPPED_PER_CLASS = 6
BATCH = 64
WEIGHT_DECAY = 1e-3

# How far a training digit is moved, either way. Without it, 8,000 digits are learned by heart.
TURN_DEGREES = 8.0
SHIFT_PIXELS = 1.5
SCALE = 0.08


@dataclass(frozen=True)
class Recipe:
    """How one network is made.

    Attributes:
        name: of the model, and of its files.
        summary: what the model card says first.
        build: makes the network with fresh weights.
        epochs: how often each training digit is seen.
        peak_rate: the learning rate at its highest; it rises to this and falls back (one cycle).
    """

    name: str
    summary: str
    build: Callable[[], nn.Module]
    epochs: int
    peak_rate: float


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="mnist",
            summary="The network of the PyTorch hooks tutorial, half of its operations functional: to watch layers.",
            build=Net,
            epochs=60,
            peak_rate=3e-3,
        ),
        Recipe(
            name="mnist-gap",
            summary="Convolutions, a global average and one linear layer: class activation maps apply as published"
            " (Zhou et al. 2016, arXiv:1512.04150).",
            build=GapNet,
            epochs=20,
            peak_rate=5e-3,
        ),
    )
}


@dataclass(frozen=True)
class Run:
    """What the command was asked for.

    Attributes:
        source: where the digits are.
        out: the folder to write to.
        seed: draws everything that is drawn.
        held_out: how many digits are never trained on.
        epochs: instead of each recipe's own; None leaves those.
    """

    source: Path
    out: Path
    seed: int
    held_out: int
    epochs: int | None

    def epochs_of(self, recipe: Recipe) -> int:
        """The epochs asked for, or else the recipe's."""
        return recipe.epochs if self.epochs is None else self.epochs


def scaled(images: Bytes) -> Tensor:
    """Pixels as the networks' planes, before MEAN and STD: [N, 28, 28] uint8 to [N, 1, 28, 28] float32, 0 to 1."""
    return torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)


def normalised(planes: Tensor) -> Tensor:
    """What a network takes, from what `scaled` gives."""
    return (planes - MEAN) / STD


def jittered(planes: Tensor, generator: torch.Generator) -> Tensor:
    """Each plane turned, shifted and scaled a little, at random; black moves in from outside.

    Args:
        planes: [N, 1, H, W], floating, 0 black.
    Returns:
        The same shape and dtype.
    """

    def draw(most: float, *shape: int) -> Tensor:
        return (torch.rand(len(planes), *shape, generator=generator) * 2 - 1) * most

    turn = draw(math.radians(TURN_DEGREES))
    shrink = 1 + draw(SCALE)  # the grid says where each output pixel looks: looking further out makes the digit smaller
    shift = draw(SHIFT_PIXELS, 2) * 2 / planes.shape[-1]  # in grid units, where the plane is 2 wide
    row_x = torch.stack([turn.cos() * shrink, -turn.sin() * shrink, shift[:, 0]], dim=1)
    row_y = torch.stack([turn.sin() * shrink, turn.cos() * shrink, shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, align_corners=False)


def batches(digits: Digits, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: every digit once, shuffled and jittered, as (input [B, 1, 28, 28] float32, label [B] int64)."""
    planes = scaled(digits.images)
    labels = torch.from_numpy(digits.labels.astype(np.int64))
    for rows in torch.split(torch.randperm(len(digits), generator=generator), BATCH):
        yield normalised(jittered(planes[rows], generator)), labels[rows]


def train(recipe: Recipe, digits: Digits, epochs: int, seed: int, on_batch: Callable[[], None]) -> nn.Module:
    """A network trained on these digits, in eval mode; the same from the same seed on one machine.

    Args:
        on_batch: called after each batch, `steps(digits, epochs)` times in all.
    """
    with torch.random.fork_rng(devices=[]):  # first weights and dropout draw from torch's global stream
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        network = recipe.build().train()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
        total = steps(digits, epochs)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=total)
        for _ in range(epochs):
            for planes, labels in batches(digits, generator):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(network(planes), labels))
                optimizer.step()
                schedule.step()
                on_batch()
    return network.eval()


def steps(digits: Digits, epochs: int) -> int:
    """How many batches a training takes."""
    return epochs * math.ceil(len(digits) / BATCH)


def count_wrong(network: nn.Module, digits: Digits) -> int:
    """How many of these digits the network, in eval mode, takes for another."""
    with torch.inference_mode():
        logits = torch.cat([network(normalised(planes)) for planes in torch.split(scaled(digits.images), 500)])
    return int((logits.argmax(dim=1).numpy() != digits.labels).sum())


def describe(recipe: Recipe, epochs: int) -> str:
    """The training in words, for the card."""
    return (
        f"Epochs: {epochs}, in batches of {BATCH}; cross-entropy; AdamW, weight decay {WEIGHT_DECAY:g}, one cycle up to"
        f" a learning rate of {recipe.peak_rate:g} and down.\nEach digit is turned by up to {TURN_DEGREES:g} degrees,"
        f" shifted by up to {SHIFT_PIXELS:g} pixels and scaled by up to {SCALE:.0%}, anew in every epoch."
    )


def make_model(recipe: Recipe, run: Run, digits: Digits, split: Split, on_batch: Callable[[], None]) -> Measured:
    """Train one network on its part of the digits; write weights and card; return the figures that the card states."""
    epochs = run.epochs_of(recipe)
    network = train(recipe, split.training, epochs, run.seed, on_batch)
    measured = Measured(
        source=run.source.resolve().name,
        digits=digits,
        held_out=len(split.held_out),
        wrong=count_wrong(network, split.held_out),
        seed=run.seed,
        recipe=describe(recipe, epochs),
    )
    # Not save_file: it makes a file that only its owner may read, and a container serves it as somebody else.
    (run.out / f"{recipe.name}.safetensors").write_bytes(save(network.state_dict()))
    write_onnx(network, run.out / f"{recipe.name}.onnx")
    (run.out / f"{recipe.name}.md").write_text(model_card(recipe.name, recipe.summary, network, measured), encoding="utf-8")
    return measured


def write_samples(held_out: Digits, seed: int, path: Path) -> None:
    """A few held-out digits of each class, in the form that `read_digits` reads."""
    samples = draw_per_class(held_out, SHIPPED_PER_CLASS, seed)
    np.savez_compressed(path, x=samples.images, y=samples.labels)


def progress_bar(console: Console) -> Progress:
    """What training shows while it runs."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches"),
        TimeRemainingColumn(),
        console=console,
    )


def make_all(recipes: Sequence[Recipe], run: Run, console: Console) -> None:
    """Everything that the command makes, with a bar for each network and a line for what it reached.

    Raises:
        DigitsRefused: before any training, if the digits cannot be read or are too few.
    """
    digits = read_digits(run.source)
    split = split_digits(digits, run.held_out, run.seed)
    run.out.mkdir(parents=True, exist_ok=True)
    write_samples(split.held_out, run.seed, run.out / "digits.npz")
    with progress_bar(console) as progress:
        for recipe in recipes:
            total = steps(split.training, run.epochs_of(recipe))
            bar = progress.add_task(recipe.name, total=total)
            started = time.monotonic()
            measured = make_model(recipe, run, digits, split, on_batch=partial(progress.advance, bar))
            console.print(
                f"{recipe.name}: {measured.accuracy:.2%} of {measured.held_out:,} held-out digits right,"
                f" {measured.wrong} wrong; {time.monotonic() - started:.0f} s"
            )


DEFAULT_EPOCHS = ", ".join(f"{recipe.epochs} for {recipe.name}" for recipe in RECIPES.values())


@click.command()
@click.argument("digits", type=click.Path(path_type=Path))
@click.option("--network", type=click.Choice([*RECIPES, "all"]), default="all", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws everything that is drawn.")
@click.option("--epochs", type=click.IntRange(min=1), show_default=DEFAULT_EPOCHS, help="How often a digit is seen.")
@click.option("--held-out", type=click.IntRange(min=1), default=2_000, show_default=True, help="Digits not trained on.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current one",
    help="Folder to write to, made if missing.",
)
def main(digits: Path, network: str, seed: int, epochs: int | None, held_out: int, out: Path) -> None:
    """Train the MNIST networks on DIGITS and write weights, model cards and a few held-out digits.

    DIGITS is an .npz with x (N, 28, 28) and y (N,), both uint8; or the folder of MNIST's IDX training files, or one of
    them with its partner beside it, gzipped or not.
    """
    recipes = list(RECIPES.values()) if network == "all" else [RECIPES[network]]
    run = Run(source=digits, out=out, seed=seed, held_out=held_out, epochs=epochs)
    try:
        make_all(recipes, run, Console())
    except DigitsRefused as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:  # reading has turned its own into DigitsRefused: this one is the folder to write to
        raise click.ClickException(f"{error.filename}: {error.strerror}.") from error


if __name__ == "__main__":
    main()
