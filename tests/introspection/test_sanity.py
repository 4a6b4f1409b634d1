"""Maps of a network that loses what it learnt, layer by layer."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutaway_server.errors import BadInput
from cutaway_server.introspection import sanity
from cutaway_server.introspection.plan_cams import CamRequest
from cutaway_server.introspection.sanity import Randomisation
from cutaway_server.models.builtin import load_builtin
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare, weights_digest

LAYERS = {
    "mnist": ["fc2", "fc1", "conv2", "conv1"],
    "mnist-gap": ["fc", *(f"features.{kind}{number}" for number in range(5, 0, -1) for kind in ("bn", "conv"))],
}


@pytest.fixture(scope="module")
def own() -> dict[str, Model]:
    """Models that these tests may change."""
    return {name: load_builtin(name) for name in LAYERS}


@pytest.fixture
def few(x: np.ndarray) -> tuple[Tensor]:
    return (torch.from_numpy(x[::6]),)


class Stayed(NamedTuple):
    """Means of what is left at each layer."""

    layers: list[str]
    signed: list[float]
    unsigned: list[float]


def stayed(model: Model, request: CamRequest, arguments: tuple[Tensor], *, independent: bool = False, seed: int = 0) -> Stayed:
    left = list(Randomisation(model, request, arguments, seed=seed).run(independent=independent))
    means = ([float(values.nanmean()) for values in column] for column in ([i.signed for i in left], [i.unsigned for i in left]))
    return Stayed([one.layer for one in left], *means)


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_drawn_from_the_output_down_and_put_back(
    own: dict[str, Model], few: tuple[Tensor], name: str, independent: bool
) -> None:
    model = own[name]
    before = {path: tensor.clone() for path, tensor in model.network.state_dict().items()}
    drawn: list[str] = []
    for left in Randomisation(model, CamRequest("cam", "saliency"), few).run(independent=independent):
        drawn.append(left.layer)
        now = model.network.state_dict()
        changed = {path.rpartition(".")[0] for path, tensor in before.items() if not torch.equal(now[path], tensor)}
        assert changed == (set() if independent else set(drawn))
    assert drawn == LAYERS[name]
    assert weights_digest(model.network) == model.weights_digest


def test_weights_are_put_back_where_nobody_waits_for_the_end(own: dict[str, Model], few: tuple[Tensor]) -> None:
    model = own["mnist"]
    run = Randomisation(model, CamRequest("cam", "saliency"), few).run()
    next(run)
    assert weights_digest(model.network) != model.weights_digest
    run.close()
    assert weights_digest(model.network) == model.weights_digest
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", ["cam", "grad-cam", "score-cam", "saliency", "smooth-grad"])
def test_all_of_a_map_stays_where_no_weight_changes(
    own: dict[str, Model], few: tuple[Tensor], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanity, "draw_anew", lambda module, draw: None)
    found = stayed(own["mnist-gap"], CamRequest("cam", method), (few[0][:3],))
    np.testing.assert_allclose([found.signed, found.unsigned], 1, rtol=1e-12)


def test_what_lies_before_the_drawn_layers_does_not_change(own: dict[str, Model], few: tuple[Tensor]) -> None:
    """eigen-cam looks at nothing but what its layer puts out."""
    found = stayed(own["mnist"], CamRequest("cam", "eigen-cam", ("conv2",), relu=False), few)
    np.testing.assert_allclose(found.signed[:2], 1, rtol=1e-12)
    assert max(np.abs(found.signed[2:])) < 0.9


def test_methods_that_fail_in_the_paper_fail_here(own: dict[str, Model], few: tuple[Tensor]) -> None:
    """Figure 2 there: guided backpropagation hardly changes until the lowest layers are drawn anew; gradients and Grad-CAM do."""
    guided, saliency, cam = (
        stayed(own["mnist-gap"], CamRequest("cam", method, relu=False), few)
        for method in ("guided-backprop", "saliency", "grad-cam")
    )
    top = LAYERS["mnist-gap"].index("features.bn4")
    assert min(guided.signed[: top + 1]) > 0.7
    assert max(saliency.signed[: top + 1]) < 0.5
    assert max(cam.signed[: top + 1]) < 0.5
    assert max(np.abs([guided.signed[-1], saliency.signed[-1], cam.signed[-1]])) < 0.3


def test_the_seed_says_which_weights(own: dict[str, Model], few: tuple[Tensor]) -> None:
    one, same, other = (stayed(own["mnist"], CamRequest("cam", "saliency"), few, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_the_class_stays_the_one_that_was_predicted(own: dict[str, Model], few: tuple[Tensor]) -> None:
    """So each map is that class's by the weights as they are then."""
    model = own["mnist"]
    classes = model.network(few[0]).argmax(1)

    def gradients() -> Tensor:
        x = few[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model.network(x).gather(1, classes[:, None]).sum(), [x])
        return gradient.abs().amax(1)

    first = gradients()
    for left in Randomisation(model, CamRequest("cam", "saliency"), few).run():
        np.testing.assert_allclose(left.signed, spearman(gradients(), first), atol=1e-3)


def test_a_map_that_cannot_be_is_refused(own: dict[str, Model], few: tuple[Tensor]) -> None:
    with pytest.raises(BadInput, match=r"cam\.method: got 'no-cam'"):
        Randomisation(own["mnist"], CamRequest("cam", "no-cam"), few)


class Nested(nn.Module):
    """Modules that do not run in the order in which they are defined, a weight of the whole, and a parametrized one."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(1))
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
        self.slope = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.slope(self.first(x)).mean((2, 3))) * self.scale


def test_any_module_with_weights_has_its_place() -> None:
    model = prepare(Nested(), name="nested", inputs=(InputSpec("x", torch.float32, (-1, 1, 8, 8)),))
    run = Randomisation(model, CamRequest("cam", "grad-cam", ("first",)), (torch.randn(2, 1, 8, 8),))
    assert run.layers[-1].startswith("first")
    assert [name for name in run.layers if "first" not in name] == ["", "last", "slope"]
    assert [left.layer for left in run.run()] == run.layers
    assert weights_digest(model.network) == model.weights_digest


@pytest.mark.parametrize("module", [nn.Conv2d(30, 40, 3), nn.Linear(200, 100)])
def test_what_is_drawn_has_the_mean_and_spread_of_what_was_there(module: nn.Module) -> None:
    with torch.no_grad():
        module.weight.mul_(3).add_(0.5)
    before = module.weight.clone()
    sanity.draw_anew(module, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(module.weight.mean().item(), before.mean().item(), rtol=0.05)
    np.testing.assert_allclose(module.weight.std().item(), before.std().item(), rtol=0.05)
    assert abs(np.corrcoef(module.weight.detach().flatten(), before.detach().flatten())[0, 1]) < 0.05


def test_only_a_modules_own_weights_are_drawn() -> None:
    outer = nn.Sequential(nn.Linear(3, 3))
    before = outer[0].weight.clone()
    sanity.draw_anew(outer, torch.Generator())
    assert torch.equal(outer[0].weight, before)


def spearman(one: Tensor, other: Tensor) -> list[float]:
    """By comparing each cell with each."""

    def ranks(values: np.ndarray) -> np.ndarray:
        return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) + 1) / 2

    pairs = zip(one.flatten(1).numpy(), other.flatten(1).numpy(), strict=True)
    return [np.corrcoef(ranks(a), ranks(b))[0, 1] for a, b in pairs]


def maps() -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(0)
    smooth = torch.randn(5, 6, 7, generator=draw)
    yield from (smooth, smooth.relu(), torch.randint(3, (5, 6, 7), generator=draw).float(), smooth.round())


def test_rank_correlation_is_spearmans_with_shared_places() -> None:
    for one in maps():
        for other in maps():
            np.testing.assert_allclose(sanity.rank_correlation(one, other), spearman(one, other), atol=1e-12)


def test_only_order_counts() -> None:
    one = torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(sanity.rank_correlation(one, one.exp() * 7), 1)
    np.testing.assert_allclose(sanity.rank_correlation(one, -one), -1)


@pytest.mark.parametrize("flat", [torch.zeros(1, 4), torch.full((1, 4), torch.inf), torch.tensor([[1, 2, torch.nan, 3]])])
def test_what_has_no_order_has_no_correlation(flat: Tensor) -> None:
    some = torch.arange(4.0)[None]
    assert sanity.rank_correlation(some, flat).isnan()
    assert sanity.rank_correlation(flat, some).isnan()
