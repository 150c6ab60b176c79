#!/usr/bin/env bash
# Names of the unit tests of build-asan whose "unit/<name>" matches a pattern (all without one).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

meson test -C build-asan --no-rebuild --list --suite unit 2>/dev/null |
    sed 's|^.* / ||; s|^|unit/|' | { grep -E -- "${1:-.}" || true; } | sed 's|^unit/||'
