#!/usr/bin/env bash
# Runs the boots under QEMU, and at its end repeats what the failed ones said,
# and says which could not run here.
#
#   scripts/boots.sh [OPTION]...     options of cargo test, such as --test linux
#
# A test that has failed is run five times more, by itself. If it fails again, it
# is broken. If it passes all five, it is unstable: a busy host, or QEMU itself.
# One unstable test in a run is printed, counted and let pass; two are not.
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
# Where tests that cannot run here say why.
export QBOOT_SKIPPED=$PWD/target/skipped
: >"$QBOOT_SKIPPED" || exit

# A test that was run again has said it again.
skipped() {
    printf '\n%d skipped\n' "$(sort -u "$QBOOT_SKIPPED" | wc -l)"
    sort -u "$QBOOT_SKIPPED"
}

if cargo test --package qboot-tests --no-fail-fast "$@" 2>&1 | tee "$log"; then
    skipped
    exit
fi

# FILE and TEST of every failure.
failed() {
    awk '/^ +Running / {
            file = $NF
            gsub(/^.*\/|-[0-9a-f]+\)$/, "", file)
        }
        /^---- .* ----$/ {
            sub(/^---- /, "")
            sub(/( stdout)? ----$/, "")
            print file, $0
        }' "$log"
}

passes() {
    local output
    output=$(cargo test --package qboot-tests --test "$1" -- --exact "$2" 2>&1 </dev/null)
    local status=$?
    printf '%s\n' "$output"
    # None at all passes as well, by another name.
    [ $status -eq 0 ] && [[ $output == *"1 passed"* ]]
}

declare -i unstable=0 broken=0
# A test program that does not compile, or dies, has no list of failures.
named=$(failed | cut -d' ' -f1 | sort -u | wc -l)
[ "$named" -eq "$(grep -c '^    `-p qboot-tests' "$log")" ] && [ "$named" -gt 0 ] || broken=1
while read -r file name; do
    # Three say enough.
    [ $broken -lt 3 ] || break
    broken+=1
    for again in 1 2 3 4 5; do
        printf '\n%s of %s, again: %d of 5\n' "$name" "$file" "$again"
        passes "$file" "$name" || break
        [ "$again" -lt 5 ] || broken+=-1 unstable+=1
    done
done < <(failed)

printf '\nWhat failed at first:\n\n'
awk '/^---- .* ----$/ { show = 1 }
    /^(failures:|failed tests:|test result:)/ { show = 0 }
    show' "$log"
skipped
printf '%d unstable, %d broken\n' $unstable $broken
[ $unstable -le 1 ] && [ $broken -eq 0 ]
