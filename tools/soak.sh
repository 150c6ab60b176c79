#!/usr/bin/env bash
# `make soak`: thousands of requests that end in every way there is, and then nothing may be left.
# Exit status 1 on any violation. ARGS: see tests/load/soak.mjs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ -f tests/load/soak.mjs ] || die "there is no tests/load/soak.mjs"
tools/setup.sh run test
tools/build.sh all
clean_environment
. tools/binaries.sh
# What is to be read is printed by the test itself; the reporter only keeps the error, if any.
exec node --test-reporter=tap "--test-reporter-destination=$ROOT/build/soak.tap" \
    tests/load/soak.mjs "$@"
