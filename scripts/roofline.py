"""Prints, for each layer of the networks, the limit of this machine in bfloat16 and the share of it that training reaches.

    python3 scripts/roofline.py [--networks NAME ...] [--threads N] [--steps N]

Needs torch and the other packages of tests/readers/requirements.txt, and a processor with AMX or AVX512-BF16. A layer takes at
least the longer of two times for the 64 images of a step:

    products   the operations of its convolution or linear layer, in the forward pass and both gradients (the first layer has
               one), at the rate of `cargo bench -p multidigit-nn --bench kernels -- "product by"` times the threads
    memory     the activations that it reads and writes, in bfloat16, at the rate of torch.add on tensors that exceed the caches;
               batch norm reads its input, and in the backward pass also the gradient, twice, since their sums come first

Activations are counted as if no cache held them, weights are not counted. The time that a layer takes is that of `multidigit bench
train --profile`. The share is the limit divided by that time; it may exceed 1 where caches hold what is counted as read.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

import bench_json
import peers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from multidigit import models

BATCH = 64
# bytes of an activation
WIDTH = 2
# The layers after which the networks pool. A layer that pools writes a quarter, and the index of each maximum, a byte.
POOLED = {"alexnet": {"conv1", "conv2", "conv5"}, "fcn": {"bn1", "bn2", "bn5"}, "resnet": set()}


def work(name):
    """The operations and the bytes of memory of each layer for one image."""
    layers = {}
    pooled = POOLED[name]

    def note(layer, inputs, output):
        (given,) = inputs
        first = not layers
        read, written = given.numel(), output.numel()
        operations = 0
        if isinstance(layer, torch.nn.Conv2d):
            products = output.numel() * layer.weight[0].numel()
            operations = 2 * products * (2 if first else 3)
        elif isinstance(layer, torch.nn.Linear):
            operations = 2 * layer.weight.numel() * 3
        own = names[layer]
        choices = 0
        if own in pooled:
            written, choices = written // 4, written // 4
        passes = 2 if isinstance(layer, torch.nn.BatchNorm2d) else 1
        forward = passes * read + written
        # the gradient of the output and the input are read, and the gradient of the input is written
        backward = passes * (written + read) + (0 if first else read)
        layers[own] = (operations, WIDTH * (forward + backward) + 2 * choices)

    network = models.NETWORKS[name]().eval()
    names = {layer: own for own, layer in network.named_modules()}
    kinds = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.BatchNorm2d)
    for layer in network.modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, 1, 64, 64))
    return layers


def times(program, name, steps):
    """The seconds of each layer in one step, forward and backward, and their sum over all layers."""
    command = [program, "bench", "train", "--profile", "--steps", str(steps), "--threads", str(torch.get_num_threads())]
    for setting in (f"train.model={name}", "train.precision=bf16", "train.augment=false"):
        command += ["--set", setting]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = re.findall(r"^(\S+) +([\d.]+) +([\d.]+) +[\d.]+$", told, re.MULTILINE)
    found = {}
    for layer, *parts in lines:
        # a name that occurs twice is that of two operators
        found[layer] = found.get(layer, 0.0) + sum(map(float, parts)) / 1000
    if "all" not in found:
        sys.exit(f"no table of layers in what {' '.join(command)} prints")
    return found, found.pop("all")


def bandwidth():
    """Bytes per second of a sum of two large tensors: two are read and one is written."""
    a, b = (torch.ones(1 << 26) for _ in range(2))
    into = torch.empty_like(a)
    rates = []
    for _ in range(10):
        began = time.perf_counter()
        torch.add(a, b, out=into)
        rates.append(3 * a.nbytes / (time.perf_counter() - began))
    return max(rates)


def products():
    """Operations per second of the fastest unit for bfloat16, on one thread, and its name."""
    began = int(time.time())
    command = [peers.CARGO, "bench", "--locked", "--quiet", "-p", "multidigit-nn", "--bench", "kernels", "--", "product by"]
    subprocess.run(command, cwd=bench_json.ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rates = {
        entry["name"].split(" by ")[1].split(",")[0]: entry["value"]
        for entry in bench_json.measured(bench_json.criterion_folder(), began)
        if "product by" in entry["name"]
    }
    if not rates:
        sys.exit("this processor has neither AMX nor AVX512-BF16")
    unit = max(rates, key=rates.get)
    return rates[unit], unit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(POOLED), choices=list(POOLED), metavar="NAME")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--steps", type=int, default=10, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    program = peers.program()
    rate, unit = products()
    rate *= options.threads
    memory = bandwidth()
    print(f"{peers.machine()}, {options.threads} threads")
    print(f"products by {unit}: {rate / 1e9:.0f} GFLOP/s; memory: {memory / 1e9:.1f} GB/s")
    for name in options.networks:
        found, whole = times(program, name, options.steps)
        print(f"\n| {name} | MFLOP an image | KB an image | limit | limit, ms | time, ms | share |\n|---|---|---|---|---|---|---|")
        total = [0.0] * 3
        for layer, (operations, size) in work(name).items():
            by_products, by_memory = BATCH * operations / rate, BATCH * size / memory
            limit = max(by_products, by_memory)
            kind = "products" if by_products > by_memory else "memory"
            taken = found.pop(layer)
            total = [total[0] + operations, total[1] + size, total[2] + limit]
            shown = f"{operations / 1e6:,.2f} | {size / 1e3:,.1f} | {kind}"
            print(f"| {layer} | {shown} | {1000 * limit:.2f} | {1000 * taken:.2f} | {limit / taken:.2f} |")
        others = sum(found.values())
        print(f"| the others: {', '.join(found)} | | | | | {1000 * others:.2f} | |")
        shown = f"{total[0] / 1e6:,.2f} | {total[1] / 1e3:,.1f} | "
        print(f"| all | {shown} | {1000 * total[2]:.2f} | {1000 * whole:.2f} | {total[2] / whole:.2f} |")


if __name__ == "__main__":
    main()
