#!/usr/bin/env python3
"""PyTorch's training beside ours on the same GPU, in one run: `make bench-peers DEVICE=cuda`.

Training with its data path: the images lie on the GPU as bytes; a batch is gathered, augmented and normalised
there, on either side. PyTorch is measured twice: eager, and compiled with CUDA graphs (torch.compile, mode
reduce-overhead); both with channels_last, fused Adam, cuDNN's benchmark and the same precision. PyTorch's augmentation is
done by grid_sample, once for rotation and affine map together, and a mask; its draws are made on the GPU too.

A figure is images per second. Ours is that of the training part of the best whole epoch after the first; PyTorch's that of
the better of two parts of an epoch, --seconds long each, after 32 batches of warming up. The two sides take turns. FLOP are those of the convolutions and products of a training step, three times the forward pass's less
the first layer's input gradient; their share is of the matrix rate of the precision by the vendor's datasheet.

    scripts/bench_peers_cuda.py --program target/cuda/release/multidigit --work FOLDER [--models alexnet,fcn] [--out FILE]

FOLDER is one in which `multidigit run dataset` has been run.
"""
import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
# dense TFLOP/s by NVIDIA's datasheets for the SXM parts, which are alike for H100 and H200
PEAK = {"f32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12}


def models():
    spec = importlib.util.spec_from_file_location("models", ROOT / "tests/reference/models.py")
    module = importlib.util.module_from_spec(spec)
    # torch.compile looks the module up by its name
    sys.modules["models"] = module
    spec.loader.exec_module(module)
    return {"alexnet": module.AlexNet, "resnet": module.ResNet, "fcn": module.Fcn}


def flop_per_image(net):
    """Of a training step: forward, and twice that for the gradients, but once in the first layer."""
    total, first = 0, True

    def count(module, inputs, output):
        nonlocal total, first
        if isinstance(module, nn.Conv2d):
            macs = output[0].numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        else:
            macs = module.in_features * module.out_features
        total += 2 * macs * (2 if first else 3)
        first = False

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    net.eval()
    with torch.no_grad():
        net(torch.zeros(1, 1, 64, 64, device=next(net.parameters()).device))
    for hook in hooks:
        hook.remove()
    net.train()
    return total


def read_split(folder, name):
    """Pixels (n, 64, 64) and digits (n, 2) as they stand in the shards."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    images, digits = [], []
    for path in sorted((folder / "artifacts/dataset/data").glob(f"{name}-*.parquet")):
        table = pq.read_table(path, columns=["image", "digits"])
        for image, pair in zip(table["image"].to_pylist(), table["digits"].to_pylist()):
            images.append(np.asarray(Image.open(io.BytesIO(image["bytes"]))))
            digits.append(pair)
    return torch.from_numpy(np.stack(images)), torch.tensor(digits)


def uniform(n, low, high):
    return torch.empty(n, device="cuda").uniform_(low, high)


def augment(pixels, size=64):
    """The recipe on floats 0..255 (n, 1, size, size): rotation, affine map, erasing."""
    n = pixels.shape[0]
    angle = torch.deg2rad(uniform(n, -15, 15))
    shear = torch.tan(torch.deg2rad(uniform(n, -10, 10)))
    scale = uniform(n, 0.9, 1.1)
    shift = (uniform(n, -0.1, 0.1) * size).round() * 2 / size, (uniform(n, -0.1, 0.1) * size).round() * 2 / size
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rotation = torch.stack([cos, sin, -sin, cos], 1).view(n, 2, 2)
    affine = torch.stack([one, shear, zero, one], 1).view(n, 2, 2) / scale.view(n, 1, 1)
    both = torch.bmm(rotation, affine)
    moved = -torch.bmm(both, torch.stack(shift, 1).unsqueeze(2))
    grid = F.affine_grid(torch.cat([both, moved], 2), list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, mode="nearest", align_corners=False)
    area = uniform(n, 0.02, 0.1) * size * size
    ratio = torch.exp(uniform(n, -1.2039728, 1.1939225))
    height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    top, left = (uniform(n, 0, 1) * (size - height)).floor(), (uniform(n, 0, 1) * (size - width)).floor()
    chosen = uniform(n, 0, 1) < 0.25
    at = torch.arange(size, device="cuda")
    line, column = at.view(1, size, 1), at.view(1, 1, size)
    def within(p, start, length):
        return (p >= start.view(n, 1, 1)) & (p < (start + length).view(n, 1, 1))
    mask = within(line, top, height) & within(column, left, width) & chosen.view(n, 1, 1)
    return torch.where(mask.unsqueeze(1), 33.0, pixels)


class Peer:
    """PyTorch's training of one network at one batch size."""

    def __init__(self, make, batch, precision, compiled, data):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision != "f32"
        torch.backends.cuda.matmul.allow_tf32 = precision != "f32"
        self.net = make().cuda().to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=5e-4, fused=True)
        self.pixels, self.digits = data
        self.batch, self.half = batch, precision == "bf16"
        self.step = torch.compile(self.forward, mode="reduce-overhead") if compiled else self.forward
        self.prepare = torch.compile(self.make_batch, mode="reduce-overhead") if compiled else self.make_batch

    def make_batch(self, rows):
        x = augment(self.pixels[rows].unsqueeze(1).float())
        x = (x / 255 - 0.1307) / 0.3081
        return x.contiguous(memory_format=torch.channels_last), self.digits[rows]

    def forward(self, x, digits):
        with torch.autocast("cuda", torch.bfloat16, enabled=self.half):
            heads = self.net(x)
        loss = sum(F.cross_entropy(head.float(), digits[:, i]) for i, head in enumerate(heads))
        right = torch.stack([head.argmax(1) == digits[:, i] for i, head in enumerate(heads)]).all(0).sum()
        return loss, right

    def epoch(self, images, limit=None):
        order = torch.randperm(images, device="cuda")
        torch.cuda.synchronize()
        begun, done = time.perf_counter(), 0
        total, correct = torch.zeros((), device="cuda"), torch.zeros((), device="cuda", dtype=torch.long)
        for start in range(0, images - self.batch + 1, self.batch):
            torch.compiler.cudagraph_mark_step_begin()
            x, digits = self.prepare(order[start:start + self.batch])
            x, digits = x.clone(), digits.clone()
            loss, right = self.step(x, digits)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            total += loss.detach() * self.batch
            correct += right
            done += self.batch
            if limit and done >= limit:
                break
        total.item()
        return done / (time.perf_counter() - begun)


def ours(program, work, model, batch, precision, epochs):
    run = f"bench-{model}-{batch}-{precision}"
    sets = {"train.device": "cuda", "train.model": model, "train.batch_size": batch, "train.precision": precision,
            "train.epochs": epochs, "train.run": run}
    command = [program, "run", "train", "--force"]
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    with open(work / "artifacts/train" / run / "metrics.csv") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return max(speeds[1:] or speeds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--models", default="alexnet,fcn,resnet")
    parser.add_argument("--batches", default="64,256,1024")
    parser.add_argument("--precisions", default="tf32,bf16")
    parser.add_argument("--epochs", type=int, default=4, help="of ours, the first left out")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of PyTorch's measured parts of an epoch")
    parser.add_argument("--kinds", default="eager,compiled")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    gpu = torch.cuda.get_device_properties(0)
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                            text=True).stdout.strip()
    print(f"{gpu.name}, driver {driver}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}", flush=True)
    pixels, digits = read_split(args.work, "train")
    data = pixels.cuda(), digits.cuda()
    images, rows = len(pixels), []
    for precision in args.precisions.split(","):
        for name in args.models.split(","):
            flop = flop_per_image(models()[name]().cuda())
            for batch in map(int, args.batches.split(",")):
                row = {"model": name, "batch": batch, "precision": precision}
                row["ours"] = ours(args.program, args.work, name, batch, precision, args.epochs)
                for kind in args.kinds.split(","):
                    torch._dynamo.reset()
                    try:
                        peer = Peer(models()[name], batch, precision, kind == "compiled", data)
                        peer.epoch(images, limit=12 * batch)
                        warm = peer.epoch(images, limit=20 * batch)
                        part = min(images, max(20 * batch, int(warm * args.seconds)))
                        row[kind] = max(peer.epoch(images, limit=part) for _ in range(2))
                    except Exception as error:  # noqa: BLE001: a peer that fails is left out of the table, with a word
                        print(f"{name} {batch} {precision} {kind}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                        row[kind] = float("nan")
                    peer = None
                    torch.cuda.empty_cache()
                row["flops"] = row["ours"] * flop
                row["share"] = row["flops"] / PEAK[precision]
                rows.append(row)
                ratios = "  ".join(f"{kind} {row[kind]:9.0f} ({row['ours'] / row[kind]:5.2f}x)" for kind in args.kinds.split(","))
                print(f"{precision:5} {name:8} batch {batch:5}: ours {row['ours']:9.0f} images/s  {ratios}  "
                      f"{row['flops'] / 1e12:6.1f} TFLOP/s, {100 * row['share']:4.1f}% of the matrix rate", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"gpu": gpu.name, "driver": driver, "torch": torch.__version__,
                                        "cudnn": torch.backends.cudnn.version(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
