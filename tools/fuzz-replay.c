/* fuzz-replay.c - runs a fuzz target on the files of its corpus, without libFuzzer.
 *
 * `make test` links it with each tests/fuzz/fuzz_<name>.c, so that what fuzzing once found stays
 * found on machines that have no clang. A fault is the sanitizers' to report. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_INPUT = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path, uint8_t *scratch)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return -1;
    }
    size_t n = fread(scratch, 1, MAX_INPUT, f);
    fclose(f);
    /* A copy of the exact size, so that a read past the end is seen. */
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact)
        abort();
    for (size_t i = 0; i < n; i++)
        exact[i] = scratch[i];
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    return 0;
}

int main(int argc, char **argv)
{
    uint8_t *scratch = malloc(MAX_INPUT);
    if (!scratch)
        abort();
    int rc = 0;
    for (int i = 1; i < argc; i++) {
        if (replay(argv[i], scratch) < 0)
            rc = 1;
    }
    free(scratch);
    printf("%d inputs\n", argc - 1);
    return rc;
}
