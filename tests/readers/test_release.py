"""What a release is made with: scripts/release.py and scripts/remap.sh, the workflow `release`, and the Dockerfile.

Nothing is published, and the program is not built: a shell script stands in for it.
"""

import fnmatch
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import release

DOCUMENTS = ["CHANGELOG.md", "LICENSE", "LICENSE-APACHE", "LICENSE-MIT", "LICENSE-THIRD-PARTY", "README.md"]
COMPLETIONS = ["completions/_multidigit", "completions/_multidigit.ps1", "completions/multidigit.bash",
               "completions/multidigit.fish"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of version 1.2.3, with the files that a release takes from it."""
    root = tmp_path / "project"
    (root / "crates" / "nn").mkdir(parents=True)
    (root / "Cargo.toml").write_text(
        '[package]\nname = "multidigit"\nversion = "1.2.3"\n[dependencies]\nmultidigit-nn = { version = "1.2.3" }\n')
    (root / "crates" / "nn" / "Cargo.toml").write_text('[package]\nname = "multidigit-nn"\nversion = "1.2.3"\n')
    for document in DOCUMENTS:
        (root / document).write_text(f"the text of {document}\n")
    (root / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n- Next.\n\n## [1.2.3] - 2026-01-02\n\n### Added\n\n- This.\n\n## [1.2.2]\n\n- Before.\n")
    monkeypatch.setattr(release, "ROOT", root)
    return root


# ---- versions and changes


def test_a_tag_of_the_version_passes(project, capsys):
    release.check("v1.2.3")
    release.check(None)
    assert capsys.readouterr().out == "1.2.3\n1.2.3\n"


def test_another_tag_is_refused(project):
    with pytest.raises(SystemExit, match=r"^tag v1.2.4: expected v1.2.3, the version in Cargo.toml$"):
        release.check("v1.2.4")


def test_a_crate_of_another_version_is_refused(project):
    (project / "crates" / "nn" / "Cargo.toml").write_text('[package]\nname = "multidigit-nn"\nversion = "1.2.2"\n')
    with pytest.raises(SystemExit, match=r"^crates/nn/Cargo.toml: version 1.2.2, expected 1.2.3"):
        release.check(None)


def test_a_tag_without_a_section_in_the_changelog_is_refused(project):
    (project / "CHANGELOG.md").write_text("## [Unreleased]\n\n- Next.\n")
    release.check(None)
    with pytest.raises(SystemExit, match=r"^CHANGELOG.md: no section \[1.2.3\]"):
        release.check("v1.2.3")


def test_the_notes_are_the_section_of_the_version(project, capsys):
    release.notes()
    assert capsys.readouterr().out == "### Added\n\n- This.\n"


def test_a_rehearsal_before_the_section_has_its_number_takes_what_is_unreleased(project, capsys):
    (project / "CHANGELOG.md").write_text("## [Unreleased]\n\n- Next.\n\n## [1.2.2]\n\n- Before.\n")
    release.notes()
    assert capsys.readouterr().out == "- Next.\n"


def test_the_versions_of_this_project_agree():
    release.check(None)


# ---- archives


def wheel(folder, text):
    path = folder / "multidigit-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("multidigit/__init__.py", "")
        out.writestr("multidigit-1.2.3.data/scripts/multidigit", text)
    return path


PROGRAM = '#!/bin/sh\necho "printed by multidigit $*"\n'


def test_an_archive_holds_the_program_its_documents_and_what_it_prints(project, tmp_path):
    release.archive(wheel(tmp_path, PROGRAM), "x86_64-unknown-linux-gnu", tmp_path / "out")
    folder = "multidigit-1.2.3-x86_64-unknown-linux-gnu"
    with tarfile.open(tmp_path / "out" / f"{folder}.tar.gz") as packed:
        files = {member.name.removeprefix(f"{folder}/"): (member.mode, packed.extractfile(member).read().decode())
                 for member in packed}
    assert sorted(files) == sorted([*DOCUMENTS, *COMPLETIONS, "multidigit", "multidigit.1"])
    assert files["multidigit"] == (0o755, PROGRAM)
    assert files["multidigit.1"] == (0o644, "printed by multidigit man\n")
    assert files["completions/_multidigit"] == (0o644, "printed by multidigit completions zsh\n")
    assert files["LICENSE-MIT"] == (0o644, "the text of LICENSE-MIT\n")


def test_an_archive_for_windows_is_a_zip_file(project, tmp_path):
    release.archive(wheel(tmp_path, PROGRAM), "x86_64-pc-windows-msvc", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out" / "multidigit-1.2.3-x86_64-pc-windows-msvc.zip") as packed:
        names = [name.removeprefix("multidigit-1.2.3-x86_64-pc-windows-msvc/") for name in packed.namelist()]
    assert sorted(names) == sorted([*DOCUMENTS, *COMPLETIONS, "multidigit", "multidigit.1"])


@pytest.mark.parametrize("of", ["checkout", "cargo"])
def test_a_program_that_names_a_folder_of_this_machine_is_refused(project, tmp_path, monkeypatch, of):
    monkeypatch.setenv("CARGO_HOME", "/somewhere/cargo")
    folder = {"checkout": str(project), "cargo": "/somewhere/cargo"}[of]
    with pytest.raises(SystemExit, match=f"its program names {re.escape(folder)}; expected no path of this machine"):
        release.archive(wheel(tmp_path, f"{PROGRAM}# {folder}/registry/src/lib.rs"), "x86_64-unknown-linux-gnu", tmp_path / "out")


def test_sums_are_those_of_sha256sum(tmp_path):
    for name in ("b.zip", "a.whl"):
        (tmp_path / name).write_text(name)
    release.sums(tmp_path)
    release.sums(tmp_path)
    text = (tmp_path / "SHA256SUMS").read_text()
    assert text == "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in ("a.whl", "b.zip"))
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_the_licences_of_the_crates_inside_the_program_are_gathered(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "THIRD_PARTY", str(tmp_path / "licences"))
    release.licences()
    text = (tmp_path / "licences").read_text(encoding="utf-8")
    crates = re.findall(r"^={80}\n(\S+) \S+: ", text, re.MULTILINE)
    assert {"candle-core", "arrow", "cudarc"} <= set(crates)
    # the program itself, a library of its tests, and one of a build script
    assert not {"multidigit", "multidigit-nn", "criterion", "cc"} & set(crates)
    assert "Permission is hereby granted, free of charge" in text


# ---- paths


def test_a_remapped_build_names_neither_the_checkout_nor_cargos_home(tmp_path):
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    crate = home / "registry" / "src" / "dependency"
    for folder, manifest, source, text in (
        (crate, '[package]\nname = "dependency"\n', "lib.rs", "pub fn fail(n: usize) { assert!(n > 3) }"),
        (checkout, f'[package]\nname = "program"\n[dependencies]\ndependency = {{ path = "{crate}" }}\n', "main.rs",
         'fn main() { dependency::fail(std::env::args().count()); println!("{}", file!()) }'),
    ):
        (folder / "src").mkdir(parents=True)
        (folder / "Cargo.toml").write_text(manifest)
        (folder / "src" / source).write_text(text)
    (checkout / "scripts").mkdir()
    script = checkout / "scripts" / "remap.sh"
    script.write_bytes((ROOT / "scripts" / "remap.sh").read_bytes())
    script.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CARGO", "RUSTFLAGS"))}
    environment |= {"CARGO_HOME": str(home), "CARGO_TARGET_DIR": str(tmp_path / "target")}

    def program(*wrapper):
        subprocess.run([*wrapper, "cargo", "build", "--release", "--offline", "--quiet"], cwd=checkout, env=environment, check=True)
        return (tmp_path / "target" / "release" / "program").read_bytes()

    assert str(crate).encode() in program()
    remapped = program(script)
    assert str(tmp_path).encode() not in remapped
    assert b"cargo/registry/src/dependency/src/lib.rs" in remapped


# ---- the workflow and the Dockerfile


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


def dockerfile():
    """The instructions of the Dockerfile, each with its words in one line."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    return [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_workflow_and_the_dockerfile_take_the_same_compiler():
    rust = workflow("release.yml")["env"]["RUST"]
    bases = [words for name, words in dockerfile() if name == "FROM" and words.startswith("rust:")]
    assert bases == [f"rust:{rust}-slim-trixie AS rust"]


def test_a_rehearsal_publishes_nothing():
    jobs = workflow("release.yml")["jobs"]
    tagged = "${{ github.event_name == 'push' }}"
    publishing = re.compile(r"cargo publish(?! --dry-run)|docker push|gh release create|pypi-publish")
    found = []
    for name, job in jobs.items():
        for step in job.get("steps", []):
            if publishing.search(step.get("run", "") + step.get("uses", "")):
                found.append(name)
                assert tagged in (job.get("if"), step.get("if")), name
    assert found == ["images", "pypi", "crates", "github"]
    for name, job in jobs.items():
        assert set(job.get("permissions", {}).values()) <= {"read"} or name in found, name


def test_images_hold_everything_that_is_tracked_but_the_folders_of_the_users_files():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    left_out = [path for path in tracked
                if any(fnmatch.fnmatch(path.split("/")[0], pattern.removeprefix("**/")) for pattern in ignored)]
    assert sorted(left_out) == ["artifacts/README.md", "raw/README.md"]
    assert [words for name, words in dockerfile() if name == "COPY" and "--from" not in words] == [". .", ". ."]


def test_the_scripts_that_images_are_built_with_are_there():
    scripts = [script for name, words in dockerfile() if name == "RUN" for script in re.findall(r"scripts/\S+", words)]
    assert scripts and all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_images_run_without_root_and_stages_have_pinned_bases():
    instructions = dockerfile()
    stages = [words.split() for name, words in instructions if name == "FROM"]
    names = {stage[2] for stage in stages}
    assert {"cpu", "cuda"} <= names and stages[-1][2] == "cpu"
    for base, *_ in stages:
        assert base in names or re.search(r":\S*\d+\.\d+\.\d+|:\S*\d{8}", base), base
    assert [words for name, words in instructions if name == "USER"] == ["1000:1000"] * 2
    assert [words for name, words in instructions if name == "ENTRYPOINT"] == ['["multidigit"]'] * 2
