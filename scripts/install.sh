#!/usr/bin/env bash
# Installs the ROM, its firmware descriptor, the program qboot, its manual and
# its completions; from a checkout, which is built first, or from an unpacked
# release.
#
#   install.sh [--prefix DIR] [--uninstall]
#
# The prefix is /usr/local. DESTDIR, for packages, goes before it and into no
# installed file. Under sudo, the user who called it builds, not root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
usage() {
    echo "$1; --help tells how it is used" >&2
    exit 2
}
uninstall=
while [ $# -gt 0 ]; do
    case $1 in
    --prefix)
        [ $# -gt 1 ] || usage "--prefix needs a directory"
        prefix=$2
        shift
        ;;
    --prefix=*) prefix=${1#--prefix=} ;;
    --uninstall) uninstall=1 ;;
    --help | -h)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit
        ;;
    *) usage "unknown argument $1" ;;
    esac
    shift
done
case $prefix in
/*) prefix=${prefix%/} ;;
*) usage "the prefix has to be absolute, not $prefix" ;;
esac
to=${DESTDIR:-}$prefix

# Before anything is built: may it be written?
above=$to
while [ ! -e "$above" ]; do above=$(dirname "$above"); done
if [ ! -d "$above" ] || [ ! -w "$above" ]; then
    echo "$above cannot be written: put sudo before the command, or name another --prefix" >&2
    exit 1
fi

if [ -n "$uninstall" ]; then
    if [ ! -e "$to/bin/qboot" ] && [ ! -e "$to/share/qemu/qboot-rs.rom" ]; then
        echo "nothing is installed under $prefix" >&2
        exit
    fi
    rm -f "$to/bin/qboot" "$to/share/qemu/qboot-rs.rom" \
        "$to/share/qemu/firmware/60-qboot-rs.json" \
        "$to/share/bash-completion/completions/qboot" \
        "$to/share/zsh/site-functions/_qboot" "$to/share/zsh/vendor-completions/_qboot" \
        "$to/share/fish/vendor_completions.d/qboot.fish" \
        "$to/share/man/man1/qboot.1.gz" "$to"/share/man/man1/qboot-*.1.gz
    rm -rf "$to/share/doc/qboot-rs"
    # Directories that nobody else uses go too, but for the system's own.
    dirs=(share/qemu/firmware share/qemu share/bash-completion/completions share/bash-completion
        share/zsh/site-functions share/zsh/vendor-completions share/zsh share/fish/vendor_completions.d share/fish)
    case $prefix in
    /usr | /usr/local) ;;
    *) dirs+=(share/man/man1 share/man share/doc share bin .) ;;
    esac
    for dir in "${dirs[@]}"; do
        rmdir "$(realpath -m "$to/$dir")" 2>/dev/null || true
    done
    echo "removed from $prefix"
    exit
fi

if [ -e "$here/qboot.rom" ]; then
    from=$here
else
    from=${here%/*}/target/dist
    as_user=()
    # Root has no Rust, and would leave files that the user cannot replace.
    if [ "$(id -u)" -eq 0 ] && [ "${SUDO_USER:-root}" != root ]; then
        as_user=(sudo -H -u "$SUDO_USER")
    fi
    "${as_user[@]}" "$here/setup.sh"
    "${as_user[@]}" "$here/xtask.sh" dist "$from"
fi

set -E
trap 'echo "the installation is not complete; --uninstall removes what is there" >&2' ERR

# Where zsh looks without being told, which below /usr is Debian's to say.
zsh=site-functions
if [ "$prefix" = /usr ] && [ -e /etc/debian_version ]; then zsh=vendor-completions; fi

put() { install -D -m "$1" "$from/$2" "$to/$3"; }
put 755 qboot bin/qboot
put 644 qboot.rom share/qemu/qboot-rs.rom
put 644 completions/qboot.bash share/bash-completion/completions/qboot
put 644 completions/_qboot "share/zsh/$zsh/_qboot"
put 644 completions/qboot.fish share/fish/vendor_completions.d/qboot.fish
for page in "$from"/man/*.1; do
    name=$(basename "$page").gz
    install -d "$to/share/man/man1"
    text=$(cat "$page")
    # Without name and time: the same page, the same bytes.
    printf '%s\n' "${text//PREFIX/"$prefix"}" | gzip -9n >"$to/share/man/man1/$name"
    chmod 644 "$to/share/man/man1/$name"
done
for document in "$from"/*.md "$from"/LICENSE-* "$from"/NOTICES.txt "$from"/docs/*.* "$from"/docs/users/*; do
    # A checkout hands nothing out.
    if [ "$document" = "$from/NOTICES.txt" ] && ! [ -e "$document" ]; then continue; fi
    document=${document#"$from"/}
    put 644 "$document" "share/doc/qboot-rs/$document"
done
install -d "$to/share/qemu/firmware"
descriptor=$(cat "$from/60-qboot-rs.json")
printf '%s\n' "${descriptor//\/usr\/share\/qemu\/qboot-rs.rom/"$prefix/share/qemu/qboot-rs.rom"}" \
    >"$to/share/qemu/firmware/60-qboot-rs.json"
chmod 644 "$to/share/qemu/firmware/60-qboot-rs.json"
echo "installed: $prefix/bin/qboot, $prefix/share/qemu/qboot-rs.rom"
case :$PATH: in
*:"$prefix/bin":*) echo "a first boot: qboot run" ;;
*) printf 'a first boot: %q run (%s is not in PATH)\n' "$prefix/bin/qboot" "$prefix/bin" ;;
esac
# fish looks even into /usr/local only where XDG_DATA_DIRS names it.
if [ "$prefix" != /usr ]; then
    echo "completions, where your shell does not look there: qboot completions --help"
fi
