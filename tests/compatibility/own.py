"""Networks that no library has: of signals, of two inputs, with several outputs. `module.py` of their model folders."""

import torch
from torch import Tensor, nn


class Signals(nn.Module):
    """Takes [N, 2, L]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 8, 7, stride=2, padding=3)
        self.second = nn.Conv1d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = self.act(self.norm(self.second(x)) + torch.cat((x, x), dim=1))
        return self.fc(x.mean(2))


class TwoInputs(nn.Module):
    """A picture, and numbers about it."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(True), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(True))
        self.numbers = nn.Linear(4, 12)
        self.fc = nn.Linear(12, 5)

    def forward(self, picture: Tensor, facts: Tensor) -> Tensor:
        scale = self.numbers(facts).sigmoid()
        return self.fc((self.picture(picture) * scale[:, :, None, None]).amax((2, 3)))


class Auxiliary(nn.Module):
    """Gives an auxiliary head's scores beside its own, as training code likes it."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU())
        self.late = nn.Sequential(nn.Conv2d(8, 8, 3), nn.GELU())
        self.heads = nn.ModuleList([nn.Linear(8, 5), nn.Linear(8, 5)])

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        early = self.early(x)
        late = self.late(early)
        auxiliary, main = (head(features.mean((2, 3))) for head, features in zip(self.heads, (early, late), strict=True))
        return {"scores": (main, auxiliary), "features": late}
