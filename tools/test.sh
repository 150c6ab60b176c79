#!/usr/bin/env bash
# `make test`: set-up, builds, structure checks, unit tests, fuzz corpus, end-to-end tests. The
# last line is "N passed, N failed" (", N skipped" may follow) over all of them.
#
# T=pattern (grep -E) runs the parts whose name matches: structure/layers, unit/<module>,
# fuzz/<name>, e2e/<file>, e2e-postgres/<file>. E2E_FILE_TIMEOUT (seconds, 300) bounds each
# end-to-end file.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

T=${T:-}
passed=0 failed=0 skipped=0 failures=()

add() { # add PASSED FAILED SKIPPED WHAT
    passed=$((passed + $1))
    failed=$((failed + $2))
    skipped=$((skipped + $3))
    [ "$2" -eq 0 ] || failures+=("$4")
}

# Also when a step gave up half-way: the closing line always comes, and always last.
finish() {
    local status=$? f line
    trap - EXIT
    [ "${complete:-0}" = 1 ] || add 0 1 0 "the run itself, exit status $status"
    for f in "${failures[@]}"; do
        say "failed: $f"
    done
    if [ $((passed + failed)) -eq 0 ]; then
        say "nothing ran: no test matches $T"
    fi
    line="$passed passed, $failed failed"
    [ $skipped -eq 0 ] || line+=", $skipped skipped"
    say "$line"
    if [ $failed -gt 0 ] || [ $passed -eq 0 ]; then
        exit 1
    fi
    exit 0
}
trap finish EXIT

selected() {
    printf '%s\n' "$1" | grep -qE -- "${T:-.}"
}

one() { # one NAME COMMAND...: a check that counts as one test
    local name=$1
    shift
    selected "$name" || return 0
    if "$@"; then
        add 1 0 0 "$name"
    else
        add 0 1 0 "$name"
    fi
}

build_all() { # a test run with a broken build still ends with its closing line
    local log=build-asan/test-build.log
    mkdir -p build-asan
    say "test: building (optimised, and with sanitizers)"
    if ! (tools/build.sh all && configure_asan && compile build-asan) 2>&1 | tee "$log"; then
        add 0 1 0 "build, see $log"
        complete=1
        exit 1
    fi
}

run_unit() {
    local names sums log=build-asan/meson-logs/testlog.json
    mapfile -t names < <(tools/unit-tests.sh "$T")
    [ ${#names[@]} -gt 0 ] || return 0
    say "test: unit"
    rm -f "$log"
    sanitizer_options exitcode=99
    meson test -C build-asan --no-rebuild --print-errorlogs --suite unit "${names[@]}" || true
    sums=$(node tools/sum-tests.mjs unit "$log")
    # shellcheck disable=SC2086 # three numbers
    add $sums "unit tests, see $log"
}

run_fuzz_corpus() {
    [ -d tests/fuzz ] || return 0
    local output
    output=$(tools/fuzz.sh replay 2>&1) || true
    [ -n "$output" ] || return 0
    say "test: fuzz corpus"
    say "$output"
    add "$(grep -c '^passed fuzz/' <<<"$output")" "$(grep -c '^failed fuzz/' <<<"$output")" 0 \
        "fuzz corpus"
}

# "/proc/PID PROGRAM" of the programs that end-to-end tests start and that run now. A server
# somebody runs from build/ is no business of ours, nor are its workers.
test_processes() {
    local proc exe parent
    find /proc -maxdepth 2 -path '/proc/[0-9]*/exe' -printf '%h %l\n' 2>/dev/null |
        grep -F -e " $ROOT/build-asan/" -e " $ROOT/build/tests/" -e " $ROOT/node_modules/" |
        while read -r proc exe; do
            parent=$(sed -n 's/^PPid:[[:space:]]*//p' "$proc/status" 2>/dev/null) || continue
            case $(readlink "/proc/$parent/exe" 2>/dev/null || true) in
            "$ROOT"/build/*claudegate) ;;
            *) say "$proc $exe" ;;
            esac
        done | LC_ALL=C sort || true
}

# A test that ends must have ended what it started.
nothing_left_behind() { # nothing_left_behind BEFORE
    local left
    sleep 1 # a worker may still be on its way out
    left=$(LC_ALL=C comm -13 <(printf '%s\n' "$1") <(test_processes) | grep . || true)
    [ -n "$left" ] || return 0
    say "left running by the tests, ended now:"
    say "$left"
    local pid
    while IFS= read -r pid; do
        kill -KILL "${pid#/proc/}" 2>/dev/null || true
    done < <(cut -d' ' -f1 <<<"$left")
    return 1
}

no_sanitizer_report() { # no_sanitizer_report DIR
    local reports
    mapfile -t reports < <(find "$1" -type f -size +0)
    [ ${#reports[@]} -gt 0 ] || return 0
    say "sanitizer reports of the server under test:"
    head -n 60 "${reports[@]}"
    return 1
}

# What depends on the database runs on PostgreSQL once more; postgres.test.mjs always does.
ON_POSTGRES='keys lifecycle sessions usage'

# These look at times, descriptors or memory, and have the machine for themselves. Of the others,
# which mostly wait, two files run side by side.
ALONE='cancel fake_cli fake_steps faults http2 ops real_faults soak standin targets workers'

node_tests() { # node_tests NAME CONCURRENCY FILE...
    local name=$1 tap=build-asan/$1.tap concurrency=$2 sums
    shift 2
    [ $# -gt 0 ] || return 0
    say "test: $name, $# files, claudegate with sanitizers"
    rm -f "$tap"
    timeout -k 10 "${E2E_TIMEOUT:-3600}" node --test "--test-concurrency=$concurrency" \
        "--test-timeout=$((${E2E_FILE_TIMEOUT:-300} * 1000))" \
        --test-reporter=spec --test-reporter-destination=stdout \
        --test-reporter=tap --test-reporter-destination="$tap" "$@" || true
    sums=$(node tools/sum-tests.mjs e2e "$tap")
    # shellcheck disable=SC2086 # three numbers
    add $sums "$name, see above"
}

run_e2e() {
    local files=() alone=() again=() f before
    for f in tests/e2e/*.test.mjs; do
        selected "e2e/$(basename "$f")" || continue
        if [[ " $ALONE " == *" $(basename "$f" .test.mjs) "* ]]; then
            alone+=("$f")
        else
            files+=("$f")
        fi
    done
    for f in $ON_POSTGRES; do
        if selected "e2e-postgres/$f.test.mjs"; then
            again+=("tests/e2e/$f.test.mjs")
        fi
    done
    [ $((${#files[@]} + ${#alone[@]} + ${#again[@]})) -gt 0 ] || return 0
    local logs=$ROOT/build-asan/sanitizer-reports
    rm -rf "$logs"
    mkdir -p "$logs"
    sanitizer_options "exitcode=99:log_path=$logs/report"
    CLAUDEGATE_BIN=$ROOT/build-asan/claudegate
    . tools/binaries.sh
    before=$(test_processes)
    node_tests e2e 2 "${files[@]}"
    TEST_DATABASE=postgres node_tests e2e-postgres 2 "${again[@]}"
    node_tests e2e-alone 1 "${alone[@]}"
    if nothing_left_behind "$before"; then
        add 1 0 0 ""
    else
        add 0 1 0 "e2e: processes left behind"
    fi
    if no_sanitizer_report "$logs"; then
        add 1 0 0 ""
    else
        add 0 1 0 "e2e: sanitizer reports in $logs"
    fi
}

tools/setup.sh run test
clean_environment
one structure/layers tools/check-layers.sh
build_all
run_unit
run_fuzz_corpus
run_e2e
complete=1
