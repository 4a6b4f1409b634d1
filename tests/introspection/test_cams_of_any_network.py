"""Whatever a network is written like: a map comes, or says why not, and the network computes what it always does."""

import numpy as np
import pytest
import torch

import cutaway
import cutaway_server
from cutaway_server.introspection.cam import METHODS
from leftovers import hooks_of
from models.zoo import ZOO

X = torch.rand(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
# Of these there is no introspection from a copy of their modules; tests/models/test_zoo.py says why.
OPAQUE = [
    "Closure",
    "ConditionInside",
    "CountingBuffer",
    "CountingHolder",
    "HolderObject",
    "LockOfTheClass",
    "ModulesInGlobal",
    "OwnHookOverList",
    "OwnHookOverSelf",
    "PatchedForward",
    "PatchedLeafThatKeeps",
    "Random",
    "RemembersTheLastInput",
    "ScratchBuffer",
    "ScratchTensor",
    "Slots",
    "StateInClass",
    "StateInClosure",
    "StateInGlobal",
    "StateInHolder",
    "StateInHolderForAWhile",
    "ThreadInside",
    "UnregisteredNorm",
    "WeakReference",
    "compiled",
    "compiled_in_place",
    "compiled_inside",
    "scripted",
]
FAILURES = "the network has no ReLU", "nothing that PyTorch can differentiate leads from it to the score"


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(OPAQUE)))
def test_each_method(name: str) -> None:
    torch.manual_seed(0)
    network = ZOO[name]()
    with torch.no_grad():
        expected = network.eval()(X.clone())
    with cutaway_server.serve(network, X, name="net", log_level="error") as server, cutaway.Client(server.address) as client:
        hooks = hooks_of(network)
        possible = client.model("net").introspection.cam_methods
        cams = [cutaway.Cam(method) for method in possible]
        first, again = (client.introspect("net", X, cams=cams, seed=0) for _ in range(2))
        alone = client.introspect("net", X)
        assert hooks_of(network) == hooks
    assert {"score-cam", "occlusion"} & set(possible)
    np.testing.assert_allclose(first.scores, expected.float().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(alone.scores, first.scores, rtol=1e-4, atol=1e-6)
    for failure in first.failures:
        assert any(why in failure.message for why in FAILURES), failure.message
    assert len(first.cams.maps) + len(first.failures) == len(possible)
    for where, seen in first.cams.maps.items():
        assert METHODS[seen.method].at_input == (seen.layers == ())
        assert seen.map.shape == first.started.cams[where[0]].shape
        np.testing.assert_allclose(seen.map, again.cams.maps[where].map, rtol=1e-4, atol=1e-6, err_msg=seen.method)
