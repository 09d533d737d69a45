"""Gathers what `cargo bench` measured into one file: a JSON array of {"name", "value", "unit"}, sorted by name.

    python3 scripts/bench_json.py [--since SECONDS] [--out FILE]

Reads criterion's own files, one folder per benchmark under target/criterion: new/benchmark.json has its name, and
new/estimates.json its times in nanoseconds, of which criterion's typical one is taken (the slope where it fitted one, else
the mean). Where the benchmark states how many images (or samples) it works on, the value is images/s, else seconds.
Measurements older than --since (seconds since 1970) belong to benchmarks that were not run this
time, perhaps no longer there, and are left out. Nothing measured is an error. Measures nothing itself.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def criterion_folder():
    """Where criterion 0.8 writes: $CRITERION_HOME, $CARGO_TARGET_DIR/criterion, or cargo's target folder."""
    if os.environ.get("CRITERION_HOME"):
        return ROOT / os.environ["CRITERION_HOME"]
    told = subprocess.run(
        [os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--no-deps", "--locked"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )
    return Path(json.loads(told.stdout)["target_directory"]) / "criterion"


def measured(folder, since):
    found = []
    for estimates in folder.rglob("new/estimates.json"):
        # Whole seconds: `date +%s` has no finer ones.
        if int(estimates.stat().st_mtime) < since:
            continue
        times = json.loads(estimates.read_text(encoding="utf-8"))
        benchmark = json.loads(estimates.with_name("benchmark.json").read_text(encoding="utf-8"))
        seconds = (times.get("slope") or times["mean"])["point_estimate"] / 1e9
        images = (benchmark.get("throughput") or {}).get("Elements")
        value, unit = (images / seconds, "images/s") if images else (seconds, "s")
        found.append({"name": benchmark["full_id"], "value": value, "unit": unit})
    return sorted(found, key=lambda entry: entry["name"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--since", type=int, default=0, metavar="SECONDS", help="leave out what is older")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "bench.json", metavar="FILE")
    options = parser.parse_args()
    folder = criterion_folder()
    found = measured(folder, options.since)
    if not found:
        sys.exit(f"{folder}: no measurement since {options.since}, expected */new/estimates.json; run `make bench`")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a reader never sees half a file.
    partial = options.out.with_name(options.out.name + ".partial")
    lines = ",\n".join("  " + json.dumps(entry) for entry in found)
    partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    partial.replace(options.out)
    for entry in found:
        print(f"{entry['name']:<40} {entry['value']:.6g} {entry['unit']}")
    print(f"{len(found)} figures in {options.out}")


if __name__ == "__main__":
    main()
