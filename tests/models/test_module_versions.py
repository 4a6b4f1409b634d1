"""Modules that ask a state dict of which version of them it is."""

from typing import Any

import torch
from torch import nn

from cutaway_server.models.repository.weights import fit_state


class Insists(nn.Linear):
    """As torchvision's MNASNet."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *rest: Any) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError("of no version that there was")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_tensors_without_a_version_are_of_the_networks_own() -> None:
    network = nn.Sequential(Insists(2, 3))
    tensors = {"0.weight": torch.rand(3, 2), "0.bias": torch.rand(3)}
    fit_state(network, dict(tensors), "weights.safetensors", strict=True)
    assert torch.equal(network[0].weight, tensors["0.weight"])
