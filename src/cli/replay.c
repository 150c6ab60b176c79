/* replay.c - the stream events of a finished message: the way back from assemble.c. They have the
 * order and the fields of the API's stream
 * (https://platform.claude.com/docs/en/build-with-claude/streaming), so that whoever puts them
 * together has the message again. Each text comes in one piece. */
#include "cli/protocol.h"

#define INPUT_MAX ((size_t)128 << 20)

/* What the end of a stream says of the message; null until then. */
static const char *const in_delta[] = {"stop_reason", "stop_sequence", "stop_details", "container"};
static const char *const beside_delta[] = {"context_management"};
/* Of the usage; the rest stands at the beginning only. */
static const char *const counted[] = {"input_tokens", "cache_creation_input_tokens",
                                      "cache_read_input_tokens", "output_tokens",
                                      "server_tool_use"};

static void copy_fields(json_t *to, const json_t *from, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        json_object_set(to, names[i], json_object_get(from, names[i])); /* absent: nothing */
}

static void set_null(json_t *obj, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (json_object_get(obj, names[i]))
            json_object_set_new(obj, names[i], json_null());
    }
}

static json_t *start_of_message(const json_t *head)
{
    json_t *message = json_copy((json_t *)(uintptr_t)head);
    json_t *usage = json_copy(json_object_get(head, "usage"));
    set_null(message, in_delta, ARRAY_SIZE(in_delta));
    set_null(message, beside_delta, ARRAY_SIZE(beside_delta));
    json_object_set_new(message, "content", json_array());
    if (json_object_get(usage, "output_tokens"))
        json_object_set_new(usage, "output_tokens", json_integer(0));
    if (usage)
        json_object_set_new(message, "usage", usage);
    return json_pack("{s:s, s:o}", "type", "message_start", "message", message);
}

static json_t *end_of_message(const json_t *head)
{
    const json_t *usage = json_object_get(head, "usage");
    json_t *delta = json_object(), *said = json_object();
    copy_fields(delta, head, in_delta, ARRAY_SIZE(in_delta));
    copy_fields(said, usage, counted, ARRAY_SIZE(counted));
    json_t *event =
        json_pack("{s:s, s:o, s:o}", "type", "message_delta", "delta", delta, "usage", said);
    copy_fields(event, head, beside_delta, ARRAY_SIZE(beside_delta));
    return event;
}

/* --- one block ---------------------------------------------------------------------------- */

struct replay {
    json_int_t index;
    json_t *block;  /* as it begins */
    json_t *deltas; /* what follows */
};

static void add_delta(struct replay *r, const char *type, const char *name, json_t *value_take)
{
    json_array_append_new(r->deltas,
                          json_pack("{s:s, s:I, s:{s:s, s:o}}", "type", "content_block_delta",
                                    "index", r->index, "delta", "type", type, name, value_take));
}

/* A text of the block, which begins empty. */
static void tell_text(struct replay *r, const char *name, const char *delta_type)
{
    AUTO(json_unref_p) json_t *text = json_incref(json_object_get(r->block, name));
    if (!json_is_string(text) || json_string_length(text) == 0)
        return;
    json_object_set_new(r->block, name, json_string(""));
    add_delta(r, delta_type, name, json_incref(text));
}

static void tell_citations(struct replay *r)
{
    size_t i;
    json_t *citation;
    AUTO(json_unref_p) json_t *all = json_incref(json_object_get(r->block, "citations"));
    if (json_array_size(all) == 0)
        return;
    json_object_set_new(r->block, "citations", json_array());
    json_array_foreach(all, i, citation)
        add_delta(r, "citations_delta", "citation", json_incref(citation));
}

/* What a tool is called with: JSON as text. */
static void tell_input(struct replay *r)
{
    const json_t *input = json_object_get(r->block, "input");
    if (!json_is_object(input))
        return;
    AUTO(buf_release) struct buf b;
    buf_init(&b, INPUT_MAX);
    if (json_object_size(input))
        json_write(&b, input);
    add_delta(r, "input_json_delta", "partial_json", json_stringn(buf_str(&b).p, b.len));
    json_object_set_new(r->block, "input", json_object());
}

static void tell_block(json_t *events, size_t index, const json_t *block)
{
    struct replay r = {.index = (json_int_t)index,
                       .block = json_copy((json_t *)(uintptr_t)block),
                       .deltas = json_array()};
    struct str type = json_get_str(block, "type");
    if (str_eq_c(type, "text")) {
        tell_text(&r, "text", "text_delta");
        tell_citations(&r);
    } else if (str_eq_c(type, "thinking")) {
        tell_text(&r, "thinking", "thinking_delta");
        tell_text(&r, "signature", "signature_delta");
    } else {
        tell_input(&r);
    }
    json_array_append_new(events, json_pack("{s:s, s:I, s:o}", "type", "content_block_start",
                                            "index", r.index, "content_block", r.block));
    json_array_extend(events, r.deltas);
    json_array_append_new(events,
                          json_pack("{s:s, s:I}", "type", "content_block_stop", "index", r.index));
    json_decref(r.deltas);
}

json_t *cli_message_events(const struct cli_message *m)
{
    size_t i;
    const json_t *block;
    json_t *events = json_array();
    json_array_append_new(events, start_of_message(m->head));
    json_array_foreach(m->content, i, block) tell_block(events, i, block);
    json_array_append_new(events, end_of_message(m->head));
    json_array_append_new(events, json_pack("{s:s}", "type", "message_stop"));
    return events;
}
