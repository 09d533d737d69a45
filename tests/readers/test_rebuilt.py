"""Readers of shards while the program makes the data set again under them, with PyArrow.

A stage's folder is exchanged as a whole, so whoever opens a shard reads all of the old one or all of the new one. Each shard
is opened once here: given a path, PyArrow opens it for the footer and again for the pages, and may meet two shards.

    MULTIDIGIT    the program, default target/release/multidigit
"""

import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MULTIDIGIT") or ROOT / "target" / "release" / "multidigit").resolve()
SETTINGS = ["--set", "raw.source=synthetic", "--set", "plan.samples_per_class=10", "--quiet"]
SPLITS = ("train", "val", "test")
REBUILDS = 20


def build(home, seed):
    return subprocess.Popen([PROGRAM, "run", "dataset", *SETTINGS, "--set", f"plan.seed={seed}"], cwd=home)


def read(shard):
    with open(shard, "rb") as file:
        return pq.read_table(file)


def test_a_reader_finds_whole_shards_while_the_data_set_is_made_again(tmp_path):
    data = tmp_path / "artifacts" / "dataset" / "data"
    shards = [data / f"{split}-00000-of-00001.parquet" for split in SPLITS]
    known = {}
    for seed in (1, 2):
        assert build(tmp_path, seed).wait(timeout=120) == 0
        for shard in shards:
            known.setdefault(shard, []).append(read(shard))
    assert all(not first.equals(second) for first, second in known.values())
    found = {shard: set() for shard in shards}
    for rebuild in range(REBUILDS):
        running = build(tmp_path, 1 + rebuild % 2)
        while running.poll() is None:
            for shard in shards:
                table = read(shard)
                found[shard].add(next(seed for seed, whole in enumerate(known[shard], 1) if table.equals(whole)))
        assert running.returncode == 0
    assert all(seeds == {1, 2} for seeds in found.values()), found
