#!/usr/bin/env bash
# `make run`: set up and build what is missing, then start the server in this process, with the
# caller's environment: ANTHROPIC_API_KEY, CLAUDEGATE_* and the rest are the server's to read.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tools/setup.sh run
tools/build.sh
exec build/claudegate serve --bootstrap --demo "$@"
