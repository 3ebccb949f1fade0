#!/usr/bin/env bash
# Installs what the repository's commands need and is not here yet.
#
#   scripts/setup.sh        for building and running
#   scripts/setup.sh test   for the tests as well
#   scripts/setup.sh doctor only says what is missing for a first boot
#
# Says nothing and takes no time when everything is there. Packages come from
# apt, with sudo only where something is missing and the caller is not root;
# where there is no apt, it names what to install. The Rust toolchain comes
# from rustup, as rust-toolchain.toml names it.
set -euo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")/.."
# Before the system's: Debian's own cargo beside rustup's is another version.
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

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
    has zsh || packages+=(zsh)
    has fish || packages+=(fish)
fi

# --- the Rust toolchain: is there any, before the rest is fetched -----------
channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
target=$(sed -n 's/^targets *= *\["\(.*\)"\]/\1/p' rust-toolchain.toml)

get_rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"

toolchain_is_complete() {
    local sysroot
    sysroot=$(RUSTUP_AUTO_INSTALL=0 rustc --print sysroot 2>/dev/null) || return 1
    [ -d "$sysroot/lib/rustlib/$target" ] && [ -x "$sysroot/bin/cargo" ] &&
        [ -x "$sysroot/bin/rustfmt" ] && [ -x "$sysroot/bin/cargo-clippy" ]
}

if [ "${1:-}" = doctor ]; then
    status=0
    for package in "${packages[@]}"; do
        echo "NO  $package: not installed -> scripts/setup.sh, or sudo apt-get install $package"
        status=1
    done
    if toolchain_is_complete; then
        echo "ok  Rust: $(rustc --version)"
    elif has rustup; then
        echo "NO  Rust $channel: not installed -> scripts/setup.sh"
        status=1
    else
        echo "NO  Rust: no rustup -> $get_rustup"
        status=1
    fi
    echo "(scripts/xtask.sh doctor says more once a first boot has compiled the program)"
    exit $status
fi

if ! toolchain_is_complete && ! has rustup; then
    [ ${#packages[@]} -eq 0 ] || say "missing, and installed by the next start: ${packages[*]}"
    say "rustup is missing: install it as https://rustup.rs says, and start again:"
    say "  $get_rustup"
    say "or, from Debian 13 on: sudo apt-get install rustup"
    exit 1
fi

# --- what apt has of it -----------------------------------------------------
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Runs apt-get as root; what it says is shown only when all has failed.
apt_get() {
    # A machine that has just started is often busy with apt's own updates.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes \
        -oDPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1
}

if [ ${#packages[@]} -gt 0 ]; then
    if ! has apt-get; then
        say "missing, and there is no apt-get here to install them with: ${packages[*]}"
        say "(these are Debian's names; install what your system calls them and start again)"
        exit 1
    fi
    by_hand="as root: apt-get update && apt-get install --no-install-recommends ${packages[*]}"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
        # Asks for the password where one is needed, before anything is hidden.
        if ! has sudo || ! { sudo -n true 2>/dev/null || sudo -v; }; then
            say "missing: ${packages[*]}"
            say "$by_hand"
            say "and start again"
            exit 1
        fi
    fi
    say "installing with apt: ${packages[*]} ..."
    install=(install --no-install-recommends "${packages[@]}")
    # The lists may be missing, or too old to name files that still exist.
    if ! apt-cache show "${packages[@]}" >/dev/null 2>&1 || ! apt_get "${install[@]}"; then
        if ! { apt_get update && apt_get "${install[@]}"; }; then
            grep -E '^(E|W|Err|dpkg)' "$log" >&2 || cat "$log" >&2
            say "apt could not install what is missing. When that is mended, start again, or"
            say "$by_hand"
            exit 1
        fi
    fi
fi

# --- the toolchain that this repository names -------------------------------
if ! toolchain_is_complete; then
    say "installing Rust $channel with $target"
    rustup toolchain install "$channel" --no-self-update --profile minimal \
        --component clippy --component rustfmt --target "$target" >&2 || {
        say "Rust $channel could not be installed; is the network reachable from here? rustup's own message is above"
        exit 1
    }
    if ! toolchain_is_complete; then
        say "Rust $channel is there, but $(command -v rustc) is another; is one forced by RUSTUP_TOOLCHAIN or an override?"
        exit 1
    fi
fi
