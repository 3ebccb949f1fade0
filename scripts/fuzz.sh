#!/usr/bin/env bash
# Fuzzes the library, one target after another, and says how many runs each had:
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]     60 s a target, all targets
#   scripts/fuzz.sh minimise [TARGET...]      leaves in fuzz/corpus what adds coverage
#
# Needs cargo-fuzz (cargo install cargo-fuzz). The compiler is the repository's
# stable one: RUSTC_BOOTSTRAP lets it take the coverage flags. The library has
# no unsafe code, so no sanitizer runs along. FUZZ_CORPUS names another corpus
# directory, so that a long run leaves the repository's alone.
set -euo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1
# Inputs come and go by the thousand: keep the heap.
export MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_TOP_PAD_=67108864 MALLOC_MMAP_THRESHOLD_=33554432

command -v cargo-fuzz >/dev/null || {
    echo "cargo-fuzz is missing: cargo install --locked cargo-fuzz" >&2
    exit 1
}
mode=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
corpus=${FUZZ_CORPUS:-fuzz/corpus}
# A machine of 3 GiB is mapped, not touched.
limits=(-rss_limit_mb=3000 -malloc_limit_mb=5000 -timeout=30)

cargo fuzz build --sanitizer none >/dev/null
bin=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if [ "$mode" = minimise ]; then
    for target in "${targets[@]}"; do
        new=$(mktemp -d)
        "$bin/$target" -merge=1 "${limits[@]}" "$new" "$corpus/$target" >/dev/null 2>&1
        rm -rf "fuzz/corpus/$target"
        mkdir -p fuzz/corpus
        mv "$new" "fuzz/corpus/$target"
        chmod 755 "fuzz/corpus/$target"
        echo "$target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs"
    done
    exit
fi

total=0
failed=()
for target in "${targets[@]}"; do
    mkdir -p "$corpus/$target" "fuzz/artifacts/$target"
    status=0
    "$bin/$target" -max_total_time="$mode" -print_final_stats=1 "${limits[@]}" \
        -dict=fuzz/dict/boot.dict -artifact_prefix="fuzz/artifacts/$target/" \
        "$corpus/$target" >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    total=$((total + ${runs:-0}))
    printf '%-10s %12d runs\n' "$target" "${runs:-0}"
    if [ "$status" -ne 0 ]; then
        failed+=("$target")
        tail -40 "$log"
    fi
done
printf '%-10s %12d runs\n' total "$total"
if [ ${#failed[@]} -gt 0 ]; then
    echo "findings in: ${failed[*]} (inputs in fuzz/artifacts)"
    exit 1
fi
