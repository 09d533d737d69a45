#!/usr/bin/env python3
"""Fills the tables of docs/scale.md: what was measured, and the cost model that follows from it.

    python3 scripts/scale.py            write docs/scale.md
    python3 scripts/scale.py --check    fail if it is not what the figures below give

A table of docs/scale.md stands between the lines `<!-- NAME -->` and `<!-- end -->`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scale.md"

# Measured with `/usr/bin/time -v` on two cores, five digits on 64x140 pixels. docs/scale.md has the commands.
PLAN = {"images": 100_000_000, "seconds": 117.12, "kilobytes": 567_572, "bytes": 2_360_815_618}
PART = {"images": 20_000_000, "seconds": 526.66, "cpu": 521.77 + 58.68, "cores": 2, "kilobytes": 170_512}
SHARDS = {"images": 24_096_000, "bytes": 27_960_284_800}
START = {"seconds": 0.87, "rows": 100_000_000}
COMMIT = {"images": 1_000_000, "seconds": 0.93}

# Assumed: a file server behind a network of 10 Gbit/s, which all machines share; and an object store, for each connection.
SERVER = 1.25e9
CONNECTION = 80e6

IMAGES = (10**7, 10**8, 10**9)
CORES = (1, 16, 256)


def plan(images):
    return images * PLAN["seconds"] / PLAN["images"]


def start(images):
    """The seconds in which a process compares the plan with its record before it renders."""
    return images * START["seconds"] / START["rows"]


def rate():
    """Images a second on one core: by the processor time of the part, without its start."""
    return PART["images"] / (PART["cpu"] - start(PLAN["images"]))


def size():
    """Bytes of an image in the shards."""
    return SHARDS["bytes"] / SHARDS["images"]


def parts(images, cores):
    return start(images) + images / rate() / cores


def commit(images):
    return images * COMMIT["seconds"] / COMMIT["images"]


def span(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def amount(size):
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def power(number):
    return f"10^{len(str(number)) - 1}"


def table(heading, lines):
    ruler = ["---"] * len(heading)
    return "\n".join("| " + " | ".join(line) + " |" for line in [heading, ruler, *lines])


def measured():
    lines = [
        ["the plan", power(PLAN["images"]), f"{PLAN['seconds']:.0f} s", f"{PLAN['kilobytes'] / 1000:.0f} MB",
         f"{PLAN['images'] / PLAN['seconds']:,.0f} rows/s on one core, {PLAN['bytes'] / PLAN['images']:.1f} bytes a row"],
        ["a fifth of the images", f"{PART['images']:,}",
         f"{PART['seconds']:.0f} s; {PART['cpu']:.0f} s of processor time", f"{PART['kilobytes'] / 1000:.0f} MB",
         f"{rate():,.0f} images/s and {amount(rate() * size())}/s a core, {size():,.0f} bytes an image"],
        ["the start of a part", "", f"{START['seconds']:.2f} s", "",
         f"reads the plan at {amount(PLAN['bytes'] / START['seconds'])}/s, from memory"],
        ["the commit", f"{COMMIT['images']:,}", f"{COMMIT['seconds']:.1f} s", "",
         f"{COMMIT['images'] / COMMIT['seconds']:,.0f} images/s or more, as this has the start of the program in it"],
    ]
    whole = PLAN["images"]
    seconds = plan(whole) + parts(whole, PART["cores"]) + commit(whole)
    name = f"all of it on {PART['cores']} cores, by the rule of three"
    lines.append([name, power(whole), span(seconds), "", amount(whole * size())])
    return table(["work", "images", "time", "memory", "that is"], lines)


def model():
    lines = []
    for images in IMAGES:
        for cores in CORES:
            written = images * size() / SERVER
            steps = {"plan": plan(images), "parts": parts(images, cores), "commit": commit(images)}
            longest = max(steps, key=steps.get)
            total = sum(steps.values())
            shared = total + max(0.0, written - steps["parts"])
            lines.append([power(images), str(cores), *map(span, steps.values()), span(total), longest,
                          amount(rate() * size() * cores) + "/s", span(shared)])
    heading = ["images", "cores", "plan", "parts", "commit", "total", "longest", "shards written", "total on one file server"]
    return table(heading, lines)


def sizes():
    lines = []
    for images in IMAGES:
        memory = images * PLAN["kilobytes"] * 1000 / PLAN["images"]
        lines.append([power(images), amount(images * size()), f"{-(-images // 16_000):,}",
                      amount(images * PLAN["bytes"] / PLAN["images"]), amount(memory)])
    return table(["images", "shards", "number of shards", "plan", "memory to draw the plan"], lines)


def limits():
    """The number of cores at which something other than rendering takes the longest."""
    sequential = (PLAN["seconds"] / PLAN["images"]) + (COMMIT["seconds"] / COMMIT["images"])
    lines = [
        ["plan and commit, which run on one core, take as long as the parts", f"{1 / rate() / sequential:.0f} cores"],
        [f"one file server at {amount(SERVER)}/s (assumed) is full", f"{SERVER / rate() / size():.0f} cores"],
        [f"an object store that takes {amount(CONNECTION)}/s a connection (assumed), one connection a core",
         f"not before rendering: a core makes {amount(rate() * size())}/s"],
    ]
    return table(["what", "from"], lines)


TABLES = {"measured": measured, "model": model, "sizes": sizes, "limits": limits}


def filled(text):
    for name, make in TABLES.items():
        begin = f"<!-- {name} -->\n"
        if text.count(begin) != 1:
            sys.exit(f"{PAGE}: the table {name} belongs there once")
        before, rest = text.split(begin, 1)
        _, after = rest.split("<!-- end -->", 1)
        text = f"{before}{begin}{make()}\n<!-- end -->{after}"
    return text


def main():
    content = filled(PAGE.read_text())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(content)
    elif PAGE.read_text() != content:
        sys.exit(f"{PAGE}: not what the figures of scripts/scale.py give; run `python3 scripts/scale.py`")
    else:
        print(f"{PAGE.relative_to(ROOT)}: what the figures give")


if __name__ == "__main__":
    main()
