#!/usr/bin/env bash
# build/claudegate: optimised, with debug information. With an argument: these ninja targets
# instead of the server alone (`all`: the tests and fakes too).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ -f build/build.ninja ] || say "build: first build, this takes a moment"
configure build --buildtype=debugoptimized
if [ $# -gt 0 ]; then
    compile build "$@"
elif grep -q '^build src/claudegate:' build/build.ninja; then
    compile build src/claudegate
else
    compile build claudegate
fi
