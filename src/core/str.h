/* str.h - text that came from outside: pointer and length, borrowed, never NUL-terminated by
 * contract. Passed by value. C strings are for our own constants and OS calls only. */
#ifndef CG_CORE_STR_H
#define CG_CORE_STR_H

#include "core/util.h"

#include <stdbool.h>

struct str {
    const char *p;
    size_t len;
};

#define STR(lit) ((struct str){(lit), sizeof(lit) - 1})

static inline struct str str_c(const char *s)
{
    return (struct str){s, s ? strlen(s) : 0};
}

static inline struct str str_n(const char *p, size_t n)
{
    return (struct str){p, n};
}

bool str_eq(struct str a, struct str b);
bool str_eq_c(struct str a, const char *b);
bool str_ieq_c(struct str a, const char *b); /* ASCII case folded */
bool str_starts(struct str s, const char *prefix);
bool str_ends(struct str s, const char *suffix);
struct str str_trim(struct str s); /* spaces and tabs at both ends */
/* Splits s at the first sep: returns the part before, s becomes the part after ("" at the end). */
struct str str_split(struct str *s, char sep);
bool str_contains(struct str haystack, const char *needle);
/* Whole-string decimal, no sign, no spaces. False when it is not one or overflows. */
bool str_to_u64(struct str s, uint64_t *ret_value);
/* Shell-style match with '*' only (any run of characters). */
bool str_glob(const char *pattern, struct str s);
/* Valid UTF-8 without surrogates and overlong forms? */
bool str_is_utf8(struct str s);
/* Ends s where its valid UTF-8 ends: for text that was cut to a size, perhaps inside a character.
 */
void str_end_utf8(char *s);
char *str_dup(struct str s); /* owned, NUL-terminated */

#endif
