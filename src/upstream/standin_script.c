/* standin_script.c - steps are checked completely when they are posted, so that a test with a
 * mistake fails at once and serving a step cannot. */
#include "upstream/standin_script.h"

#define MAX_STEPS        20000
#define MAX_SCRIPT_BYTES ((size_t)128 << 20)
#define MAX_WAIT_MS      3600000

struct queued {
    struct node node;
    struct standin_step step;
    int64_t left; /* -1 = for ever */
};

/* Where a check of a part puts the values nobody needs. */
struct part {
    struct str s[4];
    int64_t n[4];
    json_t *j;
};

#define ROW(n, t, member)                                                         \
    {                                                                             \
        .name = (n), .type = (t), .offset = offsetof(struct standin_step, member) \
    }
#define ROW_HAS(n, t, member, has)                                                 \
    {                                                                              \
        .name = (n), .type = (t), .offset = offsetof(struct standin_step, member), \
        .has_offset = offsetof(struct standin_step, has)                           \
    }
#define ROW_INT(n, member, lo, hi)                                                                 \
    {                                                                                              \
        .name = (n), .type = JF_INT, .offset = offsetof(struct standin_step, member), .min = (lo), \
        .max = (hi)                                                                                \
    }
#define ROW_INT_HAS(n, member, has, lo, hi)                                           \
    {                                                                                 \
        .name = (n), .type = JF_INT, .offset = offsetof(struct standin_step, member), \
        .has_offset = offsetof(struct standin_step, has), .min = (lo), .max = (hi)    \
    }

static const struct json_field step_fields[] = {
    ROW("match", JF_OBJECT, match),
    ROW("blocks", JF_ARRAY, blocks),
    ROW("usage", JF_OBJECT, usage),
    ROW("headers", JF_OBJECT, headers),
    ROW("error", JF_OBJECT, error),
    ROW("sse_error", JF_OBJECT, sse_error),
    ROW("raw_events", JF_ARRAY, raw_events),
    ROW("stop_reason", JF_STRING, stop_reason),
    ROW_HAS("stop_sequence", JF_STRING, stop_sequence, has_stop_sequence),
    ROW_HAS("body", JF_STRING, body, has_body),
    ROW("cut_with", JF_STRING, cut_with),
    ROW("empty", JF_BOOL, empty),
    ROW("not_json", JF_BOOL, not_json),
    ROW_INT_HAS("repeat", repeat, has_repeat, -1, 1000000),
    ROW_INT("status", status, 200, 599),
    ROW_INT("delay_ms", delay_ms, 0, MAX_WAIT_MS),
    ROW_INT("word_delay_ms", word_delay_ms, 0, MAX_WAIT_MS),
    ROW_INT_HAS("stall_after", stall_after, has_stall, -1, 1000000000),
    ROW_INT_HAS("cut_after", cut_after, has_cut, -1, 1000000000),
};

#define PART_STR(name_, i)                                                        \
    {                                                                             \
        .name = (name_), .type = JF_STRING, .offset = offsetof(struct part, s[i]) \
    }
#define PART_STR_REQ(name_, i)                                                     \
    {                                                                              \
        .name = (name_), .type = JF_STRING, .offset = offsetof(struct part, s[i]), \
        .required = true                                                           \
    }
#define PART_INT(name_, i)                                                                \
    {                                                                                     \
        .name = (name_), .type = JF_INT, .offset = offsetof(struct part, n[i]), .min = 0, \
        .max = 1000000000                                                                 \
    }

static const struct json_field match_fields[] = {PART_STR("text", 0), PART_STR("model", 1)};
static const struct json_field error_fields[] = {PART_STR("type", 0), PART_STR("message", 1)};
static const struct json_field sse_error_fields[] = {PART_STR_REQ("type", 0),
                                                     PART_STR("message", 1), PART_INT("after", 0)};
static const struct json_field usage_fields[] = {
    PART_INT("input_tokens", 0), PART_INT("output_tokens", 1),
    PART_INT("cache_creation_input_tokens", 2), PART_INT("cache_read_input_tokens", 3)};
static const struct json_field raw_fields[] = {
    PART_STR("event", 0),
    {.name = "data", .type = JF_ANY, .offset = offsetof(struct part, j), .required = true}};
static const struct json_field text_fields[] = {PART_STR_REQ("type", 0), PART_STR_REQ("text", 1),
                                                PART_INT("chunk", 0)};
static const struct json_field thinking_fields[] = {PART_STR_REQ("type", 0),
                                                    PART_STR_REQ("thinking", 1),
                                                    PART_STR("signature", 2), PART_INT("chunk", 0)};
static const struct json_field tool_fields[] = {
    PART_STR_REQ("type", 0),
    PART_STR("id", 1),
    PART_STR_REQ("name", 2),
    PART_INT("chunk", 0),
    {.name = "input", .type = JF_OBJECT, .offset = offsetof(struct part, j)}};

static int check_part(const json_t *obj, const struct json_field *fields, size_t count,
                      const char *name, struct err *err)
{
    struct part ignored = {0};
    if (obj && json_read_fields(obj, fields, count, &ignored, err) != 0)
        return err_prefix(err, "%s", name);
    return 0;
}

#define CHECK(obj, fields, name, err) check_part((obj), (fields), ARRAY_SIZE(fields), (name), (err))

static int check_block(const json_t *block, const char *name, struct err *err)
{
    struct str type = json_get_str(block, "type");
    if (str_eq_c(type, "text"))
        return CHECK(block, text_fields, name, err);
    if (str_eq_c(type, "thinking"))
        return CHECK(block, thinking_fields, name, err);
    if (str_eq_c(type, "tool_use"))
        return CHECK(block, tool_fields, name, err);
    err_field(err, "type", "must be one of text, thinking, tool_use");
    return err_prefix(err, "%s", name);
}

static int check_lists(const struct standin_step *step, struct err *err)
{
    char name[40];
    size_t i;
    json_t *item;
    json_array_foreach(step->blocks, i, item)
    {
        snprintf(name, sizeof(name), "blocks[%zu]", i);
        if (check_block(item, name, err) != 0)
            return -1;
    }
    json_array_foreach(step->raw_events, i, item)
    {
        snprintf(name, sizeof(name), "raw_events[%zu]", i);
        if (CHECK(item, raw_fields, name, err) != 0)
            return -1;
    }
    return 0;
}

static int check_headers(json_t *headers, struct err *err)
{
    const char *name;
    json_t *value;
    json_object_foreach(headers, name, value)
    {
        const char *text = json_string_value(value);
        if (!text || strpbrk(text, "\r\n") || strpbrk(name, "\r\n: "))
            return err_field(err, "headers", "must hold names and one-line strings");
    }
    return 0;
}

static int read_step(json_t *src, struct standin_step *step, struct err *err)
{
    *step = (struct standin_step){.src = src};
    if (json_read_fields(src, step_fields, ARRAY_SIZE(step_fields), step, err) != 0 ||
        CHECK(step->match, match_fields, "match", err) != 0 ||
        CHECK(step->error, error_fields, "error", err) != 0 ||
        CHECK(step->sse_error, sse_error_fields, "sse_error", err) != 0 ||
        CHECK(step->usage, usage_fields, "usage", err) != 0 || check_lists(step, err) != 0 ||
        check_headers(step->headers, err) != 0)
        return -1;
    if (step->has_repeat && step->repeat == 0)
        return err_field(err, "repeat", "must not be 0");
    if (step->cut_with.len && !str_eq_c(step->cut_with, "reset") &&
        !str_eq_c(step->cut_with, "close"))
        return err_field(err, "cut_with", "must be \"reset\" or \"close\"");
    return 0;
}

void standin_script_init(struct standin_script *script)
{
    *script = (struct standin_script){0};
    list_init(&script->steps);
}

static void queued_free(struct queued *q)
{
    standin_step_release(&q->step);
    free(q);
}

void standin_script_clear(struct standin_script *script)
{
    struct node *node;
    while ((node = list_pop_front(&script->steps)))
        queued_free(container_of(node, struct queued, node));
    script->bytes = 0;
}

static void drop_newest(struct standin_script *script, size_t count)
{
    for (; count > 0; count--) {
        struct node *node = script->steps.head.prev;
        list_remove(&script->steps, node);
        queued_free(container_of(node, struct queued, node));
    }
}

static int check_room(const struct standin_script *script, const json_t *steps, size_t bytes,
                      struct err *err)
{
    if (!json_is_array(steps))
        return err_set(err, ERR_INVALID, "must be an array of steps");
    if (script->steps.len + json_array_size(steps) > MAX_STEPS ||
        script->bytes + bytes > MAX_SCRIPT_BYTES)
        return err_set(err, ERR_INVALID, "too many steps");
    return 0;
}

int standin_script_add(struct standin_script *script, struct str json, struct err *err)
{
    size_t i;
    json_t *src;
    AUTO(json_unref_p) json_t *steps = json_parse(json, err);
    if (!steps || check_room(script, steps, json.len, err) != 0)
        return -1;
    json_array_foreach(steps, i, src)
    {
        struct queued *q = x_calloc(1, sizeof(*q));
        if (read_step(src, &q->step, err) != 0) {
            free(q);
            drop_newest(script, i);
            return err_prefix(err, "[%zu]", i);
        }
        json_incref(q->step.src);
        q->left = q->step.has_repeat ? q->step.repeat : 1;
        list_push_back(&script->steps, &q->node);
    }
    script->bytes += json.len;
    return 0;
}

static bool fits(const struct standin_step *step, const struct standin_request *q)
{
    struct str text = json_get_str(step->match, "text");
    struct str model = json_get_str(step->match, "model");
    if (model.len && !str_eq(model, q->model))
        return false;
    return text.len == 0 || (q->user_text.len > 0 &&
                             memmem(q->user_text.data, q->user_text.len, text.p, text.len) != NULL);
}

bool standin_script_take(struct standin_script *script, const struct standin_request *q,
                         struct standin_step *ret_step)
{
    LIST_EACH(&script->steps, node)
    {
        struct queued *queued = container_of(node, struct queued, node);
        if (!fits(&queued->step, q))
            continue;
        *ret_step = queued->step;
        json_incref(ret_step->src);
        if (queued->left > 0 && --queued->left == 0) {
            list_remove(&script->steps, node);
            queued_free(queued);
        }
        return true;
    }
    return false;
}

void standin_step_release(struct standin_step *step)
{
    json_decref(step->src);
    *step = (struct standin_step){0};
}
