"""The networks in PyTorch: the paper's three, and two that read pairs of digits that training never showed.

They are the executable specification of the Rust ones, and the names of their parameters are the names in files of weights.
A network maps normalised images, float32 of shape (N, 1, height, width), to a list of logits, (N, 10) for each digit from
left to right. `from_run` loads a network that the program trained, together with the normalisation of its images.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from ._extras import extra

with extra("torch"):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from torch import Tensor

__all__ = ["NETWORKS", "AlexNet", "Attention", "Fcn", "ResNet", "Towers", "TrainedNetwork", "from_run"]


class AlexNet(nn.Module):
    """Five convolutions, two fully connected layers with dropout, and a linear head per digit. Images have at least 44x44
    pixels."""

    def __init__(self, dropout: float = 0.5, digits: int = 2, height: int = 64, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.conv3 = nn.Conv2d(64, 128, 3)
        self.conv4 = nn.Conv2d(128, 128, 3)
        self.conv5 = nn.Conv2d(128, 256, 3)
        # a side of the features: two 5x5 convolutions with a pool after each, three 3x3 convolutions and a pool
        rows, columns = ((((side - 4) // 2 - 4) // 2 - 6) // 2 for side in (height, width))
        self.fc1 = nn.Linear(256 * rows * columns, 1024)
        self.fc2 = nn.Linear(1024, 512)
        self.heads = nn.ModuleList([nn.Linear(512, 10) for _ in range(digits)])
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = F.max_pool2d(F.relu(self.conv5(x)), 2)  # 7x7 -> 3x3: floor mode, last row and column unused
        x = self.drop(F.relu(self.fc1(x.flatten(1))))
        x = self.drop(F.relu(self.fc2(x)))
        return [h(x) for h in self.heads]


class Fcn(nn.Module):
    """Six convolutions with batch norm, and a 1x1 convolution per digit on the one position that is left. Images have 60 to
    67 pixels in height and width."""

    def __init__(self, digits: int = 2) -> None:
        super().__init__()
        widths = [(1, 32, 5), (32, 64, 5), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 512, 3)]
        for i, (a, b, k) in enumerate(widths, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, k))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.heads = nn.ModuleList([nn.Conv2d(512, 10, 1) for _ in range(digits)])

    def forward(self, x: Tensor) -> list[Tensor]:
        for i in range(1, 7):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
            if i in (1, 2, 5):
                x = F.max_pool2d(x, 2)
        return [h(x).flatten(1) for h in self.heads]


class BasicBlock(nn.Module):
    """Two convolutions with batch norm, whose result is added to the input."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Four layers of two residual blocks, the mean over all positions, and a linear head per digit."""

    def __init__(self, digits: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        c = 64
        for i, (width, stride) in enumerate(((64, 1), (128, 2), (256, 2), (512, 2)), 1):
            setattr(self, f"layer{i}", nn.Sequential(BasicBlock(c, width, stride), BasicBlock(width, width, 1)))
            c = width
        self.heads = nn.ModuleList([nn.Linear(512, 10) for _ in range(digits)])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        x = x.mean((2, 3))
        return [h(x) for h in self.heads]


class Trunk(nn.Module):
    """Four convolutions whose features do not depend on the position; `channels` are those of the first one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inputs = 1
        for i, (width, stride) in enumerate(((1, 2), (2, 1), (4, 1), (4, 1)), 1):
            setattr(self, f"conv{i}", nn.Conv2d(inputs, width * channels, 3, stride, 1, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(width * channels))
            inputs = width * channels

    def features(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
            if i in (2, 3):
                x = F.max_pool2d(x, 2)
        return x


class Towers(Trunk):
    """The trunk on a window of each image per digit. The windows extend `margin` columns beyond their slots. The `max` or
    the `mean` over all positions is read by one head for all digits."""

    def __init__(
        self, digits: int = 2, channels: int = 32, margin: int = 8, pool: Literal["max", "mean"] = "max"
    ) -> None:
        super().__init__(channels)
        if pool not in ("max", "mean"):
            raise ValueError(f"pool {pool!r}; expected max or mean")
        self.digits, self.margin, self.pool = digits, margin, pool
        self.head = nn.Linear(4 * channels, 10)

    def forward(self, x: Tensor) -> list[Tensor]:
        width = x.shape[-1]
        starts = [digit * width // self.digits for digit in range(self.digits)]
        padded = F.pad(x, (self.margin, self.margin))
        windows = [padded[..., start : start + width // self.digits + 2 * self.margin] for start in starts]
        x = self.features(torch.stack(windows, 1).flatten(0, 1))
        x = F.adaptive_max_pool2d(x, 1).flatten(1) if self.pool == "max" else x.mean((2, 3))
        return list(self.head(x).unflatten(0, (-1, self.digits)).unbind(1))


class Attention(Trunk):
    """The trunk on the whole image. For each digit, attention over all positions selects the features that one head for all
    digits reads."""

    def __init__(self, digits: int = 2, channels: int = 32) -> None:
        super().__init__(channels)
        self.digits = digits
        self.scores = nn.Conv2d(4 * channels, digits, 3, 1, 1, bias=False)
        self.head = nn.Linear(4 * channels, 10)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.features(x)
        weights = self.scores(features).flatten(2).softmax(2)  # (images, digits, positions)
        x = weights @ features.flatten(2).transpose(1, 2)  # (images, digits, channels)
        return list(self.head(x).unbind(1))


#: The networks by the names that the program gives them.
NETWORKS: dict[str, type[nn.Module]] = {
    "alexnet": AlexNet,
    "fcn": Fcn,
    "resnet": ResNet,
    "towers": Towers,
    "attention": Attention,
}


class TrainedNetwork(nn.Module):
    """A network with the normalisation of its images.

    It maps uint8 images of shape (N, 1, height, width) or (N, height, width) to logits of shape (N, digits, 10), so
    `argmax(-1)` gives the digits. The attribute `network` is the plain network, for images that are normalised elsewhere.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, size: tuple[int, int], mean: float, std: float) -> None:
        """`size` is the height and width of the images in pixels; `mean` and `std` are those of pixels from 0 to 1."""
        super().__init__()
        self.network = network
        self.size = size
        # buffers, so that they move to other devices and types with the network
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Raises TypeError for images that are not uint8, and ValueError for a shape that is not one of the two above."""
        if images.dtype != torch.uint8:
            raise TypeError(f"images of {images.dtype}; expected torch.uint8 (`network` takes normalised floats)")
        if images.dim() == 3:
            images = images.unsqueeze(1)
        if images.shape[1:] != (1, *self.size):
            height, width = self.size
            raise ValueError(f"images of shape {tuple(images.shape)}; expected (N, 1, {height}, {width})")
        x = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return torch.stack(self.network(x), 1)


def from_run(folder: str | os.PathLike[str], which: Literal["best", "last", "ema"] = "best") -> TrainedNetwork:
    """The network of a run, such as `artifacts/train/fast-seed0`, on the CPU and in eval mode.

    `which` are the weights: those of the epoch with the lowest validation loss, those of the last epoch, or their moving
    average, which a run has if it was trained with `train.ema`. The network, its sizes and the normalisation are read from
    the file of weights.

    Raises FileNotFoundError if the folder has no such weights, and ValueError if the file is not one that the program
    wrote, or if its tensors are not those of the network that it describes. `multidigit verify` also finds a file whose
    values have changed.
    """
    with extra("torch"):
        from safetensors import SafetensorError, safe_open
    path = Path(folder, "weights", f"{which}.safetensors")
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.safetensors")))
        advice = f"the run has the weights {others}" if others else "expected the folder of a run in artifacts/train"
        raise FileNotFoundError(f"{path}: no such file; {advice}")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("multidigit")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if text is None:
        raise ValueError(f"{path}: no `multidigit` in its metadata; expected weights that `multidigit run train` wrote")
    try:
        description = json.loads(text)
        # without memory, because the sizes of a damaged description can request any amount
        with torch.device("meta"):
            network = _network(description)
        size = description["height"], description["width"]
        mean, std = description["mean"], description["std"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: metadata `{text}` ({error!r}); expected a description of a network") from error
    _check(path, description["model"], network, tensors)
    # PyTorch counts the batches of a batch norm, for a mode that the networks do not use
    counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith(".num_batches_tracked")}
    network.load_state_dict(tensors | counts, assign=True)
    return TrainedNetwork(network, size, mean, std).eval()


def _network(description: dict[str, Any]) -> nn.Module:
    """The network that a file of weights describes."""
    digits = description["digits"]
    match description["model"]:
        case "alexnet":
            return AlexNet(digits=digits, height=description["height"], width=description["width"])
        case "fcn":
            return Fcn(digits)
        case "resnet":
            return ResNet(digits)
        case "towers":
            return Towers(digits, **description["trunk"])
        case "attention":
            return Attention(digits, description["trunk"]["channels"])
        case other:
            raise ValueError(f"no network is called {other}")


def _check(path: Path, model: str, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raises ValueError at the first tensor, by name, that is not as the network needs it."""
    parameters = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    expected = {name: shape for name, shape in parameters.items() if not name.endswith(".num_batches_tracked")}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            told, wanted = found.get(name, "not there"), expected.get(name, "no such tensor")
            raise ValueError(f"{path}: `{name}` is {told}; expected {wanted} in weights of {model}")
