"""Runs torchvision's augmentation beside this project's, on the same images; prints images per second and the ratio.

    python3 scripts/bench_peers.py [--rounds N] [--images N]

Needs torch, torchvision, pillow, numpy and pyarrow, in the versions of tests/readers/requirements.txt. One thread each,
the paper's recipe, 8-bit image in, 8-bit image out, draws included:

    multidigit            criterion's benchmark "augment, one thread" (benches/data.rs)
    torchvision, Pillow   RandomRotation, RandomAffine on Pillow images; RandomApply(RandomErasing) on their pixels
    torchvision, tensors  the same three on tensors of shape (1, 64, 64)

The images are those of that benchmark, decoded beforehand: the train split of 10,000 samples of DoubleMNIST out of
synthetic glyphs, which the program writes anew into a temporary folder. Rounds are interleaved, so that whatever else the
machine does strikes all three alike; the figure is the median over rounds. Writes nothing that lasts but criterion's
files under target/criterion.
"""

import argparse
import io
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image
from torchvision import transforms

import bench_json

NAME = "augment, one thread"
CARGO = os.environ.get("CARGO", "cargo")


def images():
    """The train split that the benchmark makes, decoded."""
    settings = ["raw.source=synthetic", "plan.samples_per_class=100"]
    with tempfile.TemporaryDirectory() as home:
        command = [CARGO, "run", "--release", "--locked", "--quiet", "--", "run", "dataset", "--quiet",
                   "--config", os.devnull, "--raw", f"{home}/raw", "--artifacts", f"{home}/artifacts"]
        for setting in settings:
            command += ["--set", setting]
        subprocess.run(command, cwd=bench_json.ROOT, stdout=subprocess.DEVNULL, check=True)
        table = pq.read_table(sorted(Path(home, "artifacts/dataset/data").glob("train-*.parquet")), columns=["image"])
    encoded = table["image"].combine_chunks().field("bytes").to_pylist()
    return [Image.open(io.BytesIO(png)).copy() for png in encoded]


def ours(expected):
    """Images per second of the benchmark, which is run once."""
    began = int(time.time())
    command = [CARGO, "bench", "--locked", "--quiet", "--bench", "data", "--"]
    command += ["--warm-up-time", "1", "--measurement-time", "2", NAME]
    subprocess.run(command, cwd=bench_json.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    measured = bench_json.measured(bench_json.criterion_folder(), began)
    seconds = [entry["value"] for entry in measured if NAME in entry["name"]]
    if len(seconds) != 1:
        raise SystemExit(f"{len(seconds)} benchmarks are called {NAME!r}; expected one, in benches/data.rs")
    return expected / seconds[0]


def recipe(to_tensor):
    """The paper's transforms; 33 is what 0 after normalisation is before it."""
    erasing = transforms.RandomErasing(p=0.5, scale=(0.02, 0.1), ratio=(0.3, 3.3), value=33)
    return transforms.Compose([
        transforms.RandomRotation(15),
        transforms.RandomAffine(0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10),
        *([transforms.PILToTensor()] if to_tensor else []),
        transforms.RandomApply([erasing], p=0.5),
    ])


def peer(transform, inputs):
    """Images per second of a transform."""
    began = time.perf_counter()
    for image in inputs:
        out = transform(image)
    seconds = time.perf_counter() - began
    assert out.dtype == torch.uint8 and tuple(out.shape) == (1, 64, 64)
    return len(inputs) / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, of which the median is taken")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="images per round for torchvision")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    everything = images()
    pillow = everything[: options.images]
    tensors = [torch.from_numpy(np.array(image))[None] for image in pillow]
    on_pillow, on_tensors = recipe(True), recipe(False)
    for transform, inputs in ((on_pillow, pillow), (on_tensors, tensors)):
        peer(transform, inputs[:200])  # warm up
    rates = {"multidigit": [], "torchvision, Pillow": [], "torchvision, tensors": []}
    for _ in range(options.rounds):
        rates["multidigit"].append(ours(len(everything)))
        rates["torchvision, Pillow"].append(peer(on_pillow, pillow))
        rates["torchvision, tensors"].append(peer(on_tensors, tensors))
    medians = {name: statistics.median(rounds) for name, rounds in rates.items()}
    print(f"augmentation by the paper's recipe, one thread, median of {options.rounds} rounds")
    print(f"torchvision {torchvision.__version__}, torch {torch.__version__}, Pillow {Image.__version__}")
    for name, rate in medians.items():
        ratio = "" if name == "multidigit" else f"   multidigit is {medians['multidigit'] / rate:.1f} times as fast"
        low, high = min(rates[name]), max(rates[name])
        print(f"{name:<21} {rate:>9,.0f} images/s  ({low:,.0f} to {high:,.0f}){ratio}")


if __name__ == "__main__":
    main()
