#!/usr/bin/env bash
# Every C file is laid out as .clang-format says. `tools/check-format.sh --fix` makes it so.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

command -v clang-format >/dev/null || die "clang-format is missing (make setup installs it)"
mapfile -t files < <(c_files src tests tools)
if [ "${1:-}" = --fix ]; then
    exec clang-format -i "${files[@]}"
fi
bad=()
for f in "${files[@]}"; do
    clang-format --dry-run -Werror "$f" 2>/dev/null || bad+=("$f")
done
if [ ${#bad[@]} -gt 0 ]; then
    say "not laid out as .clang-format says (tools/check-format.sh --fix):"
    printf '  %s\n' "${bad[@]}"
    exit 1
fi
say "format: ${#files[@]} files checked"
