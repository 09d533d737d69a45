"""Runs torchvision's augmentation beside this project's, on the same images; prints images per second and the ratio.

    python3 scripts/bench_augment_peers.py [--rounds N] [--images N]

Needs torch, torchvision, pillow, numpy and pyarrow, in the versions of tests/readers/requirements.txt. One thread each,
the paper's recipe, 8-bit image in, 8-bit image out, draws included:

    multidigit            criterion's benchmark "augment, one thread" (benches/data.rs)
    torchvision, Pillow   RandomRotation, RandomAffine on Pillow images; RandomApply(RandomErasing) on their pixels
    torchvision, tensors  the same three on tensors of shape (1, 64, 64)

The images are those of that benchmark, decoded beforehand: the train split of 10,000 samples of DoubleMNIST out of
synthetic glyphs, which the program writes anew into a temporary folder. Rounds are interleaved, so that whatever else
the machine does strikes all three alike; the figure is the median over rounds. Writes nothing that lasts but
criterion's files under target/criterion.
"""

import argparse
import io
import tempfile
import time

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image
from torchvision import transforms

import peers


def images():
    """The train split that the benchmark makes, decoded."""
    with tempfile.TemporaryDirectory() as home:
        data = peers.dataset(home, "plan.samples_per_class=100") / "data"
        table = pq.read_table(sorted(data.glob("train-*.parquet")), columns=["image"])
    encoded = table["image"].combine_chunks().field("bytes").to_pylist()
    return [Image.open(io.BytesIO(png)).copy() for png in encoded]


def ours():
    """Images per second of the benchmark, which is run once."""
    times = ["--warm-up-time", "1", "--measurement-time", "2"]
    return peers.benchmark("data", "data/augment, one thread", *times, threads=1)


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
    pillow = images()[: options.images]
    tensors = [torch.from_numpy(np.array(image))[None] for image in pillow]
    on_pillow, on_tensors = recipe(True), recipe(False)
    for transform, inputs in ((on_pillow, pillow), (on_tensors, tensors)):
        peer(transform, inputs[:200])  # warm up
    rates = {"multidigit": [], "torchvision, Pillow": [], "torchvision, tensors": []}
    for _ in range(options.rounds):
        rates["multidigit"].append(ours())
        rates["torchvision, Pillow"].append(peer(on_pillow, pillow))
        rates["torchvision, tensors"].append(peer(on_tensors, tensors))
    print(f"augmentation by the paper's recipe, one thread, median of {options.rounds} rounds")
    print(f"torchvision {torchvision.__version__}, torch {torch.__version__}, Pillow {Image.__version__}")
    print(peers.machine())
    peers.show(rates)


if __name__ == "__main__":
    main()
