"""Runs the code blocks of README.md, so that what it tells a reader to type is what works.

    python3 tests/readme_snippets.py [FILE]

Every fenced block is taken by the first word after its fence:

    sh       bash -euo pipefail, in the repository's root
    python   this very interpreter, in the repository's root
    sql      DuckDB, in the repository's root
    others   shown, not run: the words in SHOWN below, or no word at all; any other word is a failure (a slip of the pen)

A block whose second word is `no-run` is listed and not run. Blocks share nothing but the files they leave, and run in
the order in which a reader meets them. `multidigit` is found as the release build of this repository, for a README may
assume it installed. Prints each block's first line and OK or FAILED (then with its output); exits 1 if a block failed,
or if there was none to run. Does not judge what a block prints.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RUN = ("sh", "python", "sql")
SHOWN = ("", "bibtex", "console", "json", "mermaid", "rust", "text", "toml", "yaml")
# Longer than the longest command that a README may hold on two cores, building included.
TIMEOUT_SECONDS = 1800

SQL = """
import duckdb, sys
for statement in duckdb.extract_statements(sys.stdin.read()):
    result = duckdb.sql(statement.query)
    if result is not None:
        result.show()
"""


class Block(NamedTuple):
    line: int
    words: list[str]
    text: str

    @property
    def language(self):
        # `rust,no_run` is a rust block: a comma ends the word, as rustdoc has it.
        return self.words[0].split(",")[0] if self.words else ""

    @property
    def first_line(self):
        return next((line for line in self.text.splitlines() if line.strip()), "").strip()


def blocks(markdown):
    """The fenced blocks in order; ValueError with the line where one is left open."""
    found, fence = [], None
    for number, line in enumerate(markdown.splitlines(), 1):
        if fence is None:
            opened = re.match(r"( *)(`{3,}|~{3,}) *([^`]*)$", line)
            if opened:
                indent, fence, words = len(opened[1]), opened[2], opened[3].split()
                start, lines = number, []
        elif re.fullmatch(rf" *{re.escape(fence[0])}{{{len(fence)},}} *", line):
            found.append(Block(start, words, "".join(text + "\n" for text in lines)))
            fence = None
        else:
            # A block inside a list is indented as a whole: up to that many spaces are not its own.
            lines.append(re.sub(rf"^ {{0,{indent}}}", "", line))
    if fence is not None:
        raise ValueError(f"line {start}: this block is never closed")
    return found


def target_directory():
    told = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    return Path(json.loads(told.stdout)["target_directory"])


def environment():
    """This process's, with the release build and this interpreter first on the path."""
    first = [str(target_directory() / "release"), str(Path(sys.executable).parent)]
    return {**os.environ, "PATH": os.pathsep.join(first + [os.environ.get("PATH", os.defpath)])}


def run(block, env):
    """(exit status, output) of one block."""
    command, text = {
        "sh": (["bash", "-euo", "pipefail", "-c", block.text], None),
        "python": ([sys.executable, "-c", block.text], None),
        "sql": ([sys.executable, "-c", SQL], block.text),
    }[block.language]
    try:
        # No standard input: a block that asks a question must fail, not wait.
        source = {"input": text} if text is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", timeout=TIMEOUT_SECONDS, **source,
        )
    except subprocess.TimeoutExpired as late:
        output = late.output or b""
        output = output.decode(errors="replace") if isinstance(output, bytes) else output
        return 124, f"{output}\nstill running after {TIMEOUT_SECONDS} s"
    return done.returncode, done.stdout


def main(arguments):
    file = Path(arguments[0]) if arguments else ROOT / "README.md"
    try:
        found = blocks(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"FAILED  {file}: {error}")
        return 1
    ok = failed = shown = 0
    env = environment()
    for block in found:
        name = f"{file.name}:{block.line} {block.language or 'text'}: {block.first_line}"
        if block.language not in RUN + SHOWN:
            failed += 1
            print(f"FAILED  {name}\n    {block.language!r} is none of {', '.join(RUN + SHOWN[1:])}", flush=True)
        elif block.language in SHOWN or "no-run" in block.words[1:]:
            shown += 1
            print(f"shown   {name}", flush=True)
        else:
            started = time.monotonic()
            status, output = run(block, env)
            seconds = f"{time.monotonic() - started:.1f} s"
            if status == 0:
                ok += 1
                print(f"OK      {name} ({seconds})", flush=True)
            else:
                failed += 1
                indented = "".join(f"    {line}\n" for line in output.splitlines())
                print(f"FAILED  {name} ({seconds}, exit status {status})\n{indented}", end="", flush=True)
    print(f"snippets of {file.name}: {ok} OK, {failed} failed, {shown} shown and not run")
    if ok + failed == 0:
        print(f"FAILED  {file} has no block to run")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
