"""What the comparisons with other programs share: this one's runs, images and benchmarks, memory, the printed table."""

import io
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench_json

CARGO = os.environ.get("CARGO", "cargo")

# Runs a command and prints its exit code and the most memory that it had, in KB, as `/usr/bin/time -v` does. In a small
# process of its own: a child counts what its parent had when it was made, and the parent with torch loaded is large.
MEASURE = """
import os, sys
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def program():
    """The built program."""
    subprocess.run([CARGO, "build", "--release", "--locked", "--quiet"], cwd=bench_json.ROOT, check=True)
    return str(bench_json.criterion_folder().parent / "release" / "multidigit")


def words(home, *more, settings=()):
    """The program's arguments for a run in the folder `home` with the default settings, whatever pipeline.yaml says."""
    defaults = Path(home, "defaults.yaml")
    defaults.touch()
    command = [*more, "--quiet", "--config", str(defaults), "--raw", f"{home}/raw", "--artifacts", f"{home}/artifacts"]
    for setting in settings:
        command += ["--set", setting]
    return command


def dataset(home, *settings):
    """Writes a data set of synthetic glyphs; its folder."""
    command = [program(), *words(home, "run", "dataset", settings=["raw.source=synthetic", *settings])]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return Path(home, "artifacts", "dataset")


def decoded(data, split, images=None):
    """The first pixels of a split, (images, height, width) bytes, and their digits, (digits, images)."""
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(sorted(data.glob(f"{split}-*.parquet")), columns=["image", "digits"]).slice(0, images)
    encoded = table["image"].combine_chunks().field("bytes").to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded])
    digits = table["digits"].combine_chunks().flatten().to_numpy().reshape(len(pixels), -1)
    return pixels, digits.T.astype(np.int64)


def rate(found, name):
    """Images per second of the benchmark called so, among the measured ones."""
    rates = [entry["value"] for entry in found if entry["name"] == name and entry["unit"] == "images/s"]
    if len(rates) != 1:
        raise SystemExit(f"{len(rates)} benchmarks in images/s are called {name!r}; expected one, in benches/")
    return rates[0]


def benchmark(bench, name, *flags, threads):
    """Images per second of one of our benchmarks, which is run once."""
    began = int(time.time())
    command = [CARGO, "bench", "--locked", "--quiet", "--bench", bench, "--", "--exact", *flags, name]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, cwd=bench_json.ROOT, env=environment, check=True, **outputs)
    return rate(bench_json.measured(bench_json.criterion_folder(), began), name)


def peak_memory(*command):
    """The most memory that a command had at one time, in bytes."""
    small = [sys.executable, "-S", "-c", MEASURE, *command]
    told = subprocess.run(small, stdout=subprocess.PIPE, text=True, check=True)
    code, kilobytes = map(int, told.stdout.split())
    if code != 0:
        raise SystemExit(f"exit status {code} of {' '.join(command)}")
    return 1024 * kilobytes


def load():
    """How many threads have had work lately: over the last one, five and fifteen minutes."""
    return "load " + " ".join(f"{value:.2f}" for value in os.getloadavg())


def machine():
    """The processor, and what it has to do."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} cores, {load()}"


def show(rates, unit="images/s"):
    """Prints the median and range of each, and how many times as fast the first is as the others."""
    medians = {name: statistics.median(rounds) for name, rounds in rates.items()}
    ours = next(iter(medians))
    width = max(map(len, medians))
    for name, median in medians.items():
        digits = 0 if median >= 100 else 1
        low, high = min(rates[name]), max(rates[name])
        spread = f"({low:,.{digits}f} to {high:,.{digits}f})"
        ratio = "" if name == ours else f"   {ours} is {medians[ours] / median:.2f} times as fast"
        print(f"  {name:<{width}} {median:>9,.{digits}f} {unit}  {spread}{ratio}", flush=True)
    return medians
