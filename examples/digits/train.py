"""Train the network of the digits example and export it as ``digits.onnx``.

Needs PyTorch (made with torch 2.13.0 on CPU) and onnx, beside what ``data.py`` needs; ovquant itself needs
neither. The seed is fixed, so the same torch, kind of CPU and ``--threads`` give the same network again.

    python train.py [--output digits.onnx] [--threads 1]

The network is a small residual one. Dense 3x3 convolutions at full resolution hold nearly all of the
computation, which is what INT8 speeds up. Depthwise-separable blocks follow, with instance normalisation
written out as E[x^2] - E[x]^2: a difference of near-equal numbers, which is what INT8 gets wrong.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from data import IMAGE_SIZE, load, split
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SEED = 0
EPOCHS = 20
BATCH = 30
LEARNING_RATE = 4e-3
MAX_SHIFT = 2
NORM_EPS = 5e-4  # picked among 1e-3, 5e-4, 3e-4 and 1e-4: plain INT8 loses some accuracy, not all of it
STEM = 32
WIDTH = 64
CLASSES = 10


class InstanceNorm(nn.Module):
    """Per-image, per-channel normalisation with the variance computed as E[x^2] - E[x]^2."""

    def __init__(self, channels: int) -> None:
        """Create the scale and the shift of each channel."""
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` over its two spatial axes."""
        mean = x.mean((2, 3), keepdim=True)
        variance = torch.clamp((x * x).mean((2, 3), keepdim=True) - mean * mean, min=0.0)
        return (x - mean) / torch.sqrt(variance + NORM_EPS) * self.scale + self.shift


class ConvBn(nn.Module):
    """A convolution and its batch normalisation, which :meth:`fold` merges into one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        """Create a convolution of stride 1 that keeps the image's size."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve and normalise."""
        return self.norm(self.conv(x))

    def fold(self) -> None:
        """Merge the batch normalisation into the convolution."""
        self.conv = fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()


class Residual(nn.Module):
    """A body with a skip connection around it."""

    def __init__(self, *body: nn.Module) -> None:
        """Keep the body's layers."""
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input plus the body's output."""
        return x + self.body(x)


def dense(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a dense 3x3 convolution, and a linear 1x1 one which mixes its channels."""
    return [ConvBn(inputs, outputs, 3), nn.Hardswish(), ConvBn(outputs, outputs, 1)]


def separable(channels: int, stride: int) -> list[nn.Module]:
    """Return a depthwise 3x3 convolution, instance-normalised, and a linear 1x1 one after it."""
    depthwise = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels)
    return [depthwise, InstanceNorm(channels), nn.Hardswish(), ConvBn(channels, channels, 1)]


class DigitsNet(nn.Module):
    """The example's network: image ``[N, 1, 32, 32]`` to logits ``[N, 10]``."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, STEM, 3, padding=1),
            InstanceNorm(STEM),
            nn.Hardswish(),
            *dense(STEM, WIDTH),
            Residual(*dense(WIDTH, WIDTH)),
            *separable(WIDTH, stride=2),
            Residual(*separable(WIDTH, stride=1)),
            Residual(*separable(WIDTH, stride=1)),
            ConvBn(WIDTH, WIDTH, 1),
            nn.Hardswish(),
        )
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(self.features(image).mean((2, 3)))


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Train ``net`` on random shifts of ``images``; the last, incomplete batch of an epoch is left out."""
    rng = np.random.default_rng(SEED)
    steps = len(images) // BATCH
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * steps)
    net.train()
    for epoch in range(EPOCHS):
        total, began = 0.0, time.perf_counter()
        order = torch.from_numpy(rng.permutation(len(images)))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            down, right = (int(shift) for shift in rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2))
            batch = torch.roll(images[chosen], (down, right), (2, 3))
            loss = nn.functional.cross_entropy(net(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / steps:.4f} ({seconds:.1f} s)", flush=True)


def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the top-1 accuracy of ``net``."""
    net.eval()
    with torch.no_grad():
        guesses = torch.cat([net(part).argmax(1) for part in images.split(100)])
    return (guesses == labels).double().mean().item()


def export(net: nn.Module, path: Path) -> None:
    """Fold the batch normalisations of ``net`` and write it as one ONNX file."""
    net.eval()
    for module in net.modules():
        if isinstance(module, ConvBn):
            module.fold()
    torch.onnx.export(
        net.to(memory_format=torch.contiguous_format),
        (torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
    )


def main() -> None:
    """Train, report the held-out accuracy and export."""
    parser = argparse.ArgumentParser(description="Train the digits example's network and export it.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("digits.onnx"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds otherwise")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    array, targets = load()
    chosen, held_out = split(targets)
    images = torch.from_numpy(array).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(targets)
    net = DigitsNet().to(memory_format=torch.channels_last)
    began = time.perf_counter()
    train(net, images[chosen], labels[chosen])
    print(f"trained in {time.perf_counter() - began:.0f} s")
    print(f"held-out accuracy: {accuracy(net, images[held_out], labels[held_out]):.4f}")
    export(net, arguments.output)
    print(f"{arguments.output.name}: {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
