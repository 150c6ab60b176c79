/* responses_stream.c - the events of a response, in the order of OpenAI's service:
 *
 *   response.created, response.in_progress,
 *   per item: response.output_item.added, what it holds, response.output_item.done,
 *   response.completed or response.incomplete; or `error`
 *
 * Deltas are written as text, the rare ones through JSON values. */
#include "api/openai/responses_parts.h"

#define EVENT_MAX ((size_t)256 << 20)

static bool is_type(const json_t *block, const char *type)
{
    return str_eq_c(json_get_str(block, "type"), type);
}

/* Takes the event over; adds its type and number. */
static void emit(struct response *r, const char *name, json_t *event_take)
{
    AUTO(buf_release) struct buf b;
    BUG_ON(!event_take);
    json_object_set_new(event_take, "type", json_string(name));
    json_object_set_new(event_take, "sequence_number", json_integer(r->sequence++));
    buf_init(&b, EVENT_MAX);
    json_write(&b, event_take);
    json_decref(event_take);
    r->emit(r->ctx, name, &b);
}

static const char *item_id(const struct response *r)
{
    return json_string_value(json_object_get(r->item, "id"));
}

/* What all events about a part of the item begin with. */
static json_t *about_item(const struct response *r, const char *part_index)
{
    json_t *e =
        json_pack("{s:s, s:I}", "item_id", item_id(r), "output_index", (json_int_t)r->index);
    if (part_index)
        json_object_set_new(e, part_index, json_integer(0));
    return e;
}

static void emit_delta(struct response *r, const char *name, const char *part_index,
                       struct str delta)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, EVENT_MAX);
    buf_printf(&b,
               "{\"type\":\"%s\",\"sequence_number\":%lld,\"item_id\":\"%s\",\"output_index\":%zu",
               name, (long long)r->sequence++, item_id(r), r->index);
    if (part_index)
        buf_printf(&b, ",\"%s\":0", part_index);
    if (part_index && strcmp(part_index, "content_index") == 0)
        buf_adds(&b, ",\"logprobs\":[]");
    buf_adds(&b, ",\"delta\":");
    buf_json_str(&b, delta);
    buf_addc(&b, '}');
    r->emit(r->ctx, name, &b);
}

/* --- beginning ---------------------------------------------------------------------------- */

static void start(struct response *r, const json_t *message)
{
    struct str model = json_get_str(message, "model");
    snprintf(r->model, sizeof(r->model), "%.*s", (int)model.len, model.p);
    json_t *object = response_object(r, "in_progress", NULL, NULL, "");
    emit(r, "response.created", json_pack("{s:O}", "response", object));
    emit(r, "response.in_progress", json_pack("{s:o}", "response", object));
}

static void emit_item(struct response *r, const char *name, const json_t *item)
{
    emit(r, name, json_pack("{s:I, s:O}", "output_index", (json_int_t)r->index, "item", item));
}

/* The item as it stands before anything of it came. */
static json_t *empty_item(const struct response *r, const json_t *block)
{
    json_t *item = response_item(r, block, r->index);
    if (is_type(block, "text")) {
        json_array_clear(json_object_get(item, "content"));
    } else if (is_type(block, "tool_use")) {
        json_object_set_new(item, "arguments", json_string(""));
    } else {
        return item;
    }
    json_object_set_new(item, "status", json_string("in_progress"));
    return item;
}

static void start_item(struct response *r, const json_t *block)
{
    json_t *item = empty_item(r, block);
    if (!item)
        return;
    r->item = item;
    r->block = json_copy((json_t *)(uintptr_t)block);
    buf_clear(&r->text);
    buf_clear(&r->signature);
    emit_item(r, "response.output_item.added", item);
    if (is_type(block, "text")) {
        json_t *e = about_item(r, "content_index");
        json_object_set_new(e, "part", response_text_part(STR("")));
        emit(r, "response.content_part.added", e);
    } else if (is_type(block, "thinking") && r->summary) {
        json_t *e = about_item(r, "summary_index");
        json_object_set_new(e, "part", response_summary_part(STR("")));
        emit(r, "response.reasoning_summary_part.added", e);
    }
}

/* --- in the midst ------------------------------------------------------------------------- */

static void take_delta(struct response *r, const json_t *delta)
{
    struct str text;
    if (!r->item)
        return;
    if (is_type(delta, "text_delta")) {
        text = json_get_str(delta, "text");
        if (text.len)
            emit_delta(r, "response.output_text.delta", "content_index", text);
    } else if (is_type(delta, "input_json_delta")) {
        text = json_get_str(delta, "partial_json");
        if (text.len)
            emit_delta(r, "response.function_call_arguments.delta", NULL, text);
    } else if (is_type(delta, "thinking_delta")) {
        text = json_get_str(delta, "thinking");
        if (r->summary && text.len)
            emit_delta(r, "response.reasoning_summary_text.delta", "summary_index", text);
    } else {
        buf_addstr(&r->signature, json_get_str(delta, "signature"));
        return;
    }
    buf_addstr(&r->text, text);
}

/* --- the end of an item ------------------------------------------------------------------- */

static void finish_text(struct response *r)
{
    struct str text = buf_str(&r->text);
    json_t *e = about_item(r, "content_index");
    json_object_set_new(e, "logprobs", json_array());
    json_object_set_new(e, "text", json_stringn(text.p, text.len));
    emit(r, "response.output_text.done", e);
    e = about_item(r, "content_index");
    json_object_set_new(e, "part", response_text_part(text));
    emit(r, "response.content_part.done", e);
    json_object_set_new(r->block, "text", json_stringn(text.p, text.len));
}

static void finish_call(struct response *r)
{
    struct err ignored;
    if (r->text.len == 0) { /* no arguments at all: still JSON */
        emit_delta(r, "response.function_call_arguments.delta", NULL, STR("{}"));
        buf_adds(&r->text, "{}");
    }
    struct str text = buf_str(&r->text), name = json_get_str(r->block, "name");
    json_t *e = about_item(r, NULL), *input = json_parse(text, &ignored);
    json_object_set_new(e, "name", json_stringn(name.p, name.len));
    json_object_set_new(e, "arguments", json_stringn(text.p, text.len));
    emit(r, "response.function_call_arguments.done", e);
    json_object_set_new(r->block, "input", input ? input : json_object());
}

static void finish_thoughts(struct response *r)
{
    struct str text = buf_str(&r->text), signature = buf_str(&r->signature);
    r->thinking_bytes += text.len;
    json_object_set_new(r->block, "thinking", json_stringn(text.p, text.len));
    json_object_set_new(r->block, "signature", json_stringn(signature.p, signature.len));
    if (!r->summary)
        return;
    json_t *e = about_item(r, "summary_index");
    json_object_set_new(e, "text", json_stringn(text.p, text.len));
    emit(r, "response.reasoning_summary_text.done", e);
    e = about_item(r, "summary_index");
    json_object_set_new(e, "part", response_summary_part(text));
    emit(r, "response.reasoning_summary_part.done", e);
}

static void finish_item(struct response *r)
{
    if (!r->item)
        return;
    if (is_type(r->block, "text"))
        finish_text(r);
    else if (is_type(r->block, "tool_use"))
        finish_call(r);
    else if (is_type(r->block, "thinking"))
        finish_thoughts(r);
    AUTO(json_unref_p) json_t *item = response_item(r, r->block, r->index);
    if (is_type(item, "function_call")) { /* as it came, not as we would write it */
        struct str text = buf_str(&r->text);
        json_object_set_new(item, "arguments", json_stringn(text.p, text.len));
    }
    emit_item(r, "response.output_item.done", item);
    json_decref(TAKE_PTR(r->item));
    json_decref(TAKE_PTR(r->block));
    r->index++;
}

/* What comes before message_start is no answer: the turn will fail. */
void response_event(struct response *r, const json_t *event)
{
    if (r->sequence == 0 && !is_type(event, "message_start"))
        return;
    if (is_type(event, "content_block_delta"))
        take_delta(r, json_object_get(event, "delta"));
    else if (is_type(event, "content_block_start"))
        start_item(r, json_object_get(event, "content_block"));
    else if (is_type(event, "content_block_stop"))
        finish_item(r);
    else if (is_type(event, "message_start"))
        start(r, json_object_get(event, "message"));
}

void response_finish(struct response *r, const json_t *object)
{
    bool complete = str_eq_c(json_get_str(object, "status"), "completed");
    emit(r, complete ? "response.completed" : "response.incomplete",
         json_pack("{s:O}", "response", object));
}

void response_error(struct response *r, const json_t *error)
{
    json_t *event = json_object();
    static const char *const members[] = {"code", "message", "param"};
    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        json_object_set(event, members[i], json_object_get(error, members[i]));
    emit(r, "error", event);
}
