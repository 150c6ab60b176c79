/* standin_reply.c - builds the demo answer or follows a step, and walks through the phases of a
 * stream: message_start, then for each block content_block_start, (ping after the first), deltas,
 * content_block_stop, then message_delta and message_stop. */
#include "upstream/standin_reply.h"

#include "core/id.h"

#include <inttypes.h>

#define MAX_REPEATED 2000 /* bytes of the user's text in a demo answer */
#define MAX_TEXT     ((size_t)256 << 20)
#define MAX_WORD     4096
#define MAX_DELTA    ((size_t)1 << 20)
#define TOOL_CHUNK   20
#define DEMO_TEXT    "This is claudegate's demo upstream, not Claude. "
#define DEMO_REPEATS "You wrote: "
#define DEMO_NOTHING "Your message has no text."
#define DEMO_CUT     " [...]"

/* --- what to say -------------------------------------------------------------------------- */

static void demo_text(struct buf *out, const struct standin_request *q)
{
    struct str said = buf_str(&q->user_text);
    struct str shown = standin_utf8_prefix(said, MAX_REPEATED);
    buf_adds(out, DEMO_TEXT);
    buf_adds(out, said.len ? DEMO_REPEATS : DEMO_NOTHING);
    buf_addstr(out, shown);
    if (shown.len < said.len)
        buf_adds(out, DEMO_CUT);
}

/* As the API does: the text ends before the first stop sequence it would contain. */
static void stop_at_sequence(struct standin_reply *r, struct str *text, const json_t *sequences)
{
    size_t i;
    json_t *v;
    json_array_foreach(sequences, i, v)
    {
        struct str seq = json_str_of(v);
        const char *hit = seq.len ? memmem(text->p, text->len, seq.p, seq.len) : NULL;
        if (!hit)
            continue;
        text->len = (size_t)(hit - text->p);
        r->stop_reason = "stop_sequence";
        r->stop_sequence = seq;
    }
}

static void demo_blocks(struct standin_reply *r, const struct standin_request *q)
{
    AUTO(buf_release) struct buf b = {0};
    buf_init(&b, MAX_REPEATED + 256);
    demo_text(&b, q);
    BUG_ON(!buf_ok(&b));
    struct str text = buf_str(&b);
    stop_at_sequence(r, &text, q->stop_sequences);
    if (text.len && standin_tokens(text.len) > q->max_tokens) {
        text = standin_utf8_prefix(text, (size_t)q->max_tokens * 4);
        r->stop_reason = "max_tokens";
        r->stop_sequence = (struct str){0};
    }
    r->usage.output = standin_tokens(text.len);
    r->blocks = json_pack("[{s:s, s:s%}]", "type", "text", "text", text.p, text.len);
    BUG_ON(!r->blocks);
}

static void block_text(const json_t *block, struct buf *out)
{
    struct str type = json_get_str(block, "type");
    if (str_eq_c(type, "tool_use")) {
        const json_t *input = json_object_get(block, "input");
        if (input)
            json_write(out, input);
        else
            buf_adds(out, "{}");
    } else {
        buf_addstr(out, json_get_str(block, str_eq_c(type, "text") ? "text" : "thinking"));
    }
    BUG_ON(!buf_ok(out));
}

static void scripted_blocks(struct standin_reply *r)
{
    size_t bytes = 0, i;
    json_t *block;
    r->blocks = r->step->empty || !r->step->blocks ? json_array() : json_incref(r->step->blocks);
    json_array_foreach(r->blocks, i, block)
    {
        buf_clear(&r->text);
        block_text(block, &r->text);
        bytes += r->text.len;
        if (str_eq_c(json_get_str(block, "type"), "tool_use"))
            r->stop_reason = "tool_use";
    }
    buf_clear(&r->text);
    r->usage.output = standin_tokens(bytes);
}

static void apply_step(struct standin_reply *r)
{
    const struct standin_step *step = r->step;
    const json_t *u = step->usage;
    r->usage.input = json_get_int(u, "input_tokens", r->usage.input);
    r->usage.output = json_get_int(u, "output_tokens", r->usage.output);
    r->usage.cache_creation = json_get_int(u, "cache_creation_input_tokens", 0);
    r->usage.cache_read = json_get_int(u, "cache_read_input_tokens", 0);
    if (step->has_stop_sequence) {
        r->stop_reason = "stop_sequence";
        r->stop_sequence = step->stop_sequence;
    }
    if (step->stop_reason.len)
        r->stop_reason = step->stop_reason.p; /* a jansson string: NUL-terminated */
}

void standin_reply_init(struct standin_reply *r, const struct standin_request *q,
                        const struct standin_step *step)
{
    *r = (struct standin_reply){.step = step, .model = q->model, .stop_reason = "end_turn"};
    buf_init(&r->text, MAX_TEXT);
    memcpy(r->id, "msg_", 4);
    id_alnum(r->id + 4, 24);
    r->usage.input = q->input_tokens;
    if (step->blocks || step->empty)
        scripted_blocks(r);
    else
        demo_blocks(r, q);
    apply_step(r);
}

void standin_reply_release(struct standin_reply *r)
{
    json_decref(r->blocks);
    if (r->text.max)
        buf_release(&r->text);
    *r = (struct standin_reply){0};
}

/* --- how to say it ------------------------------------------------------------------------ */

static const char *block_type(const json_t *block)
{
    return json_get_str(block, "type").p;
}

static void write_tool_id(struct buf *out, const json_t *block)
{
    struct str id = json_get_str(block, "id");
    char made[32] = "toolu_";
    if (id.len == 0) {
        id_alnum(made + 6, 24);
        id = str_c(made);
    }
    buf_json_str(out, id);
}

/* The block with all its content, or as content_block_start shows it: empty. */
static void write_block(struct buf *out, const json_t *block, bool full)
{
    const char *type = block_type(block);
    buf_printf(out, "{\"type\":\"%s\",", type);
    if (strcmp(type, "text") == 0) {
        buf_adds(out, "\"text\":");
        buf_json_str(out, full ? json_get_str(block, "text") : STR(""));
    } else if (strcmp(type, "thinking") == 0) {
        buf_adds(out, "\"thinking\":");
        buf_json_str(out, full ? json_get_str(block, "thinking") : STR(""));
        buf_adds(out, ",\"signature\":");
        buf_json_str(out, full ? json_get_str(block, "signature") : STR(""));
    } else {
        buf_adds(out, "\"id\":");
        write_tool_id(out, block);
        buf_adds(out, ",\"name\":");
        buf_json_str(out, json_get_str(block, "name"));
        buf_adds(out, ",\"input\":");
        if (full)
            block_text(block, out);
        else
            buf_adds(out, "{}");
    }
    buf_addc(out, '}');
}

static void write_stop(struct buf *out, const struct standin_reply *r, bool known)
{
    buf_adds(out, "\"stop_reason\":");
    if (known)
        buf_json_str(out, str_c(r->stop_reason));
    else
        buf_adds(out, "null");
    buf_adds(out, ",\"stop_sequence\":");
    if (known && r->stop_sequence.p)
        buf_json_str(out, r->stop_sequence);
    else
        buf_adds(out, "null");
}

static void write_message(struct buf *out, const struct standin_reply *r, bool full)
{
    size_t i;
    json_t *block;
    buf_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", r->id);
    buf_json_str(out, r->model);
    buf_adds(out, ",\"content\":[");
    if (full) {
        json_array_foreach(r->blocks, i, block)
        {
            if (i > 0)
                buf_addc(out, ',');
            write_block(out, block, true);
        }
    }
    buf_adds(out, "],");
    write_stop(out, r, full);
    buf_adds(out, ",\"usage\":{");
    standin_usage_write(out, &r->told);
    buf_adds(out, ",\"service_tier\":\"standard\"}}");
}

void standin_reply_message(struct standin_reply *r, struct buf *out)
{
    r->told = r->usage;
    write_message(out, r, true);
}

static void event_open(struct buf *out, const char *name)
{
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", name, name);
}

static void event_close(struct buf *out)
{
    buf_adds(out, "}\n\n");
}

static json_t *current(const struct standin_reply *r)
{
    return json_array_get(r->blocks, r->block);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t';
}

/* A word with the white space before it. */
static size_t word_length(struct str s)
{
    size_t n = 0;
    while (n < s.len && is_space(s.p[n]))
        n++;
    while (n < s.len && n < MAX_WORD && !is_space(s.p[n]))
        n++;
    return n;
}

/* The bytes of the next delta: whole characters, whole words unless the step gives a size. Like
 * the API's, a tool's input begins with an empty delta. */
static size_t piece(const struct standin_reply *r)
{
    struct str rest = str_n(r->text.data + r->pos, r->text.len - r->pos);
    bool tool = strcmp(block_type(current(r)), "tool_use") == 0;
    int64_t chunk = json_get_int(current(r), "chunk", 0);
    if (tool && !r->opened)
        return 0;
    if (tool && chunk == 0)
        chunk = TOOL_CHUNK;
    size_t n = chunk > 0 ? (size_t)chunk : word_length(rest);
    n = n < MAX_DELTA ? n : MAX_DELTA;
    while (n < rest.len && ((unsigned char)rest.p[n] & 0xC0) == 0x80)
        n++;
    return n < rest.len ? n : rest.len;
}

static void write_delta(struct standin_reply *r, struct buf *out, const char *type,
                        const char *field, struct str value)
{
    event_open(out, "content_block_delta");
    buf_printf(out, ",\"index\":%zu,\"delta\":{\"type\":\"%s\",\"%s\":", r->block, type, field);
    buf_json_str(out, value);
    buf_addc(out, '}');
    event_close(out);
    r->was_delta = true;
}

static void after_deltas(struct standin_reply *r)
{
    bool is_signed = json_get_str(current(r), "signature").len > 0;
    r->phase = is_signed ? PHASE_SIGNATURE : PHASE_BLOCK_STOP;
}

static void emit_delta(struct standin_reply *r, struct buf *out)
{
    const char *type = block_type(current(r));
    struct str value = str_n(r->text.data + r->pos, piece(r));
    if (strcmp(type, "text") == 0)
        write_delta(r, out, "text_delta", "text", value);
    else if (strcmp(type, "thinking") == 0)
        write_delta(r, out, "thinking_delta", "thinking", value);
    else
        write_delta(r, out, "input_json_delta", "partial_json", value);
    r->opened = true;
    r->pos += value.len;
    if (r->pos == r->text.len)
        after_deltas(r);
}

static void emit_block_start(struct standin_reply *r, struct buf *out)
{
    event_open(out, "content_block_start");
    buf_printf(out, ",\"index\":%zu,\"content_block\":", r->block);
    write_block(out, current(r), false);
    event_close(out);
    buf_clear(&r->text);
    block_text(current(r), &r->text);
    r->pos = 0;
    r->opened = false;
    r->phase = PHASE_DELTA;
    if (r->text.len == 0)
        after_deltas(r);
}

static void next_block(struct standin_reply *r)
{
    r->phase = current(r) ? PHASE_BLOCK_START : PHASE_MESSAGE_DELTA;
}

static void emit_start(struct standin_reply *r, struct buf *out)
{
    r->told = r->usage;
    r->told.output = r->usage.output > 0; /* the real API has produced about one token by now */
    event_open(out, "message_start");
    buf_adds(out, ",\"message\":");
    write_message(out, r, false);
    event_close(out);
    next_block(r);
}

static void emit_message_delta(struct standin_reply *r, struct buf *out)
{
    r->told = r->usage;
    event_open(out, "message_delta");
    buf_adds(out, ",\"delta\":{");
    write_stop(out, r, true);
    buf_adds(out, "},\"usage\":{");
    standin_usage_write(out, &r->told);
    buf_addc(out, '}');
    event_close(out);
    r->phase = PHASE_MESSAGE_STOP;
}

static void emit_block_stop(struct standin_reply *r, struct buf *out)
{
    event_open(out, "content_block_stop");
    buf_printf(out, ",\"index\":%zu", r->block);
    event_close(out);
    r->block++;
    next_block(r);
}

static void emit_bare(struct buf *out, const char *name)
{
    event_open(out, name);
    event_close(out);
}

/* One ping, right after the first content_block_start, as the API does. */
static bool ping_due(const struct standin_reply *r)
{
    return !r->pinged && r->block == 0 && r->phase != PHASE_BLOCK_START &&
           r->phase != PHASE_START && current(r);
}

static void emit(struct standin_reply *r, struct buf *out)
{
    switch (r->phase) {
    case PHASE_START:
        emit_start(r, out);
        break;
    case PHASE_BLOCK_START:
        emit_block_start(r, out);
        break;
    case PHASE_DELTA:
        emit_delta(r, out);
        break;
    case PHASE_SIGNATURE:
        write_delta(r, out, "signature_delta", "signature", json_get_str(current(r), "signature"));
        r->phase = PHASE_BLOCK_STOP;
        break;
    case PHASE_BLOCK_STOP:
        emit_block_stop(r, out);
        break;
    case PHASE_MESSAGE_DELTA:
        emit_message_delta(r, out);
        break;
    case PHASE_MESSAGE_STOP:
        emit_bare(out, "message_stop");
        r->phase = PHASE_END;
        break;
    case PHASE_END:
        BUG_ON(true);
    }
}

static bool emit_raw(struct standin_reply *r, struct buf *out)
{
    const json_t *item = json_array_get(r->step->raw_events, r->events);
    const json_t *data = json_object_get(item, "data");
    struct str event = json_get_str(item, "event");
    if (!item)
        return false;
    if (event.len)
        buf_printf(out, "event: %s\n", event.p);
    buf_adds(out, "data: ");
    if (json_is_string(data))
        buf_addstr(out, json_str_of(data));
    else
        json_write(out, data);
    buf_adds(out, "\n\n");
    return true;
}

static void emit_error(struct standin_reply *r, struct buf *out)
{
    buf_adds(out, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":");
    buf_json_str(out, json_get_str(r->step->sse_error, "type"));
    buf_adds(out, ",\"message\":");
    buf_json_str(out, json_get_str(r->step->sse_error, "message"));
    buf_adds(out, "}}\n\n");
    r->phase = PHASE_END;
}

bool standin_reply_next(struct standin_reply *r, struct buf *out)
{
    const json_t *error = r->step->sse_error;
    r->was_delta = false;
    if (r->phase == PHASE_END)
        return false;
    if (error && (int64_t)r->events >= json_get_int(error, "after", 0)) {
        emit_error(r, out);
    } else if (r->step->raw_events) {
        if (!emit_raw(r, out))
            return false;
    } else if (ping_due(r)) {
        emit_bare(out, "ping");
        r->pinged = true;
    } else {
        emit(r, out);
    }
    BUG_ON(!buf_ok(out));
    r->events++;
    return true;
}
