#!/usr/bin/env bash
# `make bench`: the measurements, in one run, printed as a table.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ -f bench/run.mjs ] || die "there is no bench/run.mjs"
tools/setup.sh run bench
tools/build.sh all
clean_environment
. tools/binaries.sh
exec node bench/run.mjs "$@"
