"""Prints, for each layer of the networks, the limit of this machine in bfloat16 and the share of it that training reaches.

    python3 scripts/roofline.py [--networks NAME ...] [--threads N] [--steps N]

Needs torch and the other packages of tests/readers/requirements.txt, and a processor with AMX or AVX512-BF16. A layer takes at
least the longer of two times for the 64 images of a step:

    products   the operations of its convolution or linear layer, in the forward pass and both gradients (the first layer has
               one), at the rate of `cargo bench -p multidigit-nn --bench kernels -- "product by"` times the threads, which is too
               high where two threads share a core. With AVX512-BF16, a convolution that is computed by Winograd's method
               (crates/nn/src/cpu/bf16/winograd.rs) takes fewer products, at half of that rate: its instructions for float32 do
               half as many. The operations shown are those of the definition
    memory     the activations and gradients that it reads and writes, at the rate of torch.add on tensors that exceed the caches;
               bfloat16, and float32 in linear layers; batch norm reads all but the result twice, since its sums come first; after
               ReLU, the backward pass reads the output too

These are counted as if no cache held them; weights are not counted. Layers with the same operations and bytes share a row, which
holds their sums. The row "others" holds operators without products or norm, such as the sums of a residual network, and the
optimiser. The time of a layer is that of `multidigit bench train --profile`. The share is the limit divided by it.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import bench_json
import peers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from multidigit import models

BATCH = 64
# The layers that end in ReLU and a 2x2 max pool, and those that end in ReLU. A layer that pools also writes the index of each
# maximum, a byte.
POOLED = {"alexnet": r"conv[125]", "fcn": r"bn[125]", "resnet": r"$"}
RELU = {"alexnet": r"conv[34]", "fcn": r"bn[346]", "resnet": r"(.*\.)?bn1"}


def work(name):
    """The operations and the bytes of memory of each layer for one image, and what `winograd_share` gives."""
    layers = {}

    def note(layer, inputs, output):
        own = names[layer]
        is_first = not layers
        pools = re.fullmatch(POOLED[name], own)
        relu = pools or re.fullmatch(RELU[name], own)
        read, written = inputs[0].numel(), output.numel()
        operations = 0
        if not isinstance(layer, torch.nn.BatchNorm2d):
            products = written * layer.weight[0].numel()
            operations = 2 * products * (2 if is_first else 3)
        if pools:
            written = output.shape[1] * (output.shape[2] // 2) * (output.shape[3] // 2)
        passes = 2 if isinstance(layer, torch.nn.BatchNorm2d) else 1
        # forward; then the input, the gradient of the output and, for ReLU, the output; the gradient of the input
        values = passes * read + written
        values += passes * (read + written + (written if relu else 0)) + (0 if is_first else read)
        width = 4 if isinstance(layer, torch.nn.Linear) else 2
        layers[own] = (operations, width * values + ((1 + passes) * written if pools else 0), winograd_share(layer, output))

    network = models.NETWORKS[name]().eval()
    names = {layer: own for own, layer in network.named_modules()}
    kinds = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.BatchNorm2d)
    for layer in network.modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, 1, 64, 64))
    return layers


def winograd_share(layer, output):
    """The share of the products that a processor without AMX computes of a convolution by Winograd's method, or None if it uses
    another one: `suits` in crates/nn/src/cpu/bf16/winograd.rs. Squares have 4x4 outputs, of 6x6 inputs with a kernel of 3x3 and of
    8x8 inputs with 5x5."""
    if not isinstance(layer, torch.nn.Conv2d) or layer.stride != (1, 1) or layer.kernel_size not in ((3, 3), (5, 5)):
        return None
    (kernel, _), (height, width) = layer.kernel_size, output.shape[2:]
    products = (kernel + 3) ** 2 * math.ceil(height / 4) * math.ceil(width / 4)
    suits = 10 * products <= 3 * kernel**2 * height * width and layer.in_channels % 16 == layer.out_channels % 16 == 0
    return products / (kernel**2 * height * width) if suits else None


def times(program, name, steps):
    """The seconds of each layer in one step, forward and backward, and their sum over all layers."""
    command = [program, "bench", "train", "--profile", "--steps", str(steps), "--threads", str(torch.get_num_threads())]
    for setting in (f"train.model={name}", "train.precision=bf16", "train.augment=false"):
        command += ["--set", setting]
    with tempfile.NamedTemporaryFile(suffix=".yaml") as defaults:
        command += ["--config", defaults.name]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = re.findall(r"^(\S.*?) {2,}([\d.]+) +([\d.]+) +[\d.]+$", told, re.MULTILINE)
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
        shapes = {}
        for layer, (operations, size, share) in work(name).items():
            shapes.setdefault((operations, size, share if unit == "AVX512-BF16" else None), []).append(layer)
        total = [0.0] * 3
        for (operations, size, share), layers in shapes.items():
            count = len(layers)
            # fewer products, at half the rate
            needed = 2 * share * operations if share else operations
            by_products, by_memory = (count * BATCH * each for each in (needed / rate, size / memory))
            limit = max(by_products, by_memory)
            kind = "memory" if by_products <= by_memory else "products, Winograd" if share else "products"
            taken = sum(found.pop(layer) for layer in layers)
            total = [total[0] + count * operations, total[1] + count * size, total[2] + limit]
            title = layers[0] if count == 1 else f"{layers[0]} and {count - 1} more like it"
            shown = f"{count * operations / 1e6:,.2f} | {count * size / 1e3:,.1f} | {kind}"
            print(f"| {title} | {shown} | {1000 * limit:.2f} | {1000 * taken:.2f} | {limit / taken if taken else math.nan:.2f} |")
        others = sum(found.values())
        print(f"| others | | | | | {1000 * others:.2f} | |")
        shown = f"{total[0] / 1e6:,.2f} | {total[1] / 1e3:,.1f} | "
        print(f"| all | {shown} | {1000 * total[2]:.2f} | {1000 * whole:.2f} | {total[2] / whole:.2f} |")


if __name__ == "__main__":
    main()
