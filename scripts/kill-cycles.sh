#!/usr/bin/env bash
# Kills one replica of a cluster of processes with SIGKILL (mostly the leader where there is one), and one
# time in ten all of them at once, under load, again and again, for each protocol: the history must be
# linearizable, nothing acknowledged may be missing, and the pauses are printed.
#
#   scripts/kill-cycles.sh [CYCLES] [PROTOCOL]     (100, and all three, when left out)
#
# A protocol that fails does not keep the others from being run. ATLAS_SEED=n repeats the choice of victims.
set -euo pipefail
cd "$(dirname "$0")/.."
ATLAS_KILL_CYCLES=${1:-100} cargo test --locked -p atlas-cli --test cluster "row_47_${2:-}" -- \
    --nocapture --test-threads 1
