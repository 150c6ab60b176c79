# Sourced by the scripts in tools/: where the tree is, messages, meson and ninja.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() {
    printf '%s\n' "$*"
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# configure DIR [meson options]: nothing to do when DIR is configured; ninja then keeps it fresh.
configure() {
    local dir=$1
    shift
    [ -f "$dir/build.ninja" ] && return 0
    local log
    log=$(mktemp)
    if ! meson setup "$@" "$dir" . >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "meson could not configure $dir (make setup installs what it needs)"
    fi
    rm -f "$log"
}

# compile DIR [targets]: silent when nothing changed, progress on a terminal; V=1 shows each step.
compile() {
    local dir=$1 flags=(-j "${JOBS:-$(nproc)}")
    shift
    if [ -n "${V:-}" ]; then
        flags+=(-v)
    elif [ ! -t 1 ]; then
        flags+=(--quiet)
    fi
    if ! ninja -C "$dir" -n "$@" 2>/dev/null | grep -q '^ninja: no work to do'; then
        ninja -C "$dir" "${flags[@]}" "$@" || return
    fi
    # Meson puts a program into the folder of its meson.build; users expect it at the top.
    if [ ! -e "$dir/claudegate" ] && [ -x "$dir/src/claudegate" ]; then
        ln -s src/claudegate "$dir/claudegate"
    fi
}

# The sanitizer build, shared by test.sh, asan.sh and fuzz.sh.
configure_asan() {
    configure build-asan -Db_sanitize=address,undefined -Db_lundef=false
}

sanitizer_options() {
    export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:$1"
    export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1:$1"
}

# Nothing of the caller's configuration may reach a test: not a credential, not a proxy, not a
# setting of the server.
clean_environment() {
    local name
    while IFS= read -r name; do
        case $name in
        ANTHROPIC_* | CLAUDE* | DATABASE_URL | REDIS_URL | PORT | LOG_LEVEL) unset "$name" ;;
        http_proxy | https_proxy | all_proxy | no_proxy) unset "$name" ;;
        HTTP_PROXY | HTTPS_PROXY | ALL_PROXY | NO_PROXY) unset "$name" ;;
        ASAN_OPTIONS | UBSAN_OPTIONS | LSAN_OPTIONS | NODE_OPTIONS | NODE_TEST_CONTEXT) unset "$name" ;;
        esac
    done < <(compgen -e)
}

# c_files DIR...: the C sources and headers below, sorted.
c_files() {
    local dirs=() d
    for d in "$@"; do
        [ ! -d "$d" ] || dirs+=("$d")
    done
    [ ${#dirs[@]} -eq 0 ] || find "${dirs[@]}" -type f \( -name '*.c' -o -name '*.h' \) | LC_ALL=C sort
}
