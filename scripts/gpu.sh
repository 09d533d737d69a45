#!/usr/bin/env bash
# Runs a command, such as a `multidigit` that was built with CUDA, on a GPU machine that has CUDA's libraries only inside
# its PyTorch: they are found in the folders site-packages/nvidia of its Python (PYTHON, else python3) and put on
# LD_LIBRARY_PATH. Nothing is installed.
#
#     scripts/gpu.sh ./multidigit run train --set train.device=cuda
set -euo pipefail
if [ $# -eq 0 ]; then
  echo 'gpu.sh: no command; usage: scripts/gpu.sh COMMAND [ARGUMENT..]' >&2
  exit 2
fi
folders=$("${PYTHON:-python3}" - <<'PYTHON'
import glob, os, site, sys, sysconfig
places = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], site.getusersitepackages(), *sys.path}
try:
    places.update(site.getsitepackages())
except AttributeError:
    pass
found = {os.path.dirname(path) for place in places if place for path in glob.glob(os.path.join(place, "nvidia", "*", "lib", "*.so*"))}
print(":".join(sorted(found)))
PYTHON
)
if [ -z "$folders" ]; then
  echo "gpu.sh: ${PYTHON:-python3} has no nvidia libraries in its site-packages; looking on with the system's own" >&2
fi
export LD_LIBRARY_PATH=$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$@"
