"""Measures of maps: each formula a second time in numpy, known truth, captum, torchcam."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from torch import Tensor, nn
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from cutaway_server.introspection import faithfulness, impute
from cutaway_server.introspection.cam.method import Options, Variations

STEPS = 6
SPACES = [(24,), (6, 8), (4, 4, 6)]


class Weighted(nn.Module):
    """Two scores: a weighted sum of the pixels, and 0. So each pixel's part in the first is known."""

    def __init__(self, weights: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        scores = (x * self.weights).flatten(1).sum(1) + self.bias
        return torch.stack([scores, torch.zeros_like(scores)], 1)


class Runs:
    """A network's probability of class 0, for variations in batches."""

    def __init__(self, network: nn.Module, x: Tensor, batch: int = 5) -> None:
        self.x, self.options, self.draw = x, Options(), torch.Generator().manual_seed(0)
        self.count = 0
        self._network, self._batch = network, batch
        self.scores = self._probability(x)

    def of_inputs(self, count: int, vary: Variations) -> Tensor:
        batches = torch.arange(count).split(self._batch)
        self.count += count
        return torch.cat([self._probability(vary(numbers)[1]) for numbers in batches])

    def of_layer(self, count: int, vary: Variations) -> Tensor:
        raise NotImplementedError

    def gradients(self, count: int, vary: Variations, *, guided: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def _probability(self, x: Tensor) -> Tensor:
        return self._network(x).softmax(1)[:, 0]


class Case:
    """A network, five inputs, and a map of each that is half as large as they are."""

    def __init__(self, space: tuple[int, ...], seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(5, 2, *space, generator=draw) + 0.3
        self.plane = torch.randn(5, *(edge // 2 for edge in space), generator=draw)
        self.weights = torch.randn(2, *space, generator=draw) / 4
        self.network = Weighted(self.weights)

    def probability(self, inputs: np.ndarray) -> float:
        return float(1 / (1 + np.exp(-(inputs.astype(np.float64) * self.weights.numpy()).sum())))


def enlarged(plane: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    """Linear between the centres of cells, axis by axis."""
    for axis, edge in enumerate(space):
        at = np.clip((np.arange(edge) + 0.5) * plane.shape[axis] / edge - 0.5, 0, plane.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, plane.shape[axis] - 1)
        share = (at - low).reshape(-1, *[1] * (plane.ndim - axis - 1))
        plane = plane.take(low, axis) * (1 - share) + plane.take(high, axis) * share
    return plane


def by_importance(plane: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    """Flat indices of pixels, the largest of the map first, those of equal value by place."""
    return np.argsort(-enlarged(plane.astype(np.float64), space).ravel(), kind="stable")


def blurred(x: np.ndarray) -> np.ndarray:
    """[c, …]: each pixel the Gaussian mean of the box around it; what lies beyond the border is what lies at it."""
    found = np.zeros(x.shape)
    space = x.shape[1:]
    reach = [min(5, edge - 1) for edge in space]
    boxes = [np.arange(-half, half + 1) for half in reach]
    total = 0.0
    for offset in itertools.product(*boxes):
        weight = np.exp(-sum(step**2 for step in offset) / 50)
        places = [np.clip(np.arange(edge) + step, 0, edge - 1) for edge, step in zip(space, offset, strict=True)]
        found += weight * x[(slice(None), *np.ix_(*places))]
        total += weight
    return found / total


def area(case: Case, sample: int, before: np.ndarray, after: np.ndarray, steps: int) -> float:
    """Trapezoids under the probability while pixels turn from before to after."""
    space = before.shape[1:]
    order, pixels = by_importance(case.plane[sample].numpy(), space), int(np.prod(space))
    shares, values = [], []
    for point in range(steps + 1):
        mixed = before.reshape(2, -1).copy()
        first = order[: point * pixels // steps]
        mixed[:, first] = after.reshape(2, -1)[:, first]
        shares.append(len(first) / pixels)
        values.append(case.probability(mixed.reshape(before.shape)))
    return sum((shares[i + 1] - shares[i]) * (values[i] + values[i + 1]) / 2 for i in range(steps))


@pytest.mark.parametrize("steps", [STEPS, 7])
@pytest.mark.parametrize("space", SPACES)
def test_deletion_and_insertion_are_areas_under_the_curves(space: tuple[int, ...], steps: int) -> None:
    """Also where steps are not all of the same width."""
    case = Case(space)
    measured = faithfulness.measure(case.plane, Runs(case.network, case.x), steps)
    inputs = case.x.numpy()
    deletion = [area(case, sample, x, np.zeros_like(x), steps) for sample, x in enumerate(inputs)]
    insertion = [area(case, sample, blurred(x), x, steps) for sample, x in enumerate(inputs)]
    np.testing.assert_allclose(measured.deletion, deletion, rtol=1e-5)
    np.testing.assert_allclose(measured.insertion, insertion, rtol=1e-5)
    assert {values.dtype for values in measured} == {torch.float64}


@pytest.mark.parametrize("space", SPACES)
def test_average_drop_is_the_share_lost_through_the_map(space: tuple[int, ...]) -> None:
    case = Case(space)
    measured = faithfulness.measure(case.plane, Runs(case.network, case.x), STEPS)
    for sample, (x, plane) in enumerate(zip(case.x.numpy(), case.plane.numpy().astype(np.float64), strict=True)):
        window = enlarged((plane - plane.min()) / (plane.max() - plane.min()), space)
        before, after = case.probability(x), case.probability(x * window)
        np.testing.assert_allclose(measured.average_drop[sample], max(0, before - after) / before, rtol=1e-5, atol=1e-6)
        assert measured.increase[sample] == (after > before)
    assert 0 < measured.increase.mean() < 1  # both happen here


@pytest.mark.parametrize("space", SPACES)
def test_road_is_half_the_mean_difference_of_both_orders(space: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impute, "_NOISE", 0.0)
    case, pixels = Case(space), int(np.prod(space))
    found = faithfulness.measure(case.plane, Runs(case.network, case.x), STEPS).road
    for sample, x in enumerate(case.x.numpy()):
        order = by_importance(case.plane[sample].numpy(), space)
        differences = []
        for tenths in range(1, 10):
            gone = pixels * tenths // 10
            most, least = np.zeros(pixels, bool), np.zeros(pixels, bool)
            most[order[:gone]], least[order[pixels - gone :]] = True, True
            differences.append(case.probability(solved(x, least.reshape(space))) - case.probability(solved(x, most.reshape(space))))
        np.testing.assert_allclose(found[sample], np.mean(differences) / 2, atol=1e-4)


@pytest.mark.parametrize(("steps", "space"), [(1, (6, 8)), (STEPS, (24,)), (16, (2, 3)), (256, (4,)), (3, (1, 1))])
def test_the_network_runs_as_often_as_planned(steps: int, space: tuple[int, ...]) -> None:
    """Also where there are fewer pixels than steps."""
    runs = Runs(Weighted(torch.ones(1, *space)), torch.ones(2, 1, *space))
    measured = faithfulness.measure(torch.ones(2, *space), runs, steps)
    assert runs.count == 2 * faithfulness.passes(steps)
    assert torch.stack(list(measured)).isfinite().all()


@pytest.mark.parametrize("batch", [1, 7, 999])
def test_batches_change_nothing(batch: int) -> None:
    case = Case((6, 8))
    together, apart = (faithfulness.measure(case.plane, Runs(case.network, case.x, size), STEPS) for size in (5, batch))
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("flat", [0.0, 1.0])
def test_pixels_of_equal_value_follow_each_other_by_place(flat: float) -> None:
    x = torch.rand(1, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    network = Weighted(torch.linspace(-1, 1, 20).reshape(1, 5, 4))
    ordered = torch.arange(20, 0, -1.0).reshape(1, 5, 4)
    found, expected = (faithfulness.measure(plane, Runs(network, x), 20) for plane in (torch.full((1, 5, 4), flat), ordered))
    for name in ("deletion", "insertion", "road"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.fixture
def told() -> tuple[Weighted, Tensor, Tensor]:
    """A network that looks at 12 pixels, inputs that are bright there, and which pixels they are."""
    draw = torch.Generator().manual_seed(3)
    counts = torch.zeros(16, 16, dtype=torch.bool)
    counts[4:8, 9:12] = True
    x = torch.randn(8, 3, 16, 16, generator=draw) / 2 + 3 * counts
    weights = counts * (torch.rand(3, 16, 16, generator=draw) + 0.5) / 12
    return Weighted(weights, bias=-4.0), x, counts


def test_the_true_map_beats_a_random_one_and_that_beats_its_inverse(told: tuple[Weighted, Tensor, Tensor]) -> None:
    network, x, _ = told
    true = (x * network.weights).sum(1)
    random = torch.rand(true.shape, generator=torch.Generator().manual_seed(4))
    best, some, worst = (faithfulness.measure(plane, Runs(network, x), 16) for plane in (true, random, -true))
    for name, sign in (("deletion", -1), ("insertion", 1), ("road", 1)):
        high, middle, low = (sign * getattr(measured, name) for measured in (best, some, worst))
        assert (high > middle).all(), name
        assert (middle > low).all(), name
    assert (best.road > 0.2).all()
    assert (worst.road < -0.2).all()
    assert (some.road.abs() < 0.2).all()


def test_nothing_drops_where_the_map_keeps_all_that_counts(told: tuple[Weighted, Tensor, Tensor]) -> None:
    network, x, counts = told
    kept = faithfulness.measure(counts.float().expand(8, -1, -1), Runs(network, x), 4)
    assert (kept.average_drop == 0).all()
    assert (kept.increase == 0).all()
    runs = Runs(network, x)
    hidden = faithfulness.measure(1 - counts.float().expand(8, -1, -1), runs, 4)
    without = 1 / (1 + np.exp(4.0))
    np.testing.assert_allclose(hidden.average_drop, (runs.scores - without) / runs.scores, rtol=1e-5)


def test_a_map_that_hides_what_speaks_against_the_class_increases_it(told: tuple[Weighted, Tensor, Tensor]) -> None:
    network, x, counts = told
    against = Weighted(network.weights - (~counts) * x.mean(0) / 256)
    measured = faithfulness.measure(counts.float().expand(8, -1, -1), Runs(against, x), 4)
    assert (measured.increase == 1).all()
    assert (measured.average_drop == 0).all()


def test_what_is_impossible_cannot_drop() -> None:
    x = torch.ones(1, 1, 4, 4)
    measured = faithfulness.measure(torch.rand(1, 4, 4), Runs(Weighted(torch.ones(1, 4, 4), bias=-1e4), x), 4)
    assert [float(measured.average_drop), float(measured.increase), float(measured.deletion)] == [0, 0, 0]


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_map_that_is_not_finite_has_no_measure(wrong: float) -> None:
    case = Case((6, 8))
    plane = case.plane.clone()
    plane[1, 0, 0] = wrong
    whole = faithfulness.measure(case.plane, Runs(case.network, case.x), STEPS)
    for found, expected in zip(faithfulness.measure(plane, Runs(case.network, case.x), STEPS), whole, strict=True):
        assert found[1].isnan()
        np.testing.assert_allclose(found[[0, 2, 3, 4]], expected[[0, 2, 3, 4]], atol=1e-6)


class Given:
    """Maps that are there already, as torchcam wants its extractors."""

    def __init__(self, model: nn.Module, plane: Tensor) -> None:
        self.model, self._plane = model, plane

    def __call__(self, class_idx: int, scores: Tensor) -> list[Tensor]:
        rows = self._plane.flatten(1)
        low, high = rows.min(1).values, rows.max(1).values
        return [((rows - low[:, None]) / (high - low)[:, None]).view(self._plane.shape)]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", SPACES)
def test_average_drop_and_increase_are_torchcams(space: tuple[int, ...], seed: int) -> None:
    case = Case(space, seed)
    oracle = ClassificationMetric(Given(case.network, case.plane), lambda scores: scores.softmax(1))
    oracle.update(case.x, class_idx=0)
    measured = faithfulness.measure(case.plane, Runs(case.network, case.x), STEPS)
    expected = oracle.summary()
    np.testing.assert_allclose(measured.average_drop.mean(), expected["avg_drop"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(measured.increase.mean(), expected["conf_increase"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", SPACES)
def test_deletion_and_insertion_are_torchcams(space: tuple[int, ...], seed: int) -> None:
    case = Case(space, seed)
    measured = faithfulness.measure(case.plane, Runs(case.network, case.x), STEPS)
    for name, baseline in (("deletion", torch.zeros_like), ("insertion", faithfulness.blurred)):
        oracle = DeletionInsertionMetric(
            Given(case.network, case.plane), lambda scores: scores.softmax(1), steps=STEPS, baseline=baseline
        )
        oracle.update(case.x, class_idx=0)
        np.testing.assert_allclose(getattr(measured, name).mean(), oracle.summary()[f"{name}_auc"], rtol=1e-5)


def test_complexity_is_the_entropy_of_shares() -> None:
    plane = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
    shares = np.abs(plane.numpy().astype(np.float64)).reshape(4, -1)
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(faithfulness.complexity(plane), -(shares * np.log(shares)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_complexity_goes_from_one_cell_to_all(space: tuple[int, ...]) -> None:
    one, none = torch.zeros(1, *space), torch.zeros(1, *space)
    one.view(-1)[3] = -0.7
    assert faithfulness.complexity(one) == 0
    np.testing.assert_allclose(faithfulness.complexity(none + 0.2), np.log(np.prod(space)))
    assert faithfulness.complexity(none).isnan()


class Explanation:
    """Remembers what it was asked to explain."""

    def __init__(self, explain: Callable[[Tensor], Tensor]) -> None:
        self.asked: list[Tensor] = []
        self._explain = explain

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x)
        return self._explain(x)


def test_sensitivity_is_the_largest_of_ten_changes_as_captum_has_it() -> None:
    draw = torch.Generator().manual_seed(1)
    x, weights = torch.randn(4, 3, 6, 5, generator=draw), torch.randn(3, 6, 5, generator=draw)

    def explain(x: Tensor) -> Tensor:
        return (x * weights).sum(1).relu()

    def explain_tuple(x: Tensor | tuple[Tensor]) -> tuple[Tensor]:  # captum comes with either
        return (explain(x if isinstance(x, Tensor) else x[0]),)

    plane, again = explain(x), Explanation(explain)
    found = faithfulness.sensitivity(plane, again, x, draw)

    near = torch.stack(again.asked)
    changes = np.maximum((near.numpy() * weights.numpy()).sum(2), 0) - plane.numpy()
    norms = np.sqrt((changes.astype(np.float64) ** 2).sum((2, 3))).max(0)
    np.testing.assert_allclose(found, norms / np.linalg.norm(plane.flatten(1), axis=1), rtol=1e-5)

    in_captums_order = near.transpose(0, 1).flatten(0, 1)
    oracle = sensitivity_max(explain_tuple, x, lambda _: in_captums_order, n_perturb_samples=10)
    np.testing.assert_allclose(found, oracle, rtol=1e-5)


def test_inputs_near_by_differ_evenly_up_to_a_fiftieth() -> None:
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    again = Explanation(lambda x: x.sum(1))
    faithfulness.sensitivity(x.sum(1), again, x, torch.Generator().manual_seed(2))
    differences = (torch.stack(again.asked) - x).numpy() / 0.02
    assert len(again.asked) == faithfulness.DRAWS == 10
    assert np.abs(differences).max() < 1.0001
    shares = np.histogram(differences, 8, (-1, 1))[0] / differences.size
    np.testing.assert_allclose(shares, 1 / 8, atol=0.005)


def test_sensitivity_of_a_linear_map_lies_within_its_bounds() -> None:
    """Of a map k x a change d is k d: 0.02 k sqrt(cells) at most, and its mean square is a third of that of the largest."""
    x = torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(1)) + 1
    plane = 5 * x[:, 0]
    found = faithfulness.sensitivity(plane, lambda x: 5 * x[:, 0], x, torch.Generator().manual_seed(2))
    largest = 0.02 * 5 * np.sqrt(400) / np.linalg.norm(plane.flatten(1), axis=1)
    assert (found.numpy() <= largest).all()
    np.testing.assert_allclose(found, largest / np.sqrt(3), rtol=0.1)


def test_what_never_changes_is_not_sensitive() -> None:
    x, plane = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 3) + 0.1
    plane[1] = 0
    found = faithfulness.sensitivity(plane, lambda x: plane, x, torch.Generator().manual_seed(2))
    assert found[0] == 0
    assert found[1].isnan()  # there is no share of nothing
    beside = faithfulness.sensitivity(plane, lambda x: plane + 1, x, torch.Generator().manual_seed(2))
    assert beside[0] > 0
    assert beside[1].isnan()


def neighbours(place: tuple[int, ...], space: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], float]]:
    """The neighbours that there are, with ROAD's weights; in one and three dimensions those along the axes."""
    for step in itertools.product((-1, 0, 1), repeat=len(space)):
        far = sum(map(abs, step))
        at = tuple(start + by for start, by in zip(place, step, strict=True))
        inside = all(0 <= start < edge for start, edge in zip(at, space, strict=True))
        weight = {1: {1: 1 / 2}, 2: {1: 1 / 6, 2: 1 / 12}, 3: {1: 1 / 6}}[len(space)].get(far, 0)
        if inside and weight:
            yield at, weight


def solved(x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """[c, …] float64: missing pixels by one dense linear system."""
    space = missing.shape
    number = {place: row for row, place in enumerate(np.ndindex(space)) if missing[place]}
    row_of = {place: row for row, place in enumerate(number)}
    left, right = np.zeros((len(row_of), len(row_of))), np.zeros((len(row_of), len(x)))
    for place, row in row_of.items():
        for at, weight in neighbours(place, space):
            left[row, row] += weight
            if missing[at]:
                left[row, row_of[at]] -= weight
            else:
                right[row] += weight * x[(slice(None), *at)]
    filled = x.astype(np.float64)
    filled[:, missing] = np.linalg.solve(left, right).T
    return filled


def holes(space: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Masks of all sorts: True is missing."""
    draw = np.random.default_rng(0)
    last, first_row, middle, one_left = (np.zeros(space, bool) for _ in range(4))
    last[..., -1] = True
    first_row[: max(1, space[0] // 2)] = True
    middle[tuple(slice(edge // 4, -(edge // 4) or None) for edge in space)] = space != (1, 9)
    one_left[:] = True
    one_left[tuple(edge // 2 for edge in space)] = False
    scattered = {f"{share} scattered": draw.random(space) < share for share in (0.1, 0.5, 0.9)}
    found = {"last": last, "first": first_row, "middle": middle, "all but one": one_left, "none": np.zeros(space, bool)}
    return {name: mask for name, mask in (found | scattered).items() if not mask.all()}


@pytest.mark.parametrize("space", [(2,), (17,), (64,), (1, 9), (5, 8), (13, 11), (24, 24), (3, 4, 5), (7, 6, 9)])
def test_imputation_is_the_dense_solution(space: tuple[int, ...]) -> None:
    masks = holes(space)
    x = torch.randn(len(masks), 2, *space, generator=torch.Generator().manual_seed(0)) * 2 + 1
    found = impute.linear(x, torch.from_numpy(np.stack(list(masks.values()))))
    for filled, inputs, (name, missing) in zip(found, x.numpy(), masks.items(), strict=True):
        np.testing.assert_allclose(filled, solved(inputs, missing), atol=2e-3, err_msg=name)
        np.testing.assert_array_equal(filled[:, ~missing], inputs[:, ~missing])
        outside = np.maximum(filled.numpy() - inputs[:, ~missing].max(), inputs[:, ~missing].min() - filled.numpy())
        assert outside.max() <= 1e-3, name


def test_a_large_hole_is_filled_by_means_of_neighbours() -> None:
    """As large as the pictures of most networks: the equations are looked at, for which no dense solution is needed."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 200), torch.linspace(-1, 1, 190), indexing="ij")
    missing = torch.stack([rows**2 + columns**2 < 1.1, rows**2 + columns**2 > 0.3])
    x = torch.randn(2, 3, 200, 190, generator=torch.Generator().manual_seed(0))
    found = impute.linear(x, missing).numpy().astype(np.float64)
    total, weights = np.zeros_like(found), np.zeros((200, 190))
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        weight = [0, 1 / 6, 1 / 12][abs(down) + abs(right)]
        to = (slice(max(0, down), 200 + min(0, down)), slice(max(0, right), 190 + min(0, right)))
        of = (slice(max(0, -down), 200 + min(0, -down)), slice(max(0, -right), 190 + min(0, -right)))
        total[(..., *to)] += weight * found[(..., *of)]
        weights[to] += weight
    off = np.abs(total / weights - found)[np.broadcast_to(missing[:, None], found.shape)]
    assert off.max() < 1e-3


@pytest.mark.parametrize("value", [0.0, 1.0, -3e4, 1e-20])
@pytest.mark.parametrize("space", SPACES)
def test_holes_in_one_colour_get_that_colour(space: tuple[int, ...], value: float) -> None:
    masks = torch.from_numpy(np.stack(list(holes(space).values())))
    x = torch.full((len(masks), 2, *space), value)
    np.testing.assert_allclose(impute.linear(x, masks), x, rtol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_holes_inside_a_ramp_go_on_with_it(space: tuple[int, ...]) -> None:
    ramp = sum(torch.meshgrid(*(torch.arange(float(edge)) for edge in space), indexing="ij"))
    missing = torch.zeros(space, dtype=torch.bool)
    missing[tuple(slice(1, -1) for _ in space)] = True
    found = impute.linear(torch.where(missing, 99.0, ramp)[None, None], missing[None])
    np.testing.assert_allclose(found[0, 0], ramp, atol=5e-3)


def test_what_is_missing_does_not_show() -> None:
    missing = torch.from_numpy(holes((9, 9))["0.5 scattered"])[None]
    x = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    other = torch.where(missing[:, None], 1e3, x)
    np.testing.assert_array_equal(impute.linear(x, missing), impute.linear(other, missing))


def test_noise_is_small_seeded_and_only_on_what_was_missing() -> None:
    missing = torch.zeros(6, 50, 50, dtype=torch.bool)
    missing[:, 10:40] = True
    x = torch.randn(6, 3, 50, 50, generator=torch.Generator().manual_seed(0))
    found, same, other = (impute.noisy(x, missing, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    noise = (found - impute.linear(x, missing)).numpy()[:, :, 10:40]
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 0.01], atol=2e-4)
    np.testing.assert_array_equal(found[:, :, :10], x[:, :, :10])
    np.testing.assert_array_equal(found, same)
    assert (found != other).any()


@pytest.mark.parametrize("batch", [1, 4])
def test_noise_does_not_depend_on_batches(batch: int) -> None:
    missing = torch.ones(6, 5, 3, dtype=torch.bool)
    missing[:, 0] = False
    x = torch.randn(6, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    whole = impute.noisy(x, missing, torch.Generator().manual_seed(1))
    parts = [impute.noisy(part, hole, draw) for part, hole in zip(x.split(batch), missing.split(batch), strict=True)]
    np.testing.assert_array_equal(torch.cat(parts), whole)
