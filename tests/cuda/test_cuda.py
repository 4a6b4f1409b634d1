"""A model on a GPU: the same answers as the bare network there, each caller its own, and memory that does not suffice.

`make test-cuda` runs these; the rest of the suite needs no GPU.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
import yaml
from captum.attr import LayerGradCam
from safetensors.torch import save_file
from torch import Tensor, nn

import cutaway
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from server_process import metric_at, run_server, wait_until

pytestmark = pytest.mark.cuda
DEVICE = "cuda:0"
SETTINGS = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "lanes": 2, "max_batch": 1, "log_level": "error"}
SHAPE = (3, 64, 64)
SPARE = 200 << 20  # bytes of the GPU that are left where they are not to suffice: a layer of 1,000 samples has 131 MB


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.blocks = nn.Sequential(Block(32), nn.MaxPool2d(2), Block(32), Block(32))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def made(name: str, autocast: torch.dtype | None = None) -> Model:
    torch.manual_seed(1)
    inputs = (InputSpec("x", torch.float32, (-1, *SHAPE)),)
    return prepare(Residual().to(DEVICE), name=name, inputs=inputs, factory=Residual, autocast=autocast)


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {"full": made("full"), "half": made("half", torch.bfloat16)}


@pytest.fixture(scope="module")
def server(models: dict[str, Model]) -> Iterator[Server]:
    with Server(list(models.values()), load_settings(SETTINGS)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[cutaway.Client]:
    with cutaway.Client(server.address, timeout=60) as connected:
        yield connected


def drawn(count: int, seed: int = 0) -> Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def hooked(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Copies of what all modules put out, and the scores."""
    taken: dict[str, Tensor] = {}

    def take(name: str, output: Tensor) -> None:
        taken.setdefault(name, output.clone())  # of the first call

    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: take(name, output))
        for name, module in network.named_modules()
    ]
    try:
        with torch.no_grad():
            network(x.to(DEVICE))
    finally:
        for handle in handles:
            handle.remove()
    return {name: tensor.cpu() for name, tensor in taken.items()}


def test_the_model_says_where_it_runs(client: cutaway.Client) -> None:
    assert client.model("full").provenance.device == DEVICE
    assert all(parameter.device.type == "cuda" for parameter in made("other").network.parameters())


@pytest.mark.parametrize("count", [1, 5])
def test_scores_and_every_layer_are_the_bare_networks(client: cutaway.Client, models: dict[str, Model], count: int) -> None:
    x, network = drawn(count), models["full"].network
    expected = hooked(network, x)
    np.testing.assert_array_equal(client.predict("full", x.numpy()).scores, expected[""])
    names = [name for name in expected if name]
    seen = client.introspect("full", x.numpy(), layers=names)
    for name in names:
        np.testing.assert_array_equal(seen.activations[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(seen.scores, expected[""])


def test_grad_cam_is_captums(client: cutaway.Client, models: dict[str, Model]) -> None:
    x, network = drawn(3), models["full"].network
    classes = [4, 0, 7]
    ours = client.introspect("full", x.numpy(), cams=[cutaway.Cam("grad-cam", "blocks.3.conv2", class_index=classes)])
    explained = LayerGradCam(network, network.blocks[3].conv2).attribute(
        x.to(DEVICE), target=torch.tensor(classes, device=DEVICE), relu_attributions=True
    )
    theirs = explained[:, 0].detach().cpu().numpy()
    np.testing.assert_allclose(ours.cams[0].map, theirs, rtol=1e-3, atol=1e-5 * float(theirs.max()))


METHODS = ("grad-cam", "layer-cam", "eigen-cam", "score-cam", "ablation-cam", "integrated-gradients", "occlusion", "smooth-grad")


def test_methods_of_every_kind_run_there_as_on_the_cpu(client: cutaway.Client, models: dict[str, Model]) -> None:
    x = drawn(2)
    at_layer = [cutaway.Cam(method, "blocks.3.conv2", class_index=3) for method in METHODS[:5]]
    at_input = [cutaway.Cam(method, class_index=3) for method in METHODS[5:]]
    there = client.introspect("full", x.numpy(), cams=[*at_layer, *at_input], seed=5)
    assert not there.failures
    torch.manual_seed(1)
    here = prepare(Residual(), name="cpu", inputs=models["full"].inputs, factory=Residual)
    with Server([here], load_settings(SETTINGS)) as other, cutaway.Client(other.address, timeout=60) as on_cpu:
        expected = on_cpu.introspect("cpu", x.numpy(), cams=[*at_layer, *at_input], seed=5)
    for ours, theirs in zip(there.cams, expected.cams, strict=True):
        if ours.method == "smooth-grad":  # other noise: a GPU draws its own
            continue
        scale = float(np.abs(theirs.map).max())
        np.testing.assert_allclose(ours.map, theirs.map, atol=2e-2 * scale, err_msg=ours.method)


def test_half_precision_there_and_maps_in_full(client: cutaway.Client, models: dict[str, Model]) -> None:
    x, network = drawn(2), models["half"].network
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        expected = network(x.to(DEVICE)).float().cpu()
    np.testing.assert_array_equal(client.predict("half", x.numpy()).scores.astype(np.float32), expected)
    seen = client.introspect("half", x.numpy(), layers=["stem"], cams=[cutaway.Cam("grad-cam", "blocks.3.conv2", class_index=2)])
    assert client.model("half").layers[0].dtype == "bfloat16"
    assert seen.cams[0].map.dtype == np.float32
    full = client.introspect("full", x.numpy(), cams=[cutaway.Cam("grad-cam", "blocks.3.conv2", class_index=2)]).cams[0].map
    np.testing.assert_allclose(seen.cams[0].map, full, atol=0.1 * float(full.max()))


def test_many_callers_each_with_their_own(server: Server, models: dict[str, Model]) -> None:
    layers = ["stem", "blocks.0", "blocks.2.conv1", "blocks.3.bn2"]
    inputs = [drawn(1 + caller % 3, seed=caller) for caller in range(12)]
    expected = [hooked(models["full"].network, x) for x in inputs]

    def call(caller: int) -> None:
        x, wanted, layer = inputs[caller], expected[caller], layers[caller % len(layers)]
        with cutaway.Client(server.address, timeout=60) as own:
            for _ in range(5):
                seen = own.introspect("full", x.numpy(), layers=[layer])
                np.testing.assert_array_equal(seen.activations[layer], wanted[layer])
                np.testing.assert_array_equal(own.predict("full", x.numpy()).scores, wanted[""])

    with ThreadPoolExecutor(12) as threads:
        for done in [threads.submit(call, caller) for caller in range(12)]:
            done.result(120)


def test_memory_that_does_not_suffice_costs_the_caller_alone(server: Server, client: cutaway.Client) -> None:
    small, large = drawn(1).numpy(), np.zeros((1000, *SHAPE), np.float32)
    expected = client.predict("full", small).scores
    torch.cuda.empty_cache()
    budget = torch.cuda.memory_reserved() + SPARE
    torch.cuda.set_per_process_memory_fraction(budget / torch.cuda.get_device_properties(0).total_memory)
    try:
        for ask in (client.predict, lambda *given: client.introspect(*given, layers=["blocks.3"], cams=[cutaway.Cam("grad-cam")])):
            with pytest.raises(cutaway.Error, match=f"the memory of {DEVICE} did not suffice") as refused:
                ask("full", large)
            assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            np.testing.assert_array_equal(client.predict("full", small).scores, expected)
            np.testing.assert_array_equal(client.introspect("full", small, layers=["fc"]).activations["fc"], expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert metric_at(server.metrics_address, "cutaway_device_memory_bytes", device=DEVICE, kind="reserved") <= budget
    assert metric_at(server.metrics_address, "cutaway_device_memory_bytes", device=DEVICE, kind="allocated") > 0
    assert metric_at(server.metrics_address, "cutaway_live_hooks") == 0


def test_calls_leave_no_memory_behind(server: Server, client: cutaway.Client) -> None:
    x = drawn(4).numpy()

    def calls() -> None:
        for _ in range(5):
            client.introspect("full", x, layers=["*"], cams=[cutaway.Cam("grad-cam")])
            client.predict("full", x)

    calls()
    wait_until(lambda: metric_at(server.metrics_address, "cutaway_mirrors_in_use") == 0)
    before = torch.cuda.memory_allocated()
    calls()
    wait_until(lambda: torch.cuda.memory_allocated() <= before)


MODULE = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""


@pytest.mark.parametrize(("flag", "own", "expected"), [("auto", None, DEVICE), ("cpu", None, "cpu"), ("cpu", DEVICE, DEVICE)])
def test_a_folder_s_model_runs_where_it_is_told(tmp_path: Path, flag: str, own: str | None, expected: str) -> None:
    folder = tmp_path / "small" / "1"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text(MODULE)
    namespace: dict[str, object] = {}
    exec(MODULE, namespace)
    network: nn.Module = namespace["build"]()
    save_file(network.state_dict(), folder / "weights.safetensors")
    content = {"network": {"module": "module.py"}, "weights": "weights.safetensors", "inputs": [{"shape": [3, 16, 16]}]}
    (folder / "model.yaml").write_text(yaml.safe_dump(content | ({"serving": {"device": own}} if own else {})))
    x = torch.randn(2, 3, 16, 16)
    with (
        run_server("--models", str(tmp_path), "--allow-code", "--device", flag) as running,
        cutaway.Client(running.address) as asked,
    ):
        assert asked.model("small").provenance.device == expected
        with torch.no_grad():
            np.testing.assert_allclose(asked.predict("small", x.numpy()).scores, network(x), rtol=1e-3, atol=1e-4)
