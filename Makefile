# Verbs only. What a verb does is in tools/; how the program is built is in meson.build.
#
#   make run                start the server (installs and builds what is missing first)
#   make run ARGS="..."     the same, with more flags for `claudegate serve`
#   make test               every test; make test T=unit/http or T=e2e/chat runs a part
#   make bench              the measurements, printed as a table
#   make soak               10,000 requests of every kind, then the books are checked; ARGS="--real"
#   make lint               format, static analysis, warnings of both compilers as errors
#   make asan               sanitizer build in build-asan, and the unit tests on it
#   make fuzz               each fuzz target for FUZZ_SECONDS (60); T=name for one
#   make web                the admin UI: this version has none yet, and says so
#   make build              build/claudegate
#   make setup              what a fresh machine lacks: Debian packages, npm packages
#   make clean              remove everything built

.PHONY: all run test bench soak lint asan fuzz web build setup clean

all: build

run:
	@exec tools/run.sh $(ARGS)

test:
	@T='$(T)' exec tools/test.sh

bench:
	@exec tools/bench.sh $(ARGS)

soak:
	@exec tools/soak.sh $(ARGS)

lint:
	@exec tools/lint.sh

asan:
	@T='$(T)' exec tools/asan.sh

fuzz:
	@T='$(T)' exec tools/fuzz.sh run

web:
	@echo 'The admin UI is not part of this version: there is nothing to build.'

build:
	@exec tools/build.sh

setup:
	@exec tools/setup.sh

clean:
	rm -rf build build-*
