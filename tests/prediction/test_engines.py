"""Engines beside the network itself: equal within what is stated, or not taken, and why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway_server.models.arrays import to_array, to_tensor
from cutaway_server.models.builtin import FACTORIES, load_builtin
from cutaway_server.models.engine_choice import EngineChoice
from cutaway_server.models.mnist.export import WEIGHTS_DIGEST
from cutaway_server.models.mnist.networks import Net
from cutaway_server.models.model import InputSpec, Model, NotServable
from cutaway_server.models.onnx_export import NotExportable
from cutaway_server.models.prepare import prepare
from cutaway_server.models.sources.onnx import build_from_onnx
from cutaway_server.prediction.batcher import Engine
from cutaway_server.prediction.engines.cache import Kept
from cutaway_server.prediction.engines.choosing import TOLERANCE, choose_engine, choose_in_process
from cutaway_server.prediction.engines.eager import Eager
from cutaway_server.prediction.engines.making import make_and_choose
from cutaway_server.prediction.engines.opening import RUNTIMES, open_engine
from models.zoo import ZOO
from torchvision_shim import models as torchvision_models

PICTURE = InputSpec("x", torch.float32, (-1, 3, 24, 24))
RANGED = InputSpec("x", torch.float32, (-1, 3, -1, -1), least=(1, 3, 16, 16), most=(1, 3, 48, 64))
VECTOR = InputSpec("x", torch.float32, (-1, 6))


class Small(nn.Module):
    """Convolutions, dropout of both kinds, pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.bn(self.conv(x))), training=self.training)
        return self.fc(self.drop(x.mean((2, 3))))


class Several(Small):
    """Scores among other things."""

    def forward(self, x: Tensor) -> dict[str, object]:
        return {"features": self.conv(x), "heads": (super().forward(-x), super().forward(x))}


class Two(nn.Module):
    """A picture and what is known of it, of other dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.known = Small(), nn.Linear(4, 5)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        return self.small(x) + self.known(known.float() / 255)


class DecidesByValues(nn.Module):
    """Takes another way for inputs that begin with more than 3."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x[0, 0] > 3 else -self.fc(x)


class DecidesByNumpy(DecidesByValues):
    """The same, where PyTorch does not see it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * float(np.sign(x.detach().numpy()[0, 0]))


class DecidesByBatch(DecidesByValues):
    """Takes another way for batches of two: tracing sees such a batch alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if len(x) == 2 else 2 * self.fc(x)


class DecidesBySize(Small):
    """Takes another way for large pictures."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[-1] < 50 else x.flip(1))


class TakesFew(DecidesByValues):
    """Refuses batches of more than four, which its operations would take."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise ValueError("too many")
        return self.fc(x)


class Whimsical(DecidesByValues):
    """Gives something else each time."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.rand_like(self.fc(x))


class HasNoOnnx(DecidesByValues):
    """An operation that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.special.bessel_j0(x[:, :5])


def resnet18() -> nn.Module:
    return torchvision_models.resnet18(weights=None)


def made(build: Callable[[], nn.Module], *inputs: InputSpec, head: str = "", **more: object) -> Model:
    torch.manual_seed(5)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as of a network that was trained
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    return prepare(network, name="m", inputs=inputs, head=head, not_hookable="nobody looks inside here", **more)  # type: ignore[arg-type]


KNOWN = InputSpec("known", torch.uint8, (-1, 4))
NETWORKS: dict[str, Callable[[], Model]] = {
    "mnist": lambda: made(Net, InputSpec("x", torch.float32, (-1, 1, 28, 28))),
    "resnet18": lambda: made(resnet18, InputSpec("x", torch.float32, (-1, 3, 64, 64))),
    "dropout": lambda: made(Small, PICTURE),
    "two inputs": lambda: made(Two, PICTURE, KNOWN),
    "ranged": lambda: made(Small, RANGED),
    "head": lambda: made(Several, PICTURE, head="heads.1"),
}


def drawn(model: Model, batch: int, seed: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    sizes = [
        tuple(int(torch.randint(low, high + 1, (), generator=draw)) for low, high in zip(s.least, s.most, strict=True))
        for s in model.inputs
    ]
    shapes = [(batch, *(own[1:] or spec.shape[1:])) for own, spec in zip(sizes, model.inputs, strict=True)]
    return tuple(
        torch.randint(256, shape, dtype=torch.uint8, generator=draw)
        if spec.dtype is torch.uint8
        else torch.randn(shape, generator=draw)
        for shape, spec in zip(shapes, model.inputs, strict=True)
    )


def choose(model: Model, wanted: str, tmp_path: Path, cache: Path | None = None) -> EngineChoice:
    (tmp_path / "model").mkdir(exist_ok=True)
    return make_and_choose(model, tmp_path / "model", wanted, 1, cache or tmp_path / "cache")


def run(engine: Engine, model: Model, arguments: tuple[Tensor, ...]) -> Tensor:
    return to_tensor(engine.run(tuple(map(to_array, arguments))), model.scores_dtype)


def with_engine(model: Model, choice: EngineChoice) -> Model:
    return Model(**{**vars(model), "engine": choice})


@pytest.mark.parametrize("name", NETWORKS)
def test_each_gives_what_the_network_gives(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    for runtime in RUNTIMES:
        choice = choose(model, runtime, tmp_path)
        assert (choice.name, choice.tolerance) == (runtime, TOLERANCE)
        assert 0 <= choice.deviation <= TOLERANCE
        assert [timing.batch for timing in choice.timings] == [1, 8]
        engine = open_engine(with_engine(model, choice))
        assert (engine.name, engine.runs_python) == (runtime, False)
        for batch in (1, 2, 5, 13):
            arguments = drawn(model, batch, seed=batch)
            copies = tuple(argument.clone() for argument in arguments)
            expected = run(Eager(model), model, arguments)
            given = run(engine, model, arguments)
            again = run(engine, model, arguments)  # what was given before stays as it was
            torch.testing.assert_close(given, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
            assert torch.equal(given, again)
            assert torch.equal(given.argmax(1), expected.argmax(1))
            assert all(map(torch.equal, arguments, copies))
    after = model.network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not model.network.training


def test_a_part_of_a_larger_tensor_is_read_as_it_is(tmp_path: Path) -> None:
    model = NETWORKS["dropout"]()
    whole = torch.randn(4, 24, 48, 3)
    part = whole[:, :, ::2].permute(0, 3, 1, 2)
    for runtime in RUNTIMES:
        engine = open_engine(with_engine(model, choose(model, runtime, tmp_path)))
        torch.testing.assert_close(run(engine, model, (part,)), run(Eager(model), model, (part,)), rtol=1e-4, atol=1e-5)


def test_auto_takes_the_fastest_that_gives_the_same(tmp_path: Path) -> None:
    model = NETWORKS["dropout"]()
    choice = choose(model, "auto", tmp_path)
    speeds = {runtime: choose(model, runtime, tmp_path).speed_up for runtime in RUNTIMES}  # as measured then: the cache keeps it
    assert choice.speed_up == max([1.0, *speeds.values()])
    for name, why in choice.rejected:
        assert f"it is right, but {choice.name} is faster: {choice.speed_up:.2f} times" in why
        assert f"{speeds[name]:.2f}" in why


@pytest.mark.parametrize(
    ("build", "spec", "why"),
    [
        (DecidesByValues, VECTOR, "it decides by the values of tensors"),
        (DecidesByNumpy, VECTOR, r"differ|may follow one input alone|another class"),
        (DecidesByBatch, VECTOR, r"for \[1, 6\] its scores differ by .* of the largest one; the limit is 1e-04"),
        (DecidesBySize, RANGED, r"for \[1, 3, 48, 64\] its scores differ by"),
        (TakesFew, VECTOR, r"the network itself fails on \[8, 6\], which it would answer"),
        (Whimsical, VECTOR, r"for \[1, 6\] its scores differ by"),
        (HasNoOnnx, VECTOR, "PyTorch cannot export it to ONNX: .*special_bessel_j0"),
    ],
)
def test_what_does_not_give_the_same_is_not_taken(build: type[nn.Module], spec: InputSpec, why: str, tmp_path: Path) -> None:
    model = made(build, spec)
    choice = choose(model, "auto", tmp_path)
    assert (choice.name, choice.file, choice.speed_up) == ("eager", None, 1)
    assert [name for name, _ in choice.rejected] == list(RUNTIMES)
    with pytest.raises(NotServable, match=f"^engine onnxruntime cannot run it: .*{why}"):
        choose(model, "onnxruntime", tmp_path)


def test_half_precision_runs_as_it_is(tmp_path: Path) -> None:
    model = made(Small, PICTURE, autocast=torch.bfloat16)
    choice = choose(model, "auto", tmp_path)
    assert choice.name == "eager"
    assert "bfloat16" in dict(choice.rejected)["onnxruntime"]


# Kept from one start to the next


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, PyTorch exports nothing."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no export now")

    return lambda: monkeypatch.setattr(torch.onnx, "export", fail)


def test_the_second_start_needs_no_export(tmp_path: Path, no_export: Callable[[], None]) -> None:
    first = choose(NETWORKS["dropout"](), "onnxruntime", tmp_path)
    no_export()
    assert choose(NETWORKS["dropout"](), "onnxruntime", tmp_path) == first
    with pytest.raises(NotServable, match="no export now"):
        choose(NETWORKS["ranged"](), "onnxruntime", tmp_path)


@pytest.mark.parametrize("change", ["weights", "a file of the folder", "threads", "sizes"])
def test_another_network_is_exported_anew(change: str, tmp_path: Path, no_export: Callable[[], None]) -> None:
    model = NETWORKS["dropout"]()
    choose(model, "onnxruntime", tmp_path)
    no_export()
    threads = 1
    if change == "weights":
        model = Model(**{**vars(model), "weights_digest": "0" * 64})
    elif change == "sizes":
        model = NETWORKS["ranged"]()
    elif change == "threads":
        threads = 2
    else:
        (tmp_path / "model" / "module.py").write_text("another program")
    with pytest.raises(NotExportable, match="no export now"):
        Kept(tmp_path / "cache", model, tmp_path / "model", threads).file()


@pytest.mark.parametrize("broken", ["flipped", "cut", "foreign", "gone", "record", "record of another"])
def test_what_is_not_as_it_was_written_is_made_anew(broken: str, tmp_path: Path) -> None:
    model = NETWORKS["dropout"]()
    first = choose(model, "onnxruntime", tmp_path)
    assert first.file is not None
    content, record = first.file.read_bytes(), first.file.with_suffix(".json")
    if broken == "flipped":
        first.file.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif broken == "cut":
        first.file.write_bytes(content[:-100])
    elif broken == "foreign":
        first.file.write_bytes((Path(torch.__file__).parent / "version.py").read_bytes())
    elif broken == "gone":
        first.file.unlink()
    else:
        record.write_text('{"sha256": 3}' if broken == "record" else '{"sha256": "' + "0" * 64 + '", "timings": {}}')
    if not broken.startswith("record"):
        with pytest.raises(NotServable, match="the file of its engine"):
            open_engine(with_engine(model, first))

    anew = choose(NETWORKS["dropout"](), "onnxruntime", tmp_path)

    x = drawn(model, 3, seed=1)
    given = run(open_engine(with_engine(model, anew)), model, x)
    torch.testing.assert_close(given, run(Eager(model), model, x), rtol=1e-4, atol=1e-5)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".onnx"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    choice = choose(NETWORKS["dropout"](), "auto", tmp_path)
    assert choice.name == "eager"
    assert "the engine cache cannot be written: " in dict(choice.rejected)["onnxruntime"]


# Files that are ONNX already, and those that the package brings along


def test_a_file_that_is_onnx_already(tmp_path: Path) -> None:
    source = choose(NETWORKS["dropout"](), "onnxruntime", tmp_path).file
    assert source is not None
    built = build_from_onnx(source, 1)
    model = prepare(
        built.network, name="m", inputs=(PICTURE,), engine=built.engine, onnx=built.onnx, not_hookable=built.not_hookable
    )
    engine = open_engine(model)
    assert (engine.name, engine.runs_python) == ("onnxruntime", False)
    x = drawn(model, 3, seed=1)
    assert torch.equal(run(engine, model, x), model.network(*x))
    other = choose(model, "openvino", tmp_path, cache=tmp_path / "unused")
    given = run(open_engine(with_engine(model, other)), model, x)
    torch.testing.assert_close(given, run(engine, model, x), rtol=1e-4, atol=1e-5)
    assert choose(model, "auto", tmp_path).name in RUNTIMES
    assert choose(model, "eager", tmp_path).name == "onnxruntime"
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("name", FACTORIES)
def test_the_files_of_the_builtin_networks_are_made_from_their_weights(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    assert model.onnx is not None
    file = onnx.load(model.onnx)
    assert {prop.key: prop.value for prop in file.metadata_props} == {WEIGHTS_DIGEST: model.weights_digest}
    chosen = choose_in_process(model, "onnxruntime", 1)
    assert chosen.engine.deviation < 1e-5


def test_a_builtin_file_of_other_weights_is_not_taken() -> None:
    model = load_builtin("mnist")
    with torch.no_grad():
        model.network.get_parameter("fc2.bias").add_(0.1)
    chosen = choose_in_process(model, "auto", 1)
    assert chosen.engine.name == "eager"
    assert "its scores differ by" in dict(chosen.engine.rejected)["onnxruntime"]


def test_what_a_program_hands_in_is_never_exported(no_export: Callable[[], None]) -> None:
    no_export()
    model = NETWORKS["dropout"]()
    assert choose_in_process(model, "eager", 1).engine.name == "eager"
    chosen = choose_in_process(model, "auto", 1).engine
    assert (chosen.name, "handed in" in dict(chosen.rejected)["onnxruntime"]) == ("eager", True)
    with pytest.raises(NotServable, match="engine openvino cannot run it: it was handed in"):
        choose_in_process(model, "openvino", 1)


def test_a_runtime_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(NotServable, match=r"OpenVINO is not installed: pip install 'cutaway\[openvino\]'"):
        choose(NETWORKS["dropout"](), "openvino", tmp_path)


def test_an_engine_uses_no_more_threads_than_are_faster(tmp_path: Path) -> None:
    model = NETWORKS["dropout"]()
    kept = Kept(tmp_path / "cache", model, tmp_path / "model", 2)
    choice = choose_engine(model, "onnxruntime", 2, kept.file, kept.timings)
    assert kept.timings.keys() == {"onnxruntime 1", "onnxruntime 2"}
    assert choice.timings == kept.timings[f"onnxruntime {choice.threads}"]
    assert choice.speed_up == max(EngineChoice(timings=timings).speed_up for timings in kept.timings.values())


def test_what_was_measured_before_is_not_measured_again(tmp_path: Path) -> None:
    model = NETWORKS["dropout"]()
    kept = Kept(tmp_path / "cache", model, tmp_path / "model", 1)
    first = choose_engine(model, "onnxruntime", 1, kept.file, kept.timings)
    kept.save()
    assert Kept(tmp_path / "cache", model, tmp_path / "model", 1).timings == {"onnxruntime 1": first.timings}


@pytest.mark.parametrize("style", ZOO)
def test_a_network_of_any_style_gets_an_engine_that_gives_the_same_or_none(style: str, tmp_path: Path) -> None:
    model = made(ZOO[style], InputSpec("x", torch.float32, (-1, 2, 6, 6)))
    choice = choose(model, "auto", tmp_path)
    if choice.file is None:
        assert all(why for _, why in choice.rejected)
        return
    x = drawn(model, 4, seed=9)
    expected = run(Eager(model), model, tuple(argument.clone() for argument in x))  # some write into their inputs
    given = run(open_engine(with_engine(model, choice)), model, x)
    torch.testing.assert_close(given, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


class Wavers(nn.Module):
    """Gives another type for large batches."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3))
        return y.double() if len(x) > 4 else y


def test_scores_of_another_type_than_before_are_refused() -> None:
    model = made(Wavers, PICTURE)
    assert run(Eager(model), model, drawn(model, 4, seed=1)).dtype is torch.float32
    with pytest.raises(TypeError, match=r"gives torch\.float64, not torch\.float32 as before"):
        run(Eager(model), model, drawn(model, 5, seed=1))


def test_recorded_kernels_need_a_gpu() -> None:
    why = "^engine cudagraphs cannot run it: it runs on cpu, and this engine on a CUDA device alone$"
    with pytest.raises(NotServable, match=why):
        choose_in_process(load_builtin("mnist"), "cudagraphs", 1)
