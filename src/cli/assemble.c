/* assemble.c - a finished assistant message out of its stream events: what a session stores and
 * what a non-streaming reply returns. Deltas are collected in one reused buffer and become a
 * JSON string at the block's end. */
#include "cli/protocol.h"

void cli_message_init(struct cli_message *m, size_t max_bytes)
{
    *m = (struct cli_message){.content = json_array()};
    buf_init(&m->text, max_bytes);
}

void cli_message_release(struct cli_message *m)
{
    json_decref(m->head);
    json_decref(m->content);
    json_decref(m->block);
    buf_release(&m->text);
    m->head = m->content = m->block = NULL;
}

static void copy_str(char *out, size_t size, struct str s)
{
    snprintf(out, size, "%.*s", (int)(s.len < size ? s.len : size - 1), s.p);
}

static void read_usage(struct cli_message *m, const json_t *usage)
{
    m->input_tokens = json_get_int(usage, "input_tokens", m->input_tokens);
    m->output_tokens = json_get_int(usage, "output_tokens", m->output_tokens);
    m->cache_creation_tokens =
        json_get_int(usage, "cache_creation_input_tokens", m->cache_creation_tokens);
    m->cache_read_tokens = json_get_int(usage, "cache_read_input_tokens", m->cache_read_tokens);
}

static void on_start(struct cli_message *m, const json_t *event)
{
    const json_t *msg = json_object_get(event, "message");
    json_decref(m->head);
    m->head = json_deep_copy(msg);
    json_array_clear(m->content);
    json_decref(m->block);
    m->block = NULL;
    m->stop_reason[0] = '\0';
    copy_str(m->id, sizeof(m->id), json_get_str(msg, "id"));
    copy_str(m->model, sizeof(m->model), json_get_str(msg, "model"));
    m->input_tokens = m->output_tokens = m->cache_creation_tokens = m->cache_read_tokens = 0;
    read_usage(m, json_object_get(msg, "usage"));
}

/* What the end of a message adds to it. Usage is cumulative: what is absent keeps its value. */
static void on_message_delta(struct cli_message *m, const json_t *event)
{
    const json_t *delta = json_object_get(event, "delta"), *usage = json_object_get(event, "usage");
    const char *key;
    json_t *v, *all = json_object_get(m->head, "usage");
    copy_str(m->stop_reason, sizeof(m->stop_reason), json_get_str(delta, "stop_reason"));
    read_usage(m, usage);
    if (!json_is_object(m->head))
        return;
    json_object_foreach((json_t *)(uintptr_t)event, key, v)
    {
        if (strcmp(key, "type") != 0 && strcmp(key, "delta") != 0 && strcmp(key, "usage") != 0)
            json_object_set(m->head, key, v);
    }
    json_object_update(m->head, (json_t *)(uintptr_t)delta);
    if (json_is_object(all))
        json_object_update(all, (json_t *)(uintptr_t)usage);
    else
        json_object_set(m->head, "usage", (json_t *)(uintptr_t)usage);
}

static void add_citation(struct cli_message *m, json_t *citation)
{
    if (!json_is_array(json_object_get(m->block, "citations")))
        json_object_set_new(m->block, "citations", json_array());
    json_array_append(json_object_get(m->block, "citations"), citation);
}

static void on_delta(struct cli_message *m, const json_t *event)
{
    static const char *const keys[] = {"text", "thinking", "partial_json"};
    json_t *delta = json_object_get(event, "delta");
    m->any_output = true;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        buf_addstr(&m->text, json_get_str(delta, keys[i]));
    json_t *signature = json_object_get(delta, "signature");
    if (signature && m->block)
        json_object_set(m->block, "signature", signature);
    json_t *citation = json_object_get(delta, "citation");
    if (citation && m->block)
        add_citation(m, citation);
}

/* The collected text goes where the block's type keeps it. */
static void set_collected(struct cli_message *m)
{
    struct str type = json_get_str(m->block, "type"), text = buf_str(&m->text);
    if (text.len == 0)
        return;
    if (str_eq_c(type, "text"))
        json_object_set_new(m->block, "text", json_stringn(text.p, text.len));
    else if (str_eq_c(type, "thinking"))
        json_object_set_new(m->block, "thinking", json_stringn(text.p, text.len));
    else if (json_object_get(m->block, "input")) {
        json_t *input = json_loadb(text.p, text.len, JSON_ALLOW_NUL, NULL);
        if (!input) /* an integer too large for us is still a number */
            input = json_loadb(text.p, text.len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
        if (input)
            json_object_set_new(m->block, "input", input);
    }
}

static void close_block(struct cli_message *m)
{
    if (!m->block)
        return;
    set_collected(m);
    json_array_append_new(m->content, TAKE_PTR(m->block));
    m->too_large |= !buf_ok(&m->text);
    buf_clear(&m->text);
}

void cli_message_event(struct cli_message *m, const json_t *event)
{
    struct str type = json_get_str(event, "type");
    if (str_eq_c(type, "content_block_delta")) {
        on_delta(m, event);
    } else if (str_eq_c(type, "content_block_start")) {
        close_block(m);
        buf_clear(&m->text);
        m->block = json_deep_copy(json_object_get(event, "content_block"));
        buf_addstr(&m->text, json_get_str(m->block, "text"));
        buf_addstr(&m->text, json_get_str(m->block, "thinking"));
    } else if (str_eq_c(type, "content_block_stop")) {
        close_block(m);
    } else if (str_eq_c(type, "message_start")) {
        on_start(m, event);
    } else if (str_eq_c(type, "message_delta")) {
        on_message_delta(m, event);
    }
}

void cli_message_text(const struct cli_message *m, struct buf *out)
{
    for (size_t i = 0; i < json_array_size(m->content); i++) {
        const json_t *block = json_array_get(m->content, i);
        if (str_eq_c(json_get_str(block, "type"), "text"))
            buf_addstr(out, json_get_str(block, "text"));
    }
}
