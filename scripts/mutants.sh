#!/usr/bin/env bash
# Changes the library one place after another, and says which changes no fast test
# notices (cargo-mutants; .cargo/mutants.toml has what is left out, and why):
#
#   scripts/mutants.sh                  all, some hours
#   scripts/mutants.sh 2/16             the second of sixteen parts
#   scripts/mutants.sh src/phys.rs...   these files
#
# Fails if fewer than 95 of 100 changes that compile are noticed. The lists are in
# target/mutants/mutants.out. Needs cargo-mutants (cargo install --locked cargo-mutants).
set -euo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")/.."
command -v cargo-mutants >/dev/null || {
    echo "cargo-mutants is missing: cargo install --locked cargo-mutants" >&2
    exit 1
}
arguments=()
for part in "$@"; do
    case $part in
    *.rs) arguments+=(--file "$part") ;;
    # Theirs are counted from 0.
    *) arguments+=(--sharding round-robin --shard "$((${part%/*} - 1))/${part#*/}") ;;
    esac
done
# Properties are sampled thinly: there are a thousand runs.
export PROPTEST_CASES=${PROPTEST_CASES:-32} CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0
mkdir -p target/mutants
# 2: some were missed; 3: some ran out of time, which is noticed too.
status=0
cargo mutants --no-shuffle --output target/mutants "${arguments[@]}" || status=$?
case $status in 0 | 2 | 3) ;; *) exit $status ;; esac
count() { wc -l <"target/mutants/mutants.out/$1.txt"; }
missed=$(count missed)
caught=$(($(count caught) + $(count timeout)))
viable=$((missed + caught))
[ $viable -gt 0 ] || { echo "no mutants"; exit; }
echo "$caught of $viable caught: $((100 * caught / viable)) %"
[ $((100 * caught)) -ge $((95 * viable)) ]
