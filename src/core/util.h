/* util.h - the few macros every file may use: must-use results, scoped cleanup,
 * invariant checks that stay on in production, and type tags for callback contexts. */
#ifndef CG_CORE_UTIL_H
#define CG_CORE_UTIL_H

#include "core/banned.h"

#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>

#define MUST_USE          __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* AUTO(free_fn) calls free_fn(&variable) when the variable leaves its scope. */
#define AUTO(fn) __attribute__((cleanup(fn)))

/* TAKE_PTR(p): the value of p, which becomes NULL: hands ownership over. */
#define TAKE_PTR(p)                \
    (__extension__({               \
        __typeof__(p) *_pp = &(p); \
        __typeof__(p) _v = *_pp;   \
        *_pp = NULL;               \
        _v;                        \
    }))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* A broken invariant is our own bug: stop at once, with the place. Active in every build. */
#define BUG_ON(cond)                                     \
    do {                                                 \
        if (__builtin_expect(!!(cond), 0))               \
            bug_at(__FILE__, __LINE__, __func__, #cond); \
    } while (0)

noreturn void bug_at(const char *file, int line, const char *func, const char *what);

/* Objects reached through `void *ctx` start with `uint32_t tag`. OBJ checks it, so that a
 * wrong callback context dies with a name instead of corrupting memory. */
#define OBJ(ctx, type, TAG)                                              \
    (__extension__({                                                     \
        type *_obj = (ctx);                                              \
        if (__builtin_expect(!_obj || _obj->tag != (TAG), 0))            \
            bug_at(__FILE__, __LINE__, __func__, "ctx is not a " #type); \
        _obj;                                                            \
    }))

#define TAG4(a, b, c, d) \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

/* Allocation. Out of memory aborts: every growable object has a limit, so it never comes
 * from one client's input. Results are owned by the caller, released with free(). */
void *x_malloc(size_t n) __attribute__((malloc, returns_nonnull));
void *x_calloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *x_realloc(void *p, size_t n) __attribute__((returns_nonnull));
char *x_strdup(const char *s) __attribute__((malloc, returns_nonnull));
char *x_strndup(const char *p, size_t n) __attribute__((malloc, returns_nonnull));
char *x_printf(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((malloc, returns_nonnull));

void free_charp(char **p); /* for AUTO(free_charp) char *s = NULL; */

/* Replaces *slot by a copy of s (NULL clears it). */
void x_replace(char **slot, const char *s);

#endif
