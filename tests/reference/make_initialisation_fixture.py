"""Writes initialisation.json: the moments of PyTorch's default initialisation. Made with torch 2.15.0.

usage: make_initialisation_fixture.py OUT_FILE          (tests/fixtures/models/initialisation.json)

For each network of multidigit.models, the file lists the parameters in order: name, shape, and either `constant` (every value is
this number) or `fan_in` and `bound` (the values are uniform in -bound to bound, bound = 1/sqrt(fan_in)). `min`, `max`,
`mean` and `std` are those of all values under `seeds` seeds, taken together.
"""
import json, math, sys
from pathlib import Path
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from multidigit.models import NETWORKS

SEEDS = 20


def fan_in(model, name):
    """The number of inputs that an output of the parameter's layer sums over, or None for batch norm."""
    weight = model.get_parameter(name.rpartition(".")[0] + ".weight")
    return math.prod(weight.shape[1:]) if weight.dim() > 1 else None


def initialisation(kind):
    model = kind()
    found = {name: [] for name, _ in model.named_parameters()}
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        for name, parameter in kind().named_parameters():
            values = parameter.detach().double()
            found[name].append((values.min(), values.max(), values.mean(), values.square().mean()))
    table = []
    for name, parameter in model.named_parameters():
        lows, highs, means, squares = (torch.stack(column) for column in zip(*found[name]))
        low, high, mean = float(lows.min()), float(highs.max()), float(means.mean())
        entry = {"name": name, "shape": list(parameter.shape)}
        inputs = fan_in(model, name)
        if inputs is None:
            assert low == high
            entry["constant"] = low
        else:
            bound = 1 / math.sqrt(inputs)
            # The rounding to f32 may carry a value over the bound by its last digit.
            assert -low <= bound * (1 + 1e-6) and high <= bound * (1 + 1e-6), (name, low, high, bound)
            entry.update(fan_in=inputs, bound=bound)
        std = math.sqrt(max(float(squares.mean()) - mean**2, 0.0))
        table.append({**entry, "seeds": SEEDS, "min": low, "max": high, "mean": mean, "std": std})
    return table


def main():
    tables = {}
    for name, kind in NETWORKS.items():
        lines = ",\n".join("  " + json.dumps(entry) for entry in initialisation(kind))
        tables[name] = f"[\n{lines}\n ]"
    body = ",\n".join(f" {json.dumps(name)}: {table}" for name, table in tables.items())
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write("{\n" + body + "\n}\n")


main()
