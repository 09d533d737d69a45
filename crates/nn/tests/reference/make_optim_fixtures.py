"""Writes optim.json: what PyTorch's optimisers and schedules compute. Made with torch 2.15.0.

usage: make_optim_fixtures.py OUT_FILE          (crates/nn/tests/fixtures/optim.json)

Everything is computed in f64 unless its key ends in _f32. The keys:
    torch             the version
    adam              cases: name, optimiser ("adam" or "adamw"), weight_decay, betas, eps, start (the parameters),
                      rates (the learning rate of each step), gradients (of each step), after (the parameters after each
                      step), after_f32 (the same, computed in f32: shows what f32 costs). Values of start and gradients
                      are f32 numbers.
    plateau           ReduceLROnPlateau(mode min, threshold_mode rel, eps 1e-8); cases: name, rate (at first), factor,
                      patience, threshold, cooldown, min_lr, losses (validation losses), rates (after each loss)
    cosine            CosineAnnealingLR(T_max = steps, eta_min = 0); cases: rate (at the start), steps, rates (of the
                      steps 0 to `steps`: steps + 1 numbers). PyTorch computes each from the one before; rounding
                      is all that the closed form differs by.
    one_cycle         OneCycleLR(cos, three_phase False, cycle_momentum False); cases: max_rate, total_steps, pct_start,
                      div_factor, final_div_factor, rates (of the steps 0 to total_steps - 1)
    smoothing         cross_entropy(label_smoothing = smoothing) of a batch; cases: smoothing, logits (of each row, f32 numbers),
                      targets, loss, gradients (of each row)
    average           AveragedModel(get_ema_multi_avg_fn(decay), use_buffers = True) of a parameter and a buffer in f32; cases:
                      decay, parameters, buffers (the values after each step), averages (after each step: the parameter's, then
                      the buffer's)
"""
import json, sys
import numpy as np, torch


def f32(values):
    return [float(np.float32(value)) for value in values]


# ---- Adam

START = [0.5, -1.25, 2.0, -0.03125, 30.0]
# Per step: an ordinary value, signs that alternate with zeros between, tiny ones then large ones, always 0, large ones.
GRADIENTS = [
    [0.3, 1.0, 1e-8, 0.0, 1e3],
    [0.1, -1.0, 1e-12, 0.0, -2e3],
    [-0.2, 0.0, 0.0, 0.0, 1e6],
    [0.05, 1.0, 1e-8, 0.0, 0.0],
    [0.4, -1.0, 3e-5, 0.0, 0.0],
    [0.0, 0.0, 1e4, 0.0, -1e6],
    [0.0, 0.7, -1e4, 0.0, 5.0],
    [-0.3, -0.7, 1e-3, 0.0, -5.0],
    [0.25, 0.0, 0.0, 0.0, 0.1],
    [1e-3, 0.2, -1e-8, 0.0, 1e-3],
    [-1e-3, 0.2, 2e-2, 0.0, 1e5],
    [0.6, 0.2, 0.0, 0.0, -1e5],
    [0.6, 0.2, 0.5, 0.0, 1.0],
]
CONSTANT = [5e-4] * len(GRADIENTS)
CHANGING = [1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-1, 1e-2, 0.0, 5e-4, 5e-4, 1.0, 5e-5, 5e-6]


def walk(optimiser, weight_decay, rates, dtype):
    parameter = torch.nn.Parameter(torch.tensor(f32(START), dtype=dtype))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimiser]
    adam = kind([parameter], lr=1.0, weight_decay=weight_decay)
    after = []
    for rate, gradient in zip(rates, GRADIENTS, strict=True):
        adam.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(f32(gradient), dtype=dtype)
        adam.step()
        after.append(parameter.detach().double().tolist())
    return after


def adam_case(name, optimiser, weight_decay, rates):
    return {
        "name": name, "optimiser": optimiser, "weight_decay": weight_decay, "betas": [0.9, 0.999], "eps": 1e-8,
        "start": f32(START), "rates": rates, "gradients": [f32(gradient) for gradient in GRADIENTS],
        "after": walk(optimiser, weight_decay, rates, torch.float64),
        "after_f32": walk(optimiser, weight_decay, rates, torch.float32),
    }


ADAM = [
    adam_case("constant rate", "adam", 0.0, CONSTANT),
    adam_case("changing rate", "adam", 0.0, CHANGING),
    adam_case("decoupled decay of 0 is Adam", "adamw", 0.0, CHANGING),
    adam_case("decay 0.01, constant rate", "adamw", 0.01, CONSTANT),
    adam_case("decay 0.01, changing rate", "adamw", 0.01, CHANGING),
    adam_case("decay 0.1, changing rate", "adamw", 0.1, CHANGING),
]

# ---- schedules


def optimiser(rate):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=rate)


def plateau(name, losses, rate=5e-4, factor=0.1, patience=1, threshold=1e-4, cooldown=0, min_lr=0.0):
    sgd = optimiser(rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        sgd, mode="min", factor=factor, patience=patience, threshold=threshold, threshold_mode="rel",
        cooldown=cooldown, min_lr=min_lr, eps=1e-8,
    )
    rates = []
    for loss in losses:
        schedule.step(loss)
        rates.append(float(sgd.param_groups[0]["lr"]))
    return {
        "name": name, "rate": rate, "factor": factor, "patience": patience, "threshold": threshold,
        "cooldown": cooldown, "min_lr": min_lr, "losses": losses, "rates": rates,
    }


FALLING = [4.6, 3.9, 3.2, 2.8, 2.5, 2.3, 2.2]
# A loss that falls, ties, gains less than a ten-thousandth, gains just more than it, and rises.
MIXED = [2.0, 1.5, 1.5, 1.49999, 1.4, 1.4, 1.39987, 1.39973, 1.3, 1.3, 1.3, 1.3, 1.3, 1.35, 1.2, 1.2, 1.25, 1.2, 1.1]
FLAT = [1.0] * 16
# Bad epochs straddle the cooldowns: good ones fall inside them and at their ends.
COOLING = [1.0, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 0.8, 0.9, 0.9, 0.9, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6, 0.6]
TENTHS = [1.0, 0.95, 0.91, 0.9, 0.89, 0.81, 0.8, 0.73, 0.72, 0.72, 0.6, 0.55]
TIES = [1.0, 1.0, 1.0 - 2**-40, 1.0, 0.5, 0.5, 0.5]
EVERYTHING = {"rate": 1e-2, "factor": 0.5, "patience": 2, "threshold": 1e-3, "cooldown": 1, "min_lr": 1e-3}
PLATEAU = [
    plateau("the paper's, a loss that falls", FALLING),
    plateau("the paper's, ties and small gains", MIXED),
    plateau("the paper's, a flat loss until the fall is too small to make", FLAT),
    plateau("patience 0", MIXED, patience=0),
    plateau("patience 0, every epoch bad", FLAT, patience=0, factor=0.5),
    plateau("patience 3", FLAT, rate=1e-2, factor=0.3, patience=3),
    plateau("a threshold of a tenth", TENTHS, threshold=0.1),
    plateau("a threshold of 0: a tie is no gain, a small gain is one", TIES, threshold=0.0),
    plateau("cooldown 2", COOLING, cooldown=2),
    plateau("cooldown 1, patience 0", COOLING, patience=0, cooldown=1, factor=0.5),
    plateau("cooldown 3, a flat loss", FLAT, rate=1.0, cooldown=3, factor=0.5),
    plateau("a least rate", FLAT, rate=1e-3, min_lr=3e-5),
    plateau("a least rate above the first", FLAT[:5], rate=1e-3, min_lr=1e-2),
    plateau("a fall of less than 1e-8 is not made", FLAT[:8], rate=1e-7, factor=0.5),
    plateau("every setting at once", COOLING + MIXED, **EVERYTHING),
    plateau("a loss of 0 can get no better", [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
]


def steps(schedule, sgd, count):
    rates = [float(sgd.param_groups[0]["lr"])]
    for _ in range(count):
        sgd.step()
        schedule.step()
        rates.append(float(sgd.param_groups[0]["lr"]))
    return rates


def cosine(count, rate=5e-4):
    sgd = optimiser(rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=count, eta_min=0)
    return {"rate": rate, "steps": count, "rates": steps(schedule, sgd, count)}


def one_cycle(count, max_rate=5e-3):
    sgd = optimiser(max_rate)
    settings = {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        sgd, max_rate, total_steps=count, anneal_strategy="cos", three_phase=False, cycle_momentum=False, **settings
    )
    return {"max_rate": max_rate, "total_steps": count, **settings, "rates": steps(schedule, sgd, count - 1)}


# ---- label smoothing


LOGITS = [[0.5, -1.25, 3.0, 0.0], [-20.0, 30.0, 1e-3, 2.0], [0.0, 0.0, 0.0, 0.0], [7.0, 1.0, -2.0, -8.0]]
TARGETS = [2, 0, 3, 0]


def smoothing(share):
    logits = torch.tensor([f32(row) for row in LOGITS], dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS), label_smoothing=share)
    loss.backward()
    return {"smoothing": share, "logits": [f32(row) for row in LOGITS], "targets": TARGETS, "loss": float(loss.detach()),
            "gradients": logits.grad.tolist()}


# ---- the average of weights


def average(decay, count=6):
    layer = torch.nn.BatchNorm1d(3, affine=False)
    layer.weight = torch.nn.Parameter(torch.zeros(5))
    averaged = torch.optim.swa_utils.AveragedModel(
        layer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True)
    case = {"decay": decay, "parameters": [], "buffers": [], "averages": []}
    for step in range(count):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([np.cos(1.7 * step + 0.3 * i) for i in range(5)]))
            layer.running_mean.copy_(torch.tensor([np.sin(0.9 * step + i) * 2 for i in range(3)]))
        averaged.update_parameters(layer)
        case["parameters"].append(layer.weight.tolist())
        case["buffers"].append(layer.running_mean.tolist())
        case["averages"].append(averaged.module.weight.tolist() + averaged.module.running_mean.tolist())
    return case


# ---- the file


def text(value, indent=""):
    """JSON with a line for each list of plain values."""
    deeper = indent + " "
    plain = not any(isinstance(item, (list, dict)) for item in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, list):
        if plain:
            return json.dumps(value)
        return "[\n" + ",\n".join(deeper + text(item, deeper) for item in value) + "\n" + indent + "]"
    if plain:
        return json.dumps(value)
    items = [f"{json.dumps(key)}: " + (text(item, deeper) if isinstance(item, (list, dict)) else json.dumps(item))
             for key, item in value.items()]
    return "{\n" + ",\n".join(deeper + item for item in items) + "\n" + indent + "}"


def main():
    everything = {
        "torch": torch.__version__.partition("+")[0],
        "adam": ADAM,
        "plateau": PLATEAU,
        "cosine": [cosine(count) for count in (1, 2, 10, 101)],
        "one_cycle": [one_cycle(count) for count in (1, 2, 3, 10, 101)],
        "smoothing": [smoothing(share) for share in (0.0, 0.05, 0.1, 0.9)],
        "average": [average(decay) for decay in (0.0, 0.3, 0.9, 0.999)],
    }
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(text(everything) + "\n")


main()
