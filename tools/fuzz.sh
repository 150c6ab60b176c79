#!/usr/bin/env bash
# Fuzz targets: tests/fuzz/fuzz_<name>.c, seeds in tests/fuzz/corpus/<name>/ (an input that once
# broke something is added there), an optional dictionary in tests/fuzz/<name>.dict.
#
#   tools/fuzz.sh run      each target for FUZZ_SECONDS (60) with libFuzzer; T=name for one
#   tools/fuzz.sh replay   each target on its corpus only, with the libraries of build-asan;
#                          prints "passed NAME" or "failed NAME" per target
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

targets() {
    find tests/fuzz -maxdepth 1 -name 'fuzz_*.c' 2>/dev/null | LC_ALL=C sort |
        sed 's|.*/fuzz_|fuzz/|; s|\.c$||' | { grep -E -- "${T:-.}" || true; } | sed 's|^fuzz/||'
}

# link_target OUT BUILD_DIR COMPILER [flags and files]
link_target() {
    local out=$1 dir=$2 cc=$3
    shift 3
    local libs flags
    mapfile -t libs < <(find "$dir/src" -name '*.a')
    read -ra flags <<<"$(pkg-config --cflags --libs \
        libevent jansson libsodium sqlite3 libcurl yaml-0.1)"
    "$cc" -g -O1 -std=gnu11 -D_GNU_SOURCE -fno-omit-frame-pointer -Isrc -o "$out" "$@" \
        -Wl,--start-group "${libs[@]}" -Wl,--end-group "${flags[@]}" -lcrypt -lpthread
}

corpus_of() {
    find "tests/fuzz/corpus/$1" -type f 2>/dev/null | LC_ALL=C sort
}

replay_one() {
    local name=$1 exe=build-asan/fuzz-replay/$1 inputs
    mapfile -t inputs < <(corpus_of "$name")
    [ ${#inputs[@]} -gt 0 ] || {
        say "tests/fuzz/corpus/$name is empty"
        return 1
    }
    link_target "$exe" build-asan cc -fsanitize=address,undefined \
        "tests/fuzz/fuzz_$name.c" tools/fuzz-replay.c &&
        timeout -k 5 300 "$exe" "${inputs[@]}"
}

replay() {
    local name rc=0
    mkdir -p build-asan/fuzz-replay
    for name in $(targets); do
        if replay_one "$name"; then
            say "passed fuzz/$name"
        else
            say "failed fuzz/$name"
            rc=1
        fi
    done
    return $rc
}

# What libFuzzer finds worth keeping goes to build-fuzz; only people add to tests/fuzz/corpus.
fuzz_one() {
    local name=$1 exe=build-fuzz/fuzz_$1 new=build-fuzz/corpus/$1 dict=()
    [ ! -f "tests/fuzz/$name.dict" ] || dict=("-dict=tests/fuzz/$name.dict")
    link_target "$exe" build-fuzz clang -fsanitize=fuzzer,address,undefined \
        "tests/fuzz/fuzz_$name.c" || return
    mkdir -p "$new" "build-fuzz/found" "tests/fuzz/corpus/$name"
    say "fuzz: $name for ${FUZZ_SECONDS:-60} s"
    "$exe" "-max_total_time=${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 "-artifact_prefix=build-fuzz/found/$name-" \
        "${dict[@]}" "$new" "tests/fuzz/corpus/$name"
}

run() {
    local names name rc=0
    mapfile -t names < <(targets)
    [ ${#names[@]} -gt 0 ] || die "no fuzz target matches: tests/fuzz/fuzz_${T:-*}.c"
    tools/setup.sh run fuzz
    CC=clang configure build-fuzz -Db_sanitize=address,undefined -Db_lundef=false \
        -Dc_args=-fsanitize=fuzzer-no-link
    mapfile -t libs < <(ninja -C build-fuzz -t targets all | sed -n 's/^\(src\/.*\.a\): .*/\1/p')
    compile build-fuzz "${libs[@]}"
    clean_environment
    sanitizer_options exitcode=99
    for name in "${names[@]}"; do
        fuzz_one "$name" || rc=1
    done
    [ $rc -eq 0 ] || die "inputs that broke a target are in build-fuzz/found"
}

case ${1:-} in
run) run ;;
replay) replay ;;
*) die "usage: tools/fuzz.sh run|replay" ;;
esac
