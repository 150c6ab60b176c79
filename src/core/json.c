/* json.c - see the header. */
#include "core/json.h"

void json_unref_p(json_t **j)
{
    json_decref(*j);
}

json_t *json_parse(struct str text, struct err *err)
{
    json_error_t je;
    json_t *j = json_loadb(text.p ? text.p : "", text.len,
                           JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!j)
        err_set(err, ERR_INVALID, "not valid JSON: line %d column %d: %s", je.line, je.column,
                je.text);
    return j;
}

size_t json_marks(struct str text)
{
    size_t count = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.p[i];
        count += c == ',' || c == '[' || c == '{';
        if (c != '"')
            continue;
        for (i++; i < text.len && text.p[i] != '"'; i++)
            i += text.p[i] == '\\';
    }
    return count;
}

json_t *json_parse_foreign(struct str text, struct err *err)
{
    if (text.len <= JSON_MARKS_MAX || json_marks(text) <= JSON_MARKS_MAX)
        return json_parse(text, err);
    err_set(err, ERR_TOO_LARGE, "the JSON has more than %d commas and opening brackets",
            JSON_MARKS_MAX);
    return NULL;
}

/* 15 digits are always right, 17 always enough. */
static void write_real(struct buf *b, double v)
{
    char text[32];
    double again;
    int digits = 15;
    do {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        again = strtod(text, NULL);
    } while ((again < v || again > v) && ++digits <= 17);
    buf_adds(b, text);
    if (!strpbrk(text, ".e"))
        buf_adds(b, ".0"); /* it stays a real */
}

static void write_array(struct buf *b, const json_t *array)
{
    size_t i;
    const json_t *v;
    buf_addc(b, '[');
    json_array_foreach(array, i, v)
    {
        if (i)
            buf_addc(b, ',');
        json_write(b, v);
    }
    buf_addc(b, ']');
}

static void write_object(struct buf *b, const json_t *object)
{
    bool first = true;
    const char *key;
    size_t len;
    json_t *v;
    buf_addc(b, '{');
    json_object_keylen_foreach((json_t *)(uintptr_t)object, key, len, v)
    {
        if (!first)
            buf_addc(b, ',');
        first = false;
        buf_json_str(b, str_n(key, len));
        buf_addc(b, ':');
        json_write(b, v);
    }
    buf_addc(b, '}');
}

/* As deep as it may be parsed. */
void json_write(struct buf *b, const json_t *j)
{
    b->overflow |= !j;
    if (!buf_ok(b))
        return;
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        write_object(b, j);
        break;
    case JSON_ARRAY:
        write_array(b, j);
        break;
    case JSON_STRING:
        buf_json_str(b, json_str_of(j));
        break;
    case JSON_INTEGER:
        buf_int(b, json_integer_value(j));
        break;
    case JSON_REAL:
        write_real(b, json_real_value(j));
        break;
    case JSON_TRUE:
        buf_adds(b, "true");
        break;
    case JSON_FALSE:
        buf_adds(b, "false");
        break;
    case JSON_NULL:
        buf_adds(b, "null");
        break;
    }
}

struct str json_str_of(const json_t *j)
{
    return json_is_string(j) ? str_n(json_string_value(j), json_string_length(j)) : STR("");
}

struct str json_get_str(const json_t *obj, const char *key)
{
    return json_str_of(json_object_get(obj, key));
}

int64_t json_get_int(const json_t *obj, const char *key, int64_t fallback)
{
    const json_t *j = json_object_get(obj, key);
    return json_is_integer(j) ? json_integer_value(j) : fallback;
}

bool json_get_bool(const json_t *obj, const char *key, bool fallback)
{
    const json_t *j = json_object_get(obj, key);
    return json_is_boolean(j) ? json_is_true(j) : fallback;
}

static int check_range(const struct json_field *f, double v, const char *unit, struct err *err)
{
    if (f->min < f->max && (v < f->min || v > f->max))
        return err_field(err, f->name, "must be between %.15g and %.15g%s", f->min, f->max, unit);
    return 0;
}

static int read_string(const struct json_field *f, json_t *v, void *slot, struct err *err)
{
    if (!json_is_string(v))
        return err_field(err, f->name, "must be a string");
    struct str s = json_str_of(v);
    if (f->max > 0 && s.len < (size_t)f->min)
        return err_field(err, f->name, "must not be %s", s.len ? "that short" : "empty");
    if (f->max > 0 && s.len > (size_t)f->max)
        return err_field(err, f->name, "must be at most %.0f bytes long", f->max);
    *(struct str *)slot = s;
    return 0;
}

static int read_number(const struct json_field *f, json_t *v, void *slot, struct err *err)
{
    if (f->type == JF_INT) {
        if (!json_is_integer(v))
            return err_field(err, f->name, "must be an integer");
        *(int64_t *)slot = json_integer_value(v);
    } else {
        if (!json_is_number(v))
            return err_field(err, f->name, "must be a number");
        *(double *)slot = json_number_value(v);
    }
    return check_range(f, json_number_value(v), "", err);
}

static int read_field(const struct json_field *f, json_t *v, void *slot, struct err *err)
{
    switch (f->type) {
    case JF_STRING:
        return read_string(f, v, slot, err);
    case JF_BOOL:
        if (!json_is_boolean(v))
            return err_field(err, f->name, "must be true or false");
        *(bool *)slot = json_is_true(v);
        return 0;
    case JF_INT:
    case JF_REAL:
        return read_number(f, v, slot, err);
    case JF_ARRAY:
        if (!json_is_array(v))
            return err_field(err, f->name, "must be an array");
        break;
    case JF_OBJECT:
        if (!json_is_object(v))
            return err_field(err, f->name, "must be an object");
        break;
    case JF_ANY:
        break;
    }
    *(json_t **)slot = v;
    return 0;
}

static const struct json_field *find_field(const struct json_field *fields, size_t count,
                                           const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    }
    return NULL;
}

int json_read_fields(const json_t *obj, const struct json_field *fields, size_t count, void *out,
                     struct err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(obj))
        return err_set(err, ERR_INVALID, "must be a JSON object");
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        const struct json_field *f = find_field(fields, count, key);
        char name[64];
        snprintf(name, sizeof(name), "%.60s", key);
        if (!f)
            return err_field(err, name, "unknown field");
        if (json_is_null(v) && f->type != JF_ANY)
            continue;
        if (read_field(f, v, (char *)out + f->offset, err) != 0)
            return -1;
        if (f->has_offset)
            *(bool *)(void *)((char *)out + f->has_offset) = true;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *have = json_object_get(obj, fields[i].name);
        if (fields[i].required && (!have || (json_is_null(have) && fields[i].type != JF_ANY)))
            return err_field(err, fields[i].name, "is required");
    }
    return 0;
}
