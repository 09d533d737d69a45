#!/usr/bin/env bash
# Runs a build, such as `scripts/remap.sh cargo build --release`, whose program names no path of this machine: where a panic tells
# its place, the checkout and cargo's home are called `multidigit` and `cargo`. Wheels, archives and images are built by this.
#
# Other flags than usual compile every dependency anew. They have to be absolute paths, so that .cargo/config.toml cannot hold them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=${CARGO_HOME:-$HOME/.cargo}
# On Windows rustc knows folders by their Windows names.
if command -v cygpath >/dev/null; then
  root=$(cygpath --windows "$root")
  home=$(cygpath --windows "$home")
fi
# The last rule that fits is the one that counts: cargo's home may lie in the checkout, or the other way round.
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' "--remap-path-prefix=$root=multidigit")--remap-path-prefix=$home=cargo
export CARGO_ENCODED_RUSTFLAGS
exec "$@"
