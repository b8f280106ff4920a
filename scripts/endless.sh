#!/usr/bin/env bash
# Runs a cluster of processes under a steady load that overwrites the same keys, with a checkpoint every 64
# decisions, and watches memory and disk of each replica. Fails when one of them
#   - is above what `atlas bounds` says,
#   - takes more memory in the last third of the run than in the middle one, by more than GROWTH per cent (5)
#     and 16 MiB (the allocator takes and gives back memory in steps of that size), or more disk, by more
#     than 10 per cent and one segment of the log;
# or when all replicas together take more memory in the last third than in the middle one, by more than
# GROWTH per cent: steps of the allocator even out over the replicas, what leaks does not.
#
#   scripts/endless.sh [MINUTES] [PROTOCOL]     (20 and pbft when left out)
#
# ATLAS=path/to/atlas takes that binary instead of building one; BASE_PORT (default 18100) is the first of
# free ports in a row, two for each replica; RATE (default 2000) are writes per second, KEYS (default 5000)
# how many keys they go to. SAMPLES=file keeps the samples: second, replica, bytes of memory, of disk.
#
# The allocator gives memory that is free back to the system after a second here (MIMALLOC_PURGE_DELAY, in
# milliseconds), not after the ten minutes of a replica as a rule (docs/adr/0007-memory-stays.md): what it
# keeps rises for ten minutes, falls, and rises again, in which nothing could be seen of what leaks.
set -euo pipefail
export LC_ALL=C
export MIMALLOC_PURGE_DELAY=${MIMALLOC_PURGE_DELAY:-1000}
cd "$(dirname "$0")/.."

minutes=${1:-20}
protocol=${2:-pbft}
base_port=${BASE_PORT:-18100}
rate=${RATE:-2000}
keys=${KEYS:-5000}
growth=${GROWTH:-5}
[[ $protocol == pbft ]] && replicas=4 || replicas=3
last=$((replicas - 1))
if [[ -z ${ATLAS:-} ]]; then
    cargo build --release --quiet --locked -p atlas-cli
    ATLAS=${CARGO_TARGET_DIR:-target}/release/atlas
fi

dir=$(mktemp -d)
samples=${SAMPLES:-$dir/samples}
pids=()
load=
cleanup() {
    for pid in "${pids[@]}" $load; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

fail() {
    echo "FAILED: $1" >&2
    tail -n 5 "$dir"/replica-*.log "$dir/load.log" >&2 || true
    exit 1
}

wait_for() {
    local what=$1 deadline=$((SECONDS + 120))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "waited too long for $what"
        sleep 0.1
    done
}

# Limits that are small enough for the bound to mean something; those that the genesis digest covers stay
# as `init` wrote them.
set_limit() { sed -i -E "s/^#? ?$1 = .*/$1 = $2/" "$3"; }

"$ATLAS" init --replicas "$replicas" --protocol "$protocol" --dir "$dir/cluster" \
    --checkpoint-interval 64 --base-port "$base_port" --admin-base-port $((base_port + replicas)) >/dev/null
cluster=$dir/cluster/cluster.toml
set_limit operation_bytes_max $((64 << 10)) "$cluster"
set_limit bundle_bytes_max $((128 << 10)) "$cluster"
set_limit batch_bytes_max $((256 << 10)) "$cluster"
set_limit frame_bytes_max $((2 << 20)) "$cluster"
set_limit pool_bytes_max $((4 << 20)) "$cluster"
set_limit chunk_bytes $((64 << 10)) "$cluster"
segment=$((4 << 20))
for replica in $(seq 0 $last); do
    set_limit log_segment_bytes $segment "$dir/cluster/replica-$replica/node.toml"
    set_limit clients_max 64 "$dir/cluster/replica-$replica/node.toml"
done

# Twice what keys and values take: each entry has about 260 bytes.
bounds() {
    "$ATLAS" bounds "$dir/cluster/replica-0" --state-bytes $((keys * 520)) --json |
        grep -Eo "^  \"$1\": [0-9]+" | grep -Eo '[0-9]+$'
}
memory_max=$(bounds memory_bytes)
disk_max=$(bounds disk_bytes)

for replica in $(seq 0 $last); do
    "$ATLAS" start "$dir/cluster/replica-$replica" >"$dir/replica-$replica.log" 2>&1 &
    pids[replica]=$!
    disown
done
for replica in $(seq 0 $last); do
    wait_for "replica $replica to be ready" grep -q "replica $replica ready" "$dir/replica-$replica.log"
done

# So many lines a second, over the same keys again and again, each time with other values.
generate() {
    awk -v rate="$rate" -v keys="$keys" 'BEGIN {
        pad = sprintf("%180s", ""); gsub(/ /, "x", pad)
        for (;;) {
            for (i = 0; i < rate; i++) {
                printf "{\"key\":\"key-%06d\",\"value\":\"%020d-%s\"}\n", n % keys, n, pad
                n++
            }
            fflush()
            if (system("sleep 1") != 0) exit
        }
    }'
}
generate | "$ATLAS" kv --client "$dir/cluster/client-0" import - >"$dir/load.log" 2>&1 &
load=$!
disown

memory() { awk '/^VmRSS:/ { print $2 * 1024 }' "/proc/$1/status"; }
: >"$samples"
began=$SECONDS
end=$((began + minutes * 60))
while ((SECONDS < end)); do
    sleep 5
    kill -0 "$load" 2>/dev/null || fail "the load has ended"
    for replica in $(seq 0 $last); do
        kill -0 "${pids[replica]}" 2>/dev/null || fail "replica $replica has ended"
        rss=$(memory "${pids[replica]}")
        # Files come and go while they are counted.
        disk=$(du -sb "$dir/cluster/replica-$replica/data" 2>/dev/null | cut -f1)
        echo "$((SECONDS - began)) $replica $rss $disk" >>"$samples"
        ((rss <= memory_max)) || fail "replica $replica takes $rss bytes of memory, at most $memory_max are allowed"
        ((disk <= disk_max)) || fail "replica $replica takes $disk bytes of disk, at most $disk_max are allowed"
    done
done
"$ATLAS" status --client "$dir/cluster/client-0"

awk -v seconds=$((minutes * 60)) -v growth="$growth" -v memory_max="$memory_max" -v disk_max="$disk_max" \
    -v segment=$segment -v protocol="$protocol" '
    function mib(bytes) { return bytes / 1048576 }
    {
        third = int($1 * 3 / seconds); if (third > 2) third = 2
        memory[$2, third] += $3; disk[$2, third] += $4; count[$2, third]++
        if ($3 > memory_worst) memory_worst = $3
        if ($4 > disk_worst) disk_worst = $4
        replicas[$2] = 1
    }
    END {
        for (r in replicas) {
            for (t = 0; t < 3; t++) { m[t] = memory[r, t] / count[r, t]; d[t] = disk[r, t] / count[r, t] }
            printf "replica %s: memory %.1f, %.1f, %.1f MiB, disk %.1f, %.1f, %.1f MiB (means of the thirds)\n", \
                r, mib(m[0]), mib(m[1]), mib(m[2]), mib(d[0]), mib(d[1]), mib(d[2])
            if (m[2] > m[1] * (1 + growth / 100) + 16 * 1048576) { print "  its memory grows"; bad = 1 }
            middle += m[1]; end += m[2]
            if (d[2] > d[1] * 1.1 && d[2] > d[1] + segment) { print "  its disk grows"; bad = 1 }
        }
        printf "%s: at most %.1f MiB of memory (bound %.1f), %.1f MiB of disk (bound %.1f)\n", protocol, \
            mib(memory_worst), mib(memory_max), mib(disk_worst), mib(disk_max)
        printf "all replicas: memory %+.1f per cent from the middle third to the last\n", (end / middle - 1) * 100
        if (end > middle * (1 + growth / 100)) { print "  their memory grows"; bad = 1 }
        exit bad
    }' "$samples" || fail "a replica grows"
echo "OK: $minutes minutes"
