# Sourced: tells tests and measurements where the programs are. The server under test may be
# another build than the fakes (test.sh: the sanitizer build).
# shellcheck shell=bash

export CLAUDEGATE_BIN="${CLAUDEGATE_BIN:-$ROOT/build/claudegate}"
export FAKE_CLAUDE_BIN="$ROOT/build/tests/fakes/fake-claude"
export STANDIN_BIN="$ROOT/build/tests/fakes/standin"
export CLAUDE_BIN="$ROOT/node_modules/.bin/claude"
