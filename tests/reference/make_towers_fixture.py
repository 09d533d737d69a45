"""Writes model_towers.json and model_towers_f32.json: figures that every right f32 implementation meets.

usage: make_towers_fixture.py OUT_DIR      (takes some minutes)

The maximum over all positions sends the whole gradient of a channel to one position. Where two positions are as near to each other
as f32 rounds, the order of a sum decides which one (see make_sturdy_fixture.py). Here the numbers of all streams grow by
`stream_offset`, the first multiple of 10000 at which in all three steps
    the two largest of the features of a channel and 0 are FAR times as far from each other as f32 moves any feature, and
    f32 is within half of what the tests allow, whatever the order of its sums.
f32 is PyTorch's own, as it is and with the inputs' channels in ORDERS random orders. Two images leave few decisions.
"""
import itertools, sys
from pathlib import Path
import torch, torch.nn.functional as F
from make_model_fixtures import batch, figures, fill, write
from make_sturdy_fixture import errors, reorder

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from multidigit.models import Towers

IMAGES, SIZE = 2, 64
FAR, ORDERS = 20, 6


def observe(offset, dtype, seed=None):
    """The figures, and the features before each maximum of the three steps. A seed draws the order of the sums."""
    model = Towers()
    fill(model, offset)
    model.to(dtype)
    seen = []
    model.bn4.register_forward_hook(lambda _, inputs, output: seen.append(F.relu(output.detach()).double()) if model.training else None)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for name in ("conv2", "conv3", "conv4", "head"):
            reorder(getattr(model, name), generator)
    x, targets = batch(IMAGES, SIZE, offset)
    return figures(model, x.to(dtype), targets), torch.stack(seen)


def study(offset):
    """The figures in f64 and in f32; None where a decision is too near, or the order of sums tells."""
    exact, features = observe(offset, torch.float64)
    first, second = F.pad(features.flatten(3), (0, 1)).topk(2).values.unbind(-1)
    near = float((first - second)[first > 0].min())
    allowed = in_f32 = None
    for seed in [None, *range(ORDERS)]:
        found, rounded = observe(offset, torch.float32, seed)
        if seed is None:
            in_f32, allowed = found, {kind: max(5 * error, 1e-5) for kind, error in errors(found, exact).items()}
        if near < FAR * float((rounded - features).abs().max()):
            return None
        if any(error > allowed[kind] / 2 for kind, error in errors(found, exact).items()):
            return None
    about = {"stream_offset": offset, "images": IMAGES, "size": SIZE, "gradient_scale": 1}
    return about | exact, about | in_f32


def main():
    torch.set_num_threads(2)
    found = next(found for offset in itertools.count(10000, 10000) if (found := study(offset)))
    for suffix, figures in zip(("", "_f32"), found):
        write(sys.argv[1], f"towers{suffix}", figures)
    print(found[0]["stream_offset"])


if __name__ == "__main__":
    main()
