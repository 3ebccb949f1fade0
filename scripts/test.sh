#!/usr/bin/env bash
# Installs what the tests need and runs all of them: format, lints, the library
# on 64 and 32 bits, and the boots under QEMU. Every step runs even when an
# earlier one failed; the exit status is 0 only when all passed.
set -uo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")/.." || exit
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
scripts/setup.sh test || exit
# The release whose kernels and programs the tests boot, whatever this system is.
export QBOOT_DEBIAN=${QBOOT_DEBIAN:-bookworm}

target=i586-unknown-linux-gnu
failed=()
step() {
    local name=$1 start=$SECONDS result=passed
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" || {
        failed+=("$name")
        result=FAILED
    }
    printf -- '-- %s: %s, %d s\n' "$name" "$result" $((SECONDS - start))
}

# What a failure may have to do with.
room() { df -h --output=avail "$1" | awk 'END { print $1 }'; }
printf 'machine: %d processors, %dG of memory free, %s of disk here and %s in /tmp, QEMU %s, %s\n' \
    "$(nproc)" "$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)" \
    "$(room .)" "$(room "${TMPDIR:-/tmp}")" \
    "$("${QBOOT_QEMU:-qemu-system-x86_64}" --version | awk 'NR == 1 { print $4 }')" \
    "$([ -w /dev/kvm ] && echo KVM || echo 'no KVM')"

step format cargo fmt --all --check
step "unsafe code" scripts/unsafe.sh
step lints cargo clippy --workspace --all-targets -- -D warnings
step "lints without features" cargo clippy --package qboot -- -D warnings
step "lints of the ROM" cargo clippy --package qboot --profile rom --features rom --target $target --bin firmware -- -D warnings
# Their corpus is replayed by the library's tests. Nothing is linked, so no libFuzzer is needed.
step "fuzz targets" env CUSTOM_LIBFUZZER_PATH=/libfuzzer.a cargo check --manifest-path fuzz/Cargo.toml --locked
step "ROM" cargo xtask build
step documentation env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace --document-private-items
step "library, 32 bits" cargo test --package qboot --lib --test linker_loader --target $target
step "library and host program" cargo test --workspace --exclude qboot-tests
# Last, so that this run ends with the summary of the boots: what failed, what was skipped.
step boots scripts/boots.sh

if [ ${#failed[@]} -gt 0 ]; then
    printf '\nFAILED:' >&2
    printf ' %s;' "${failed[@]}" >&2
    printf '\n' >&2
    exit 1
fi
