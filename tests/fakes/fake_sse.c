/* fake_sse.c - the upstream event stream becomes stream_event lines and finished blocks. */
#include "fake_upstream.h"

static void show(struct fake *f, const json_t *event, int64_t ttft_ms)
{
    buf_clear(&f->tmp);
    json_write(&f->tmp, event);
    out_stream(f, buf_str(&f->tmp), ttft_ms);
}

static void take_usage(struct usage *u, const json_t *usage)
{
    u->input = json_get_int(usage, "input_tokens", u->input);
    u->output = json_get_int(usage, "output_tokens", u->output);
    u->cache_write = json_get_int(usage, "cache_creation_input_tokens", u->cache_write);
    u->cache_read = json_get_int(usage, "cache_read_input_tokens", u->cache_read);
}

static void copy_str(char *to, size_t size, struct str s)
{
    snprintf(to, size, "%.*s", (int)s.len, s.p ? s.p : "");
}

static void on_message_start(struct fake *f, const json_t *event)
{
    struct turn *t = &f->turn;
    struct msg *m = &t->msg;
    const json_t *message = json_object_get(event, "message");
    const json_t *usage = json_object_get(message, "usage");
    copy_str(m->id, sizeof(m->id), json_get_str(message, "id"));
    copy_str(m->model, sizeof(m->model), json_get_str(message, "model"));
    copy_str(m->request_id, sizeof(m->request_id), str_c(f->upstream->request_id));
    take_usage(&m->counted, usage);
    if (usage)
        json_write(&m->usage, usage);
    t->stream_us = t->stream_us ? t->stream_us : f->now;
    show(f, event, (f->now - t->requested) / 1000);
    turn_point(f, P_MESSAGE_START);
}

static void on_block_start(struct fake *f, const json_t *event)
{
    struct msg *m = &f->turn.msg;
    json_t *block = json_object_get(event, "content_block");
    struct str type = json_get_str(block, "type");
    enum block_kind kind = str_eq_c(type, "text")       ? B_TEXT
                           : str_eq_c(type, "thinking") ? B_THINKING
                           : str_eq_c(type, "tool_use") ? B_TOOL
                                                        : B_OTHER;
    show(f, event, -1);
    msg_open(f, kind, (int)json_get_int(event, "index", 0),
             json_string_value(json_object_get(block, "id")),
             json_string_value(json_object_get(block, "name")));
    if (kind == B_TOOL && !(m->tool_id && m->tool_name))
        m->kind = kind = B_OTHER;
    if (kind == B_OTHER) {
        json_decref(m->other);
        m->other = json_incref(block);
    }
}

static void on_delta(struct fake *f, const json_t *event)
{
    struct msg *m = &f->turn.msg;
    const json_t *delta = json_object_get(event, "delta");
    struct str thinking = json_get_str(delta, "thinking");
    f->turn.deltas++;
    if (thinking.len)
        out_thinking_tokens(f, m->text.len, thinking.len);
    show(f, event, -1);
    buf_addstr(&m->text, json_get_str(delta, "text"));
    buf_addstr(&m->text, thinking);
    buf_addstr(&m->signature, json_get_str(delta, "signature"));
    buf_addstr(&m->input, json_get_str(delta, "partial_json"));
    turn_point(f, P_DELTA);
}

static void on_block_stop(struct fake *f, const json_t *event)
{
    if (f->turn.msg.open)
        msg_close(f);
    show(f, event, -1);
}

static void on_message_delta(struct fake *f, const json_t *event)
{
    struct msg *m = &f->turn.msg;
    take_usage(&m->counted, json_object_get(event, "usage"));
    copy_str(m->stop_reason, sizeof(m->stop_reason),
             json_get_str(json_object_get(event, "delta"), "stop_reason"));
    if (strcmp(m->stop_reason, "refusal") == 0)
        turn_refused(f);
    show(f, event, -1);
}

static void on_message_stop(struct fake *f, const json_t *event)
{
    show(f, event, -1);
    upstream_stop(f);
    msg_done(f);
    turn_message_done(f);
}

/* As the very first event it is tried three times, without a word about it. */
static void on_error(struct fake *f, const json_t *event)
{
    struct upstream *u = f->upstream;
    struct str message = json_get_str(json_object_get(event, "error"), "message");
    if (!u->saw_event && u->first_errors < 2) {
        upstream_again(f, FAKE_TICK_US / 2 * ++u->first_errors);
        return;
    }
    char *text = x_printf("API Error: %.*s", (int)message.len, message.p ? message.p : "");
    copy_str(f->turn.msg.request_id, sizeof(f->turn.msg.request_id), str_c(u->request_id));
    turn_fail(f, text, "unknown", 0, true, "completed");
    free(text);
}

static const struct {
    const char *type;
    void (*fn)(struct fake *f, const json_t *event);
} events[] = {
    {"content_block_delta", on_delta},
    {"message_start", on_message_start},
    {"content_block_start", on_block_start},
    {"content_block_stop", on_block_stop},
    {"message_delta", on_message_delta},
    {"message_stop", on_message_stop},
    {"error", on_error},
};

static void dispatch(struct fake *f)
{
    struct upstream *u = f->upstream;
    json_t *event = json_loadb(buf_cstr(&u->data), u->data.len, JSON_ALLOW_NUL, NULL);
    struct str type = json_get_str(event, "type");
    buf_clear(&u->data);
    for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
        if (str_eq_c(type, events[i].type)) {
            events[i].fn(f, event);
            u->saw_event = true;
            break;
        }
    }
    json_decref(event);
}

static void take_line(struct fake *f)
{
    struct upstream *u = f->upstream;
    struct str line = buf_str(&u->line);
    if (line.len && line.p[line.len - 1] == '\r')
        line.len--;
    if (line.len == 0) {
        buf_clear(&u->line);
        if (u->data.len)
            dispatch(f);
        return;
    }
    if (str_starts(line, "data:")) {
        struct str data = str_n(line.p + 5, line.len - 5);
        if (data.len && data.p[0] == ' ')
            data = str_n(data.p + 1, data.len - 1);
        if (u->data.len)
            buf_addc(&u->data, '\n');
        buf_addstr(&u->data, data);
    }
    buf_clear(&u->line);
}

void sse_feed(struct fake *f, struct str bytes)
{
    struct upstream *u = f->upstream;
    while (bytes.len && u->state == UP_BODY) {
        const char *end = memchr(bytes.p, '\n', bytes.len);
        size_t n = end ? (size_t)(end - bytes.p) : bytes.len;
        buf_add(&u->line, bytes.p, n);
        if (!end)
            return;
        bytes = str_n(end + 1, bytes.len - n - 1);
        take_line(f);
    }
}
