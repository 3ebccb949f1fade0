#!/usr/bin/env bash
# Installs what the repository's commands need and is not here yet.
#
#   scripts/setup.sh        for building and running
#   scripts/setup.sh test   for the tests as well
#
# Says nothing and takes no time when everything is there. Packages come from
# apt, with sudo only where something is missing and the caller is not root;
# where there is no apt, it names what to install. The Rust toolchain comes
# from rustup, as rust-toolchain.toml names it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

say() { printf '%s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

# 32-bit programs need 32-bit start-up files and libraries to link with.
links_32_bit() {
    local object
    object=$(cc -m32 -print-file-name=crt1.o 2>/dev/null) && [ -e "$object" ] &&
        object=$(cc -m32 -print-file-name=libgcc_s.so 2>/dev/null) && [ -e "$object" ]
}

# --- programs, with the Debian package that each comes in -------------------
packages=()
has qemu-system-x86_64 || packages+=(qemu-system-x86)
has cc && [ -e "$(cc -print-file-name=crt1.o)" ] || packages+=(gcc libc6-dev)
has ld.bfd && has objcopy || packages+=(binutils)
if [ "${1:-}" = test ]; then
    links_32_bit || packages+=(gcc-multilib)
    has gdb || packages+=(gdb)
    has swtpm || packages+=(swtpm)
fi

if [ ${#packages[@]} -gt 0 ]; then
    if ! has apt-get; then
        say "missing, and there is no apt-get here to install them with: ${packages[*]}"
        say "(these are Debian's names; install what your system calls them and start again)"
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! has sudo; then
            say "missing: ${packages[*]}"
            say "as root: apt-get install --no-install-recommends ${packages[*]}"
            exit 1
        fi
        as_root=(sudo)
    fi
    say "installing with apt: ${packages[*]}"
    install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install
        --quiet --yes --no-install-recommends "${packages[@]}")
    # The lists may be missing or too old to name files that still exist.
    "${install[@]}" >&2 || {
        "${as_root[@]}" apt-get update --quiet >&2
        "${install[@]}" >&2
    }
fi

# --- the Rust toolchain -----------------------------------------------------
channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
target=$(sed -n 's/^targets *= *\["\(.*\)"\]/\1/p' rust-toolchain.toml)

toolchain_is_complete() {
    local sysroot
    sysroot=$(RUSTUP_AUTO_INSTALL=0 rustc --print sysroot 2>/dev/null) || return 1
    [ -d "$sysroot/lib/rustlib/$target" ] && [ -x "$sysroot/bin/cargo" ] &&
        [ -x "$sysroot/bin/rustfmt" ] && [ -x "$sysroot/bin/cargo-clippy" ]
}

if ! toolchain_is_complete; then
    if ! has rustup; then
        say "rustup is missing: install it as https://rustup.rs says and start again"
        exit 1
    fi
    say "installing Rust $channel with $target"
    rustup toolchain install "$channel" --no-self-update --profile minimal \
        --component clippy --component rustfmt --target "$target" >&2
    if ! toolchain_is_complete; then
        say "Rust $channel is still incomplete; is another toolchain forced by RUSTUP_TOOLCHAIN or an override?"
        exit 1
    fi
fi
