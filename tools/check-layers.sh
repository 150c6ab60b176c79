#!/usr/bin/env bash
# The rules about the tree that a machine can check: includes point down the layer order only,
# every source file opens with a comment on its design, and files and functions stay small.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# From the bottom up; a layer may use itself and the ranks below, not its neighbours of one rank.
LAYERS='core
conf metrics
db shared http child vault
store cli upstream
auth limit pool price session
gateway
api
setup
app
cmd
main'

MAX_FILE=800
MAX_HEADER=200
MAX_FUNCTION=100
MAX_COMPLEXITY=15
EXCEPTIONS=tools/check-layers.exceptions

mapfile -t sources < <(c_files src)
mapfile -t checked < <(c_files src tests/fakes)
[ ${#sources[@]} -gt 0 ] || die "no sources below src"

# Prints one line per include that is not allowed.
check_includes() {
    awk -v layers="$LAYERS" '
        BEGIN {
            ranks = split(layers, row, "\n")
            for (r = 1; r <= ranks; r++) {
                n = split(row[r], name, " ")
                for (i = 1; i <= n; i++) rank[name[i]] = r
            }
        }
        # src/http/guard.c and "http/guard.h" are of the layer "http", src/app.c is of "app".
        function layer(path) { sub(/^src\//, "", path); sub(/[\/.].*/, "", path); return path }
        FNR == 1 {
            mine = layer(FILENAME)
            if (!(mine in rank)) print FILENAME ": src/" mine " has no place in the layer order"
        }
        /^[ \t]*#[ \t]*include[ \t]*"/ {
            split($0, part, "\"")
            its = layer(part[2])
            where = FILENAME ":" FNR ": "
            if (!(its in rank))
                print where "\"" part[2] "\" is not written from the root of src"
            else if (its != mine && rank[its] >= rank[mine])
                print where mine " may not use " its " (\"" part[2] "\")"
        }' "$@"
}

check_opening_comments() {
    local f first
    for f in "$@"; do
        first=$(grep -m1 -v '^[[:space:]]*$' "$f" || true)
        case $first in
        '/*'*) ;;
        *) say "$f:1: must open with a comment on what it is for and how it works" ;;
        esac
    done
}

excepted() { # excepted file|function WHERE
    awk -v what="$1" -v where="$2" '$1 == what && $2 == where && NF > 2 { found = 1 }
        END { exit !found }' "$EXCEPTIONS"
}

check_files() {
    local f lines max
    for f in "$@"; do
        lines=$(wc -l <"$f")
        max=$MAX_FILE
        [ "${f%.h}" = "$f" ] || max=$MAX_HEADER
        if [ "$lines" -ge "$max" ] && ! excepted file "$f"; then
            say "$f:$lines: $lines lines; the limit is below $max"
        fi
    done
}

# pmccabe: complexity (a switch counts once), ..., statements, first line, lines, where: name.
check_functions() {
    local complexity lines where name
    pmccabe "$@" | awk -F '\t' '{ sub(/\(.*\): /, " ", $6); print $1, $5, $4, $6 }' |
        while read -r complexity lines line where name; do
            if [ "$lines" -gt $MAX_FUNCTION ] && ! excepted function "$where:$name"; then
                say "$where:$line: $name has $lines lines; the limit is $MAX_FUNCTION"
            fi
            if [ "$complexity" -gt $MAX_COMPLEXITY ] && ! excepted function "$where:$name"; then
                say "$where:$line: $name has complexity $complexity; the limit is $MAX_COMPLEXITY"
            fi
        done
}

command -v pmccabe >/dev/null || die "pmccabe is missing (make setup installs it)"
mapfile -t code < <(printf '%s\n' "${checked[@]}" | grep '\.c$')
faults=$(
    check_includes "${sources[@]}"
    check_opening_comments "${checked[@]}"
    check_files "${checked[@]}"
    check_functions "${code[@]}"
)
if [ -n "$faults" ]; then
    say "$faults"
    exit 1
fi
say "structure: ${#checked[@]} files checked"
