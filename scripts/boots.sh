#!/usr/bin/env bash
# Runs the boots under QEMU. At the end it repeats what the failed ones said, and lists
# those that cannot run here.
#
#   scripts/boots.sh [OPTION]...     options of cargo test, such as --test linux
#
# A test that has failed is run 20 times more, by itself. If it fails again, it is broken.
# If it passes all of them, it is unstable: a busy host, or QEMU itself. One in a run is let
# pass, and recorded in tests/unstable.txt. A test that stands there already is broken: find
# the cause, then take the line out.
set -uo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "$(dirname "$0")/.." || exit
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
mkdir -p target
log=target/boots.log
names=target/failed
record=tests/unstable.txt
# Where tests that cannot run here say why.
export QBOOT_SKIPPED=$PWD/target/skipped
: >"$QBOOT_SKIPPED" || exit

summary() {
    # A test that was run again has said it again.
    printf '\n%d skipped\n' "$(sort -u "$QBOOT_SKIPPED" | wc -l)"
    sort -u "$QBOOT_SKIPPED"
    [ ! -s "$record" ] || printf '\n%s:\n%s\n' "$record" "$(cat "$record")"
}

passes() {
    local output status
    output=$(cargo test --package qboot-tests --test "$1" -- --exact "$2" 2>&1 </dev/null)
    status=$?
    # No test at all passes as well.
    [ $status -eq 0 ] && [[ $output == *"1 passed"* ]] || {
        printf '%s\n' "$output"
        return 1
    }
}

if cargo test --package qboot-tests --no-fail-fast "$@" 2>&1 | tee "$log"; then
    summary
    exit 0
fi

# What the failed tests said, and in $names a line for each: its file, its name.
: >"$names"
said=$(awk -v names="$names" '
    / Running / { file = $NF; gsub(/^.*\/|-[0-9a-f]+\)$/, "", file) }
    /^(failures:|test result:)/ { show = 0 }
    /^---- .* ----$/ {
        show = 1
        name = $0
        gsub(/^---- |( stdout)? ----$/, "", name)
        print file, name >names
    }
    show' "$log")

declare -i unstable=0 broken=0
# A test program that does not compile, or dies, names no failures.
programs=$(cut -d' ' -f1 "$names" | sort -u | wc -l)
[ "$programs" -gt 0 ] && [ "$programs" -eq "$(grep -c '^    `-p qboot-tests' "$log")" ] || broken=1
while read -r file name; do
    # Three say enough.
    [ $broken -lt 3 ] || break
    broken+=1
    printf '\n%s of %s, again:' "$name" "$file"
    if [ -e "$record" ] && cut -d' ' -f2- "$record" | grep -qxF "$file $name"; then
        printf ' it was unstable before\n'
        continue
    fi
    for again in {1..20}; do
        printf ' %d' "$again"
        passes "$file" "$name" || continue 2
    done
    broken+=-1 unstable+=1
    printf '%s %s %s\n' "$(date -I)" "$file" "$name" >>"$record"
done <"$names"

printf '\n\nWhat failed at first:\n\n%s\n' "$said"
summary
printf '%d unstable, %d broken\n' $unstable $broken
[ $unstable -le 1 ] && [ $broken -eq 0 ]
