"""Runs PyTorch's training and evaluation beside this project's; prints images per second, peak memory and the ratios.

    python3 scripts/bench_train_peers.py [--rounds N] [--threads N] [--seconds S] [--networks NAME ...] [--precision P] [--no-memory]

Needs torch and the other packages of tests/readers/requirements.txt. The networks are those of
python/multidigit/models.py, in float32 or, with `--precision bf16`, in bfloat16, on fixed batches that stay in memory:

    training step   64 images, dropout on: zero_grad, forward, sum of the heads' cross entropies, backward, Adam (5e-4)
    evaluation      500 images, forward only, in eval mode and torch.inference_mode
    multidigit      criterion's benchmarks of these names (benches/train.rs), --quick: for S to 2 S seconds
    torch           as PyTorch does it unasked (NCHW), with weights and images in channels_last, and in channels_last
                    with Adam(fused=True), for S seconds each; in bfloat16 under torch.autocast, channels_last also
                    compiled by torch.compile

Each is run once before it is timed. Rounds are interleaved, so that whatever else the machine does strikes all alike;
the figure is the median over rounds.

Peak memory is that of whole processes, as `/usr/bin/time -v` tells it, with the default data set (of synthetic glyphs):
`multidigit run train` for 10 steps of AlexNet at batch 64 and one validation, without augmentation, which loads the 640
images that it trains on and the 16,000 of the validation split; and Python with PyTorch, which loads the same images
as arrays of bytes, decoded beforehand, takes the same steps and validates on the same images, 500 at a time. The data
set lies in a temporary folder; nothing else is written but criterion's files under target/criterion.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import peers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from multidigit import models

BATCH, EVALUATION_BATCH, STEPS = 64, 500, 10
RATE = 5e-4
MEAN, STD = 0.1307, 0.3081
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class Peer:
    """A network of PyTorch's, trained and evaluated in one memory layout."""

    def __init__(self, kind, layout, fused=None, precision="f32", compiled=False):
        torch.manual_seed(0)
        self.layout = LAYOUTS[layout]
        self.model = kind().to(memory_format=self.layout)
        self.pass_through = torch.compile(self.model) if compiled else self.model
        self.precision = precision
        self.adam = torch.optim.Adam(self.model.parameters(), lr=RATE, fused=fused)

    def logits(self, images):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            return self.pass_through(images.contiguous(memory_format=self.layout))

    def step(self, images, targets):
        self.model.train()
        self.adam.zero_grad()
        logits = self.logits(images)
        loss = sum(F.cross_entropy(head, target) for head, target in zip(logits, targets))
        loss.backward()
        self.adam.step()

    def evaluate(self, images):
        self.model.eval()
        with torch.inference_mode():
            return self.logits(images)


def timed(work, images, seconds):
    """Images per second of work that is repeated for so long, at least once."""
    times, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or times == 0:
        work()
        times += 1
    return times * images / passed


def compare(network, options):
    """Both benchmarks of one network, on all sides."""
    kind = models.NETWORKS[network]
    torch.manual_seed(1)
    batch, targets = torch.randn(BATCH, 1, 64, 64), torch.randint(0, 10, (2, BATCH))
    large = torch.randn(EVALUATION_BATCH, 1, 64, 64)
    how = {"precision": options.precision}
    layouts = {f"torch, {layout}": Peer(kind, layout, **how) for layout in LAYOUTS}
    if options.precision == "bf16":
        layouts["torch, channels_last, compiled"] = Peer(kind, "channels_last", compiled=True, **how)
    trained = {**layouts, "torch, channels_last, fused": Peer(kind, "channels_last", fused=True, **how)}
    suffix = "" if options.precision == "f32" else f"-{options.precision}"
    work = {
        "training step": ({name: lambda peer=peer: peer.step(batch, targets) for name, peer in trained.items()}, BATCH),
        "evaluation": ({name: lambda peer=peer: peer.evaluate(large) for name, peer in layouts.items()}, len(large)),
    }
    flags = ["--quick", "--significance-level", "0.0001", "--measurement-time", str(options.seconds)]
    for what, (others, images) in work.items():
        rates = {"multidigit": [], **{name: [] for name in others}}
        for other in others.values():
            other()
        for _ in range(options.rounds):
            rates["multidigit"].append(peers.benchmark("train", f"{what}/{network}{suffix}", *flags, threads=options.threads))
            for name, other in others.items():
                rates[name].append(timed(other, images, options.seconds))
        print(f"{network}, {what}, batch {images}, {peers.load()}")
        peers.show(rates)


# ---- memory


def one_run(folder, layout):
    """A short training and a validation, as the memory of `multidigit run train` is measured on."""
    paths = {split: [folder / f"{split}-{part}.npy" for part in ("pixels", "digits")] for split in ("train", "val")}
    splits = {split: [np.load(path) for path in parts] for split, parts in paths.items()}

    def normalised(pixels):
        return (torch.from_numpy(pixels)[:, None].float() / 255 - MEAN) / STD

    peer = Peer(models.AlexNet, layout)
    pixels, digits = splits["train"]
    for at in range(0, STEPS * BATCH, BATCH):
        peer.step(normalised(pixels[at : at + BATCH]), torch.from_numpy(digits[:, at : at + BATCH]))
    pixels, digits = splits["val"]
    for at in range(0, len(pixels), EVALUATION_BATCH):
        peer.evaluate(normalised(pixels[at : at + EVALUATION_BATCH]))


def memory(threads):
    settings = ["raw.source=synthetic", "train.model=alexnet", "train.epochs=1", "train.augment=false",
                f"train.batch_size={BATCH}", f"train.samples={STEPS * BATCH}"]
    with tempfile.TemporaryDirectory() as home:
        data = peers.dataset(home) / "data"
        for split, images in (("train", STEPS * BATCH), ("val", None)):
            for part, array in zip(("pixels", "digits"), peers.decoded(data, split, images)):
                np.save(Path(home, f"{split}-{part}.npy"), array)
        run = peers.words(home, "run", "train", "--single", "--threads", str(threads), settings=settings)
        used = {"multidigit": peers.peak_memory(peers.program(), *run)}
        for layout in LAYOUTS:
            itself = [sys.executable, __file__, "--threads", str(threads), "--one-run", home, "--layout", layout]
            used[f"torch, {layout}"] = peers.peak_memory(*itself)
    print(f"alexnet, peak memory of {STEPS} steps of {BATCH} and a validation, {peers.load()}")
    for name, size in used.items():
        ratio = "" if name == "multidigit" else f"   multidigit takes {used['multidigit'] / size:.2f} of it"
        print(f"  {name:<20} {size / 1e6:>7,.0f} MB{ratio}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, of which the median is taken")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads on either side")
    parser.add_argument("--seconds", type=float, default=3, metavar="S", help="time for each measurement")
    names = {"nargs": "*", "default": list(models.NETWORKS), "choices": models.NETWORKS, "metavar": "NAME"}
    parser.add_argument("--networks", **names, help="names of networks; without a name: the peak memory alone")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="precision of products")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--one-run", type=Path, help=argparse.SUPPRESS)  # the process whose memory is measured
    parser.add_argument("--layout", choices=LAYOUTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one_run:
        one_run(options.one_run, options.layout)
        return
    print(f"torch {torch.__version__}, {options.threads} threads, {options.precision}, median of {options.rounds} rounds")
    print(peers.machine(), flush=True)
    for network in options.networks:
        compare(network, options)
    if not options.no_memory and options.precision == "f32":
        memory(options.threads)


if __name__ == "__main__":
    main()
