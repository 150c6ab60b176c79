/* fake_ledger.c - who was asked what, for tests that close the books.
 *
 * FAKE_TURNS: a file that gets one line for each query turn as it begins, before anything else
 * happens to it: the pid, a space, the first word of the question (at most 63 bytes). Each line is
 * one append, so any number of processes may share the file. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define WORD_MAX 63

static struct str text_of(const json_t *content)
{
    return json_is_string(content) ? json_str_of(content)
                                   : json_get_str(json_array_get(content, 0), "text");
}

static struct str first_word(struct str s)
{
    s = str_trim(s);
    size_t n = 0;
    while (n < s.len && n < WORD_MAX && (unsigned char)s.p[n] > ' ')
        n++;
    return str_n(s.p, n);
}

void ledger_turn(struct fake *f, const json_t *live)
{
    const char *path = getenv("FAKE_TURNS");
    if (!path || !path[0])
        return;
    char line[32 + WORD_MAX];
    struct str word = first_word(text_of(json_array_get(live, json_array_size(live) - 1)));
    int n = snprintf(line, sizeof(line), "%d %.*s\n", (int)getpid(), (int)word.len,
                     word.p ? word.p : "");
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        fake_die(f, "fake-claude: FAKE_TURNS '%s': %s", path, strerror(errno));
    close(fd);
}
