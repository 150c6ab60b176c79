/* blocks.c - content blocks of the Messages API, by table.
 *
 * https://docs.anthropic.com/en/api/messages. Known fields are passed on as they came, whatever is
 * in them where the API itself says "any" (a tool's input, a server tool's result); an unknown
 * field is refused, as the API does. Whether there is a block of some other type, or in another
 * place, is the API's to say: such a block is passed on as it came, and never told to the claude
 * program. Texts of white space alone are refused by the API and dropped in silence by the program,
 * so they are refused here. */
#include "api/anthropic/body.h"

#include <ctype.h>
#include <stdarg.h>

#define PLACE_MAX 160
#define DEPTH_MAX 8

/* --- errors ------------------------------------------------------------------------------ */

static void write_place(const struct place *at, struct buf *b)
{
    if (!at)
        return;
    write_place(at->up, b);
    if (b->len)
        buf_addc(b, '.');
    if (at->name)
        buf_adds(b, at->name);
    else
        buf_int(b, (int64_t)at->index);
}

int place_err(const struct place *at, const char *name, struct err *err, const char *fmt, ...)
{
    AUTO(buf_release) struct buf b;
    char text[sizeof(err->msg)];
    va_list ap;
    buf_init(&b, PLACE_MAX);
    write_place(at, &b);
    if (name)
        buf_printf(&b, "%s%.40s", b.len ? "." : "", name);
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return err_field(err, buf_cstr(&b), "%.250s", text);
}

/* --- the tables -------------------------------------------------------------------------- */

enum key_type { K_STRING, K_TEXT, K_BOOL, K_OBJECT, K_ARRAY, K_ANY, K_SOURCE, K_BLOCKS, K_MARK };

struct key_rule {
    const char *name;
    enum key_type type;
    bool required;
    unsigned where; /* K_BLOCKS: which blocks may stand in it */
};

struct block_rule {
    const char *type;
    unsigned where;
    struct key_rule keys[8];
};

#define CACHE                             \
    {                                     \
        "cache_control", K_MARK, false, 0 \
    }
#define ID                               \
    {                                    \
        "tool_use_id", K_STRING, true, 0 \
    }
#define CALLER                       \
    {                                \
        "caller", K_OBJECT, false, 0 \
    }
#define TOOLSET                            \
    {                                      \
        "toolset_name", K_STRING, false, 0 \
    }
#define SERVER_RESULT(name)                                \
    {                                                      \
        (name), IN_ASSISTANT,                              \
        {                                                  \
            ID, {"content", K_ANY, true, 0}, CALLER, CACHE \
        }                                                  \
    }

static const struct block_rule blocks[] = {
    {"text",
     IN_USER | IN_ASSISTANT | IN_RESULT | IN_SYSTEM,
     {{"text", K_TEXT, true, 0}, {"citations", K_ANY, false, 0}, CACHE}},
    {"image",
     IN_USER | IN_RESULT,
     {{"source", K_SOURCE, true, 0}, {"transformations", K_OBJECT, false, 0}, CACHE}},
    {"document",
     IN_USER | IN_RESULT,
     {{"source", K_SOURCE, true, 0},
      {"title", K_STRING, false, 0},
      {"context", K_STRING, false, 0},
      {"citations", K_OBJECT, false, 0},
      CACHE}},
    {"search_result",
     IN_USER | IN_RESULT,
     {{"source", K_STRING, true, 0},
      {"title", K_STRING, true, 0},
      {"content", K_BLOCKS, true, IN_SYSTEM},
      {"citations", K_OBJECT, false, 0},
      CACHE}},
    {"tool_use",
     IN_ASSISTANT,
     {{"id", K_STRING, true, 0},
      {"name", K_STRING, true, 0},
      {"input", K_OBJECT, true, 0},
      CALLER,
      TOOLSET,
      CACHE}},
    {"tool_result",
     IN_USER,
     {ID, {"content", K_BLOCKS, false, IN_RESULT}, {"is_error", K_BOOL, false, 0}, TOOLSET, CACHE}},
    {"tool_reference", IN_RESULT, {{"tool_name", K_STRING, true, 0}, CACHE}},
    {"thinking", IN_ASSISTANT, {{"thinking", K_STRING, true, 0}, {"signature", K_STRING, true, 0}}},
    {"redacted_thinking", IN_ASSISTANT, {{"data", K_STRING, true, 0}}},
    {"server_tool_use",
     IN_ASSISTANT,
     {{"id", K_STRING, true, 0},
      {"name", K_STRING, true, 0},
      {"input", K_ANY, true, 0},
      CALLER,
      CACHE}},
    SERVER_RESULT("web_search_tool_result"),
    SERVER_RESULT("web_fetch_tool_result"),
    SERVER_RESULT("code_execution_tool_result"),
    SERVER_RESULT("bash_code_execution_tool_result"),
    SERVER_RESULT("text_editor_code_execution_tool_result"),
    SERVER_RESULT("tool_search_tool_result"),
    {"mcp_tool_use",
     IN_ASSISTANT,
     {{"id", K_STRING, true, 0},
      {"name", K_STRING, true, 0},
      {"server_name", K_STRING, true, 0},
      {"input", K_ANY, true, 0},
      CACHE}},
    {"mcp_tool_result",
     IN_ASSISTANT,
     {ID, {"content", K_ANY, false, 0}, {"is_error", K_BOOL, false, 0}, CACHE}},
};

static const struct block_rule sources[] = {
    {"base64", 0, {{"media_type", K_STRING, true, 0}, {"data", K_STRING, true, 0}}},
    {"url", 0, {{"url", K_STRING, true, 0}}},
    {"text", 0, {{"media_type", K_STRING, true, 0}, {"data", K_STRING, true, 0}}},
    {"content", 0, {{"content", K_BLOCKS, true, IN_RESULT}}},
};

/* --- reading by them --------------------------------------------------------------------- */

struct reader {
    struct body_marks *marks;
    struct err *err;
    int depth;
};

static json_t *read_blocks(struct reader *r, const json_t *array, unsigned where,
                           const struct place *at);

static const struct block_rule *find_rule(const struct block_rule *rules, size_t count,
                                          struct str type)
{
    for (size_t i = 0; i < count; i++) {
        if (str_eq_c(type, rules[i].type))
            return &rules[i];
    }
    return NULL;
}

static const struct key_rule *find_key(const struct block_rule *rule, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(rule->keys) && rule->keys[i].name; i++) {
        if (strcmp(rule->keys[i].name, name) == 0)
            return &rule->keys[i];
    }
    return NULL;
}

static bool is_blank(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!isspace((unsigned char)s.p[i]))
            return false;
    }
    return true;
}

static int check_text(struct str text, const struct place *at, struct err *err)
{
    if (text.len == 0)
        return place_err(at, NULL, err, "text content blocks must be non-empty");
    if (is_blank(text))
        return place_err(at, NULL, err, "text content blocks must contain non-whitespace text");
    return 0;
}

int body_mark(const json_t *mark, const struct place *at, struct body_marks *marks, struct err *err)
{
    const char *key;
    json_t *v;
    struct str type = json_get_str(mark, "type"), ttl = json_get_str(mark, "ttl");
    json_object_foreach((json_t *)(uintptr_t)mark, key, v)
    {
        if (strcmp(key, "type") != 0 && strcmp(key, "ttl") != 0 && strcmp(key, "scope") != 0)
            return place_err(at, key, err, "Extra inputs are not permitted");
    }
    if (!str_eq_c(type, "ephemeral"))
        return place_err(at, "type", err, "Input should be 'ephemeral'");
    if (json_object_get(mark, "ttl") && !str_eq_c(ttl, "5m") && !str_eq_c(ttl, "1h"))
        return place_err(at, "ttl", err, "Input should be '5m' or '1h'");
    if (++marks->count > BODY_CACHE_MARKS_MAX)
        return place_err(NULL, "cache_control", err,
                         "A maximum of %d blocks with cache_control may be provided",
                         BODY_CACHE_MARKS_MAX);
    return 0;
}

static json_t *read_rule(struct reader *r, const struct block_rule *rule, const json_t *obj,
                         const struct place *at);

static json_t *read_source(struct reader *r, const json_t *v, const struct place *at)
{
    const struct block_rule *rule =
        find_rule(sources, ARRAY_SIZE(sources), json_get_str(v, "type"));
    if (rule)
        return read_rule(r, rule, v, at);
    place_err(at, "type", r->err, "Input should be 'base64', 'url', 'text' or 'content'");
    return NULL;
}

/* A string stays one, so that it reaches upstream as it came. */
static json_t *read_inner(struct reader *r, const json_t *v, unsigned where, const struct place *at)
{
    if (json_is_string(v))
        return json_incref((json_t *)(uintptr_t)v);
    return read_blocks(r, v, where, at);
}

static bool has_type(const json_t *v, enum key_type type)
{
    switch (type) {
    case K_STRING:
    case K_TEXT:
        return json_is_string(v);
    case K_BOOL:
        return json_is_boolean(v);
    case K_OBJECT:
    case K_SOURCE:
    case K_MARK:
        return json_is_object(v);
    case K_ARRAY:
        return json_is_array(v);
    case K_BLOCKS:
        return json_is_array(v) || json_is_string(v);
    case K_ANY:
        break;
    }
    return true;
}

static const char *type_name(enum key_type type)
{
    static const char *const names[] = {
        [K_STRING] = "string",     [K_TEXT] = "string", [K_BOOL] = "boolean",
        [K_OBJECT] = "dictionary", [K_ARRAY] = "list",  [K_ANY] = "value",
        [K_SOURCE] = "dictionary", [K_BLOCKS] = "list", [K_MARK] = "dictionary",
    };
    return names[type];
}

/* New reference, NULL + err. */
static json_t *read_value(struct reader *r, const struct key_rule *key, json_t *v,
                          const struct place *at)
{
    if (!has_type(v, key->type)) {
        place_err(at, NULL, r->err, "Input should be a valid %s", type_name(key->type));
        return NULL;
    }
    if (key->type == K_SOURCE)
        return read_source(r, v, at);
    if (key->type == K_BLOCKS)
        return read_inner(r, v, key->where, at);
    if (key->type == K_MARK && body_mark(v, at, r->marks, r->err) != 0)
        return NULL;
    if (key->type == K_TEXT && check_text(json_str_of(v), at->up, r->err) != 0)
        return NULL;
    return json_incref(v);
}

static int check_required(struct reader *r, const struct block_rule *rule, const json_t *obj,
                          const struct place *at)
{
    for (size_t i = 0; i < ARRAY_SIZE(rule->keys) && rule->keys[i].name; i++) {
        if (rule->keys[i].required && !json_object_get(obj, rule->keys[i].name))
            return place_err(at, rule->keys[i].name, r->err, "Field required");
    }
    return 0;
}

/* What is null and may be absent is left out. The cache mark comes last: there the relay finds the
 * one that the claude program puts in its place. */
static json_t *read_rule(struct reader *r, const struct block_rule *rule, const json_t *obj,
                         const struct place *at)
{
    AUTO(json_unref_p) json_t *out = json_object();
    AUTO(json_unref_p) json_t *mark = json_object();
    const char *name;
    json_t *v;
    if (check_required(r, rule, obj, at) != 0)
        return NULL;
    json_object_foreach((json_t *)(uintptr_t)obj, name, v)
    {
        const struct key_rule *key = find_key(rule, name);
        struct place here = {.up = at, .name = name};
        if (strcmp(name, "type") == 0) {
            json_object_set(out, name, v);
            continue;
        }
        if (!key) {
            place_err(at, name, r->err, "Extra inputs are not permitted");
            return NULL;
        }
        if (json_is_null(v) && !key->required)
            continue;
        json_t *value = read_value(r, key, v, &here);
        if (!value)
            return NULL;
        json_object_set_new(key->type == K_MARK ? mark : out, name, value);
    }
    json_object_update(out, mark);
    return TAKE_PTR(out);
}

/* That of a block which is not read otherwise. */
static int read_mark(struct reader *r, const json_t *block, const struct place *at)
{
    const json_t *mark = json_object_get(block, "cache_control");
    struct place here = {.up = at, .name = "cache_control"};
    return json_is_object(mark) ? body_mark(mark, &here, r->marks, r->err) : 0;
}

static json_t *read_block(struct reader *r, const json_t *block, unsigned where,
                          const struct place *at)
{
    struct str type = json_get_str(block, "type");
    const struct block_rule *rule = find_rule(blocks, ARRAY_SIZE(blocks), type);
    if (!json_is_object(block)) {
        place_err(at, NULL, r->err, "Input should be a valid dictionary");
        return NULL;
    }
    if (type.len == 0) {
        place_err(at, "type", r->err, "Field required");
        return NULL;
    }
    if (rule && (rule->where & where))
        return read_rule(r, rule, block, at);
    r->marks->unknown = true;
    return read_mark(r, block, at) == 0 ? json_incref((json_t *)(uintptr_t)block) : NULL;
}

static json_t *read_blocks(struct reader *r, const json_t *array, unsigned where,
                           const struct place *at)
{
    AUTO(json_unref_p) json_t *out = json_array();
    const json_t *block;
    size_t i;
    if (r->depth == DEPTH_MAX) {
        place_err(at, NULL, r->err, "blocks are nested too deeply");
        return NULL;
    }
    r->depth++;
    json_array_foreach(array, i, block)
    {
        struct place here = {.up = at, .index = i};
        json_t *copy = read_block(r, block, where, &here);
        if (!copy)
            return NULL;
        json_array_append_new(out, copy);
    }
    r->depth--;
    return TAKE_PTR(out);
}

json_t *body_content(const json_t *content, unsigned where, const struct place *at,
                     struct body_marks *marks, struct err *err)
{
    struct reader r = {.marks = marks, .err = err};
    if (json_is_string(content)) {
        if (check_text(json_str_of(content), at, err) != 0)
            return NULL;
        return json_pack("[{s:s, s:O}]", "type", "text", "text", content);
    }
    if (!json_is_array(content)) {
        place_err(at, NULL, err, content ? "Input should be a valid list" : "Field required");
        return NULL;
    }
    return read_blocks(&r, content, where, at);
}
