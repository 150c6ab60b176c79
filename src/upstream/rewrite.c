/* rewrite.c - see the header.
 *
 * The members of the top level are found by a lexical walk and copied byte for byte; only what is
 * set or removed is parsed or printed. That keeps every number, escape and key order of prompts
 * and tool schemas exactly as it came (a parse into doubles and back would not), and costs a
 * memchr per string where a body with images is many megabytes.
 *
 * The walk checks the structure of the top level; the inside of values only as far as strings and
 * nesting go, the rest is upstream's to judge. A key is compared decoded, so that no spelling of
 * it slips past an override. */
#include "upstream/rewrite.h"

#include "core/json.h"

#define MAX_MARKERS 4
#define MARK_KEY    ",\"cache_control\":"

struct lexer {
    const char *p, *end;
};

struct member {
    struct str key;   /* with its quotes */
    struct str value; /* raw */
};

static void skip_space(struct lexer *lx)
{
    while (lx->p < lx->end && memchr(" \t\r\n", *lx->p, 4))
        lx->p++;
}

static bool take(struct lexer *lx, char c)
{
    skip_space(lx);
    if (lx->p == lx->end || *lx->p != c)
        return false;
    lx->p++;
    return true;
}

static bool is_escaped(const char *quote, const char *start)
{
    size_t n = 0;
    while (quote - n > start && quote[-1 - (ptrdiff_t)n] == '\\')
        n++;
    return n % 2 == 1;
}

/* At the opening quote; afterwards behind the closing one. */
static bool skip_string(struct lexer *lx)
{
    const char *start = lx->p + 1, *q = start;
    while (q < lx->end && (q = memchr(q, '"', (size_t)(lx->end - q)))) {
        if (!is_escaped(q, start)) {
            lx->p = q + 1;
            return true;
        }
        q++;
    }
    return false;
}

/* At the opening bracket; afterwards behind the closing one. */
static bool skip_nested(struct lexer *lx)
{
    size_t depth = 0;
    while (lx->p < lx->end) {
        char c = *lx->p;
        if (c == '"') {
            if (!skip_string(lx))
                return false;
            continue;
        }
        lx->p++;
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth == 0)
            return true;
    }
    return false;
}

static bool skip_scalar(struct lexer *lx)
{
    const char *start = lx->p;
    while (lx->p < lx->end && !memchr(" \t\r\n,:{}[]\"", *lx->p, 11))
        lx->p++;
    return lx->p > start;
}

static bool read_value(struct lexer *lx, struct str *ret_raw)
{
    bool ok;
    skip_space(lx);
    const char *start = lx->p;
    if (start == lx->end)
        return false;
    if (*start == '"')
        ok = skip_string(lx);
    else if (*start == '{' || *start == '[')
        ok = skip_nested(lx);
    else
        ok = skip_scalar(lx);
    *ret_raw = str_n(start, (size_t)(lx->p - start));
    return ok;
}

static bool read_member(struct lexer *lx, struct member *m)
{
    skip_space(lx);
    return lx->p < lx->end && *lx->p == '"' && read_value(lx, &m->key) && take(lx, ':') &&
           read_value(lx, &m->value);
}

/* The key without quotes; *holder keeps a decoded one alive. False when it is not a string. */
static bool decode_key(struct str raw, json_t **holder, struct str *ret_key)
{
    if (!memchr(raw.p, '\\', raw.len)) {
        *ret_key = str_n(raw.p + 1, raw.len - 2);
        return true;
    }
    *holder = json_loadb(raw.p, raw.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    *ret_key = json_str_of(*holder);
    return *holder != NULL;
}

static void write_json(struct buf *out, const json_t *j)
{
    /* 15 digits: 0.7 stays 0.7 */
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    BUG_ON(!text);
    buf_adds(out, text);
    free(text);
}

static void write_key(struct buf *out, struct str key, bool *first)
{
    buf_addc(out, *first ? '{' : ',');
    *first = false;
    buf_addstr(out, key);
    buf_addc(out, ':');
}

static size_t count_markers(struct str text)
{
    static const char key[] = "\"cache_control\"";
    const size_t n = sizeof(key) - 1;
    size_t count = 0;
    const char *hit;
    while (text.len && (hit = memmem(text.p, text.len, key, n))) {
        struct lexer lx = {hit + n, text.p + text.len};
        if (take(&lx, ':'))
            count++;
        text = str_n(hit + n, (size_t)(text.p + text.len - hit) - n);
    }
    return count;
}

static size_t count_block_markers(const json_t *blocks)
{
    size_t i, n = 0;
    const json_t *block;
    json_array_foreach(blocks, i, block)
    {
        n += json_object_get(block, "cache_control") != NULL;
    }
    return n;
}

/* A copy of blocks with only the last `keep` markers. */
static json_t *limit_markers(const json_t *blocks, size_t have, size_t keep)
{
    json_t *copy = json_deep_copy(blocks), *block;
    size_t i;
    BUG_ON(!copy);
    json_array_foreach(copy, i, block)
    {
        if (have > keep && json_object_del(block, "cache_control") == 0)
            have--;
    }
    return copy;
}

/* Copies JSON text without its members "cache_control" that are not the first of their object.
 * Inside a string that key's quotes would be escaped, so the bytes are always a member. */
static void write_unmarked(struct buf *out, struct str text)
{
    const char *hit;
    while ((hit = memmem(text.p, text.len, MARK_KEY, sizeof(MARK_KEY) - 1))) {
        struct lexer lx = {hit + sizeof(MARK_KEY) - 1, text.p + text.len};
        struct str value;
        if (!read_value(&lx, &value))
            break;
        buf_add(out, text.p, (size_t)(hit - text.p));
        text = str_n(lx.p, (size_t)(lx.end - lx.p));
    }
    buf_addstr(out, text);
}

/* The claude program's mark is the very end of the last block, which is the end of the array. */
static void write_messages(struct buf *out, struct str text, const json_t *last_mark)
{
    static const char end[] = "}]}]";
    const char *hit = NULL, *next = text.p;
    struct str value;
    while (
        (next = memmem(next, (size_t)(text.p + text.len - next), MARK_KEY, sizeof(MARK_KEY) - 1)))
        hit = next++;
    struct lexer lx = {hit ? hit + sizeof(MARK_KEY) - 1 : text.p + text.len, text.p + text.len};
    if (!hit || !read_value(&lx, &value) || !str_eq_c(str_n(lx.p, (size_t)(lx.end - lx.p)), end)) {
        buf_addstr(out, text);
        return;
    }
    buf_add(out, text.p, (size_t)(hit - text.p));
    if (last_mark) {
        buf_adds(out, MARK_KEY);
        write_json(out, last_mark);
    }
    buf_adds(out, end);
}

/* The system blocks to add, as the inside of a JSON array. */
static void write_blocks(struct buf *out, const json_t *blocks, struct str body, bool exact)
{
    size_t have = exact ? 0 : count_block_markers(blocks), used = have ? count_markers(body) : 0, i;
    size_t keep = used < MAX_MARKERS ? MAX_MARKERS - used : 0;
    AUTO(json_unref_p) json_t *limited = have > keep ? limit_markers(blocks, have, keep) : NULL;
    const json_t *block;
    json_array_foreach(limited ? limited : blocks, i, block)
    {
        if (i)
            buf_addc(out, ',');
        write_json(out, block);
    }
}

/* The blocks of `old` (raw JSON, "" = absent), each followed by a comma. */
static int write_old_system(struct buf *out, struct str old, bool exact, struct err *err)
{
    if (old.len == 0 || str_eq_c(old, "null") || str_eq_c(old, "\"\""))
        return 0;
    if (old.p[0] == '"') {
        buf_adds(out, "{\"type\":\"text\",\"text\":");
        buf_addstr(out, old);
        buf_adds(out, "},");
        return 0;
    }
    if (old.p[0] != '[')
        return err_field(err, "system", "must be a string or an array");
    struct lexer inside = {old.p + 1, old.p + old.len - 1};
    skip_space(&inside);
    if (inside.p < inside.end) {
        struct str blocks = str_n(inside.p, (size_t)(inside.end - inside.p));
        if (exact)
            write_unmarked(out, blocks);
        else
            buf_addstr(out, blocks);
        buf_addc(out, ',');
    }
    return 0;
}

struct rewrite {
    const json_t *params, *system;
    struct buf *out;
    struct str body, old_system;
    bool first; /* nothing was written yet */
    bool exact; /* see rewrite_request_exact() */
    const json_t *last_mark;
};

/* Copies the member, unless it is replaced. */
static int pass_member(struct rewrite *rw, const struct member *m, struct err *err)
{
    AUTO(json_unref_p) json_t *holder = NULL;
    struct str key;
    if (!decode_key(m->key, &holder, &key))
        return err_set(err, ERR_INVALID, "the request body has a key that is not a string");
    if (json_object_getn(rw->params, key.p, key.len))
        return 0;
    if (rw->system && str_eq_c(key, "system")) {
        rw->old_system = m->value;
        return 0;
    }
    write_key(rw->out, m->key, &rw->first);
    if (rw->exact && str_eq_c(key, "messages"))
        write_messages(rw->out, m->value, rw->last_mark);
    else if (rw->exact && str_eq_c(key, "system"))
        write_unmarked(rw->out, m->value);
    else
        buf_addstr(rw->out, m->value);
    return 0;
}

static int pass_members(struct rewrite *rw, struct err *err)
{
    struct lexer lx = {rw->body.p, rw->body.p + rw->body.len};
    struct member m;
    bool ok = take(&lx, '{');
    if (ok && !take(&lx, '}')) {
        do {
            ok = read_member(&lx, &m);
            if (ok && pass_member(rw, &m, err) != 0)
                return -1;
        } while (ok && take(&lx, ','));
        ok = ok && take(&lx, '}');
    }
    skip_space(&lx);
    if (!ok || lx.p != lx.end)
        return err_set(err, ERR_INVALID, "the request body is not one JSON object");
    return 0;
}

static bool is_member(const struct member *m, const char *name)
{
    AUTO(json_unref_p) json_t *holder = NULL;
    struct str key;
    return decode_key(m->key, &holder, &key) && str_eq_c(key, name);
}

bool rewrite_find_string(struct str body, const char *key, struct str *ret_value)
{
    struct lexer lx = {body.p, body.p + body.len};
    struct member m;
    struct str found = {0};
    int times = 0;
    if (!take(&lx, '{'))
        return false;
    do {
        if (!read_member(&lx, &m))
            return false;
        if (is_member(&m, key)) {
            found = m.value;
            times++;
        }
    } while (take(&lx, ','));
    if (times != 1 || found.len < 2 || found.p[0] != '"' || memchr(found.p, '\\', found.len))
        return false;
    *ret_value = str_n(found.p + 1, found.len - 2);
    return true;
}

static void add_params(struct rewrite *rw)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)rw->params, key, value)
    {
        if (json_is_null(value) || (rw->system && strcmp(key, "system") == 0))
            continue;
        AUTO(json_unref_p) json_t *name = json_string(key);
        BUG_ON(!name);
        buf_addc(rw->out, rw->first ? '{' : ',');
        rw->first = false;
        write_json(rw->out, name);
        buf_addc(rw->out, ':');
        write_json(rw->out, value);
    }
}

static int add_system(struct rewrite *rw, struct err *err)
{
    const json_t *base = json_object_get(rw->params, "system");
    AUTO(buf_release) struct buf text;
    buf_init(&text, rw->out->max);
    if (base) {
        write_json(&text, base);
        rw->old_system = buf_str(&text);
    }
    write_key(rw->out, STR("\"system\""), &rw->first);
    buf_addc(rw->out, '[');
    if (write_old_system(rw->out, rw->old_system, rw->exact, err) != 0)
        return -1;
    write_blocks(rw->out, rw->system, rw->body, rw->exact);
    buf_addc(rw->out, ']');
    return 0;
}

static int rewrite(struct rewrite *rw, struct err *err)
{
    rw->old_system = STR("");
    rw->first = true;
    if (json_array_size(rw->system) == 0)
        rw->system = NULL;
    if (pass_members(rw, err) != 0)
        return -1;
    add_params(rw);
    if (rw->system && add_system(rw, err) != 0)
        return -1;
    buf_adds(rw->out, rw->first ? "{}" : "}");
    if (!buf_ok(rw->out))
        return err_set(err, ERR_TOO_LARGE, "the request body is too large");
    return 0;
}

int rewrite_request(struct str body, const json_t *params, const json_t *system, struct buf *out,
                    struct err *err)
{
    struct rewrite rw = {.params = params, .system = system, .out = out, .body = body};
    return rewrite(&rw, err);
}

int rewrite_request_exact(struct str body, const json_t *params, const json_t *system,
                          const json_t *last_mark, struct buf *out, struct err *err)
{
    struct rewrite rw = {.params = params,
                         .system = system,
                         .out = out,
                         .body = body,
                         .exact = true,
                         .last_mark = last_mark};
    return rewrite(&rw, err);
}
