/* fake_msg.c - one upstream response: its blocks are gathered here, whether they were made by a
 * step or came from upstream, and become the assistant lines, the history and the tool calls. */
#include "fake.h"

void msg_reset(struct fake *f)
{
    struct msg *m = &f->turn.msg;
    x_replace(&m->tool_id, NULL);
    x_replace(&m->tool_name, NULL);
    json_decref(m->other);
    m->other = NULL;
    m->id[0] = m->model[0] = m->request_id[0] = m->stop_reason[0] = '\0';
    m->counted = (struct usage){0};
    m->blocks_done = 0;
    m->open = m->ended = m->whole = false;
    buf_clear(&m->usage);
}

void msg_open(struct fake *f, enum block_kind kind, int index, const char *id, const char *name)
{
    struct msg *m = &f->turn.msg;
    m->open = true;
    m->kind = kind;
    m->index = index;
    x_replace(&m->tool_id, id);
    x_replace(&m->tool_name, name);
    buf_clear(&m->text);
    buf_clear(&m->signature);
    buf_clear(&m->input);
}

/* "get_weather" -> "Get Weather" */
static json_t *display_name(const char *name)
{
    const char *last = strrchr(name, '_');
    const char *short_name = strncmp(name, "mcp__", 5) == 0 && last ? last + 1 : name;
    char *text = x_strdup(short_name);
    bool first = true;
    for (char *p = text; *p; p++) {
        if (first && *p >= 'a' && *p <= 'z')
            *p = (char)(*p - 'a' + 'A');
        first = *p == '_';
        if (first)
            *p = ' ';
    }
    json_t *s = json_string(text);
    free(text);
    return s;
}

static json_t *tool_meta(struct fake *f)
{
    const struct msg *m = &f->turn.msg;
    json_t *one =
        json_pack("{s:s,s:o}", "id", m->tool_id, "display_name", display_name(m->tool_name));
    if (tool_find(f, m->tool_name))
        json_object_set_new(one, "server_display_name", json_string("client"));
    return json_pack("[o]", one);
}

static void close_tool(struct fake *f)
{
    struct msg *m = &f->turn.msg;
    json_t *input = m->input.len ? json_loadb(m->input.data, m->input.len, JSON_ALLOW_NUL, NULL)
                                 : json_object();
    json_t *meta = tool_meta(f);
    if (!json_is_object(input)) {
        json_decref(input);
        input = json_object();
    }
    buf_adds(&f->tmp, "{\"type\":\"tool_use\",\"id\":");
    buf_json_str(&f->tmp, str_c(m->tool_id));
    buf_adds(&f->tmp, ",\"name\":");
    buf_json_str(&f->tmp, str_c(m->tool_name));
    buf_adds(&f->tmp, ",\"input\":");
    json_write(&f->tmp, input);
    buf_adds(&f->tmp, "}");
    out_assistant(f, buf_str(&f->tmp), meta);
    hist_assistant_block(f, m->id, buf_str(&f->tmp));
    call_add(f, m->tool_id, m->tool_name, input);
    json_decref(meta);
    json_decref(input);
}

static void write_block(struct fake *f)
{
    const struct msg *m = &f->turn.msg;
    switch (m->kind) {
    case B_TEXT:
        buf_adds(&f->tmp, "{\"type\":\"text\",\"text\":");
        buf_json_str(&f->tmp, buf_str(&m->text));
        break;
    case B_THINKING:
        buf_adds(&f->tmp, "{\"type\":\"thinking\",\"thinking\":");
        buf_json_str(&f->tmp, buf_str(&m->text));
        buf_adds(&f->tmp, ",\"signature\":");
        buf_json_str(&f->tmp, buf_str(&m->signature));
        break;
    case B_OTHER:
        json_write(&f->tmp, m->other);
        return;
    case B_TOOL:
        return;
    }
    buf_adds(&f->tmp, "}");
}

void msg_close(struct fake *f)
{
    struct msg *m = &f->turn.msg;
    buf_clear(&f->tmp);
    m->open = false;
    m->blocks_done++;
    f->turn.content_us = f->turn.content_us ? f->turn.content_us : f->now;
    if (m->kind == B_TOOL) {
        close_tool(f);
        return;
    }
    write_block(f);
    out_assistant(f, buf_str(&f->tmp), NULL);
    hist_assistant_block(f, m->id, buf_str(&f->tmp));
    if (m->kind == B_TEXT) {
        buf_clear(&f->turn.answer);
        buf_addstr(&f->turn.answer, buf_str(&m->text));
    }
}

void msg_partial(struct fake *f)
{
    struct msg *m = &f->turn.msg;
    if (m->open && m->kind == B_TEXT && m->text.len)
        msg_close(f);
    m->open = false;
}

void msg_done(struct fake *f)
{
    struct turn *t = &f->turn;
    t->msg.ended = true;
    memcpy(t->stop_reason, t->msg.stop_reason, sizeof(t->stop_reason));
    usage_add(&t->used, &t->msg.counted);
    totals_add(f, &t->msg.counted);
    f->api_us += f->now - t->requested;
}
