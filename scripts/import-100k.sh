#!/usr/bin/env bash
# Imports real text into a cluster of four processes, kills one replica with SIGKILL on the way and
# restarts it; then the export must equal the input and all four state digests must agree.
#
#   scripts/import-100k.sh [ENTRIES]     (100000 when left out)
#
# The text is the sources of the crates on this machine: `crate/path:line` -> the line.
# ATLAS=path/to/atlas takes that binary instead of building one; BASE_PORT (default 17100) is the
# first of eight free ports in a row; VICTIM (default 3) is the replica that is killed.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."

entries=${1:-100000}
base_port=${BASE_PORT:-17100}
victim=${VICTIM:-3}
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
if [[ -z ${ATLAS:-} ]]; then
    cargo build --release --quiet -p atlas-cli
    ATLAS=${CARGO_TARGET_DIR:-target}/release/atlas
fi

dir=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

fail() {
    echo "FAILED: $1" >&2
    tail -n 5 "$dir"/replica-*.log >&2 || true
    exit 1
}

# Waits at most 120 s for a command to succeed.
wait_for() {
    local what=$1 deadline=$((SECONDS + 120))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "waited too long for $what"
        sleep 0.05
    done
}

start() {
    : >"$dir/replica-$1.log"
    "$ATLAS" start "$dir/cluster/replica-$1" >>"$dir/replica-$1.log" 2>&1 &
    pids[$1]=$!
    disown
    wait_for "replica $1 to be ready" grep -q "replica $1 ready" "$dir/replica-$1.log"
}

status() { "$ATLAS" status --client "$dir/cluster/client-0" "$@"; }
under_way() { status --json | grep -Eq '"executed": [1-9]'; }
agreed() { status | grep -q "all 4 state digests agree"; }

echo "taking $entries lines from $sources"
# Only lines of printable ASCII, so that a line's JSON is the same whoever writes it. awk stops by
# itself, since a pipe that closes early would be an error.
find "$sources" -name '*.rs' -type f -print0 | sort -z | xargs -0 awk -v limit="$entries" -v skip="${#sources}" '
    count >= limit { exit }
    /[^ -~]/ || /^ *$/ { next }
    {
        gsub(/\\/, "&&"); gsub(/"/, "\\\\&")
        printf "{\"key\":\"%s:%d\",\"value\":\"%s\"}\n", substr(FILENAME, skip + 2), FNR, $0
        count++
    }' >"$dir/all" || fail "cannot read the sources"
head -n "$entries" "$dir/all" >"$dir/input"
[[ $(wc -l <"$dir/input") -eq $entries ]] || fail "there are only $(wc -l <"$dir/input") lines"

"$ATLAS" init --replicas 4 --protocol pbft --dir "$dir/cluster" \
    --base-port "$base_port" --admin-base-port $((base_port + 4)) >/dev/null
for replica in 0 1 2 3; do start "$replica"; done

# The second half of the input waits until the victim is dead, so that it surely dies on the way.
began=$(date +%s.%N)
{
    head -n $((entries / 2)) "$dir/input"
    wait_for "the kill" test -e "$dir/killed"
    tail -n +$((entries / 2 + 1)) "$dir/input"
} | "$ATLAS" kv --client "$dir/cluster/client-0" import - >"$dir/import.log" 2>&1 &
import=$!
wait_for "the import to be under way" under_way
kill -9 "${pids[$victim]}"
touch "$dir/killed"
start "$victim"
wait "$import" || fail "the import failed: $(cat "$dir/import.log")"
ended=$(date +%s.%N)
cat "$dir/import.log"

"$ATLAS" kv --client "$dir/cluster/client-0" export "$dir/output"
sort "$dir/input" | cmp - "$dir/output" || fail "the export is not the input"
wait_for "the digests to agree" agreed
settled=$(date +%s.%N)
status
awk -v a="$began" -v b="$ended" -v c="$settled" -v n="$entries" 'BEGIN {
    printf "OK: %d entries imported in %.1f s (%.0f/s) with replica '"$victim"' killed on the way; exported, compared and all four agreed %.1f s later\n", n, b - a, n / (b - a), c - b }'
