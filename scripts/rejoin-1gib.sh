#!/bin/sh
# A replica of four with 1 GiB of state comes back after a minute under load, and again with its disk
# emptied: what it fetches, and how fast, next to what TLS and the disk carry on this machine. Takes some
# five minutes, 10 GiB of disk and 8 GiB of memory. Further arguments go to `atlas bench`.
set -eu
cd "$(dirname "$0")/.."
cargo build --release --locked -p atlas-cli
# The directory of the cluster lies on the disk of the build, not on one in memory.
TMPDIR="${TMPDIR:-${CARGO_TARGET_DIR:-target}/tmp}"
mkdir -p "$TMPDIR"
export TMPDIR
exec "${CARGO_TARGET_DIR:-target}/release/atlas" bench --state divisible --rejoin --touch-percent 1 \
    --rate 1000 --checkpoint-interval 8000 "$@"
