#!/usr/bin/env bash
# Fuzzes every reader of files from outside for SECONDS each, on stable Rust: scripts/fuzz.sh SECONDS [TARGET...]
#
# Two targets run at a time at most, one per core. Inputs come from fuzz/corpus/TARGET, which is committed, and from
# target/fuzz/TARGET, where new ones are kept; what breaks a target is left in target/fuzz/found. A target may take 1 GB of
# memory, 20 s for one input, and none of it may panic. FUZZ_ONLY_BUILD=1 builds and runs nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:?seconds for each target}
shift
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(idx config foreign png weights record checkpoint)
folder=${CARGO_TARGET_DIR:-target}
found=$folder/fuzz/found

RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/fuzz_rustc.sh "${CARGO:-cargo}" build --release --locked --package multidigit-fuzz
[ -z "${FUZZ_ONLY_BUILD:-}" ] || exit 0
mkdir -p "$found"

fuzz() { # TARGET: runs it; its output goes to a log
  local target=$1 kept=$folder/fuzz/$1
  mkdir -p "$kept" "fuzz/corpus/$target"
  # RAYON: one thread per target; its workers would share a core
  RAYON_NUM_THREADS=1 "$folder/release/$target" "$kept" "fuzz/corpus/$target" \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="$found/$target-" >"$folder/fuzz/$target.log" 2>&1
}

report() { # TARGET STATUS: one line, and the log's end where something was found
  local log=$folder/fuzz/$1.log coverage runs
  coverage=$(grep -oE 'cov: [0-9]+' "$log" | tail -1 || true)
  runs=$(grep -oE 'number_of_executed_units: [0-9]+' "$log" | grep -oE '[0-9]+' || true)
  printf '%-9s %9s runs, %s, %s s: %s\n' "$1" "${runs:-?}" "${coverage:-cov: ?}" "$seconds" \
    "$([ "$2" -eq 0 ] && echo 'nothing found' || echo "FOUND (exit status $2), see $log and $found")"
  [ "$2" -eq 0 ] || tail -40 "$log"
}

at_once=$(nproc)
[ "$at_once" -le 2 ] || at_once=2
failed=0
for ((first = 0; first < ${#targets[@]}; first += at_once)); do
  wave=("${targets[@]:first:at_once}")
  jobs=()
  for target in "${wave[@]}"; do
    fuzz "$target" &
    jobs+=($!)
  done
  for i in "${!wave[@]}"; do
    status=0
    wait "${jobs[i]}" || status=$?
    report "${wave[i]}" "$status"
    [ "$status" -eq 0 ] || failed=1
  done
done
exit "$failed"
