/* fake_stream.c - a response made by a step: the stages request, (retry), start, block, delta,
 * close, end, each of which writes its lines and names the next. */
#include "fake.h"

static void log_request(struct fake *f)
{
    json_t *body = request_body(f);
    record_write(
        f, json_pack("{s:s,s:I,s:i,s:s,s:s,s:O?,s:O?,s:O?,s:o,s:o}", "event", "request", "turn",
                     (json_int_t)f->turns, "request", f->turn.requests, "session_id", f->session_id,
                     "model", f->model, "system", json_object_get(body, "system"), "messages",
                     json_object_get(body, "messages"), "tools", json_object_get(body, "tools"),
                     "headers", request_headers(f), "body", body));
}

static void stage_request(struct fake *f)
{
    struct turn *t = &f->turn;
    out_requesting(f);
    t->requested = f->now;
    t->first_request = t->first_request ? t->first_request : f->now;
    t->requests++;
    t->attempt = 0;
    msg_reset(f);
    if (record_wanted(f))
        log_request(f);
    if (f->use_upstream) {
        t->phase = PH_UPSTREAM;
        upstream_start(f);
    } else if (t->step.stall && t->step.stall_after < 0) {
        turn_stall(f);
    } else {
        t->stage = t->step.error ? SG_RETRY : SG_START;
        t->wake = t->step.start_delay_us ? f->now + t->step.start_delay_us : 0;
    }
}

static void stage_retry(struct fake *f)
{
    struct turn *t = &f->turn;
    const json_t *e = t->step.error;
    int status = (int)json_get_int(e, "status", 0), retries = (int)json_get_int(e, "retries", 0);
    int64_t delay_ms = json_get_int(e, "retry_delay_ms", 10);
    if (t->attempt < retries) {
        t->attempt++;
        turn_retry_line(f, retries, (double)delay_ms, status);
        t->wake = f->now + delay_ms * 1000;
        return;
    }
    t->stage = SG_START;
    if (json_get_bool(e, "recover", false))
        return;
    id_request(t->msg.request_id);
    turn_http_error(f, status, json_get_str(e, "message"), json_get_str(e, "kind"));
}

static void stage_start(struct fake *f)
{
    struct turn *t = &f->turn;
    struct msg *m = &t->msg;
    const struct usage *u = &t->step.usage;
    memcpy(m->id, "msg_01", 6);
    id_alnum(m->id + 6, 22);
    id_request(m->request_id);
    memcpy(m->model, f->model, sizeof(m->model));
    m->counted = (struct usage){u->input, u->output ? 1 : 0, u->cache_write, u->cache_read};
    add_num(&m->usage, "{\"input_tokens\":", u->input);
    add_num(&m->usage, ",\"cache_creation_input_tokens\":", u->cache_write);
    add_num(&m->usage, ",\"cache_read_input_tokens\":", u->cache_read);
    add_num(&m->usage, ",\"output_tokens\":", m->counted.output);
    buf_adds(&m->usage, "}");
    t->stream_us = t->stream_us ? t->stream_us : f->now;
    size_t from = out_begin(f);
    out_stream_open(f);
    out_adds(f, "{\"type\":\"message_start\",\"message\":{\"id\":\"");
    out_adds(f, m->id);
    out_adds(f, "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
    out_json_str(f, str_c(m->model));
    out_adds(f, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    out_str(f, buf_str(&m->usage));
    out_adds(f, "}}");
    out_stream_close(f, (f->now - t->requested) / 1000);
    out_end(f, from);
    turn_point(f, P_MESSAGE_START);
    t->part = 0;
    t->stage = SG_BLOCK;
}

static void open_block(struct fake *f, enum block_kind kind, const json_t *tool, struct str sending)
{
    struct turn *t = &f->turn;
    const char *id = json_string_value(json_object_get(tool, "id"));
    const char *name = json_string_value(json_object_get(tool, "name"));
    size_t from = out_begin(f);
    msg_open(f, kind, t->msg.blocks_done, id, name);
    out_stream_open(f);
    add_num(&f->out, "{\"type\":\"content_block_start\",\"index\":", t->msg.index);
    out_adds(f, ",\"content_block\":");
    if (kind == B_TEXT)
        out_adds(f, "{\"type\":\"text\",\"text\":\"\"}}");
    else if (kind == B_THINKING)
        out_adds(f, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}");
    else {
        out_adds(f, "{\"type\":\"tool_use\",\"id\":");
        out_json_str(f, str_c(id));
        out_adds(f, ",\"name\":");
        out_json_str(f, str_c(name));
        out_adds(f, ",\"input\":{}}}");
    }
    out_stream_close(f, -1);
    out_end(f, from);
    t->sending = sending;
    t->offset = 0;
    t->stage = SG_DELTA;
}

/* The text of the answer: given, or made now. */
static void recall(struct fake *f, struct buf *out)
{
    const char *kept = getenv(FAKE_MEMORY);
    buf_adds(out, "{\"memory\":");
    buf_json_str(out, str_c(kept ? kept : ""));
    buf_adds(out, ",\"history\":");
    hist_echo(f, out);
    buf_addc(out, '}');
}

static struct str answer_text(struct fake *f)
{
    struct turn *t = &f->turn;
    const struct step *s = &t->step;
    buf_clear(&t->made);
    if (s->recall)
        recall(f, &t->made);
    else if (s->echo_history)
        hist_echo(f, &t->made);
    else if (s->huge && buf_reserve(&t->made, (size_t)s->huge)) {
        memset(t->made.data, 'x', (size_t)s->huge);
        buf_grow_len(&t->made, (size_t)s->huge);
    } else
        return s->text;
    return buf_str(&t->made);
}

static void stage_block(struct fake *f)
{
    struct turn *t = &f->turn;
    const struct step *s = &t->step;
    size_t part = t->part++;
    if (part == 0) {
        if (s->thinking.len)
            open_block(f, B_THINKING, NULL, s->thinking);
    } else if (part == 1) {
        if (s->text.len || s->huge || s->flood || s->echo_history || s->recall)
            open_block(f, B_TEXT, NULL, answer_text(f));
    } else if (part - 2 < json_array_size(s->tools)) {
        const json_t *tool = json_array_get(s->tools, part - 2);
        buf_clear(&t->made);
        json_write(&t->made, json_object_get(tool, "input"));
        open_block(f, B_TOOL, tool, buf_str(&t->made));
    } else {
        t->stage = SG_END;
    }
}

/* The next piece: `chunk` bytes, prolonged to the end of a character. */
static struct str next_piece(struct turn *t)
{
    const struct step *s = &t->step;
    size_t left = t->sending.len - t->offset, n = left;
    if (s->flood && t->msg.kind == B_TEXT)
        return t->sending;
    if (s->chunk > 0 && (size_t)s->chunk < left)
        n = (size_t)s->chunk;
    while (n < left && ((unsigned char)t->sending.p[t->offset + n] & 0xC0) == 0x80)
        n++;
    struct str piece = str_n(t->sending.p + t->offset, n);
    t->offset += n;
    return piece;
}

static void delta_line(struct fake *f, const char *type, const char *key, struct str piece)
{
    size_t from = out_begin(f);
    out_stream_open(f);
    add_num(&f->out, "{\"type\":\"content_block_delta\",\"index\":", f->turn.msg.index);
    out_adds(f, ",\"delta\":{\"type\":\"");
    out_adds(f, type);
    out_adds(f, "\",\"");
    out_adds(f, key);
    out_adds(f, "\":");
    out_json_str(f, piece);
    out_adds(f, "}}");
    out_stream_close(f, -1);
    out_end(f, from);
}

static void one_delta(struct fake *f)
{
    struct msg *m = &f->turn.msg;
    struct str piece = next_piece(&f->turn);
    f->turn.deltas++;
    if (m->kind == B_TOOL) {
        delta_line(f, "input_json_delta", "partial_json", piece);
        buf_addstr(&m->input, piece);
        return;
    }
    if (m->kind == B_THINKING)
        out_thinking_tokens(f, m->text.len, piece.len);
    delta_line(f, m->kind == B_TEXT ? "text_delta" : "thinking_delta",
               m->kind == B_TEXT ? "text" : "thinking", piece);
    buf_addstr(&m->text, piece);
}

static bool block_sent(const struct turn *t)
{
    if (t->step.flood && t->msg.kind == B_TEXT)
        return t->deltas >= t->step.flood;
    return t->offset >= t->sending.len;
}

static void stage_delta(struct fake *f)
{
    struct turn *t = &f->turn;
    const struct step *s = &t->step;
    if (s->stall && t->deltas >= s->stall_after) {
        turn_stall(f);
        return;
    }
    if (block_sent(t)) {
        t->stage = SG_CLOSE;
        return;
    }
    one_delta(f);
    turn_point(f, P_DELTA);
    t->wake = s->delay_us ? f->now + s->delay_us : 0;
    if (s->cut && !s->cut_after_block && t->deltas >= s->cut_after)
        turn_stream_cut(f);
}

static void stage_close(struct fake *f)
{
    struct turn *t = &f->turn;
    if (t->msg.kind == B_THINKING) {
        delta_line(f, "signature_delta", "signature", STR("ZmFrZS1zaWduYXR1cmU="));
        buf_adds(&t->msg.signature, "ZmFrZS1zaWduYXR1cmU=");
    }
    msg_close(f);
    size_t from = out_begin(f);
    out_stream_open(f);
    add_num(&f->out, "{\"type\":\"content_block_stop\",\"index\":", t->msg.index);
    out_adds(f, "}");
    out_stream_close(f, -1);
    out_end(f, from);
    t->stage = SG_BLOCK;
    if (t->step.cut && t->step.cut_after_block)
        turn_stream_cut(f);
}

static void stage_end(struct fake *f)
{
    struct turn *t = &f->turn;
    const struct step *s = &t->step;
    if (str_eq_c(s->stop_reason, "refusal"))
        turn_refused(f);
    size_t from = out_begin(f);
    out_stream_open(f);
    out_adds(f, "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":");
    out_json_str(f, s->stop_reason);
    out_adds(f, ",\"stop_sequence\":");
    if (s->stop_sequence.len)
        out_json_str(f, s->stop_sequence);
    else
        out_adds(f, "null");
    add_num(&f->out, "},\"usage\":{\"output_tokens\":", s->usage.output);
    out_adds(f, "}}");
    out_stream_close(f, -1);
    out_end(f, from);
    out_stream(f, STR("{\"type\":\"message_stop\"}"), -1);
    t->msg.counted.output = s->usage.output;
    snprintf(t->msg.stop_reason, sizeof(t->msg.stop_reason), "%.*s", (int)s->stop_reason.len,
             s->stop_reason.p);
    msg_done(f);
    turn_message_done(f);
}

void stream_stage(struct fake *f)
{
    static void (*const stages[])(struct fake *) = {
        [SG_REQUEST] = stage_request, [SG_RETRY] = stage_retry, [SG_START] = stage_start,
        [SG_BLOCK] = stage_block,     [SG_DELTA] = stage_delta, [SG_CLOSE] = stage_close,
        [SG_END] = stage_end,
    };
    stages[f->turn.stage](f);
}
