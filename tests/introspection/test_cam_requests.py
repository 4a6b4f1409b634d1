"""What may be asked of a map, and what is said of it: targets, layers, forms, pictures, limits, progress, reasons."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cutaway
import cutaway_server
from cutaway import Cam, pictures
from cutaway_server.introspection.cam import METHODS
from cutaway_server.models.model import InputSpec, Model
from cutaway_server.models.prepare import prepare
from cutaway_server.process.life import Server
from cutaway_server.process.settings import load_settings
from server_process import ServerProcess, wait_until

LAYER = "features.relu3"  # of mnist-gap, 14 x 14


def maps(live: cutaway.Client, x: np.ndarray, *cams: Cam, model: str = "mnist-gap", **more: object) -> cutaway.Introspection:
    return live.introspect(model, x, cams=cams, **more)


# --- targets ---


def test_a_top_k_is_so_many_maps_best_first(live: cutaway.Client, x: np.ndarray) -> None:
    seen = maps(live, x[:5], Cam("grad-cam", top_k=3), Cam("hires-cam"))
    order = np.argsort(-seen.scores, axis=1, kind="stable")
    assert [(cam.cam, cam.rank) for cam in seen.cams] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    for rank in range(3):
        np.testing.assert_array_equal(seen.cams[rank].classes, order[:, rank])
        alone = maps(live, x[:5], Cam("grad-cam", class_index=order[:, rank].tolist())).cams[0]
        np.testing.assert_array_equal(seen.cams[rank].map, alone.map)


def test_a_contrast_is_the_difference_of_both_maps(live: cutaway.Client, x: np.ndarray) -> None:
    both = [Cam("hires-cam", class_index=index, relu=False) for index in (3, 8)]
    seen = maps(live, x[:4], Cam("hires-cam", class_index=3, against=8, relu=False), *both)
    np.testing.assert_allclose(seen.cams[0].map, seen.cams[1].map - seen.cams[2].map, atol=1e-5)
    assert (seen.cams[0].classes, seen.cams[0].against) == ((3,) * 4, (8,) * 4)


def test_the_probability_is_explained_by_the_chain_rule(live: cutaway.Client, x: np.ndarray) -> None:
    """dp_c / dA = p_c (dy_c / dA - sum_d p_d dy_d / dA), and HiResCAM is linear in the gradient."""
    each = [Cam("hires-cam", class_index=index, relu=False) for index in range(10)]
    seen = maps(live, x[:3], Cam("hires-cam", class_index=2, relu=False, score="probability"), *each)
    chances = np.exp(seen.logits - seen.logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    logits = np.stack([cam.map for cam in seen.cams[1:]], axis=1)  # [N, class, h, w]
    expected = chances[:, 2, None, None] * (logits[:, 2] - np.einsum("nc,nchw->nhw", chances, logits))
    assert seen.cams[0].score == "probability"
    np.testing.assert_allclose(seen.cams[0].map, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("cam", "sentence"),
    [
        (Cam("grad-cam", class_index=10), "cams[0].target.classes.indices: got class 10; expected 0 to 9"),
        (Cam("grad-cam", class_index=[1, 2]), "got 2 classes; expected 1, or one for each of the 3 samples"),
        (Cam("grad-cam", class_index=1, against=-1), "cams[0].target.contrast.against: got class -1; expected 0 to 9"),
        (Cam("grad-cam", top_k=11), "cams[0].target.top_k.k: got 11; expected 1 to 10"),
        (Cam("grid-cam"), "cams[0].method: got 'grid-cam'; expected one of cam, "),
        (Cam("saliency", "conv1"), "expected none: 'saliency' explains at the network's input"),
        (Cam("saliency", augment=True), "cams[0].settings.augment: got it for 'saliency'; expected one of cam, "),
        (Cam("grad-cam", steps=3), "cams[0].settings.steps: got it for 'grad-cam'; expected it for 'integrated-gradients', "),
        (Cam("occlusion", window=[2, 2, 2]), "cams[0].settings.window: got [2, 2, 2]; expected one size, or 2, each 1 or more"),
        (Cam("cam", score="probability"), "expected MODEL: 'cam' weighs by the weights of the class's logit"),
        (Cam("grad-cam", channels="each", pictures=["heat-map"]), "expected none: they are of maps [N, h, w]"),
        (Cam("grad-cam", channels="each", faithfulness=True), "cams[0].faithfulness: got it with channels kept apart"),
        (Cam("grad-cam", [LAYER, "features.relu5"], channels="each"), "channels of layers differ"),
        (Cam("finer-cam", class_index=1, against=2), "'finer-cam' finds what to compare with by itself"),
        (Cam("grad-cam", pictures=["overlay"]), "no pictures or pixels were sent to lay it on"),
        (Cam("grad-cam", faithfulness=257), "cams[0].faithfulness.steps: got 257; expected 0 to 256"),
    ],
)
def test_what_does_not_go_is_refused_with_a_sentence(live: cutaway.Client, x: np.ndarray, cam: Cam, sentence: str) -> None:
    with pytest.raises(cutaway.InvalidArgument) as refused:
        maps(live, x[:3], cam)
    assert sentence in refused.value.message


def test_a_layer_without_a_plane_is_refused_and_what_would_work_is_named(live: cutaway.Client, x: np.ndarray) -> None:
    with pytest.raises(cutaway.FailedPrecondition, match=r"layer 'fc1' puts out .*, not \[N, C, H, W\]; it works at .*'relu_1'"):
        maps(live, x[:1], Cam("grad-cam", "fc1"), model="mnist")
    with pytest.raises(cutaway.FailedPrecondition, match=r"does not end in a global average pooling .* 'grad-cam' works at any"):
        maps(live, x[:1], Cam("cam"), model="mnist")


# --- layers ---


def test_the_default_layer_is_said_before_anything_runs(live: cutaway.Client, x: np.ndarray) -> None:
    plan = live.plan("mnist-gap", x[:2], cams=[Cam("grad-cam"), Cam("saliency"), Cam("layer-cam", [LAYER, "features.conv1"])])
    assert [(cam.method, cam.layers, cam.shape) for cam in plan.cams] == [
        ("grad-cam", ("features.relu5",), (2, 14, 14)),
        ("saliency", (), (2, 28, 28)),
        ("layer-cam", (LAYER, "features.conv1"), (2, 28, 28)),
    ]


class EndsInPools(nn.Module):
    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Sequential(*head, nn.Flatten(), nn.LazyLinear(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)))


class ChannelsLast(nn.Module):
    """As ConvNeXt's last norm: what it computes on is [N, H, W, C]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "head",
    [
        [nn.AdaptiveAvgPool2d(1)],
        [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3)],
        [],
        [nn.AdaptiveAvgPool2d(1), ChannelsLast()],
    ],
)
def test_the_default_layer_is_the_last_one_before_what_ends_the_network_s_space(head: list[nn.Module]) -> None:
    example = torch.rand(2, 3, 14, 14)
    net = EndsInPools(*head)
    with cutaway_server.serve(net, example, name="net", log_level="error") as server, cutaway.Client(server.address) as client:
        assert client.plan("net", example, cams=[Cam("grad-cam")]).cams[0].layers == ("relu",)


class EndsInAnAuxiliaryHead(EndsInPools):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.conv(x))
        return {"scores": self.head(features), "auxiliary": torch.sigmoid(features).amax((2, 3))}


def test_the_default_layer_leads_to_the_scores() -> None:
    inputs = (InputSpec("x", torch.float32, (-1, 3, 14, 14)),)
    model = prepare(EndsInAnAuxiliaryHead(), name="net", inputs=inputs, head="scores")
    settings = load_settings({"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "log_level": "error"})
    with Server([model], settings) as server, cutaway.Client(server.address) as client:
        for method in ("grad-cam", "eigen-cam"):
            seen = client.introspect("net", np.ones((1, 3, 14, 14), np.float32), cams=[Cam(method)])
            assert seen.cams[0].layers == ("relu",)


# --- settings and forms ---


def test_channels_kept_apart_add_up_to_the_map(live: cutaway.Client, x: np.ndarray) -> None:
    seen = maps(live, x[:3], *(Cam("grad-cam", LAYER, relu=False, channels=join) for join in ("each", "sum", "largest")))
    parts = seen.cams[0].map
    assert parts.ndim == 4
    np.testing.assert_allclose(parts.sum(1), seen.cams[1].map, atol=1e-5)
    np.testing.assert_array_equal(np.abs(parts).max(1), seen.cams[2].map)


def test_a_principal_component_has_the_sign_of_the_sum_and_explains_the_most(live: cutaway.Client, x: np.ndarray) -> None:
    seen = maps(live, x[:3], *(Cam("grad-cam", LAYER, relu=False, channels=join) for join in ("each", "principal")))
    for parts, component in zip(seen.cams[0].map, seen.cams[1].map, strict=True):
        cells = parts.reshape(len(parts), -1).T.astype(np.float64)
        centred = cells - cells.mean(0)
        _, _, rows = np.linalg.svd(centred, full_matrices=False)
        expected = centred @ rows[0]
        np.testing.assert_allclose(component.ravel(), expected * np.sign(expected @ cells.sum(1)), atol=1e-5)


def test_a_scaled_map_comes_beside_the_raw_one(live: cutaway.Client, x: np.ndarray) -> None:
    cams = [
        Cam("grad-cam", LAYER, relu=False, normalisation="min-max"),
        Cam("grad-cam", LAYER, relu=False, normalisation="max", upsampling="bilinear"),
        Cam("grad-cam", LAYER, relu=False, upsampling="nearest"),
    ]
    seen = maps(live, x[:3], *cams)
    raw = seen.cams[0].map
    low, high = raw.min((1, 2), keepdims=True), raw.max((1, 2), keepdims=True)
    np.testing.assert_allclose(seen.scaled[0].map, (raw - low) / (high - low), atol=1e-6)
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(raw)[:, None], (28, 28), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(seen.scaled[1].map, enlarged / np.abs(raw).max((1, 2), keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(seen.scaled[2].map, raw.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize(("fusion", "join"), [("mean", np.mean), ("max", np.max), ("product", np.prod)])
def test_maps_of_several_layers_are_fused_at_the_largest(live: cutaway.Client, x: np.ndarray, fusion: str, join: object) -> None:
    layers = ["features.relu1", "features.relu5"]
    seen = maps(live, x[:3], Cam("layer-cam", layers, fusion=fusion), *(Cam("layer-cam", layer) for layer in layers))
    each = []
    for cam in seen.cams[1:]:
        low, high = cam.map.min((1, 2), keepdims=True), cam.map.max((1, 2), keepdims=True)
        plane = torch.from_numpy((cam.map - low) / (high - low))[:, None]
        each.append(torch.nn.functional.interpolate(plane, (28, 28), mode="bilinear")[:, 0].numpy())
    np.testing.assert_allclose(seen.cams[0].map, join(np.stack(each), axis=0), atol=1e-5)  # type: ignore[operator]
    assert (seen.cams[0].layers, seen.cams[0].fusion) == (tuple(layers), fusion)


def test_pictures_are_those_that_the_client_draws(live: cutaway.Client, digits: np.ndarray) -> None:
    seen = maps(live, digits[:2], Cam("grad-cam", LAYER, pictures=["heat-map", "overlay"]))
    (cam,) = seen.cams
    drawn = {(picture.kind, picture.sample): Image.open(io.BytesIO(picture.png)) for picture in seen.pictures}
    assert set(drawn) == {(kind, sample) for kind in ("heat-map", "overlay") for sample in range(2)}
    for sample in range(2):
        heat = pictures.heat(cam.map[sample], 28, 28)
        overlay = pictures.overlay(Image.fromarray(digits[sample]), cam.map[sample], cam.placement[sample])
        np.testing.assert_array_equal(np.asarray(drawn["heat-map", sample]), np.asarray(heat))
        np.testing.assert_array_equal(np.asarray(drawn["overlay", sample]), np.asarray(overlay))


def test_an_overlay_of_a_huge_photograph_is_drawn_on_it_reduced(live: cutaway.Client) -> None:
    seen = maps(live, np.zeros((1, 3000, 1500), np.uint8), Cam("grad-cam", LAYER, pictures=["overlay"]))
    assert Image.open(io.BytesIO(seen.pictures[0].png)).size == (1024, 2048)


# --- chance ---


def test_a_seed_makes_chance_repeat_itself_and_is_told(live: cutaway.Client, x: np.ndarray) -> None:
    cams = [Cam("random-cam", LAYER, relu=False), Cam("smooth-grad", steps=4)]
    first, again, other = (maps(live, x[:2], *cams, seed=seed) for seed in (5, 5, 6))
    drawn = maps(live, x[:2], *cams)
    assert (first.started.seed, other.started.seed) == (5, 6)
    repeated = maps(live, x[:2], *cams, seed=drawn.started.seed)
    for index in range(2):
        np.testing.assert_array_equal(first.cams[index].map, again.cams[index].map)
        assert (first.cams[index].map != other.cams[index].map).any()
        np.testing.assert_array_equal(drawn.cams[index].map, repeated.cams[index].map)
    assert maps(live, x[:2], Cam("grad-cam")).started.seed is None


# --- what it takes ---


def test_a_plan_counts_passes(live: cutaway.Client, x: np.ndarray, models: dict[str, Model]) -> None:
    channels = models["mnist-gap"].layers.exact(LAYER, "").outputs[0].shape[1]

    def passes(*cams: Cam) -> tuple[int, int]:
        estimate = live.plan("mnist-gap", x[:2], cams=cams).estimate
        return estimate.forward_passes, estimate.backward_passes

    assert passes(Cam("grad-cam"), Cam("layer-cam", LAYER), Cam("saliency")) == (1, 1)
    assert passes(Cam("grad-cam", class_index=1), Cam("grad-cam", class_index=2)) == (1, 2)
    assert passes(Cam("score-cam", LAYER), Cam("ablation-cam", LAYER)) == (1 + 2 * channels, 0)
    assert passes(Cam("integrated-gradients", steps=5)) == (6, 5)
    assert passes(Cam("occlusion", window=7, stride=7)) == (17, 0)
    assert passes(Cam("shapley-cam", LAYER)) == (1, 3)
    assert passes(Cam("grad-cam", augment=True)) == (6, 6)


def test_a_plan_tells_just_how_often_the_network_will_run(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray) -> None:
    """What it counts is what the server's metric counts."""
    cams = [
        Cam("score-cam", LAYER),
        Cam("occlusion", window=9),
        Cam("grad-cam", LAYER, augment=True),
        Cam("guided-backprop"),
        Cam("hires-cam", LAYER, faithfulness=3),
        Cam("input-x-gradient", faithfulness=3),
    ]
    for cam in cams:
        (plan,) = live.plan("mnist-gap", x[:2], cams=[cam]).cams
        planned = plan.forward_passes + plan.faithfulness_forward_passes
        before = live_server.metric("cutaway_reruns_total", model="mnist-gap")
        maps(live, x[:2], cam)
        assert live_server.metric("cutaway_reruns_total", model="mnist-gap") - before == 2 * planned, cam.method


def test_maps_of_one_score_share_a_backward_pass(live: cutaway.Client, x: np.ndarray) -> None:
    """A pass that came after another would bring a gradient of its own; the sum over both would show in neither."""
    six = ("grad-cam", "grad-cam++", "xgrad-cam", "hires-cam", "layer-cam", "element-wise-grad-cam")
    together = maps(live, x[:3], *(Cam(method, LAYER) for method in six), Cam("saliency"), gradients=[LAYER])
    for method, cam in zip(six, together.cams, strict=False):
        np.testing.assert_array_equal(cam.map, maps(live, x[:3], Cam(method, LAYER), Cam("saliency")).cams[0].map)
    assert together.started.estimate.backward_passes == 1


def test_scores_are_those_of_predict_whatever_is_explained(eager: cutaway.Client, x: np.ndarray) -> None:
    expected = eager.predict("mnist-gap", x[:4]).scores
    for method in METHODS:
        np.testing.assert_array_equal(maps(eager, x[:4], Cam(method)).scores, expected, err_msg=method)


def test_more_runs_than_a_call_may_take_are_refused_before_anything_runs(live: cutaway.Client, x: np.ndarray) -> None:
    with pytest.raises(cutaway.InvalidArgument, match=r"61,440 runs of the network on one sample asked for; .* 16,384"):
        maps(live, x[:60], Cam("integrated-gradients", steps=1024))
    with pytest.raises(cutaway.InvalidArgument, match="70 CAMs, those of each top k counted by themselves"):
        maps(live, x[:1], *[Cam("grad-cam", top_k=10)] * 7)


LONG = Cam("integrated-gradients", steps=250)  # for 60 digits: half a minute


def test_long_ones_tell_how_far_they_are(live: cutaway.Client, x: np.ndarray) -> None:
    with live.introspect_stream("mnist-gap", x[:8], cams=[Cam("integrated-gradients", steps=400)], timeout=300) as events:
        told = [event for event in events if isinstance(event, cutaway.Progress)]
    assert told
    assert {(event.what, event.total) for event in told} == {("integrated-gradients", 3200)}
    assert [event.done for event in told] == sorted({event.done for event in told})


def test_a_deadline_ends_a_long_one_between_two_runs(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray) -> None:
    with pytest.raises(cutaway.DeadlineExceeded):
        live.introspect("mnist-gap", x[:60], cams=[LONG], timeout=1.5)
    wait_until(lambda: live_server.metric("cutaway_mirrors_in_use", model="mnist-gap") == 0, seconds=5)
    assert live_server.metric("cutaway_live_hooks", model="mnist-gap") == 0
    assert maps(live, x[:1], Cam("grad-cam")).cams[0].map.shape == (1, 14, 14)


def test_a_cancel_ends_a_long_one_between_two_runs(live_server: ServerProcess, live: cutaway.Client, x: np.ndarray) -> None:
    with live.introspect_stream("mnist-gap", x[:60], cams=[LONG]) as events:
        assert any(isinstance(event, cutaway.Progress) for event in events)  # it is under way: cancel
    wait_until(lambda: live_server.metric("cutaway_mirrors_in_use", model="mnist-gap") == 0, seconds=5)


# --- maps that say nothing ---


class Dead(nn.Module):
    """The first channel's input decides: below 0 the ReLU is dead; above 1 the way behind it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ReLU()
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[200.0], [-1.0]]))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alive = self.first(x)
        gone = torch.relu(2 - alive.amax(dim=(2, 3), keepdim=True).detach()) * alive  # 0 where anything is above 2
        return self.head(gone.mean(dim=(2, 3)))


def test_a_map_that_says_nothing_says_why() -> None:
    x = torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, 3.0, 1.0, 1.5)])
    cams = [
        Cam("grad-cam", "first", class_index=0),
        Cam("grad-cam", "first", class_index=1),
        Cam("grad-cam", "first", class_index=0, score="probability"),
    ]
    with cutaway_server.serve(Dead(), x, name="net", log_level="error") as server, cutaway.Client(server.address) as client:
        seen = client.introspect("net", x, cams=cams)
    assert [(note.sample, note.reason) for note in seen.cams[0].notes] == [(0, "dead_layer"), (1, "gradient_vanished")]
    assert [(note.sample, note.reason) for note in seen.cams[1].notes] == [
        (0, "dead_layer"),
        (1, "gradient_vanished"),
        (2, "nothing_positive"),
        (3, "nothing_positive"),
    ]
    assert "relu=false shows them" in seen.cams[1].notes[2].message
    assert [(note.sample, note.reason) for note in seen.cams[2].notes] == [
        (0, "dead_layer"),
        (1, "gradient_vanished"),
        (2, "saturated"),
        (3, "saturated"),
    ]


def test_numbers_that_are_not_finite_are_noted() -> None:
    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(100 * self.conv(x)).mean(dim=(2, 3))

    net = Overflows()
    nn.init.ones_(net.conv.weight)
    nn.init.zeros_(net.conv.bias)
    x = torch.tensor([0.1, 1.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3).contiguous()
    with cutaway_server.serve(net, x, name="net", log_level="error") as server, cutaway.Client(server.address) as client:
        seen = client.introspect("net", x, cams=[Cam("hires-cam", "conv", class_index=0), Cam("eigen-grad-cam", "conv")])
    assert [(note.sample, note.reason) for note in seen.cams[0].notes] == [(1, "not_finite")]
    assert (1, "not_finite") in [(note.sample, note.reason) for note in seen.cams[1].notes]


# --- other heads ---


def test_a_segmentation_s_class_has_the_mean_of_its_scores() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    x = torch.rand(2, 3, 8, 8)
    with cutaway_server.serve(net, x, name="net", log_level="error") as server, cutaway.Client(server.address) as client:
        seen = client.introspect("net", x, layers=["1"], cams=[Cam("hires-cam", "1", relu=False)])
    activation = seen.activations["1"]
    best = seen.scores.mean((2, 3)).argmax(1)
    weight = net[2].weight.detach().numpy()[best, :, 0, 0]
    np.testing.assert_array_equal(seen.cams[0].classes, best)
    np.testing.assert_allclose(seen.cams[0].map, np.einsum("nk,nkhw->nhw", weight / 64, activation), atol=1e-6)
