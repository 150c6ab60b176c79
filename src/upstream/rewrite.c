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
#define MARKED_END  "}]}]"

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
static bool find_own_mark(struct str text, struct str *ret_before, struct str *ret_mark)
{
    const char *hit = NULL, *next = text.p;
    while (
        (next = memmem(next, (size_t)(text.p + text.len - next), MARK_KEY, sizeof(MARK_KEY) - 1)))
        hit = next++;
    struct lexer lx = {hit ? hit + sizeof(MARK_KEY) - 1 : text.p + text.len, text.p + text.len};
    if (!hit || !read_value(&lx, ret_mark) ||
        !str_eq_c(str_n(lx.p, (size_t)(lx.end - lx.p)), MARKED_END))
        return false;
    *ret_before = str_n(text.p, (size_t)(hit - text.p));
    return true;
}

static void write_messages(struct buf *out, struct str text, const json_t *last_mark)
{
    struct str before, mark;
    if (!find_own_mark(text, &before, &mark)) {
        buf_addstr(out, text);
        return;
    }
    buf_addstr(out, before);
    if (last_mark) {
        buf_adds(out, MARK_KEY);
        write_json(out, last_mark);
    }
    buf_adds(out, MARKED_END);
}

/* Thoughts take no mark. */
static bool may_be_marked(const json_t *block)
{
    struct str type = json_get_str(block, "type");
    return !str_eq_c(type, "thinking") && !str_eq_c(type, "redacted_thinking") &&
           json_is_object(block) && !json_object_get(block, "cache_control");
}

static json_t *copy_of_last(json_t *array)
{
    size_t n = json_array_size(array);
    json_t *copy = n ? json_copy(json_array_get(array, n - 1)) : NULL;
    if (copy)
        json_array_set_new(array, n - 1, copy);
    return copy;
}

/* A copy with the mark on the last block, where one can be; the rest is shared. */
static json_t *mark_last(const json_t *messages, json_t *mark)
{
    json_t *all = json_copy((json_t *)(uintptr_t)messages);
    json_t *last = copy_of_last(all), *content = json_copy(json_object_get(last, "content"));
    json_t *block = json_is_array(content) ? copy_of_last(content) : NULL;
    if (may_be_marked(block))
        json_object_set(block, "cache_control", mark);
    if (content)
        json_object_set_new(last, "content", content);
    return all;
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
    struct rewrite_opts how; /* system and messages: NULL when there are none to write */
    struct buf *out;
    struct str body, old_system;
    struct str own_mark; /* the program's, in place of which `messages` may have one; "" = none */
    bool first;          /* nothing was written yet */
};

/* Copies the member, unless it is replaced. */
static int pass_member(struct rewrite *rw, const struct member *m, struct err *err)
{
    const struct rewrite_opts *how = &rw->how;
    AUTO(json_unref_p) json_t *holder = NULL;
    struct str key, before;
    if (!decode_key(m->key, &holder, &key))
        return err_set(err, ERR_INVALID, "the request body has a key that is not a string");
    if (json_object_getn(how->params, key.p, key.len))
        return 0;
    if (how->system && str_eq_c(key, "system")) {
        rw->old_system = m->value;
        return 0;
    }
    if (how->messages && str_eq_c(key, "messages")) {
        if (!how->exact && !find_own_mark(m->value, &before, &rw->own_mark))
            rw->own_mark = STR("");
        return 0;
    }
    write_key(rw->out, m->key, &rw->first);
    if (how->exact && str_eq_c(key, "messages"))
        write_messages(rw->out, m->value, how->last_mark);
    else if (how->exact && str_eq_c(key, "system"))
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
    json_object_foreach((json_t *)(uintptr_t)rw->how.params, key, value)
    {
        if (json_is_null(value) || (rw->how.system && strcmp(key, "system") == 0))
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
    const struct rewrite_opts *how = &rw->how;
    const json_t *base = json_object_get(how->params, "system");
    AUTO(buf_release) struct buf text;
    buf_init(&text, rw->out->max);
    if (base) {
        write_json(&text, base);
        rw->old_system = buf_str(&text);
    }
    write_key(rw->out, STR("\"system\""), &rw->first);
    buf_addc(rw->out, '[');
    if (write_old_system(rw->out, rw->old_system, how->exact, err) != 0)
        return -1;
    write_blocks(rw->out, how->system, rw->body, how->exact);
    buf_addc(rw->out, ']');
    return 0;
}

/* Every digit of a number is kept, and nothing is written twice: they may be many megabytes. */
static void add_messages(struct rewrite *rw)
{
    AUTO(json_unref_p)
    json_t *mark = rw->own_mark.len ? json_loadb(rw->own_mark.p, rw->own_mark.len, 0, NULL) : NULL;
    AUTO(json_unref_p) json_t *marked = mark ? mark_last(rw->how.messages, mark) : NULL;
    write_key(rw->out, STR("\"messages\""), &rw->first);
    json_write(rw->out, marked ? marked : rw->how.messages);
}

int rewrite_request(struct str body, const struct rewrite_opts *how, struct buf *out,
                    struct err *err)
{
    struct rewrite rw = {.how = *how, .out = out, .body = body, .first = true};
    rw.old_system = rw.own_mark = STR("");
    if (json_array_size(how->system) == 0)
        rw.how.system = NULL;
    if (pass_members(&rw, err) != 0)
        return -1;
    add_params(&rw);
    if (rw.how.system && add_system(&rw, err) != 0)
        return -1;
    if (rw.how.messages)
        add_messages(&rw);
    buf_adds(out, rw.first ? "{}" : "}");
    if (!buf_ok(out))
        return err_set(err, ERR_TOO_LARGE, "the request body is too large");
    return 0;
}
