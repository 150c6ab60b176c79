/* replay.c - main() of a fuzz target without libFuzzer: runs every file of the directories given,
 * so that the corpus is part of the ordinary tests with any compiler. */
#include "core/util.h"

#include <dirent.h>

#define INPUT_MAX ((size_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run_file(const char *dir, const char *name)
{
    char *path = x_printf("%s/%s", dir, name);
    uint8_t *data = x_malloc(INPUT_MAX);
    FILE *f = fopen(path, "re");
    BUG_ON(!f);
    size_t n = fread(data, 1, INPUT_MAX, f);
    fclose(f);
    uint8_t *exact = x_malloc(n ? n : 1); /* so that a read past the end is seen */
    memcpy(exact, data, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    free(data);
    free(path);
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        BUG_ON(!dir);
        struct dirent *e;
        while ((e = readdir(dir))) {
            if (e->d_name[0] == '.')
                continue;
            run_file(argv[i], e->d_name);
            count++;
        }
        closedir(dir);
    }
    printf("%d inputs\n", count);
    return count > 0 ? 0 : 1;
}
