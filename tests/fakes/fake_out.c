/* fake_out.c - stdout. Lines are appended to one buffer and written when the round of the loop
 * ends, so a whole turn costs one write(2). The reader may be slow or gone: like the real
 * program, everything stays in memory until it is read, and a closed pipe is ignored. */
#include "fake.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

size_t out_begin(const struct fake *f)
{
    return f->out.len;
}

/* The same value with the keys of every object in the opposite order. */
static json_t *reversed(const json_t *v)
{
    const char *key;
    json_t *item, *copy;
    size_t i;
    if (json_is_array(v)) {
        copy = json_array();
        json_array_foreach((json_t *)(uintptr_t)v, i, item)
            json_array_append_new(copy, reversed(item));
        return copy;
    }
    if (!json_is_object(v))
        return json_deep_copy(v);
    const char *keys[64];
    size_t n = 0;
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        if (n < ARRAY_SIZE(keys))
            keys[n++] = key;
    }
    copy = json_object();
    while (n-- > 0)
        json_object_set_new(copy, keys[n], reversed(json_object_get(v, keys[n])));
    return copy;
}

static void reorder_line(struct fake *f, size_t from)
{
    json_t *line =
        json_loadb(f->out.data + from, f->out.len - from, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!line)
        return;
    json_t *other = reversed(line);
    f->out.len = from;
    json_write(&f->out, other);
    json_decref(other);
    json_decref(line);
}

void out_end(struct fake *f, size_t from)
{
    if (f->reorder)
        reorder_line(f, from);
    buf_addc(&f->out, '\n');
    if (!buf_ok(&f->out))
        fake_die(f, "fake-claude: more output than %u bytes waits for a reader", FAKE_MAX_BYTES);
}

void out_adds(struct fake *f, const char *s)
{
    buf_adds(&f->out, s);
}

void out_str(struct fake *f, struct str s)
{
    buf_addstr(&f->out, s);
}

void add_num(struct buf *b, const char *before, int64_t n)
{
    char digits[24], *p = digits + sizeof(digits);
    uint64_t left = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    do
        *--p = (char)('0' + left % 10);
    while ((left /= 10) != 0);
    if (n < 0)
        *--p = '-';
    buf_adds(b, before);
    buf_add(b, p, (size_t)(digits + sizeof(digits) - p));
}

void out_json_str(struct fake *f, struct str s)
{
    buf_json_str(&f->out, s);
}

void out_uuid(struct fake *f)
{
    char id[ID_UUID_SIZE];
    buf_add(&f->out, id_uuid(id), ID_UUID_SIZE - 1);
}

static void out_session(struct fake *f)
{
    buf_add(&f->out, f->session_id, ID_UUID_SIZE - 1);
}

static void add_timestamp(struct fake *f)
{
    char when[CLOCK_RFC3339_SIZE];
    buf_printf(&f->out, ",\"timestamp\":\"%s\"", clock_rfc3339(clock_wall_ms(), when));
}

#define SKILLS                                                                               \
    "\"deep-research\",\"update-config\",\"verify\",\"debug\",\"code-review\",\"simplify\"," \
    "\"batch\",\"fewer-permission-prompts\",\"loop\",\"claude-api\",\"run\","                \
    "\"run-skill-generator\""

/* The init line stays the same between changes but for its uuid: built once. */
static void build_init(struct fake *f)
{
    struct buf *b = &f->init_head;
    buf_clear(b);
    buf_adds(b, "{\"type\":\"system\",\"subtype\":\"init\",\"cwd\":");
    buf_json_str(b, str_c(f->cwd));
    buf_printf(b, ",\"session_id\":\"%s\",\"tools\":[", f->session_id);
    for (size_t i = 0; i < f->ntools; i++) {
        char *name = tool_visible(f, &f->tools[i]);
        buf_adds(b, i ? "," : "");
        buf_json_str(b, str_c(name));
        free(name);
    }
    buf_adds(b, "],\"mcp_servers\":[");
    for (int i = 0; i < f->nservers; i++) {
        bool ok = false;
        for (int k = 0; k < f->nclients; k++)
            ok =
                ok || (f->clients[k].step == 3 && strcmp(f->clients[k].server, f->servers[i]) == 0);
        buf_adds(b, i ? ",{\"name\":" : "{\"name\":");
        buf_json_str(b, str_c(f->servers[i]));
        buf_printf(b, ",\"status\":\"%s\"}", ok ? "connected" : "failed");
    }
    buf_adds(b, "],\"model\":");
    buf_json_str(b, str_c(f->model));
    buf_adds(b, ",\"permissionMode\":");
    buf_json_str(b, str_c(f->mode));
    buf_adds(b, ",\"slash_commands\":[" SKILLS
                ",\"clear\",\"config\",\"context\",\"heapdump\",\"init\",\"reload-skills\","
                "\"review\",\"security-review\",\"usage\",\"insights\",\"goal\","
                "\"team-onboarding\"],\"apiKeySource\":\"ANTHROPIC_API_KEY\","
                "\"claude_code_version\":\"" FAKE_VERSION "\",\"output_style\":\"default\","
                "\"agents\":[\"claude\",\"Explore\",\"general-purpose\",\"Plan\","
                "\"statusline-setup\"],\"skills\":[" SKILLS "],\"plugins\":[],"
                "\"analytics_disabled\":true,\"product_feedback_disabled\":true,\"uuid\":\"");
    f->init_stale = false;
}

void out_init(struct fake *f)
{
    if (f->init_stale)
        build_init(f);
    size_t from = out_begin(f);
    out_str(f, buf_str(&f->init_head));
    out_uuid(f);
    out_adds(f, "\",\"memory_paths\":{\"auto\":");
    out_json_str(f, str_c(getenv("HOME")));
    out_adds(f, "},\"fast_mode_state\":\"off\"}");
    out_end(f, from);
}

void out_requesting(struct fake *f)
{
    size_t from = out_begin(f);
    out_adds(f,
             "{\"type\":\"system\",\"subtype\":\"status\",\"status\":\"requesting\",\"uuid\":\"");
    out_uuid(f);
    out_adds(f, "\",\"session_id\":\"");
    out_session(f);
    out_adds(f, "\"}");
    out_end(f, from);
}

void out_permission_mode(struct fake *f)
{
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"system\",\"subtype\":\"status\",\"status\":null,\"permissionMode\":");
    out_json_str(f, str_c(f->mode));
    out_adds(f, ",\"uuid\":\"");
    out_uuid(f);
    buf_printf(&f->out, "\",\"session_id\":\"%s\"}", f->session_id);
    out_end(f, from);
}

void out_thinking_tokens(struct fake *f, size_t bytes_before, size_t bytes)
{
    size_t from = out_begin(f);
    buf_printf(&f->out,
               "{\"type\":\"system\",\"subtype\":\"thinking_tokens\",\"estimated_tokens\":%zu,"
               "\"estimated_tokens_delta\":%zu,\"uuid\":\"",
               (bytes_before + bytes + 3) / 4, (bytes + 3) / 4);
    out_uuid(f);
    buf_printf(&f->out, "\",\"session_id\":\"%s\"}", f->session_id);
    out_end(f, from);
}

void out_stream_open(struct fake *f)
{
    out_adds(f, "{\"type\":\"stream_event\",\"event\":");
}

void out_stream_close(struct fake *f, int64_t ttft_ms)
{
    out_adds(f, ",\"session_id\":\"");
    out_session(f);
    out_adds(f, "\",\"parent_tool_use_id\":null,\"uuid\":\"");
    out_uuid(f);
    if (ttft_ms >= 0)
        add_num(&f->out, "\",\"ttft_ms\":", ttft_ms);
    out_adds(f, ttft_ms >= 0 ? "}" : "\"}");
}

void out_stream(struct fake *f, struct str event, int64_t ttft_ms)
{
    size_t from = out_begin(f);
    out_stream_open(f);
    out_str(f, event);
    out_stream_close(f, ttft_ms);
    out_end(f, from);
}

static void out_tail_ids(struct fake *f)
{
    out_adds(f, ",\"parent_tool_use_id\":null,\"session_id\":\"");
    out_session(f);
    out_adds(f, "\",\"uuid\":\"");
    out_uuid(f);
    out_adds(f, "\"");
}

void out_assistant(struct fake *f, struct str block, json_t *tool_meta)
{
    const struct msg *m = &f->turn.msg;
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"assistant\",\"message\":{\"id\":");
    out_json_str(f, str_c(m->id));
    out_adds(f, ",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
    out_json_str(f, str_c(m->model));
    out_adds(f, ",\"content\":[");
    out_str(f, block);
    out_adds(f, m->whole ? "],\"stop_reason\":\"end_turn\"" : "],\"stop_reason\":null");
    out_adds(f, ",\"stop_sequence\":null,\"usage\":");
    out_str(f, buf_str(&m->usage));
    out_adds(f, ",\"context_management\":null}");
    out_tail_ids(f);
    out_adds(f, ",\"request_id\":");
    out_json_str(f, str_c(m->request_id));
    if (tool_meta) {
        out_adds(f, ",\"tool_use_meta\":");
        json_write(&f->out, tool_meta);
    }
    out_adds(f, "}");
    out_end(f, from);
}

static void synthetic(struct fake *f, struct str text, const char *stop_reason, const char *error,
                      const char *request_id)
{
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"assistant\",\"message\":{\"id\":\"");
    out_uuid(f);
    out_adds(f, "\",\"container\":null,\"model\":\"<synthetic>\",\"role\":\"assistant\","
                "\"stop_details\":null,\"stop_reason\":\"");
    out_adds(f, stop_reason);
    out_adds(f, "\",\"stop_sequence\":\"\","
                "\"type\":\"message\",\"usage\":{\"input_tokens\":0,\"output_tokens\":0,"
                "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,"
                "\"server_tool_use\":{\"web_search_requests\":0,\"web_fetch_requests\":0},"
                "\"service_tier\":null,\"cache_creation\":{\"ephemeral_1h_input_tokens\":0,"
                "\"ephemeral_5m_input_tokens\":0},\"inference_geo\":null,\"iterations\":null,"
                "\"speed\":null},\"content\":[{\"type\":\"text\",\"text\":");
    out_json_str(f, text);
    out_adds(f, "}],\"context_management\":null}");
    out_tail_ids(f);
    if (error)
        buf_printf(&f->out, ",\"error\":\"%s\"", error);
    if (request_id) {
        out_adds(f, ",\"request_id\":");
        out_json_str(f, str_c(request_id));
    }
    out_adds(f, "}");
    out_end(f, from);
}

void out_synthetic(struct fake *f, struct str text, const char *error, const char *request_id)
{
    synthetic(f, text, "stop_sequence", error, request_id);
}

void out_refusal(struct fake *f, struct str text)
{
    synthetic(f, text, "refusal", "invalid_request", f->turn.msg.request_id);
}

void out_user_text(struct fake *f, const char *text, bool synthetic)
{
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":"
                "[{\"type\":\"text\",\"text\":");
    out_json_str(f, str_c(text));
    out_adds(f, "}]}");
    out_tail_ids(f);
    add_timestamp(f);
    out_adds(f, synthetic ? ",\"isSynthetic\":true}" : "}");
    out_end(f, from);
    f->turn.user_lines++;
}

void out_user_replay(struct fake *f, struct str text)
{
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":");
    out_json_str(f, text);
    buf_printf(&f->out, "},\"session_id\":\"%s\",\"parent_tool_use_id\":null,\"uuid\":\"",
               f->session_id);
    out_uuid(f);
    out_adds(f, "\"");
    add_timestamp(f);
    out_adds(f, ",\"isReplay\":true}");
    out_end(f, from);
}

void out_tool_result(struct fake *f, json_t *block, json_t *shown)
{
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":[");
    json_write(&f->out, block);
    out_adds(f, "]}");
    out_tail_ids(f);
    add_timestamp(f);
    out_adds(f, ",\"tool_use_result\":");
    json_write(&f->out, shown);
    out_adds(f, "}");
    out_end(f, from);
    f->turn.user_lines++;
}

/* A request without request_id gets a reply without one, as from the real program. */
static void reply_head(struct fake *f, const char *subtype, json_t *request_id)
{
    buf_printf(&f->out, "{\"type\":\"control_response\",\"response\":{\"subtype\":\"%s\"", subtype);
    if (request_id) {
        out_adds(f, ",\"request_id\":");
        json_write(&f->out, request_id);
    }
}

static bool reply_lost(struct fake *f)
{
    bool lost = f->drop_reply;
    f->drop_reply = false;
    return lost;
}

void out_reply(struct fake *f, json_t *request_id, json_t *response_consume)
{
    size_t from = out_begin(f);
    if (reply_lost(f)) {
        json_decref(response_consume);
        return;
    }
    reply_head(f, "success", request_id);
    if (response_consume) {
        out_adds(f, ",\"response\":");
        json_write(&f->out, response_consume);
        json_decref(response_consume);
    }
    out_adds(f, "}}");
    out_end(f, from);
}

void out_reply_error(struct fake *f, json_t *request_id, const char *text)
{
    size_t from = out_begin(f);
    if (reply_lost(f))
        return;
    reply_head(f, "error", request_id);
    out_adds(f, ",\"error\":");
    out_json_str(f, str_c(text));
    out_adds(f, "}}");
    out_end(f, from);
}

void out_request(struct fake *f, const char *request_id, json_t *request_consume)
{
    size_t from = out_begin(f);
    buf_printf(&f->out,
               "{\"type\":\"control_request\",\"request_id\":\"%s\",\"request\":", request_id);
    json_write(&f->out, request_consume);
    out_adds(f, "}");
    out_end(f, from);
    json_decref(request_consume);
}

bool out_pending(const struct fake *f)
{
    return f->out.len > f->out_sent;
}

static void drop_sent(struct fake *f)
{
    if (f->out_sent == f->out.len) {
        buf_clear(&f->out);
        f->out_sent = 0;
        if (f->turn.phase == PH_IDLE)
            f->split_bytes = f->split_at = 0;
    } else if (f->out_sent > (1u << 20)) {
        buf_consume(&f->out, f->out_sent);
        f->out_sent = 0;
    }
}

/* False when nothing more can be written now. */
static bool write_some(struct fake *f)
{
    size_t n = f->out.len - f->out_sent;
    if (f->split_bytes > 0) {
        size_t piece = (size_t)(f->split_at ? f->split_at : f->split_bytes);
        if (clock_mono_us() < f->out_wake)
            return false;
        n = n < piece ? n : piece;
        f->split_at = 0;
        f->out_wake = clock_mono_us() + f->split_pause_us;
    }
    ssize_t w = write(STDOUT_FILENO, f->out.data + f->out_sent, n);
    if (w < 0 && errno == EINTR)
        return true;
    if (w < 0 && errno == EAGAIN)
        return false;
    if (w < 0)
        f->out_broken = true; /* nobody reads any more: the real program goes on as well */
    f->out_sent += w < 0 ? n : (size_t)w;
    return true;
}

void out_flush(struct fake *f, bool all)
{
    int64_t until = clock_mono_us() + 5 * FAKE_TICK_US;
    if (f->out_broken)
        f->out_sent = f->out.len;
    while (out_pending(f)) {
        if (write_some(f))
            continue;
        if (!all || clock_mono_us() > until)
            break;
        struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
        poll(&p, 1, f->split_bytes > 0 ? 1 : 100);
    }
    drop_sent(f);
}
