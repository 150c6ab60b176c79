#!/usr/bin/env bash
# `make asan`: everything with AddressSanitizer and UndefinedBehaviorSanitizer in build-asan, and
# the unit tests on it. build-asan/claudegate can then be started by hand.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tools/setup.sh run test
clean_environment
sanitizer_options exitcode=99
configure_asan
compile build-asan
mapfile -t tests < <(tools/unit-tests.sh "${T:-}")
[ ${#tests[@]} -gt 0 ] || die "no unit test matches '${T:-}'"
exec meson test -C build-asan --no-rebuild --print-errorlogs --suite unit "${tests[@]}"
