#!/usr/bin/env bash
# Lists every unsafe block, function and implementation of the firmware with
# the comment that justifies it, and counts them. Fails when one lies outside
# src/rom/ and the entry (src/main.rs), or has no such comment.
#
#   scripts/unsafe.sh [DIRECTORY]     another source tree than this one's
set -euo pipefail
case ${1:-} in --help | -h)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    exit
    ;;
esac
cd "${1:-$(dirname "$0")/..}"
find src -name '*.rs' | sort | xargs awk '
    FNR == 1 { comment = ""; justified = 0 }
    # The comment right above, SAFETY for blocks and "# Safety" for functions.
    /^[[:space:]]*\/\// {
        line = $0
        sub(/^[[:space:]]*\/\/[\/!]?[[:space:]]?/, "", line)
        if (line ~ /^SAFETY:/ || line ~ /^# Safety/) { justified = 1; comment = "" }
        if (justified) comment = comment " " line
        next
    }
    {
        code = $0
        gsub(/"[^"]*"/, "\"\"", code)
        sub(/\/\/.*/, "", code)
        if (code ~ /(^|[^[:alnum:]_])unsafe([^[:alnum:]_]|$)/ && code !~ /unsafe_code|unsafe_op/) {
            # Declarations of symbols and numbers in an extern block are no use of them.
            declaration = code ~ /unsafe extern "" *\{/ || code ~ /#\[unsafe\(/
            printf "%s:%d:%s\n", FILENAME, FNR, code
            if (comment != "") print "   " comment
            if (!declaration) count[FILENAME]++
            if (FILENAME !~ /^src\/rom\// && FILENAME != "src/main.rs") {
                print "   ERROR: unsafe code belongs under src/rom/"; bad++
            }
            if (!declaration && !justified) { print "   ERROR: no SAFETY comment"; bad++ }
        }
        # A comment holds for one statement; a statement may take some lines.
        if (code ~ /[;{}][[:space:]]*$/) { comment = ""; justified = 0 }
    }
    END {
        for (file in count) { total += count[file] }
        printf "%d uses of unsafe", total
        separator = ": "
        for (file in count) { printf "%s%s %d", separator, file, count[file]; separator = ", " }
        print ""
        if (total == 0) { print "ERROR: none found, is this the firmware?"; bad++ }
        exit bad > 0
    }'
