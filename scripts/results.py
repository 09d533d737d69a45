#!/usr/bin/env python3
"""Fills the tables of docs/results.md and draws its picture from the committed data in docs/results.

    python3 scripts/results.py            write docs/results.md and docs/splits.svg
    python3 scripts/results.py --check    fail if they are not what the data give

A file of docs/results has the columns of the sweep.csv that `multidigit sweep` writes, except those whose name ends in
`choice`. A table of docs/results.md stands between the lines `<!-- NAME -->` and `<!-- end -->`. The page has every table that there are data for.
"""

import csv
import math
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "splits.svg"
DATA = ROOT / "docs" / "results"

# The paper's Table 1: accuracy and loss in training, validation and test.
PAPER = {
    "paper-alexnet-1e-3": ("90.92 / 0.307", "52.91 / 1.793", "51.45 / 1.999"),
    "paper-alexnet-5e-4": ("94.81 / 0.173", "73.07 / 0.923", "66.96 / 1.341"),
    "paper-resnet-5e-4": ("98.54 / 0.0442", "94.66 / 0.195", "93.64 / 0.239"),
    "paper-resnet-2.5e-4": ("98.47 / 0.0443", "96.62 / 0.139", "96.20 / 0.163"),
    "paper-fcn-1e-3": ("96.20 / 0.117", "89.13 / 0.373", "83.13 / 0.584"),
    "paper-fcn-5e-4": ("96.25 / 0.115", "88.46 / 0.397", "85.10 / 0.507"),
}
SPLITS = ("train", "val", "test")


def rows(name):
    path = DATA / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def groups(runs, *keys):
    """The runs by the values of some columns, in the order of the file."""
    found = {}
    for run in runs:
        found.setdefault(tuple(run[key] for key in keys), []).append(run)
    return found


def numbers(runs, column):
    return [float(run[column]) for run in runs if run[column]]


def spread(values, factor=100.0, digits=2):
    """Mean and standard deviation in words; one value stands alone."""
    if not values:
        return ""
    mean = f"{factor * statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


def seconds(runs):
    values = numbers(runs, "seconds")
    return spread(values, 1.0, 1 if values and statistics.mean(values) < 100 else 0)


def table(heading, lines):
    ruler = ["---"] * len(heading)
    return "\n".join("| " + " | ".join(line) + " |" for line in [heading, ruler, *lines])


def table1():
    heading = ["run", "seeds", "training", "paper", "validation", "paper", "test", "paper", "seconds"]
    lines = []
    runs = groups(rows("table1"), "recipe")
    for recipe, paper in PAPER.items():
        own = runs.get((recipe,), [])
        line = [recipe.removeprefix("paper-"), str(len(own))]
        for split, published in zip(SPLITS, paper):
            accuracy, loss = numbers(own, f"{split}_accuracy"), numbers(own, f"{split}_loss")
            line += [f"{spread(accuracy)} / {spread(loss, 1.0, 4)}" if own else "", published]
        lines.append([*line, seconds(own)])
    return table(heading, lines)


def judged():
    """Each row of Table 1 beside the paper's, in points, and whether it agrees within the spread over the seeds."""
    heading = ["run", "training", "validation", "test", "judgement"]
    lines = []
    runs = groups(rows("table1"), "recipe")
    for recipe, paper in PAPER.items():
        own = runs.get((recipe,), [])
        if not own:
            lines.append([recipe.removeprefix("paper-"), "", "", "", "not run"])
            continue
        line, verdict = [recipe.removeprefix("paper-")], []
        for split, published in zip(SPLITS, paper):
            values = [100 * value for value in numbers(own, f"{split}_accuracy")]
            difference = statistics.mean(values) - float(published.split(" / ")[0])
            line.append(f"{difference:+.2f}")
            if len(values) > 2:
                verdict.append((split, abs(difference) <= 2 * statistics.stdev(values)))
        if not verdict:
            line.append(f"not judged: {len(own)} seed" + ("s" if len(own) > 1 else ""))
        elif all(agrees for _, agrees in verdict):
            line.append("agrees: all three within two standard deviations over the seeds")
        else:
            line.append("differs in " + ", ".join(split for split, agrees in verdict if not agrees))
        lines.append(line)
    return table(heading, lines)


def seeds(name, *keys):
    """A row for each group of runs over seeds: validation, test, and the seconds of the training."""
    heading = [*keys, "seeds", "validation, %", "test, %", "lowest and highest test, %", "seconds"]
    lines = []
    for key, runs in groups(rows(name), *keys).items():
        test = numbers(runs, "test_accuracy")
        low, high = (f"{100 * value:.2f}" for value in (min(test), max(test)))
        ends = low if len(test) == 1 else f"{low} to {high}"
        accuracies = [spread(numbers(runs, f"{split}_accuracy")) for split in ("val", "test")]
        lines.append([*key, str(len(runs)), *accuracies, ends, seconds(runs)])
    return table([{"plan.split.by": "split by"}.get(word, word) for word in heading], lines)


def choice():
    heading = ["channels", "epochs", "augmentation", "last weights, %", "average of weights, %"]
    shown = lambda run: [run["channels"], run["epochs"], run["augmentation"]] + [
        f"{100 * float(run[column]):.2f}" for column in ("last_val_accuracy", "ema_val_accuracy")
    ]
    return table(heading, [shown(run) for run in rows("best-choice")])


def differences(name, base):
    heading = [f"difference from the {base}", "validation, %"]
    return table(heading, [[run["difference"], spread(numbers([run], "val_accuracy"))] for run in rows(name)])


def ablation():
    heading = ["change", "seeds", "validation, %", "difference"]
    lines = []
    found = groups(rows("ablation"), "change")
    base = statistics.mean(numbers(next(iter(found.values())), "val_accuracy")) if found else 0.0
    for (change,), runs in found.items():
        values = numbers(runs, "val_accuracy")
        difference = 100 * (statistics.mean(values) - base)
        shown = "" if change == "none" else f"{difference:+.2f}"
        lines.append([change, str(len(runs)), spread(values), shown])
    return table(heading, lines)


def study():
    """The runs of the study by network and split."""
    return groups(rows("splits"), "network", "plan.split.by").items()


def splits():
    heading = ["network", "split by", "seeds", "training, %", "validation, %", "test, %", "training less test"]
    lines = []
    for (network, by), runs in study():
        means = [statistics.mean(numbers(runs, f"{split}_accuracy")) for split in ("train", "test")]
        accuracies = [spread(numbers(runs, f"{split}_accuracy")) for split in SPLITS]
        lines.append([network, by, str(len(runs)), *accuracies, f"{100 * (means[0] - means[1]):.2f}"])
    return table(heading, lines)


def precisions():
    """A row for each network: accuracies in float32 and in bfloat16, and the difference of their means on test with its
    standard error, which follows from the standard deviations over the seeds as if the two sides had no seed in common."""
    heading = ["network", "seeds", "validation, f32, %", "bf16, %", "test, f32, %", "bf16, %", "bf16 less f32, points", "standard error"]
    lines = []
    for (network,), runs in groups(rows("bf16"), "network").items():
        both = groups(runs, "train.precision")
        sides = [both.get((precision,), []) for precision in ("f32", "bf16")]
        if len(sides[0]) != len(sides[1]) or len(sides[0]) < 2:
            sys.exit(f"docs/results/bf16.csv: {network}: expected as many runs in f32 as in bf16, two or more")
        accuracies = [spread(numbers(side, f"{split}_accuracy")) for split in ("val", "test") for side in sides]
        tests = [[100 * value for value in numbers(side, "test_accuracy")] for side in sides]
        difference = statistics.mean(tests[1]) - statistics.mean(tests[0])
        error = math.sqrt(sum(statistics.variance(values) / len(values) for values in tests))
        lines.append([network, str(len(sides[0])), *accuracies, f"{difference:+.2f}", f"{error:.2f}"])
    return table(heading, lines)


def unstated():
    """A row for each way to train that the paper does not state."""
    heading = ["training", "seeds", "training, %", "validation, %", "test, %"]
    lines = []
    for (training,), runs in groups(rows("unstated"), "training").items():
        lines.append([training, str(len(runs)), *(spread(numbers(runs, f"{split}_accuracy")) for split in SPLITS)])
    return table(heading, lines)


def picture():
    """The table of the splits as a picture: a line from the test accuracy to that in training for each network and split."""
    accuracies = {key: [100 * statistics.mean(numbers(runs, f"{split}_accuracy")) for split in SPLITS] for key, runs in study()}
    lowest = min(map(min, accuracies.values()))
    least = 10 * math.floor(lowest / 10) if lowest < 95 else math.floor(lowest)
    left, width, row, top = 190, 520, 26, 60
    x = lambda percent: left + width * (percent - least) / (100 - least)
    text = lambda x, y, words, more="": f'<text x="{x:.1f}" y="{y:.1f}"{more}>{words}</text>'
    middle = ' text-anchor="middle"'
    marks = [
        lambda x, y: f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="#fff" stroke="#1b6ca8" stroke-width="2"/>',
        lambda x, y: f'<rect x="{x - 4:.1f}" y="{y - 4}" width="8" height="8" fill="#9aa5b1"/>',
        lambda x, y: f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="#c2410c"/>',
    ]
    body = []
    for number, (mark, words) in enumerate(zip(marks, ("training", "validation", "test"))):
        body += [mark(left + 110 * number + 6, 16), text(left + 110 * number + 18, 20, words)]
    height = top + row * len(accuracies) + 12 * len({network for network, _ in accuracies})
    for percent in range(least, 101, 10 if least < 80 else 5 if least < 95 else 1):
        body.append(f'<path d="M{x(percent):.1f} {top - 14}V{height}" stroke="#e3e7eb"/>')
        body.append(text(x(percent), top - 20, f"{percent}%", middle))
    y, shown = top, None
    for (network, by), (train, val, test) in accuracies.items():
        if network != shown:
            y += 12 if shown else 0
            body.append(text(12, y + 4, network, ' font-weight="600"'))
            shown = network
        body.append(text(110, y + 4, f"by {by}"))
        body.append(f'<path d="M{x(test):.1f} {y}H{x(train):.1f}" stroke="#1b6ca8" stroke-width="2"/>')
        body += [mark(x(percent), y) for mark, percent in zip(marks, (train, val, test))]
        y += row
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {height + 8}" font-family="sans-serif" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *body, "</svg>"]) + "\n"


# The tables by their names, each with the file of its data.
TABLES = {
    "fast": ("fast", lambda: seeds("fast", "recipe")),
    "fast-choice": ("fast-choice", lambda: differences("fast-choice", "recipe")),
    "fast-longer-choice": ("fast-longer-choice", lambda: differences("fast-longer-choice", "sweep")),
    "fast-longer": ("fast-longer", lambda: seeds("fast-longer", "recipe")),
    "best": ("best", lambda: seeds("best", "recipe", "plan.split.by")),
    "best-choice": ("best-choice", choice),
    "ablation": ("ablation", ablation),
    "table1": ("table1", table1),
    "judged": ("table1", judged),
    "splits": ("splits", splits),
    "bf16": ("bf16", precisions),
    "unstated": ("unstated", unstated),
}


def filled(text):
    for name, (data, make) in TABLES.items():
        begin = f"<!-- {name} -->\n"
        if not rows(data) and begin not in text:
            continue
        if not rows(data) or text.count(begin) != 1:
            sys.exit(f"{PAGE}: the table {name} and docs/results/{data}.csv belong together, once each")
        before, rest = text.split(begin, 1)
        _, after = rest.split("<!-- end -->", 1)
        text = f"{before}{begin}{make()}\n<!-- end -->{after}"
    return text


def main():
    made = {PAGE: filled(PAGE.read_text())}
    if rows("splits"):
        made[PICTURE] = picture()
    for path, content in made.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(content)
        elif not path.exists() or path.read_text() != content:
            sys.exit(f"{path}: not what docs/results gives; run `python3 scripts/results.py`")
        else:
            print(f"{path.relative_to(ROOT)}: what docs/results gives")


if __name__ == "__main__":
    main()
