"""Writes model_alexnet_sturdy.json and model_alexnet_sturdy_f32.json: figures that every right f32 implementation meets.

usage: make_sturdy_fixture.py OUT_DIR      (takes some minutes)

Two things make much of rounding. A network decides: whether a ReLU lets a value through, which value of a window a pool takes. The
gradient goes where the decision says; where two values are as near to each other as f32 rounds, the order of a sum decides. And Adam
divides a gradient by its size: of a gradient that is 0 but for rounding it makes a step as large as the learning rate. The AlexNet of
make_model_fixtures.py has both in its third step: PyTorch in f32, with the channels of its sums in another order, is 1.18e-3 off in
the end there.

Here the numbers of all streams grow by `stream_offset`, the first multiple of 10000 at which in all three steps
    every decision is FAR times as far from the other way as f32 moves any value of its layer, and LEAST of the layer's rms, and
    f32 is within half of what the tests allow, whatever the order of its sums.
A decision's distance is that of the two largest of a pool's values and 0, or of a ReLU's value from 0. f32 is PyTorch's own, as it
is and with the inputs' channels in ORDERS random orders. The evaluation afterwards decides nothing: on both sides of a tie it gives
the same value. `decisions` holds for each step and layer the smallest distance and the most that f32 moved a value, as shares of
the rms of the layer's values. Images are as small as AlexNet takes, and two: fewer decisions are easier to keep clear of.

The gradients of the logits, and so all, are multiplied by SCALE, a power of two, which rounds nothing. Their rms is then 2.6e-8 to
4.6e-7, above Adam's eps of 1e-8, and what rounding leaves where one should be 0 is far below it. With the gradients as they are,
convolutions by Winograd's method, which left up to 2.1e-8 there, were 1.5e-2 off in the end.
"""
import itertools, sys
from pathlib import Path
import torch, torch.nn.functional as F
from make_model_fixtures import batch, figures, fill, write

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from multidigit.models import AlexNet

IMAGES, SIZE = 2, 44
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2")
POOLED = ("conv1", "conv2", "conv5")
FAR, LEAST = 20, 1e-5
ORDERS = 6
SCALE = 2.0**-20


def reorder(layer, generator):
    """Makes a layer sum over its inputs in a random order."""
    order = torch.randperm(layer.weight.shape[1], generator=generator)
    if layer.weight.dim() == 4:
        layer.forward = lambda x: F.conv2d(x[:, order], layer.weight[:, order], layer.bias, layer.stride, layer.padding)
    else:
        layer.forward = lambda x: F.linear(x[:, order], layer.weight[:, order], layer.bias)


def observe(offset, dtype, seed=None):
    """The figures, and for each step the values that each layer decides on. A seed draws the order of the sums."""
    model = AlexNet(dropout=0.0)
    model.fc1 = torch.nn.Linear(256, 1024)  # 44x44 pixels: the last pool leaves one
    fill(model, offset)
    model.to(dtype)
    seen = {name: [] for name in LAYERS}
    generator = torch.Generator().manual_seed(seed or 0)

    def watch(name, layer):
        layer.register_forward_hook(lambda _, inputs, output: seen[name].append(output.detach().double()) if model.training else None)

    for name in LAYERS:
        watch(name, getattr(model, name))
        if seed is not None:
            reorder(getattr(model, name), generator)
    x, targets = batch(IMAGES, SIZE, offset)
    return figures(model, x.to(dtype), targets, SCALE), [{name: seen[name][step] for name in LAYERS} for step in range(3)]


def distance(name, values):
    """The smallest distance of a layer's decisions from the other way."""
    if name not in POOLED:
        return float(values.abs().min())
    images, channels, height, width = values.shape
    rows, columns = height // 2, width // 2
    windows = values[:, :, : 2 * rows, : 2 * columns].reshape(images, channels, rows, 2, columns, 2).transpose(3, 4)
    first, second = F.pad(windows.reshape(-1, 4), (0, 1)).topk(2).values.T  # ReLU's 0 beside the four
    return float((first - second).min())


def kinds(figures):
    """The vectors of each kind that the tests compare."""
    steps, after = figures["steps"], figures["after"]
    flat = lambda logits: torch.tensor(logits, dtype=torch.float64).flatten().tolist()
    return {
        "evaluation logits": [flat(figures["eval_logits"])],
        "training logits": [flat(steps[0]["train_logits"])],
        "losses": [[step["loss"]] for step in steps],
        "gradient norms": [[tensor["norm"]] for tensor in steps[0]["gradients"]],
        "gradients": [tensor["first"] for tensor in steps[0]["gradients"]],
        "norms afterwards": [[tensor["norm"]] for tensor in after],
        "values afterwards": [tensor["first"] for tensor in after],
        "evaluation logits afterwards": [flat(figures["eval_logits_after"])],
    }


def errors(found, exact):
    """The worst error of each kind: the largest difference of a vector as a share of its largest value."""
    def error(found, exact):
        difference = max(abs(a - b) for a, b in zip(found, exact))
        return difference and difference / max(map(abs, exact))
    found, exact = kinds(found), kinds(exact)
    return {kind: max(map(error, found[kind], exact[kind])) for kind in exact}


def study(offset):
    """The figures in f64 and in f32 with the decisions; None where a decision is too near, or the order of sums tells."""
    exact, values = observe(offset, torch.float64)
    places = list(itertools.product(range(3), LAYERS))
    rms = {(step, name): float(values[step][name].pow(2).mean().sqrt()) for step, name in places}
    near = {(step, name): distance(name, values[step][name]) for step, name in places}
    if any(near[place] < LEAST * rms[place] for place in places):
        return None
    moved = dict.fromkeys(places, 0.0)
    in_f32 = allowed = None
    for seed in [None, *range(ORDERS)]:
        found, rounded = observe(offset, torch.float32, seed)
        for step, name in places:
            moved[step, name] = max(moved[step, name], float((rounded[step][name] - values[step][name]).abs().max()))
        if seed is None:
            in_f32, allowed = found, {kind: max(5 * error, 1e-5) for kind, error in errors(found, exact).items()}
        if any(near[place] < FAR * moved[place] for place in places):
            return None
        if any(error > allowed[kind] / 2 for kind, error in errors(found, exact).items()):
            return None
    decisions = [{} for _ in range(3)]
    for step, name in places:
        shares = (value[step, name] / rms[step, name] for value in (near, moved))
        decisions[step][name] = dict(zip(("distance", "moved_by_f32"), shares))
    about = {"stream_offset": offset, "images": IMAGES, "size": SIZE, "gradient_scale": SCALE, "decisions": decisions}
    return about | exact, about | in_f32


def main():
    torch.set_num_threads(2)
    found = next(found for offset in itertools.count(10000, 10000) if (found := study(offset)))
    for suffix, figures in zip(("", "_f32"), found):
        write(sys.argv[1], f"alexnet_sturdy{suffix}", figures)
    print(found[0]["stream_offset"])


if __name__ == "__main__":
    main()
