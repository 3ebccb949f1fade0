#!/usr/bin/env bash
# Runs the library's tests under Miri, which sees undefined behaviour, one by one:
#
#   scripts/miri.sh [SECONDS [FILTER]]     at most 60 s each, all tests
#
# Miri is some thousand times slower than the processor. A test that does not end
# in time says nothing, and is counted; one that fails stops nothing, and fails
# the script. Needs a nightly toolchain, which nothing else here does:
#
#   rustup toolchain install nightly --profile minimal --component miri,rust-src
set -euo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")/.."
limit=${1:-60}
filter=${2:-}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/miri}
# proptest asks for the time and the current directory.
export MIRIFLAGS=${MIRIFLAGS:--Zmiri-disable-isolation} PROPTEST_CASES=${PROPTEST_CASES:-2}

cargo +nightly miri --version >/dev/null 2>&1 || {
    echo "no Miri: rustup toolchain install nightly --profile minimal --component miri,rust-src" >&2
    exit 1
}
miri=(cargo +nightly miri test --quiet --package qboot --lib --)
list=$("${miri[@]}" --list "$filter" 2>/dev/null | sed -n 's/: test$//p')
log=$(mktemp)
trap 'rm -f "$log"' EXIT

passed=0
late=()
failed=()
for test in $list; do
    status=0
    timeout "$limit" "${miri[@]}" --exact "$test" </dev/null >"$log" 2>&1 || status=$?
    case $status in
    0) passed=$((passed + 1)) ;;
    124) late+=("$test") ;;
    *)
        failed+=("$test")
        tail -40 "$log"
        ;;
    esac
done
printf '%d passed, %d not done in %d s, %d failed\n' "$passed" ${#late[@]} "$limit" ${#failed[@]}
[ ${#late[@]} -eq 0 ] || printf 'not done: %s\n' "${late[@]}"
[ ${#failed[@]} -eq 0 ] || {
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
}
