"""Scale groups of small graphs, against groups found by hand."""

from __future__ import annotations

import torch
from torch import fx, nn

from yolov6core.quant.scale_groups import find_groups


def groups_of(module: nn.Module) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    traced = fx.symbolic_trace(module)
    groups = find_groups(traced.graph, traced)
    return groups.group_of, groups.sources


def test_everything(net):
    group_of, sources = groups_of(net)
    assert sources == {
        "x": ("x",),
        "relu": ("relu", "relu_2"),  # operands of the add
        "relu_1": ("relu_1",),
        "add": ("add",),  # with the pools and the concat behind it
        "relu_3": ("relu_3", "up"),  # concat with the upsampled branch
        "relu_4": ("relu_4",),
        "neck": ("neck",),  # a convolution's result before SiLU
        "act": ("act",),
    }
    assert group_of["cat"] == group_of["pool"] == group_of["pool_1"] == "add"
    assert group_of["cat_1"] == group_of["up"] == "relu_3"
    assert "cls_pred" not in group_of and "stem" not in group_of


def test_chunks_reshapes_and_nearest_upsampling_pass():
    class Shuffle(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 4, 1)
            self.up = nn.Upsample(scale_factor=2)

        def forward(self, x):
            left, right = self.first(x).chunk(2, dim=1)
            merged = torch.cat((self.second(left), right), 1)
            batch, channels, height, width = 1, 8, 4, 4
            mixed = merged.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, 4, 4)
            return self.first_again(self.up(mixed))

        def first_again(self, x):
            return torch.sigmoid(self.second(x[:, :4]))

    group_of, sources = groups_of(Shuffle())
    assert sources["first"] == ("first", "second")
    assert group_of["up"] == group_of["reshape"] == group_of["getitem"] == "first"
    assert set(sources) == {"x", "first", "second_1"}


def test_two_concats_of_one_tensor_are_one_group():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(2, 2, 1) for _ in range(4))
            self.left, self.right = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            a, b, c = self.a(x).relu(), self.b(x).sigmoid(), self.c(x).tanh()
            left = self.left(torch.cat((a, b), 1)).exp()
            return left + self.right(torch.cat([b, c], dim=1)).exp() + 1.0

    _, sources = groups_of(Shared())
    assert ("relu", "sigmoid", "tanh") in sources.values()


def test_names_do_not_collide_with_attributes():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, values):
            return torch.sigmoid(self.conv(values))

    _, sources = groups_of(Named())
    assert "values_" in sources
