"""The command that makes the MNIST networks, and what it made: the weights, the cards and the digits that we ship."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import nn

from cutaway_server.models import mnist
from cutaway_server.models.mnist.digits import Digits, DigitsRefused, draw_per_class, read_digits, split_digits
from cutaway_server.models.mnist.networks import MEAN, STD, GapNet, Net
from cutaway_server.models.mnist.training import jittered, main, scaled
from cutaway_server.models.onnx_session import OnnxSession

SHIPPED = Path(mnist.__file__).parent
NETWORKS = [("mnist", Net), ("mnist-gap", GapNet)]


def some_digits(count: int, seed: int = 0) -> Digits:
    """Noise under labels that take turns: enough for whatever does not look at the pictures."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return Digits(images, (np.arange(count) % 10).astype(np.uint8))


def idx(*sizes: int, items: bytes, magic: bytes | None = None) -> bytes:
    """An IDX file of unsigned bytes, as its publisher describes it: magic, big-endian sizes, items."""
    return (magic or bytes([0, 0, 8, len(sizes)])) + struct.pack(f">{len(sizes)}I", *sizes) + items


def write_npz(path: Path, digits: Digits) -> Path:
    np.savez_compressed(path, x=digits.images, y=digits.labels)
    return path


def write_idx(images: Path, labels: Path, digits: Digits) -> None:
    count = len(digits.labels)
    contents = {
        images: idx(count, 28, 28, items=digits.images.tobytes()),
        labels: idx(count, items=digits.labels.tobytes()),
    }
    for path, content in contents.items():
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def rows(digits: Digits) -> list[bytes]:
    """Each digit as bytes, picture and label, to compare digits as sets."""
    return [image.tobytes() + bytes([label]) for image, label in zip(digits.images, digits.labels, strict=True)]


def train(*arguments: str | int | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# Reading


@pytest.mark.parametrize(
    ("images", "labels", "given"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "."),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "."),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte", "."),
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte", "."),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte", "train-labels.idx1-ubyte"),
    ],
)
def test_npz_and_idx_give_the_same_digits(tmp_path: Path, images: str, labels: str, given: str) -> None:
    digits = some_digits(7)
    write_idx(tmp_path / images, tmp_path / labels, digits)

    from_idx = read_digits(tmp_path / given)
    from_npz = read_digits(write_npz(tmp_path / "digits.npz", digits))

    for read in (from_idx, from_npz):
        np.testing.assert_array_equal(read.images, digits.images, strict=True)
        np.testing.assert_array_equal(read.labels, digits.labels, strict=True)


def test_idx_has_its_last_index_varying_fastest(tmp_path: Path) -> None:
    picture = bytearray(784)
    picture[28 * 3 + 5] = 200  # row 3, column 5
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\1\0\0\0\x1c\0\0\0\x1c" + bytes(picture))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\1\x09")

    digits = read_digits(tmp_path)

    assert digits.images[0, 3, 5] == 200
    assert digits.images.sum() == 200
    assert digits.labels.tolist() == [9]


LABELS_OF_ONE = idx(1, items=b"\5")
BAD_IMAGES = {
    "empty": (b"", "not IDX; it starts with ,"),
    "another format": (b"\x89PNG\r\n\x1a\n", "not IDX; it starts with 89504e47, not 00000803"),
    "labels under the name of images": (LABELS_OF_ONE, "not IDX; it starts with 00000801, not 00000803"),
    "floats": (idx(1, 28, 28, items=bytes(784), magic=b"\0\0\x0d\x03"), "it starts with 00000d03"),
    "cut in the header": (idx(1, 28, 28, items=b"")[:10], "ends after 10 bytes, within its 16-byte header"),
    "cut in the items": (idx(1, 28, 28, items=bytes(783)), "says 1 x 28 x 28 bytes follow, but 783 do"),
    "more items than said": (idx(1, 28, 28, items=bytes(785)), "says 1 x 28 x 28 bytes follow, but 785 do"),
    "sizes that wrap 64 bits": (idx(2**31, 2**31, 4, items=b""), "bytes follow, but 0 do"),
    "other pictures": (idx(1, 32, 32, items=bytes(1024)), "(N, 28, 28) and (N,) are needed"),
    "more pictures than labels": (idx(2, 28, 28, items=bytes(1568)), "images of shape (2, 28, 28) and labels of (1,)"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_a_bad_idx_file_is_refused_with_what_is_wrong(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(LABELS_OF_ONE)

    with pytest.raises(DigitsRefused) as refused:
        read_digits(tmp_path)

    assert sentence in str(refused.value)


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(bytes(100))[:-12]], ids=["another format", "cut"])
def test_a_broken_gzip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)

    with pytest.raises(DigitsRefused, match="a broken gzip file"):
        read_digits(tmp_path)


def test_an_npz_that_is_none_is_refused(tmp_path: Path) -> None:
    whole = write_npz(tmp_path / "whole.npz", some_digits(5)).read_bytes()
    np.save(tmp_path / "array.npy", np.arange(3))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, x=np.array([{}], dtype=object), y=np.array([1]))
    for content in (b"", b"words", whole[:-40], (tmp_path / "array.npy").read_bytes(), pickled.read_bytes()):
        (tmp_path / "digits.npz").write_bytes(content)
        with pytest.raises(DigitsRefused, match=r"not an \.npz file that holds plain arrays"):
            read_digits(tmp_path / "digits.npz")


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (np.zeros((2, 28, 28), np.float32), np.zeros(2, np.uint8), "images are float32 and labels uint8"),
        (np.zeros((2, 784), np.uint8), np.zeros(2, np.uint8), "images of shape (2, 784)"),
        (np.zeros((2, 28, 28), np.uint8), np.zeros(3, np.uint8), "labels of (3,)"),
        (np.zeros((), np.uint8), np.zeros((), np.uint8), "images of shape ()"),
        (np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8), "holds no digits"),
        (np.zeros((2, 28, 28), np.uint8), np.array([0, 10], np.uint8), "has a label 10"),
    ],
)
def test_arrays_that_are_no_digits_are_refused(tmp_path: Path, images: np.ndarray, labels: np.ndarray, sentence: str) -> None:
    np.savez(tmp_path / "digits.npz", x=images, y=labels)

    with pytest.raises(DigitsRefused) as refused:
        read_digits(tmp_path / "digits.npz")

    assert sentence in str(refused.value)


@pytest.mark.parametrize("names", [["pictures"], ["x"], ["y"]])
def test_an_npz_of_something_else_is_refused(tmp_path: Path, names: list[str]) -> None:
    arrays: dict[str, Any] = dict.fromkeys(names, np.zeros(3))
    np.savez(tmp_path / "digits.npz", **arrays)

    with pytest.raises(DigitsRefused, match=r"lacks an array x, y or both\.$"):
        read_digits(tmp_path / "digits.npz")


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(1, 28, 28, items=bytes(784)))

    with pytest.raises(DigitsRefused, match=r"train-labels-idx1-ubyte: no such file\.$"):
        read_digits(tmp_path)


# Splitting


def test_the_split_is_exact_disjoint_and_complete() -> None:
    digits = some_digits(500)

    split = split_digits(digits, held_out=120, seed=3)

    assert (len(split.held_out), len(split.training)) == (120, 380)
    assert sorted(rows(split.held_out) + rows(split.training)) == sorted(rows(digits))
    assert len(set(rows(digits))) == 500  # else the line above would not show that the parts are disjoint


def test_the_split_is_drawn_by_the_seed() -> None:
    digits = some_digits(500)

    first, again, other = (split_digits(digits, held_out=120, seed=seed) for seed in (3, 3, 4))

    assert rows(first.held_out) == rows(again.held_out)
    assert rows(first.training) == rows(again.training)
    assert set(rows(first.held_out)) != set(rows(other.held_out))


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DigitsRefused, match="2,000 digits are too few to hold 2,000 out"):
        split_digits(some_digits(2000), held_out=2000, seed=0)


def test_samples_are_so_many_of_each_class_and_none_twice() -> None:
    digits = some_digits(300)

    samples = draw_per_class(digits, 6, seed=0)

    assert samples.labels.tolist() == [digit for digit in range(10) for _ in range(6)]
    assert len(set(rows(samples))) == 60
    assert set(rows(samples)) <= set(rows(digits))
    with pytest.raises(DigitsRefused, match="Only 30 of the held-out digits show a 0; 31 are needed"):
        draw_per_class(digits, 31, seed=0)


# Training


def test_jitter_keeps_the_digit_in_sight_and_moves_it() -> None:
    planes = torch.zeros(64, 1, 28, 28)
    planes[:, :, 10:18, 10:18] = 1

    moved = jittered(planes, torch.Generator().manual_seed(0))

    # Turning and shifting keep the 64 lit pixels; scaling by up to 8 % a side makes 64 / 1.08^2 to 64 / 0.92^2 of them.
    lit = moved.sum(dim=(1, 2, 3))
    assert 64 / 1.08**2 - 1 < lit.min() < 64 < lit.max() < 64 / 0.92**2 + 1
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-6
    assert not torch.equal(moved[0], moved[1])


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """An .npz of 360 digits, each shipped one six times: enough to go through all motions with."""
    shipped = read_digits(SHIPPED / "digits.npz")
    many = Digits(np.tile(shipped.images, (6, 1, 1)), np.tile(shipped.labels, 6))
    return write_npz(tmp_path / "copies.npz", many)


def test_the_command_makes_weights_cards_and_samples(copies: Path, tmp_path: Path) -> None:
    result = train(copies, "--epochs", 1, "--held-out", 200, "--seed", 5, "--out", tmp_path / "new" / "out")

    assert result.exit_code == 0, result.output
    made = {path.name: path for path in (tmp_path / "new" / "out").iterdir()}
    each = [f"{name}.{kind}" for name, _ in NETWORKS for kind in ("md", "onnx", "safetensors")]
    assert sorted(made) == sorted(["digits.npz", *each])
    held_out = split_digits(read_digits(copies), held_out=200, seed=5).held_out
    assert set(rows(read_digits(made["digits.npz"]))) <= set(rows(held_out))
    for name, build in NETWORKS:
        network = loaded(build(), made[f"{name}.safetensors"])
        wrong = count_wrong_by_hand(network, held_out)
        x = (torch.tensor(held_out.images[:9], dtype=torch.float32)[:, None] / 255 - MEAN) / STD
        (given,) = OnnxSession(made[f"{name}.onnx"], 1).run([x.numpy()])
        torch.testing.assert_close(torch.from_numpy(given), network(x).detach(), rtol=1e-4, atol=1e-4)
        card = made[f"{name}.md"].read_text()
        assert f"{100 - wrong / 2:.2f} %: {wrong} of 200 wrong" in card
        assert "360 MNIST digits from `copies.npz`" in card
        assert "Split by seed 5: 200 digits were held out and never trained on; the other 160 trained" in card
        assert "Epochs: 1," in card
        assert "licence of the weights | Apache-2.0" in card
        assert str(tmp_path) not in card
        assert f"{name}: {1 - wrong / 200:.2%} of 200 held-out digits right" in result.output


def test_the_same_seed_makes_the_same_files_and_leaves_the_callers_random_stream_alone(copies: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    made = []
    for folder, seed in (("first", 1), ("again", 1), ("other", 2)):
        out = tmp_path / folder
        result = train(copies, "--network", "mnist", "--epochs", 1, "--held-out", 200, "--seed", seed, "--out", out)
        assert result.exit_code == 0, result.output
        made.append({path.name: path.read_bytes() for path in out.iterdir()})

    first, again, other = made
    assert first.keys() == {"digits.npz", "mnist.md", "mnist.onnx", "mnist.safetensors"}
    assert first == again
    assert all(first[name] != other[name] for name in first)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.npz", "missing.npz: no such file."),
        ("missing", "missing: no such file."),
        ("words.npz", "words.npz: not an .npz file that holds plain arrays."),
        ("picture.png", "picture.png: neither an .npz nor named like train-images-idx3-ubyte."),
        (".", "holds no train-images-idx3-ubyte (or train-images.idx3-ubyte, or either as .gz)."),
        ("few.npz", "20 digits are too few to hold 2,000 out and train on the rest."),
    ],
)
def test_a_bad_path_gives_one_line_and_no_files(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "words.npz").write_text("words")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    write_npz(tmp_path / "few.npz", some_digits(20))

    result = train(tmp_path / name, "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: ")
    assert result.output.endswith(sentence + "\n")
    assert result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_gives_one_line(copies: Path) -> None:
    result = train(copies, "--held-out", 200, "--out", copies / "below-a-file")

    assert result.exit_code == 1
    assert result.output == f"Error: {copies / 'below-a-file'}: Not a directory.\n"


# What we ship


def loaded(network: nn.Module, weights: Path) -> nn.Module:
    network.load_state_dict(load_file(weights), strict=True)
    return network.eval()


def count_wrong_by_hand(network: nn.Module, digits: Digits) -> int:
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    with torch.no_grad():
        guesses = network((pixels / 255 - MEAN) / STD).argmax(dim=1)
    return int((guesses != torch.tensor(digits.labels)).sum())


@pytest.mark.parametrize(("name", "build"), NETWORKS)
def test_the_shipped_weights_get_the_shipped_digits_right(name: str, build: type[nn.Module]) -> None:
    digits = read_digits(SHIPPED / "digits.npz")
    network = loaded(build(), SHIPPED / f"{name}.safetensors")

    assert np.bincount(digits.labels).tolist() == [6] * 10
    assert count_wrong_by_hand(network, digits) <= 3  # at least 95 % of the 60


@pytest.mark.parametrize(("name", "build"), NETWORKS)
def test_the_shipped_card_belongs_to_the_network(name: str, build: type[nn.Module]) -> None:
    card = (SHIPPED / f"{name}.md").read_text()
    network = build()

    assert f"| parameters | {sum(parameter.numel() for parameter in network.parameters()):,} |" in card
    for path, module in network.named_modules():
        if not list(module.children()):
            assert f"| `{path}` | `{module}` |" in card


def test_the_shipped_tutorial_network_answers_the_same_twice() -> None:
    digits = read_digits(SHIPPED / "digits.npz")
    network = loaded(Net(), SHIPPED / "mnist.safetensors")
    planes = scaled(digits.images)

    with torch.no_grad():
        assert torch.equal(network(planes), network(planes))  # the tutorial's own forward drops out in eval mode too


def test_the_gap_networks_class_activation_map_adds_up_to_its_logit() -> None:
    """Zhou et al. 2016, equations 1 and 2: the mean of class c's map, and the bias, are the logit of c."""
    network = GapNet()
    loaded(network, SHIPPED / "mnist-gap.safetensors")
    planes = (scaled(read_digits(SHIPPED / "digits.npz").images) - MEAN) / STD

    with torch.no_grad():
        activation = network.features(planes)
        maps = torch.einsum("kc,nchw->nkhw", network.fc.weight, activation)
        logits = network(planes)

    assert maps.shape == (60, 10, 14, 14)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + network.fc.bias, logits, rtol=1e-4, atol=1e-4)
