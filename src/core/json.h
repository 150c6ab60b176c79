/* json.h - jansson with our limits, and JSON objects read through field tables.
 *
 * A table row names a field, its type, where it goes and its bounds, so that every error names
 * the field and the rule in the same words. Unknown fields are an error: a parameter is honoured
 * or refused, never dropped in silence. */
#ifndef CG_CORE_JSON_H
#define CG_CORE_JSON_H

#include "core/buf.h"
#include "core/err.h"

#include <jansson.h>

/* For AUTO(json_unref_p) json_t *j = NULL; */
void json_unref_p(json_t **j);

/* Strict parse of one value: depth-limited by jansson (2048), duplicate names refused, trailing
 * text refused. NULL + err (ERR_INVALID, "line L column C: why") on failure. New reference. */
json_t *json_parse(struct str text, struct err *err);
/* The same of a text that anybody may have written: ERR_TOO_LARGE with more than JSON_MARKS_MAX
 * commas and opening brackets, before anything is built. Three bytes "{}," take 250 in memory. */
#define JSON_MARKS_MAX 1000000
json_t *json_parse_foreign(struct str text, struct err *err);
/* So many there are, those in strings apart; the text need not be JSON. */
size_t json_marks(struct str text);
/* Compact dump appended to b. A real number has as few digits as say exactly the same value: what
 * came as 0.1 goes out as 0.1. */
void json_write(struct buf *b, const json_t *j);

/* Borrowed views; "" / fallback when absent or of another type. j may be NULL. */
struct str json_str_of(const json_t *j);
struct str json_get_str(const json_t *obj, const char *key);
int64_t json_get_int(const json_t *obj, const char *key, int64_t fallback);
bool json_get_bool(const json_t *obj, const char *key, bool fallback);

enum json_type_wanted {
    JF_STRING, /* struct str, borrowed from the object; min/max are byte lengths when max > 0 */
    JF_BOOL,   /* bool */
    JF_INT,    /* int64_t; min..max when min < max */
    JF_REAL,   /* double (an integer is taken too); min..max when min < max */
    JF_ARRAY,  /* json_t *, borrowed */
    JF_OBJECT, /* json_t *, borrowed */
    JF_ANY     /* json_t *, borrowed; null included */
};

struct json_field {
    const char *name;
    enum json_type_wanted type;
    size_t offset;     /* offsetof the value in the struct */
    size_t has_offset; /* offsetof a bool set true when present; 0 = none (keep a tag first) */
    bool required;
    double min, max;
};

/* Reads obj into out by the table. A null value counts as absent unless JF_ANY.
 * On failure *err is ERR_INVALID with .field set. */
MUST_USE int json_read_fields(const json_t *obj, const struct json_field *fields, size_t count,
                              void *out, struct err *err);

#endif
