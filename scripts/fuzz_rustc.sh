#!/usr/bin/env bash
# rustc for the packages of this workspace, with libFuzzer's instrumentation: `RUSTC_WORKSPACE_WRAPPER=scripts/fuzz_rustc.sh`.
#
# Cargo calls it for our own packages only, so dependencies are compiled as always, and reused. The flags are those of
# cargo-fuzz but for the address sanitizer, which stable Rust lacks; our own code is safe Rust almost throughout.
set -euo pipefail

# The build script runs during the build, without libFuzzer.
case " $* " in *' --crate-name build_script_build '* | *' --print '*) exec "$@" ;; esac
exec "$@" --cfg fuzzing \
  -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares \
  -Coverflow-checks=on -Cdebug-assertions=on
