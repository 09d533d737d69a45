#!/usr/bin/env bash
# Puts a CUDA 13.0 compiler with its libraries into target/cuda-toolkit, or the folder whose absolute path MULTIDIGIT_CUDA_TOOLKIT names,
# out of pip packages: enough to build the feature `cuda` on any x86-64 Linux with Python and a C compiler, without a GPU
# and without root. `make cuda-toolkit`. Builds remember where their toolkit stood: clones that are to share compiled
# dependencies share the folder too.
#
# The driver's library, libcuda.so.1, comes with a GPU's driver and with nothing else. For linking, and for running on a
# machine without a GPU, a stand-in of the same names is built into the toolkit's folder `driver`: each of its functions
# answers 34, CUDA_ERROR_STUB_LIBRARY, and the program then says that there is no GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PACKAGES=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-nvrtc==13.0.88
  nvidia-cublas==13.1.0.3
  nvidia-curand==10.4.0.35
  nvidia-cudnn-cu13==9.19.0.56
)
PYTHON=${PYTHON:-python3}
home=${MULTIDIGIT_CUDA_TOOLKIT:-$PWD/target/cuda-toolkit}

# The script's own text is the version of what it made.
version=$(sha256sum "scripts/cuda_toolkit.sh" | cut -c 1-16)
if [ "$(cat "$home/version" 2>/dev/null || true)" = "$version" ]; then
  echo "cuda-toolkit: stands in $home"
  exit 0
fi

mkdir -p "$(dirname "$home")"
new=$(mktemp -d "$home.XXXXXX")
trap 'rm -rf "$new"' EXIT
"$PYTHON" -m pip install --quiet --no-deps --no-compile --disable-pip-version-check --target "$new" "${PACKAGES[@]}"

lib=$new/nvidia/cu13/lib
ln -s lib "$new/nvidia/cu13/lib64"
for library in "$new"/nvidia/cudnn/lib/*.so.*; do
  ln -s "../../cudnn/lib/$(basename "$library")" "$lib/$(basename "$library")"
done
# The linker looks for names without a version.
for library in "$lib"/lib*.so.*; do
  bare=$lib/$(basename "${library%%.so.*}").so
  [ -e "$bare" ] || ln -s "$(basename "$library")" "$bare"
done

driver=$new/driver
mkdir "$driver"
header=$new/nvidia/cu13/include/cuda.h
# Both the functions and the names that the header renames them to (cuCtxCreate -> cuCtxCreate_v4).
{
  grep -oE 'CUDAAPI +cu[A-Za-z0-9_]+ *\(' "$header" | grep -oE 'cu[A-Z][A-Za-z0-9_]*'
  grep -oE '^ *# *define +cu[A-Z][A-Za-z0-9_]* +(__CUDA_API_[A-Z]+\()?cu[A-Z][A-Za-z0-9_]*' "$header" | grep -oE 'cu[A-Z][A-Za-z0-9_]*'
} | sort -u | sed 's/.*/int &(void) { return 34; }/' >"$driver/driver.c"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$driver/libcuda.so.1" "$driver/driver.c"
ln -s libcuda.so.1 "$driver/libcuda.so"

echo "$version" >"$new/version"
rm -rf "$home"
mv -T "$new" "$home"
trap - EXIT
echo "cuda-toolkit: CUDA 13.0 in $home"
