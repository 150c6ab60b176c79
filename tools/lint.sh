#!/usr/bin/env bash
# `make lint`: layout, structure, shell scripts, static analysis, and both compilers with warnings
# as errors. All of them run; the exit status tells whether any complained.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tools/setup.sh run test lint

# What is left out. Taste: easily-swappable-parameters flags every (pointer, length) pair;
# reserved-identifier, assignment-in-if-condition, no-int-to-ptr; narrowing and widening are
# -Wconversion's. Wrong here: not-null-terminated-result (bytes with a length), insecureAPI (wants
# Annex K, which glibc does not have), valist.Uninitialized (does not see va_copy), unix.Malloc
# (cannot follow intrusive lists and reference counts, which AddressSanitizer does),
# core.NullDereference (every HASH_DEL of uthash).
TIDY_CHECKS='-*,clang-analyzer-*,bugprone-*,performance-*,portability-*'
for check in bugprone-easily-swappable-parameters bugprone-reserved-identifier \
    bugprone-assignment-in-if-condition performance-no-int-to-ptr \
    bugprone-narrowing-conversions bugprone-implicit-widening-of-multiplication-result \
    bugprone-not-null-terminated-result \
    clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling \
    clang-analyzer-valist.Uninitialized clang-analyzer-unix.Malloc \
    clang-analyzer-core.NullDereference; do
    TIDY_CHECKS+=",-$check"
done

shell_scripts() {
    shellcheck -x -P SCRIPTDIR .ci/run tools/*.sh
}

strict_build() { # strict_build COMPILER
    CC=$1 configure "build-lint-$1" --werror --buildtype=debugoptimized
    compile "build-lint-$1"
}

tidy() {
    local files
    mapfile -t files < <(find src -name '*.c' | LC_ALL=C sort)
    printf '%s\0' "${files[@]}" | xargs -0 -n 4 -P "${JOBS:-$(nproc)}" \
        clang-tidy --quiet --warnings-as-errors='*' --checks="$TIDY_CHECKS" -p build-lint-clang \
        2> >(grep -v 'warnings generated\|Suppressed\|Use -header-filter' >&2)
}

# Suppressed: headers of other libraries; unknownEvaluationOrder misreads the fields of a log line
# (compound literals), the uninit family the OBJ macro.
cpp_check() {
    cppcheck --quiet --std=c11 --language=c -j "${JOBS:-$(nproc)}" -Isrc -D_GNU_SOURCE \
        --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
        --suppress=missingInclude --suppress=missingIncludeSystem \
        -D'json_object_foreach(o,k,v)=for((k)=0,(v)=0;(o);)' \
        -D'json_array_foreach(a,i,v)=for((i)=0,(v)=0;(a);)' \
        -D'HASH_ITER(hh,head,el,tmp)=for((el)=(head),(tmp)=0;(el);(el)=(tmp))' \
        --suppress=unknownEvaluationOrder --suppress=uninitvar --suppress=legacyUninitvar \
        --suppress=uninitStructMember \
        --template='{file}:{line}: {severity}: {message} [{id}]' src
}

failed=()
step() { # step NAME COMMAND...
    local name=$1
    shift
    say "lint: $name"
    # A subshell, so that a step that gives up does not end the others.
    if ! ("$@"); then
        failed+=("$name")
    fi
}

step format tools/check-format.sh
step structure tools/check-layers.sh
step shellcheck shell_scripts
step "gcc -Werror" strict_build gcc
step "clang -Werror" strict_build clang
step cppcheck cpp_check
step clang-tidy tidy
[ ${#failed[@]} -eq 0 ] || die "lint: ${failed[*]}"
say "lint: clean"
