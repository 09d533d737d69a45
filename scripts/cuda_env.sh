#!/usr/bin/env bash
# Runs a command, such as `cargo build --release --features cuda`, where the CUDA toolkit is found: an installed one (CUDA_HOME,
# CUDA_PATH, nvcc on the PATH, /usr/local/cuda) if there is one with cuDNN, else that of `make cuda-toolkit`.
#
# Builds go to target/cuda, beside the ordinary ones: neither then compiles the other's dependencies anew.
# CUDA_COMPUTE_CAP says for which GPU candle's kernels are compiled; without it the GPU here is asked, and where there
# is none it is 90, Hopper's. Our own kernels are compiled when the program starts, for the GPU that it finds.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

installed() {
  local nvcc
  nvcc=$(command -v nvcc || true)
  for home in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "${nvcc:+$(dirname "$(dirname "$(readlink -f "${nvcc:-/}")")")}" /usr/local/cuda; do
    [ -n "$home" ] && [ -x "$home/bin/nvcc" ] && [ -e "$home/include/cuda.h" ] || continue
    # Linking needs cuDNN too, which an installed toolkit does not bring.
    if ls "$home"/lib64/libcudnn.so >/dev/null 2>&1 || ldconfig -p 2>/dev/null | grep -q 'libcudnn\.so '; then
      printf '%s\n' "$home"
      return
    fi
  done
}

home=$(installed)
if [ -z "$home" ]; then
  "$root/scripts/cuda_toolkit.sh" >&2
  toolkit=${MULTIDIGIT_CUDA_TOOLKIT:-$root/target/cuda-toolkit}
  home=$toolkit/nvidia/cu13
  driver=$toolkit/driver
  export LIBRARY_PATH=$home/lib:$driver${LIBRARY_PATH:+:$LIBRARY_PATH}
  export LD_LIBRARY_PATH=$home/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  # A driver that is installed goes before its stand-in.
  ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1 ' || LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$driver
fi
export CUDA_HOME=$home CUDA_PATH=$home CUDA_ROOT=$home CUDA_TOOLKIT_ROOT_DIR=$home PATH=$home/bin:$PATH
if [ -z "${CUDA_COMPUTE_CAP:-}" ]; then
  CUDA_COMPUTE_CAP=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sed -n '1s/\.//p' || true)
fi
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
# The build of candle's kernels, minutes of nvcc, takes half of the cores otherwise.
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/cuda
exec "$@"
