#!/usr/bin/env python3
"""Pushes the data set in artifacts/dataset to a data set repository on Hugging Face: `make publish REPO=owner/name`.

    scripts/publish.py OWNER/NAME [--dry-run] [--program FILE] [--artifacts DIR] [FLAG of multidigit ...]

The files that the record of the data set names are pushed: the card, its picture, croissant.json and the shards. Other files in the folder
stay where they are. Shards of an earlier push whose names do not occur any more are removed from the repository in the same
commit. A repository that does not exist is made.

`multidigit status` must call the data set fresh. The files are then copied to a temporary folder, `multidigit verify` examines
the copy, and the command `hf` of huggingface_hub pushes it. `hf auth login` stores the token that it needs. Further flags, such
as `--set plan.seed=7`, are those with which the data set was made.

--dry-run makes all checks, prints the files, their sizes and the command, and pushes nothing.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The Hub's own rule for either part of a name, but for the words that it reserves.
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def refuse(message):
    sys.exit(f"publish: {message}")


def multidigit(program, *words):
    """The exit status, the state of the data set and the words after it, and what the program said on stderr."""
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, encoding="utf-8")
    except OSError as error:
        refuse(f"{program}: cannot run it ({error.strerror}); expected the program; `make build` makes it")
    lines = [line.split(None, 2) for line in done.stdout.splitlines()]
    state, words = next((line[1:] for line in lines if len(line) == 3 and line[0] == "dataset"), ("", ""))
    return done.returncode, state, words, done.stderr.strip()


def recorded(folder):
    """The record of the data set in a folder."""
    try:
        return json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        refuse(f"{folder}: no data set, as there is no record.json; expected one; `make dataset` makes it")
    except (OSError, ValueError) as error:
        refuse(f"{folder / 'record.json'}: not a record ({error}); `make dataset ARGS=--force` makes the data set anew")


def copied(folder, record, to):
    """Copies the record and the files that it names."""
    for path in ["record.json", *(output["path"] for output in record["outputs"])]:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, to / path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("--dry-run", action="store_true", help="print the files and the command, and push nothing")
    parser.add_argument("--program", default="target/release/multidigit", metavar="FILE")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="DIR")
    options, flags = parser.parse_known_args()

    if not REPOSITORY.fullmatch(options.repository):
        refuse(f"REPO={options.repository}: expected owner/name, as in `make publish REPO=owner/name`")
    folder = options.artifacts / "dataset"
    record = recorded(folder)
    # The Python that runs this may be that of a virtual environment which is not active.
    hf = shutil.which("hf") or shutil.which("hf", path=Path(sys.executable).parent)
    if hf is None:
        refuse("hf: not found; expected the command of huggingface_hub; `pip install huggingface_hub` installs it")

    code, state, words, complaint = multidigit(options.program, "status", "--artifacts", options.artifacts, *flags)
    if code != 0:
        refuse(complaint)
    if state != "fresh":
        refuse(f"{folder}: {state} ({words}), expected fresh; `multidigit status` says more; `make dataset` makes it anew, and "
               "settings that it was made with are named here too")

    with tempfile.TemporaryDirectory(prefix="multidigit-publish-") as temporary:
        copy = Path(temporary) / "dataset"
        try:
            copied(folder, record, copy)
        except OSError as error:
            refuse(f"{error.filename}: cannot copy it ({error.strerror})")
        code, _, words, complaint = multidigit(options.program, "verify", "--artifacts", temporary, *flags)
        if code != 0:
            refuse(f"{folder}: {words or complaint}; expected what its record says; `make dataset ARGS=--force` makes it anew")
        (copy / "record.json").unlink()

        content = f"{record['rows']:,} images, content {record['content'][:12]}"
        command = ["hf", "upload", options.repository, ".", ".", "--type", "dataset", "--delete", "data/*.parquet",
                   "--commit-message", f"Data set of {content}"]
        sizes = {path: path.stat().st_size for path in sorted(copy.rglob("*")) if path.is_file()}
        for path, size in sizes.items():
            print(f"{size:>13,} bytes  {path.relative_to(copy).as_posix()}")
        print(f"{sum(sizes.values()):>13,} bytes in {len(sizes)} files: {content}")
        print(f"{'would run' if options.dry_run else 'running'}, in a folder with a copy of these files: {shlex.join(command)}",
              flush=True)
        if options.dry_run:
            return
        status = subprocess.run([hf, *command[1:]], cwd=copy).returncode
        if status != 0:
            refuse(f"hf upload: exit status {status}; what it printed says why; the same command tries again")
    print(f"publish: the data set is in {options.repository}")


if __name__ == "__main__":
    main()
