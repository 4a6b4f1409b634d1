"""What a folder says of its labels, inputs, head and scores: taken as it says, checked against the network, never guessed."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import log_softmax, sigmoid, softmax

import cutaway
from cutaway_server.models.model import Model, NotServable
from cutaway_server.models.repository.load import Hardware, Permissions, load
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from torchvision_shim import models as torchvision_models

QUIET = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "threads": 1, "lanes": 1, "max_batch": 1, "log_level": "error"}
NONE: Mapping[str, Any] = MappingProxyType({})
SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, axes=2, width=3, classes=4, last="none"):
        super().__init__()
        self.conv = getattr(nn, f"Conv{axes}d")(width, 6, 3)
        self.last = last
        self.register_buffer("rows", torch.linspace(-1, 1, 6 * classes).reshape(classes, 6))

    def forward(self, pixels):
        scores = F.relu(self.conv(pixels)).flatten(2).mean(2) @ self.rows.T
        return {"none": lambda x: x, "softmax": lambda x: x.softmax(1), "log": lambda x: x.log_softmax(1),
                "sigmoid": torch.sigmoid}[self.last](scores)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(7, 5)

    def forward(self, picture, facts):
        return self.conv(picture).mean((2, 3)) + self.fc(facts)

class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        return {"aux": [x.mean((2, 3)), x.amax((2, 3))], "out": x}
"""


@pytest.fixture
def model(write, loaded):
    """model(callable, arguments, **manifest): with random weights, from a folder."""

    def model(call: str = "Net", arguments: Mapping[str, Any] = NONE, files: Mapping[str, Any] = NONE, **manifest: Any) -> Model:
        torch.manual_seed(1)
        scope: dict[str, Any] = {}
        exec(SOURCE, scope)
        weights = scope[call](**arguments).state_dict()
        network = {"module": "net.py", "callable": call, "arguments": dict(arguments)}
        folder = write(
            {"network": network, "weights": "w.pth", "inputs": [{"shape": [3, 8, 9]}], **manifest}, {"net.py": SOURCE, **files}
        )
        torch.save(weights, folder / "w.pth")
        return loaded(folder, code=True)

    return model


def served(model: Model, ask: Any) -> Any:
    with Server([model], load_settings(QUIET)) as server, cutaway.Client(server.address, timeout=30) as client:
        return ask(client)


# Labels

ANIMALS = ["cat", "dog", "axolotl", "Köcherfliege, sogar zwei"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "\n".join(ANIMALS)),
        ("labels.txt", "\n".join(ANIMALS) + "\n"),
        ("labels.txt", "\r\n".join(ANIMALS) + "\r\n"),
        ("labels.txt", b"\xef\xbb\xbf" + "\n".join(ANIMALS).encode()),
        ("labels.json", json.dumps(ANIMALS)),
        ("labels.json", json.dumps(ANIMALS, ensure_ascii=False, indent=2)),
    ],
)
def test_labels_of_a_file(model, name: str, content: str | bytes) -> None:
    assert list(model(labels=name, files={name: content}).labels) == ANIMALS


def test_labels_come_with_the_model_and_its_answers(model) -> None:
    made = model(labels="labels.txt", files={"labels.txt": "\n".join(ANIMALS)})
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 9)).astype(np.float32)
    (listed,), told, predicted = served(
        made, lambda client: (client.models(), client.model("net"), client.predict("net", x, top_k=4))
    )
    assert list(told.labels) == ANIMALS
    assert listed.labels == (), "a list of many models fits into a message, whatever labels they have"
    assert [one.label for one in predicted.top[0]] == [ANIMALS[index] for index in np.argsort(-predicted.scores[0])]


def test_separators_other_than_ends_of_lines_are_part_of_a_label(model) -> None:
    odd = ["a\u2028b", "c\x1cd", "e\x0bf", "g\x85h"]
    assert list(model(labels="l.txt", files={"l.txt": "\n".join(odd)}).labels) == odd


def test_labels_of_imagenet(write, loaded) -> None:
    network = {"factory": "torchvision.models:squeezenet1_1"}
    folder = write({"network": network, "weights": "w.pth", "labels": "imagenet", "inputs": [{"shape": [3, 64, 64]}]})
    torch.manual_seed(0)
    torch.save(torchvision_models.squeezenet1_1().state_dict(), folder / "w.pth")
    labels = loaded(folder).labels
    names = torchvision_models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"]
    assert len(labels) == len(names) == 1000
    ours, theirs = labels[207].lower(), names[207].lower()
    assert theirs in ours
    shared = [
        bool(set(name.lower().replace(",", "").split()) & set(label.lower().replace(",", "").split()))
        for name, label in zip(names, labels, strict=True)
    ]
    assert sum(shared) > 980, "the same classes in the same order, by whatever names"


def test_labels_are_never_guessed(model) -> None:
    assert model().labels == ()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("l.txt", "a\nb\nc", "3 labels for 4 classes"),
        ("l.txt", "a\nb\nc\nd\ne", "5 labels for 4 classes"),
        ("l.txt", "a\nb\nc\nd\n\n", "5 labels for 4 classes"),
        ("l.json", "[]", r"l\.json holds no labels"),
        ("l.txt", "", r"l\.txt holds no labels"),
        ("l.json", '["a", "b"]', "2 labels for 4 classes"),
        ("l.json", '{"0": "a"}', r"l\.json must be a list of strings"),
        ("l.json", "[1, 2, 3, 4]", r"l\.json must be a list of strings"),
        ("l.json", "[" * 100_000, r"l\.json is no JSON"),
        ("l.json", "9" * 5000, r"l\.json is no JSON"),
        ("l.json", '["a"', r"l\.json is no JSON"),
        ("l.txt", b"\xff\xfe", r"l\.txt is not UTF-8"),
        ("l.txt", bytes((1 << 20) + 1), r"l\.txt has 1,048,577 bytes; the limit is 1,048,576"),
        ("l.txt", f"a\n{'b' * 1001}\nc\nd", r"l\.txt: label 1 has 1,001 characters; the limit is 1,000$"),
        ("l.json", r'["a", "b", "c", "d\ud800"]', r"l\.json: label 3 is 'd\\ud800', which is no text: \\ud800 stands alone$"),
        ("other.txt", "a", "there is no file l.txt"),
        ("imagenet", "a\nb\nc\nd", "1000 labels for 4 classes"),
    ],
)
def test_labels_that_do_not_fit(model, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(NotServable, match=f"^{says}"):
        model(labels="l.txt" if name == "other.txt" else name, files={name: content})


# Inputs


@pytest.mark.parametrize(("axes", "sizes"), [(1, (20,)), (2, (8, 9)), (3, (5, 6, 7))])
def test_signals_pictures_and_volumes(model, axes: int, sizes: tuple[int, ...]) -> None:
    made = model(arguments={"axes": axes, "width": 2}, inputs=[{"shape": [2, *sizes]}])
    x = torch.randn(3, 2, *sizes)

    def ask(client: cutaway.Client) -> Any:
        return client.model("net"), client.predict("net", x.numpy()), client.introspect("net", x.numpy(), layers=["conv"])

    told, predicted, inside = served(made, ask)
    assert [(spec.name, spec.shape) for spec in told.inputs] == [("pixels", (-1, 2, *sizes))]
    with torch.no_grad():
        np.testing.assert_array_equal(predicted.scores, made.network(x))
        np.testing.assert_array_equal(inside.activations["conv"], made.network.conv(x))


@pytest.mark.parametrize(("names", "given"), [(("picture", "facts"), (None, None)), (("left", "right"), ("left", "right"))])
def test_several_inputs(model, names: tuple[str, str], given: tuple[str | None, str | None]) -> None:
    shapes = ([3, 8, 9], [7])
    made = model(
        "Two", inputs=[{"shape": shape, **({"name": name} if name else {})} for shape, name in zip(shapes, given, strict=True)]
    )
    one, two = torch.randn(2, 3, 8, 9), torch.randn(2, 7)
    x = dict(zip(names, (one.numpy(), two.numpy()), strict=True))
    told, predicted, inside = served(
        made, lambda client: (client.model("net"), client.predict("net", x), client.introspect("net", x, layers=["fc", "conv"]))
    )
    assert [spec.name for spec in told.inputs] == list(names)
    with torch.no_grad():
        np.testing.assert_array_equal(predicted.scores, made.network(one, two))
        np.testing.assert_array_equal(inside.activations["fc"], made.network.fc(two))


def test_an_input_with_the_name_that_another_has_of_the_network(model) -> None:
    with pytest.raises(NotServable, match=r"^model\.yaml: two inputs are 'facts', one of them by the network itself; name both$"):
        model("Two", inputs=[{"shape": [3, 8, 9], "name": "facts"}, {"shape": [7]}])


def test_an_input_too_many_or_too_few(model) -> None:
    for inputs in ([{"shape": [3, 8, 9]}], [{"shape": [3, 8, 9]}, {"shape": [7]}, {"shape": [7]}]):
        with pytest.raises(NotServable, match=r"^the network fails on \[2, 3, 8, 9\].*forward\(\)"):
            model("Two", inputs=inputs)


def test_sizes_that_the_network_does_not_take(model) -> None:
    with pytest.raises(NotServable, match=r"^the network fails on \[2, 4, 8, 9\]: .*expected input"):
        model(inputs=[{"shape": [4, 8, 9]}])


def test_photographs_by_settings_of_their_own(model) -> None:
    image = {
        "color": "bgr", "height": 8, "width": 9, "resize_shorter": 0, "resample": "bicubic",
        "mean": [1, 2, 3], "std": [2, 2, 4], "range": [0, 255],
    }  # fmt: skip
    made = model(inputs=[{"image": image}])
    pixels = np.random.default_rng(1).integers(0, 256, (1, 20, 30, 3), np.uint8)
    scores = served(made, lambda client: client.predict("net", pixels, layout="NHWC").scores)
    small = np.asarray(Image.fromarray(pixels[0]).resize((9, 8), Image.Resampling.BICUBIC), np.float32)[..., ::-1]
    ready = (small - np.float32([1, 2, 3])) / np.float32([2, 2, 4])
    with torch.no_grad():
        expected = made.network(torch.from_numpy(np.ascontiguousarray(ready.transpose(2, 0, 1)[None])))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"height": 8}, "image: color, width, resize_shorter, resample, mean, std must be given, or a preset"),
        ({"preset": "imagenet", "mean": [0.5]}, "image: mean and std must have 3 numbers for rgb"),
        ({"preset": "mnist", "color": "rgb"}, "image: mean and std must have 3 numbers for rgb"),
        (
            {"preset": "imagenet", "height": 300, "width": 300},
            "image: resize_shorter must not be less than the crop, or 0 for no crop",
        ),
        ({"preset": "imagenet", "range": [1, 1]}, "image: range must have two ends"),
        ({"preset": "mnist", "mean": [float("nan")]}, r"inputs\.0\.image\.mean\.0: input should be a finite number, not 'nan'"),
        (
            {"preset": "mnist", "range": [0, float("inf")]},
            r"inputs\.0\.image\.range\.1: input should be a finite number, not 'inf'",
        ),
    ],
)
def test_an_image_that_does_not_go_together(model, image: Any, says: str) -> None:
    with pytest.raises(NotServable, match=rf"^model\.yaml: {says}"):
        model(inputs=[{"image": image}])


@pytest.mark.parametrize("odd", [{"range": [0, 1e39]}, {"mean": [0, 0, -1e39]}, {"std": [1, 1, 1e-44]}])
def test_an_image_that_makes_no_numbers_of_a_photograph(model, odd: Any) -> None:
    image = {"preset": "imagenet", "height": 9, "width": 9, "resize_shorter": 9, **odd}
    with pytest.raises(
        NotServable, match=r"^model\.yaml: inputs\.0: image: a photograph becomes NaN or infinite; check range, mean and std$"
    ):
        model(inputs=[{"image": image}])


def test_scores_of_a_photograph_that_are_no_numbers(model) -> None:
    image = {"preset": "imagenet", "height": 9, "width": 9, "resize_shorter": 9, "range": [0, 5e37]}
    with pytest.raises(
        NotServable, match=r"^of the 8 scores for a photograph \d are NaN or infinite: .* another range, mean or std$"
    ):
        model(inputs=[{"image": image}])


def test_an_image_that_the_shape_does_not_take(model) -> None:
    with pytest.raises(
        NotServable, match=r"inputs\.0: the image gives \[3, 224, 224\], which the shape \[3, 64, 64\] does not take"
    ):
        model(inputs=[{"shape": [3, 64, 64], "image": "imagenet"}])


# Head and scores


@pytest.mark.parametrize(
    ("head", "of"), [("aux.0", lambda x: x.mean((2, 3))), ("aux.1", lambda x: x.amax((2, 3))), ("out", lambda x: x)]
)
def test_the_head_is_named_by_its_path(model, head: str, of: Any) -> None:
    made = model("Nested", inputs=[{"shape": [1, 6, 7]}], head=head)
    x = torch.randn(2, 1, 6, 7)
    scores = served(made, lambda client: client.predict("net", x.numpy()).scores)
    with torch.no_grad():
        np.testing.assert_array_equal(scores, of(made.network.conv(x)))


@pytest.mark.parametrize("head", ["", "logits", "aux", "aux.2", "out.0.0"])
def test_a_head_that_is_none(model, head: str) -> None:
    with pytest.raises(NotServable, match=r"head|no tensor|axis is the batch"):
        model("Nested", inputs=[{"shape": [1, 6, 7]}], head=head)


KINDS = {"logits": "none", "probabilities": "softmax", "log_probabilities": "log", "sigmoid": "sigmoid"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_scores_are_rules_the_probabilities(model, kind: str) -> None:
    made = model(arguments={"last": KINDS[kind]}, scores=kind)
    x = torch.randn(2, 3, 8, 9)
    predicted = served(made, lambda client: client.predict("net", x.numpy(), top_k=4))
    made.network.last = "none"
    with torch.no_grad():
        logits = made.network(x)
    expected = {"logits": softmax, "probabilities": softmax, "log_probabilities": softmax}.get(kind, lambda x, axis: sigmoid(x))(
        logits, 1
    )
    scores = {"probabilities": expected, "log_probabilities": log_softmax(logits, 1), "sigmoid": expected}.get(kind, logits)
    np.testing.assert_allclose(predicted.scores, scores, rtol=1e-6)
    for row, chances in zip(predicted.top, expected, strict=True):
        assert {one.index: pytest.approx(one.probability, rel=1e-5) for one in row} == dict(enumerate(chances.tolist()))


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("logits", "softmax"),
        ("probabilities", "none"),
        ("probabilities", "log"),
        ("log_probabilities", "none"),
        ("sigmoid", "none"),
    ],
)
def test_scores_that_are_not_what_they_are_declared(model, kind: str, last: str) -> None:
    with pytest.raises(NotServable, match=f"^the scores are declared {kind}, but for a probe"):
        model(arguments={"last": last}, scores=kind)


def test_a_module_of_torch_itself(write, loaded) -> None:
    """The name of an input is the forward method's own."""
    folder = write({"network": {"factory": "torch.nn:Identity"}, "inputs": [{"shape": [5]}]})
    made = loaded(folder, factories=("torch.nn:Identity",))
    assert isinstance(made.network, nn.Identity)
    assert [spec.name for spec in made.inputs] == ["input"]


# Device


@pytest.mark.parametrize("asked", ["cuda:99", "cuda:100"])
def test_a_device_that_is_not_there(write, loaded, asked: str) -> None:
    folder = write({"network": {"factory": "torch.nn:Identity"}, "inputs": [{"shape": [5]}], "serving": {"device": asked}})
    with pytest.raises(NotServable, match=rf"^device {asked}: (this PyTorch sees no CUDA device|there are \d+, from cuda:0)$"):
        loaded(folder, factories=("torch.nn:Identity",))


def test_the_device_of_a_model_of_its_own(write) -> None:
    """What model.yaml says holds, but not where a model is merely tried."""
    folder = write({"network": {"factory": "torch.nn:Identity"}, "inputs": [{"shape": [5]}], "serving": {"device": "cpu"}})
    allowed = Permissions(factories=("torch.nn:Identity",))
    assert load(folder, "net", "1", allowed, Hardware("cuda:99")).device.type == "cpu"
    write({"network": {"factory": "torch.nn:Identity"}, "inputs": [{"shape": [5]}], "serving": {"device": "cuda:99"}})
    assert load(folder, "net", "1", allowed, Hardware("cpu", fixed=True)).device.type == "cpu"
