#!/usr/bin/env python3
"""What the workflow `release` does beside building, so that it can be tried anywhere.

    scripts/release.py check [TAG]              fail unless the versions of the project agree, TAG (v0.2.0) among them
    scripts/release.py notes                    print the section of CHANGELOG.md about the version
    scripts/release.py licences                 write LICENSE-THIRD-PARTY: the licences of the crates inside the program
    scripts/release.py archive WHEEL TARGET DIR pack the program of a wheel with its documents into DIR
    scripts/release.py sums DIR                 write DIR/SHA256SUMS

The version is that of Cargo.toml. An archive is made of a wheel, so both hold the same program. It is made on a machine that can
run the program, which prints its completion scripts and its manual page.
"""

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
THIRD_PARTY = "LICENSE-THIRD-PARTY"
COMPLETIONS = {"bash": "multidigit.bash", "zsh": "_multidigit", "fish": "multidigit.fish", "powershell": "_multidigit.ps1"}
# Zip files begin in 1980.
DATE = (1980, 1, 1, 0, 0, 0)


def manifest(path):
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def version():
    return manifest("Cargo.toml")["package"]["version"]


def section(name):
    """The text below a heading of CHANGELOG.md such as `## [0.1.0] - 2026-11-26`, or None."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## \[{re.escape(name)}\][^\n]*\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL)
    return found and found[1].strip() + "\n"


def check(tag):
    own = version()
    networks = {
        "crates/nn/Cargo.toml": manifest("crates/nn/Cargo.toml")["package"]["version"],
        "Cargo.toml, dependency multidigit-nn": manifest("Cargo.toml")["dependencies"]["multidigit-nn"]["version"],
    }
    problems = [f"{place}: version {found}, expected {own}, the version in Cargo.toml"
                for place, found in networks.items() if found != own]
    if tag is not None:
        if tag != f"v{own}":
            problems.append(f"tag {tag}: expected v{own}, the version in Cargo.toml")
        if not section(own):
            problems.append(f"CHANGELOG.md: no section [{own}]; expected one with the changes of this version")
    if problems:
        sys.exit("\n".join(problems))
    print(own)


def notes():
    """A rehearsal comes before the section has its number."""
    print(section(version()) or section("Unreleased"), end="")


def licences():
    told = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True,
    )
    metadata = json.loads(told.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    links = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    # What the program is linked with, on any system: no build scripts' and no tests' dependencies.
    pending, seen = [metadata["resolve"]["root"]], set()
    while pending:
        crate = pending.pop()
        if crate not in seen:
            seen.add(crate)
            pending += [link["pkg"] for link in links[crate] if any(kind["kind"] is None for kind in link["dep_kinds"])]
    texts = ["The program `multidigit` contains the following crates.\n"]
    foreign = [packages[crate] for crate in seen if packages[crate]["source"] is not None]
    crates = sorted(foreign, key=lambda package: (package["name"], package["version"]))
    printed = {}
    for package in crates:
        crate = f"{package['name']} {package['version']}"
        texts.append(f"{'=' * 80}\n{crate}: {package['license'] or 'see below'}\n")
        if package["authors"]:
            texts.append(", ".join(package["authors"]) + "\n")
        for path in sorted(Path(package["manifest_path"]).parent.iterdir()):
            if path.is_file() and re.match(r"(licen[cs]e|copying|notice|copyright)", path.name, re.IGNORECASE):
                text = path.read_text(encoding="utf-8", errors="replace").strip()
                first = printed.setdefault(text, crate)
                texts.append(text + "\n" if first == crate else f"{path.name} as of {first}\n")
    (ROOT / THIRD_PARTY).write_text("\n".join(texts), encoding="utf-8")
    print(f"{THIRD_PARTY}: {len(crates)} crates")


def traces(program):
    """Those of the folders of this machine, the checkout and cargo's home, whose paths occur in a program."""
    folders = [str(ROOT), os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")]
    return [folder for folder in folders if any(form.encode() in program for form in (folder, folder.replace("\\", "/")))]


def archive(wheel, target, to):
    with zipfile.ZipFile(wheel) as files:
        scripts = [name for name in files.namelist() if ".data/scripts/" in name]
        if len(scripts) != 1:
            sys.exit(f"{wheel}: {len(scripts)} programs, expected one below *.data/scripts")
        program, name = files.read(scripts[0]), Path(scripts[0]).name
    if found := traces(program):
        sys.exit(f"{wheel}: its program names {', '.join(found)}; expected no path of this machine; build it by scripts/remap.sh")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(program)
        path.chmod(0o755)
        printed = lambda *words: subprocess.run([path, *words], stdout=subprocess.PIPE, check=True).stdout
        contents = {name: program, "multidigit.1": printed("man")}
        for shell, file in COMPLETIONS.items():
            contents[f"completions/{file}"] = printed("completions", shell)
    for path in ["README.md", "CHANGELOG.md", "LICENSE", "LICENSE-APACHE", "LICENSE-MIT", THIRD_PARTY]:
        contents[path] = (ROOT / path).read_bytes()
    folder = f"multidigit-{version()}-{target}"
    to.mkdir(parents=True, exist_ok=True)
    packed = to / f"{folder}{'.zip' if 'windows' in target else '.tar.gz'}"
    modes = {path: 0o755 if path == name else 0o644 for path in contents}
    if packed.suffix == ".zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
            for path, content in sorted(contents.items()):
                info = zipfile.ZipInfo(f"{folder}/{path}", DATE)
                info.external_attr, info.compress_type = modes[path] << 16, zipfile.ZIP_DEFLATED
                out.writestr(info, content)
    else:
        with tarfile.open(packed, "w:gz") as out:
            for path, content in sorted(contents.items()):
                info = tarfile.TarInfo(f"{folder}/{path}")
                info.size, info.mode = len(content), modes[path]
                out.addfile(info, io.BytesIO(content))
    print(packed)


def sums(folder):
    lines = []
    for path in sorted(folder.iterdir()):
        if path.name != "SHA256SUMS":
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    if not lines:
        sys.exit(f"{folder}: no file, expected the files of a release")
    # Not in text mode: on Windows it would write other line ends, which `sha256sum --check` does not read.
    (folder / "SHA256SUMS").write_bytes("".join(lines).encode())
    print(f"{folder / 'SHA256SUMS'}: {len(lines)} files")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("tag", nargs="?")
    commands.add_parser("notes")
    commands.add_parser("licences")
    packing = commands.add_parser("archive")
    packing.add_argument("wheel", type=Path)
    packing.add_argument("target")
    packing.add_argument("to", type=Path, metavar="dir")
    commands.add_parser("sums").add_argument("folder", type=Path, metavar="dir")
    arguments = vars(parser.parse_args())
    command = {"check": check, "notes": notes, "licences": licences, "archive": archive, "sums": sums}[arguments.pop("command")]
    command(**arguments)


if __name__ == "__main__":
    main()
