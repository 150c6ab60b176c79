/* util.c - allocation that cannot fail and the one way to die on a broken invariant. */
#include "core/util.h"

#include <stdarg.h>

noreturn void bug_at(const char *file, int line, const char *func, const char *what)
{
    fprintf(stderr, "claudegate: bug: %s:%d: %s: %s\n", file, line, func, what);
    abort();
}

static noreturn void out_of_memory(size_t n)
{
    fprintf(stderr, "claudegate: out of memory (%zu bytes asked)\n", n);
    abort();
}

void *x_malloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p)
        out_of_memory(n);
    return p;
}

void *x_calloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p)
        out_of_memory(size);
    return p;
}

void *x_realloc(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);
    if (!q)
        out_of_memory(n);
    return q;
}

char *x_strdup(const char *s)
{
    return x_strndup(s, strlen(s));
}

char *x_strndup(const char *p, size_t n)
{
    char *s = x_malloc(n + 1);
    if (n)
        memcpy(s, p, n);
    s[n] = '\0';
    return s;
}

char *x_printf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0 || !s)
        out_of_memory(0);
    return s;
}

void free_charp(char **p)
{
    free(*p);
}

void x_replace(char **slot, const char *s)
{
    char *copy = s ? x_strdup(s) : NULL;
    free(*slot);
    *slot = copy;
}
