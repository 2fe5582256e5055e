"""Train the four networks of the task examples and export them as ONNX.

Needs PyTorch (made with torch 2.13.0 on CPU) and onnx, beside what ``data.py`` needs; ovquant itself needs neither.

    python train.py [scenes] [lines] [turned] [encoder]
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from data import RIM, SCENE, TOKENS, TURNED, Digits, line, scene, split, tokens, turned
from torch import nn
from torch.nn import functional as fn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BATCH = 32
FOLDER = Path(__file__).parent


class Conv(nn.Module):
    """A 3x3 convolution, batch normalisation and ReLU; :meth:`fold` merges the first two."""

    def __init__(self, inputs: int, outputs: int, stride: int | tuple[int, int] = 1) -> None:
        """Create the layers."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, normalise, rectify."""
        return torch.relu(self.norm(self.conv(x)))

    def fold(self) -> None:
        """Merge the batch normalisation into the convolution."""
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class Scenes(nn.Module):
    """Image [N, 1, 64, 64] to cells [N, 15, 8, 8] and mask [N, 11, 64, 64].

    A cell holds: is there a digit, x, y, width, height, ten scores. The mask holds scores of background and digits.
    """

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.fine = nn.Sequential(Conv(1, 16), Conv(16, 16, 2))
        self.middle = nn.Sequential(Conv(16, 32, 2), Conv(32, 32))
        self.coarse = nn.Sequential(Conv(32, 40, 2), Conv(40, 40))
        self.cells = nn.Conv2d(40, 15, 1)
        self.up = Conv(40 + 32, 24)
        self.last = nn.Sequential(Conv(24 + 16, 16), nn.Conv2d(16, 11, 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cells and class scores of the pixels."""
        fine = self.fine(image)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        wide = self.up(torch.cat([_doubled(coarse), middle], 1))
        return self.cells(coarse), _doubled(self.last(torch.cat([_doubled(wide), fine], 1)))


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return fn.interpolate(x, scale_factor=2.0, mode="nearest")


class Lines(nn.Module):
    """Image [N, 1, 24, 96] to scores [N, 24, 11] of blank and ten digits, for CTC."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.features = nn.Sequential(
            Conv(1, 16), Conv(16, 32, 2), Conv(32, 48, 2), Conv(48, 48, (2, 1)), Conv(48, 48), nn.AvgPool2d((3, 1))
        )
        self.head = nn.Linear(48, 11)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        return self.head(self.features(image)[:, :, 0].transpose(1, 2))


class Turned(nn.Module):
    """Image [N, 1, 32, 32] to scores of the digits [N, 10] and the angle in degrees [N, 1]."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.features = nn.Sequential(Conv(1, 16), Conv(16, 32, 2), Conv(32, 48, 2), Conv(48, 32, 2), nn.Flatten())
        self.shared = nn.Linear(32 * 16, 48)
        self.digit, self.angle = nn.Linear(48, 10), nn.Linear(48, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and angle."""
        shared = torch.relu(self.shared(self.features(image)))
        return self.digit(shared), self.angle(shared) * 45.0


class Encoder(nn.Module):
    """Tokens and mask [N, 64] to an embedding [N, 32] of length 1: a transformer with two layers."""

    def __init__(self, width: int = 32, n_heads: int = 2) -> None:
        """Create the layers."""
        super().__init__()
        self.n_heads = n_heads
        self.embedding, self.places = nn.Embedding(18, width), nn.Parameter(torch.randn(1, TOKENS, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "between": nn.LayerNorm(width),
                    "wide": nn.Linear(width, 4 * width),
                    "narrow": nn.Linear(4 * width, width),
                }
            )
            for _ in range(2)
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the mean of the tokens that count, normalised."""
        mask = attention_mask.to(torch.float32)
        x = self.embedding(input_ids) + self.places
        for layer in self.layers:
            x = x + layer["out"](self._attend(layer["qkv"](layer["before"](x)), mask))
            x = x + layer["narrow"](fn.gelu(layer["wide"](layer["between"](x))))
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return mean / torch.sqrt((mean * mean).sum(1, keepdim=True) + 1e-12)

    def _attend(self, qkv: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        width = qkv.shape[2] // 3
        heads = qkv.reshape(-1, TOKENS, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        scores = heads[0] @ heads[1].transpose(2, 3) / math.sqrt(width // self.n_heads) + (mask[:, None, None] - 1) * 1e4
        return (torch.softmax(scores, 3) @ heads[2]).transpose(1, 2).reshape(-1, TOKENS, width)


def pixels(pictures: list[np.ndarray]) -> torch.Tensor:
    """Return images as the jobs' preprocessing gives them."""
    return torch.from_numpy((np.stack(pictures).astype(np.float32)[:, None] - 64) / 64)


def scenes_loss(net: nn.Module, digits: Digits, rng: np.random.Generator) -> torch.Tensor:
    """Return the loss of a batch of scenes."""
    items = [scene(digits, rng) for _ in range(BATCH)]
    cells, scores = net(pixels([picture for picture, _, _ in items]))
    is_there = torch.zeros(BATCH, 8, 8)
    loss = torch.zeros(())
    n_boxes = sum(len(found) for _, found, _ in items)
    for number, (_, found, _) in enumerate(items):
        for digit, x, y, width, height in found:
            column, row = (x + width / 2) / 8, (y + height / 2) / 8
            cell = cells[number, :, int(row), int(column)]
            is_there[number, int(row), int(column)] = 1
            wanted = torch.tensor([column % 1, row % 1, width / 32, height / 32])
            loss = loss + 4 * (torch.sigmoid(cell[1:5]) - wanted).abs().mean()
            loss = loss + fn.cross_entropy(cell[5:], torch.tensor(int(digit)))
    masks = torch.from_numpy(np.stack([mask for _, _, mask in items]).astype(np.int64))
    found_loss = 10 * fn.binary_cross_entropy_with_logits(cells[:, 0], is_there)
    return loss / n_boxes + found_loss + 3 * fn.cross_entropy(scores, masks, ignore_index=RIM)


def lines_loss(net: nn.Module, digits: Digits, rng: np.random.Generator) -> torch.Tensor:
    """Return the loss of a batch of lines."""
    items = [line(digits, rng) for _ in range(BATCH)]
    scores = fn.log_softmax(net(pixels([picture for picture, _ in items])), 2).transpose(0, 1)
    targets = torch.tensor([int(digit) + 1 for _, text in items for digit in text])
    lengths = torch.tensor([len(text) for _, text in items])
    return fn.ctc_loss(scores, targets, torch.full((BATCH,), scores.shape[0]), lengths)


def turned_loss(net: nn.Module, digits: Digits, rng: np.random.Generator) -> torch.Tensor:
    """Return the loss of a batch of turned digits."""
    items = [turned(digits, rng) for _ in range(BATCH)]
    scores, angles = net(pixels([picture for picture, _, _ in items]))
    wanted = torch.tensor([angle for _, _, angle in items])
    return fn.cross_entropy(scores, torch.tensor([digit for _, digit, _ in items])) + fn.l1_loss(angles[:, 0], wanted) / 10


def encoder_loss(net: nn.Module, digits: Digits, rng: np.random.Generator) -> torch.Tensor:
    """Return the loss of a batch of tokens: embeddings of one digit are to be alike, those of different ones not."""
    chosen = rng.integers(len(digits.labels), size=2 * BATCH)
    ids, mask = tokens(digits, chosen)
    embeddings = net(torch.from_numpy(ids), torch.from_numpy(mask))
    labels = torch.from_numpy(digits.labels[chosen])
    alike = (embeddings @ embeddings.T) * 8
    is_same = (labels[:, None] == labels[None]).float()
    itself = torch.eye(len(labels), dtype=torch.bool)
    logs = fn.log_softmax(alike.masked_fill(itself, -1e4), 1)
    is_same = is_same.masked_fill(itself, 0)
    return -((logs * is_same).sum(1) / is_same.sum(1).clamp(min=1)).mean()


Loss = Callable[[nn.Module, Digits, np.random.Generator], torch.Tensor]
TASKS: dict[str, tuple[type[nn.Module], Loss, int, tuple[int, ...], list[str]]] = {
    "scenes": (Scenes, scenes_loss, 600, (1, 1, SCENE, SCENE), ["cells", "mask"]),
    "lines": (Lines, lines_loss, 450, (1, 1, 24, 96), ["scores"]),
    "turned": (Turned, turned_loss, 600, (1, 1, TURNED, TURNED), ["digit", "angle"]),
    "encoder": (Encoder, encoder_loss, 500, (2, TOKENS), ["embedding"]),
}


def train(name: str) -> None:
    """Train one network on compositions that are made as it goes, and export it."""
    torch.manual_seed(0)
    kind, loss_of, n_steps, shape, outputs = TASKS[name]
    digits, rng, net = split()[0], np.random.default_rng(0), kind()
    rate = 4e-3 if name == "encoder" else 5e-3
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
    for step in range(n_steps):
        loss = loss_of(net, digits, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{name} {step + 1}/{n_steps}: loss {loss.item():.4f}", flush=True)
    net.eval()
    for module in net.modules():
        if isinstance(module, Conv):
            module.fold()
    path = FOLDER / f"{name}.onnx"
    is_text = name == "encoder"
    ones = torch.ones(shape, dtype=torch.int64)
    inputs = ["input_ids", "attention_mask"] if is_text else ["image"]
    torch.onnx.export(
        net,
        (ones, ones) if is_text else (torch.zeros(shape),),
        str(path),
        input_names=inputs,
        output_names=outputs,
        dynamic_axes={key: {0: "batch"} for key in [*inputs, *outputs]} if is_text else None,
        opset_version=17,
        dynamo=False,
    )
    print(f"{path.name}: {path.stat().st_size} bytes")


def main() -> None:
    """Train the networks that are named, by default all."""
    parser = argparse.ArgumentParser(description="Train the networks of the task examples.")
    parser.add_argument("names", nargs="*", default=list(TASKS), metavar="NAME", help=f"of {', '.join(TASKS)}; default: all")
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        train(name)


if __name__ == "__main__":
    main()
