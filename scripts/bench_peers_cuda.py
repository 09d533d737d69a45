#!/usr/bin/env python3
"""PyTorch's training beside ours on the same GPU, in one run: `make bench-peers DEVICE=cuda ARGS="--out FILE"`.

    scripts/bench_peers_cuda.py --program target/cuda/release/multidigit --work FOLDER [--precisions bf16] [--out FILE]

FOLDER is one in which `multidigit run dataset` has been run. Prints a Markdown table: images per second of training
with its data path. On every side the images lie on the GPU as bytes; a batch is gathered, augmented and normalised
there.

All sides take whole epochs of the same images, the last and smaller batch too. The first epoch warms up (engines are
searched, kernels compiled) and is left out; the figure is the median of --epochs more, beside the lowest and highest.
An epoch begins with drawing its order and ends when its loss is known on the host; validation is not in it. Ours is a
process of its own for each configuration; PyTorch's sides take turns, an epoch each.

PyTorch has channels_last, fused Adam and cuDNN's benchmark; bf16 is autocast. Its augmentation is one grid_sample for
rotation and affine map together (ours resamples twice, as the paper does) and a mask.
    eager            as it stands
    compiled         the making of batches, and the network with its loss and gradients, by torch.compile; the whole
                     step, with a capturable fused Adam, recorded once as one CUDA graph. That is the whole-network
                     capture of PyTorch's notes on CUDA semantics, which leaves Python nothing to launch but a copy of
                     the batch's rows and the graph. A smaller last batch runs compiled, unrecorded; ours does not
                     record that one either. Not the mode max-autotune, which searches for minutes per shape.
    reduce-overhead  the mode of that name, which compiles alike, but records forward and backward apart and leaves the
                     optimiser out; only where --kinds names it

FLOP are those of the convolutions and products of a training step, as PyTorch counts them; the share is of the GPU's dense rate in that precision, for f32 the one without tensor cores.

--out is written after each configuration, and those that stand there are left out: a run that was cut off goes on with
the same command. Another GPU, driver, PyTorch, program or number of epochs is refused. A side that fails is left empty,
with a word, and its configuration is measured again the next time. --device cpu tries the script without a GPU, where
no graph is recorded.
"""

import argparse
import csv
import gc
import hashlib
import json
import math
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import peers
from bench_json import ROOT

sys.path.insert(0, str(ROOT / "python"))
from multidigit import models

KINDS = ("eager", "compiled", "reduce-overhead")
# Dense FLOP/s by NVIDIA's paper on the Hopper architecture, for the SXM parts; f32 is that of the ordinary units.
PEAK = {"f32": 66.9e12, "tf32": 494.7e12, "bf16": 989.4e12}
PEAK_OF = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
UNRECORDED_STEPS = 3  # before a graph is recorded, as in PyTorch's notes


def flop_per_image(net):
    """Of a training step, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        # two images, as batch norm compares them
        sum(head.sum() for head in net(torch.zeros(2, 1, 64, 64))).backward()
    return counter.get_total_flops() // 2


# ---- PyTorch's sides


def uniform(pixels, low, high):
    """A draw for each image."""
    return torch.empty(len(pixels), device=pixels.device).uniform_(low, high)


def augment(pixels, size=64):
    """The recipe of pipeline.yaml on floats 0..255 (n, 1, size, size): rotation, then affine map, then erasing."""
    n = len(pixels)
    angle = torch.deg2rad(uniform(pixels, -15, 15))
    shear = torch.tan(torch.deg2rad(uniform(pixels, -10, 10)))
    scale = uniform(pixels, 0.9, 1.1)
    shift = [(uniform(pixels, -0.1, 0.1) * size).round() * 2 / size for _ in "xy"]
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rotation = torch.stack([cos, sin, -sin, cos], 1).view(n, 2, 2)
    affine = torch.stack([one, shear, zero, one], 1).view(n, 2, 2) / scale.view(n, 1, 1)
    both = torch.bmm(rotation, affine)
    moved = -torch.bmm(both, torch.stack(shift, 1).unsqueeze(2))
    grid = F.affine_grid(torch.cat([both, moved], 2), list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, mode="nearest", align_corners=False)
    area = uniform(pixels, 0.02, 0.1) * size * size
    ratio = torch.exp(uniform(pixels, math.log(0.3), math.log(3.3)))
    sides = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    starts = [(uniform(pixels, 0, 1) * (size - side + 1)).floor() for side in sides]
    chosen = uniform(pixels, 0, 1) < 0.5 * 0.5
    at = torch.arange(size, device=pixels.device)
    rows, columns = ((at >= start.view(n, 1)) & (at < (start + side).view(n, 1)) for start, side in zip(starts, sides))
    mask = rows.view(n, 1, size, 1) & columns.view(n, 1, 1, size) & chosen.view(n, 1, 1, 1)
    return pixels.masked_fill(mask, 33.0)


class Peer:
    """PyTorch's training of one network at one batch size, all on a stream of its own."""

    def __init__(self, network, batch, precision, kind, data):
        self.pixels, self.digits = data
        self.batch, self.precision, self.kind = batch, precision, kind
        device = self.pixels.device
        graph = kind == "compiled" and device.type == "cuda"
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "f32"
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        with torch.cuda.stream(self.stream):
            self.net = models.NETWORKS[network]().to(device, memory_format=torch.channels_last)
            self.optimiser = torch.optim.Adam(self.net.parameters(), lr=5e-4, fused=True, capturable=graph)
            self.loss, self.correct = torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.long)
            if kind != "eager":
                mode = "default" if kind == "compiled" else kind
                self.make_batch = torch.compile(self.make_batch, dynamic=False, mode=mode)
                self.forward = torch.compile(self.forward, dynamic=False, mode=mode)
            self.whole = self.recorded() if graph else self.step

    def make_batch(self, rows):
        x = augment(self.pixels[rows].unsqueeze(1).float())
        x = (x / 255 - 0.1307) / 0.3081
        return x.contiguous(memory_format=torch.channels_last), self.digits[rows]

    def forward(self, x, digits):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False):
            heads = self.net(x)
        loss = sum(F.cross_entropy(head.float(), digits[:, i]) for i, head in enumerate(heads))
        right = torch.stack([head.argmax(1) == digits[:, i] for i, head in enumerate(heads)]).all(0).sum()
        return loss, right

    def step(self, rows):
        self.optimiser.zero_grad(set_to_none=True)
        if self.kind == "reduce-overhead":
            # its graphs keep their results in memory that the next step, or the next graph, may write over
            torch.compiler.cudagraph_mark_step_begin()
            x, digits = (made.clone() for made in self.make_batch(rows))
        else:
            x, digits = self.make_batch(rows)
        loss, right = self.forward(x, digits)
        loss.backward()
        self.optimiser.step()
        self.loss += loss.detach() * len(rows)
        self.correct += right

    def recorded(self):
        """A step of a whole batch as one CUDA graph."""
        rows = torch.arange(self.batch, device=self.pixels.device) % len(self.pixels)
        for _ in range(UNRECORDED_STEPS):
            self.step(rows)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.step(rows)

        def replay(chosen):
            rows.copy_(chosen)
            graph.replay()

        return replay

    def epoch(self):
        """Images per second of a whole epoch."""
        images, begun = len(self.pixels), time.perf_counter()
        with torch.cuda.stream(self.stream):
            self.loss.zero_()
            self.correct.zero_()
            for rows in torch.randperm(images, device=self.pixels.device).split(self.batch):
                (self.whole if len(rows) == self.batch else self.step)(rows)
            if not math.isfinite(self.loss.item()):
                raise ArithmeticError("the loss is not finite")
        return images / (time.perf_counter() - begun)


def theirs(network, batch, precision, kinds, epochs, data):
    """Images per second of each measured epoch by kind, and what failed; the kinds take turns."""
    sides, rates, failed = {}, {kind: [] for kind in kinds}, {}
    for number in range(epochs + 1):
        for kind in [kind for kind in kinds if kind not in failed]:
            try:
                if number == 0:
                    sides[kind] = Peer(network, batch, precision, kind, data)
                rate = sides[kind].epoch()
            except Exception as error:  # noqa: BLE001: the other sides are worth having without it
                failed[kind] = f"{type(error).__name__}: {str(error)[:500]}"
                sides.pop(kind, None)
                continue
            if number > 0:
                rates[kind].append(rate)
    return {kind: found for kind, found in rates.items() if kind not in failed}, failed


# ---- ours


def ours(options, network, batch, precision):
    """Images per second of each measured epoch, by a run of the program that is removed afterwards."""
    run = f"bench-{network}-{batch}-{precision}"
    sets = {"device": options.device, "model": network, "batch_size": batch, "precision": precision, "run": run,
            "epochs": options.epochs + 1, "checkpoint_every_steps": "null", "samples": options.images or "null"}
    command = [options.program, "run", "train", "--force", "--quiet"]
    for key, value in sets.items():
        command += ["--set", f"train.{key}={value}"]
    done = subprocess.run(command, cwd=options.work, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)}: {done.stderr[-2000:]}")
    folder = options.work / "artifacts" / "train" / run
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    shutil.rmtree(folder)
    return rates[1:]


# ---- the table


def told(*command):
    """What a command prints, or a word where there is no such thing."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def conditions(options, images):
    """What must agree for two figures to stand in one table."""
    cuda = options.device == "cuda"
    drivers = told("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "none"
    return {
        "gpu": torch.cuda.get_device_name(0) if cuda else "no GPU, a trial on the CPU",
        "driver": drivers.partition("\n")[0],
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else "none",
        "commit": options.commit or told("git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"),
        "program": hashlib.sha256(Path(options.program).read_bytes()).hexdigest()[:12],
        "images": images,
        "epochs": options.epochs,
    }


def cells(*texts):
    return f"| {' | '.join(texts)} |"


def line(row, kinds, gpu):
    """A row of the table."""
    def cell(rates):
        return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})" if rates else ""

    rates = row["rates"]
    median = statistics.median(rates["ours"])
    beside = []
    for kind in kinds:
        found = rates.get(kind)
        beside += [cell(found), f"{median / statistics.median(found):.2f}" if found else ""]
    flops = median * row["flop"]
    share = f"{100 * flops / PEAK[row['precision']]:.1f}%" if gpu in PEAK_OF else ""
    key = row["precision"], row["network"], str(row["batch"])
    return cells(*key, cell(rates["ours"]), *beside, f"{flops / 1e12:.1f}", share)


def stored(path, here):
    """The rows of an earlier run under the same conditions."""
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    there = found["conditions"]
    differ = [f"{key} {there.get(key)}, here {value}" for key, value in here.items() if there.get(key) != value]
    if differ:
        raise SystemExit(f"{path}: measured with {'; '.join(differ)}; name another --out")
    return found["rows"]


def store(path, here, rows):
    # Whole or not at all: the run may be cut off at any time.
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"conditions": here, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def chosen(names, convert=str):
    """A type of argument: words between commas, each one of the names."""
    def split(text):
        words = [convert(word) for word in text.split(",")]
        if names and (wrong := [word for word in words if word not in names]):
            raise argparse.ArgumentTypeError(f"found {wrong[0]!r}; expected some of {','.join(names)}")
        return words

    return split


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True, type=lambda path: str(Path(path).resolve()), metavar="FILE")
    parser.add_argument("--work", required=True, type=Path, metavar="FOLDER", help="has artifacts/dataset")
    parser.add_argument("--models", type=chosen(models.NETWORKS), default=list(models.NETWORKS), metavar="NAMES")
    parser.add_argument("--batches", type=chosen(None, int), default=[64, 256, 1024], metavar="SIZES")
    parser.add_argument("--precisions", type=chosen(PEAK), default=["tf32", "bf16"], metavar="NAMES")
    parser.add_argument("--kinds", type=chosen(KINDS), default=["eager", "compiled"], metavar="NAMES")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="measured epochs of each side")
    parser.add_argument("--images", type=int, metavar="N", help="the first so many of the split, not all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--commit", metavar="NAME", help="of the program, where git is not at hand to tell")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, which is gone on with")
    options = parser.parse_args()
    pixels, digits = peers.decoded(options.work / "artifacts" / "dataset" / "data", "train", options.images)
    here = conditions(options, len(pixels))
    rows = stored(options.out, here)
    data = torch.from_numpy(pixels).to(options.device), torch.from_numpy(digits.T.copy()).to(options.device)
    print(f"{here['gpu']}, driver {here['driver']}, PyTorch {here['torch']}, cuDNN {here['cudnn']}, ", end="")
    print(f"commit {here['commit']}; images per second,")
    print(f"median (lowest to highest) of {options.epochs} whole epochs of {len(pixels):,} images after a first one:")
    print(f"`{shlex.join(['scripts/bench_peers_cuda.py', *sys.argv[1:]])}`\n")
    beside = [title for kind in options.kinds for title in (f"PyTorch, {kind}", "ratio")]
    columns = ["precision", "network", "batch", "multidigit", *beside, "TFLOP/s", "share"]
    print(cells(*columns) + "\n|" + "---|" * len(columns), flush=True)
    for precision in options.precisions:
        for network in options.models:
            for batch in options.batches:
                key = {"precision": precision, "network": network, "batch": batch}
                same = [row for row in rows if key.items() <= row.items()]
                row = next((row for row in same if row["rates"].keys() >= set(options.kinds)), None)
                if row is None:
                    rates = {"ours": ours(options, network, batch, precision)}
                    found, failed = theirs(network, batch, precision, options.kinds, options.epochs, data)
                    torch._dynamo.reset()
                    gc.collect()  # a compiled peer refers to itself
                    torch.cuda.empty_cache()
                    for kind, word in failed.items():
                        print(f"{precision} {network} {batch}, {kind}: {word}", file=sys.stderr, flush=True)
                    row = {**key, "flop": flop_per_image(models.NETWORKS[network]()), "rates": rates | found}
                    rows = [*(row for row in rows if row not in same), row]
                    if options.out:
                        store(options.out, here, rows)
                print(line(row, options.kinds, here["gpu"]), flush=True)


if __name__ == "__main__":
    main()
