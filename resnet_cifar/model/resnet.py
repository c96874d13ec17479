"""Residual networks for 32 × 32 images: He et al. 2016, arXiv:1512.03385.

The layout that the field uses on CIFAR: a 3×3 stem without pooling and four stages of basic blocks.
"""

from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, projected by 1×1 where the shape changes.

    ReLUs are modules here, two of them, so that the probe can tell them apart.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.norm1 = norm(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(channels_out, channels_out)
        self.norm2 = norm(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            project = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(project, norm(channels_out))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        result: Tensor = self.relu2(out + self.shortcut(x))
        return result


class ResNet(nn.Module):
    """Stem, four stages, global average pooling, linear. Logits [N, classes] of [N, 3, H, W]."""

    def __init__(self, width: int, blocks: tuple[int, ...], norm: Norm, classes: int) -> None:
        super().__init__()
        self.stem = conv3x3(3, width)
        self.norm = norm(width)
        self.relu = nn.ReLU()
        self.stages = nn.Sequential()
        channels = width
        for stage, depth in enumerate(blocks):
            layers = nn.Sequential()
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, width * 2**stage, stride, norm))
                channels = width * 2**stage
            self.stages.append(layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm(self.stem(x)))
        logits: Tensor = self.head(self.stages(out).mean((2, 3)))
        return logits
