/* meter.c - see the header.
 *
 * Text deltas are by far the most events and the ones a person waits for: of them only the length
 * of the text is taken, by a scan of the raw JSON. An unescaped quote cannot stand inside a JSON
 * string, so the bytes "text" with both quotes are a key or a whole value, and only a key is
 * followed by a colon. The rare events that carry numbers are parsed in full. */
#include "upstream/meter.h"

#include "core/json.h"

/* Cut to fit, but never inside a UTF-8 sequence. */
static void copy_text(char *out, size_t size, struct str s)
{
    size_t n = s.len;
    if (n >= size) {
        n = size - 1;
        while (n > 0 && ((unsigned char)s.p[n] & 0xC0) == 0x80)
            n--;
    }
    snprintf(out, size, "%.*s", (int)n, s.p ? s.p : "");
}

static size_t skip_space(struct str s, size_t i)
{
    while (i < s.len && (s.p[i] == ' ' || s.p[i] == '\t' || s.p[i] == '\n' || s.p[i] == '\r'))
        i++;
    return i;
}

/* UTF-8 length of a JSON string's content that begins at s.p[0]. */
static uint64_t decoded_length(struct str s)
{
    uint64_t n = 0;
    for (size_t i = 0; i < s.len && s.p[i] != '"'; n++) {
        if (s.p[i] != '\\') {
            i++;
        } else if (i + 2 < s.len && s.p[i + 1] == 'u') {
            if (s.p[i + 2] != '0')
                n += 2; /* most of what is escaped needs three bytes */
            i += 6;
        } else {
            i += 2;
        }
    }
    return n;
}

/* Length of the string under `key` (given with its quotes), 0 when there is none. */
static uint64_t text_length(struct str data, struct str key)
{
    while (data.len > key.len) {
        const char *hit = memmem(data.p, data.len, key.p, key.len);
        if (!hit)
            return 0;
        size_t i = (size_t)(hit - data.p) + key.len;
        data = str_n(data.p + i, data.len - i);
        i = skip_space(data, 0);
        if (i >= data.len || data.p[i] != ':')
            continue;
        i = skip_space(data, i + 1);
        if (i < data.len && data.p[i] == '"')
            return decoded_length(str_n(data.p + i + 1, data.len - i - 1));
    }
    return 0;
}

static uint64_t delta_length(struct str data)
{
    static const struct str keys[] = {
        {"\"text\"", 6}, {"\"thinking\"", 10}, {"\"partial_json\"", 14}};
    uint64_t n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(keys) && n == 0; i++)
        n = text_length(data, keys[i]);
    return n;
}

/* Lenient on purpose: what upstream adds later must not stop the counting. */
static json_t *parse(struct str text)
{
    return json_loadb(text.p ? text.p : "", text.len, JSON_ALLOW_NUL, NULL);
}

/* Usage is cumulative: what is absent keeps its value. */
static void read_usage(struct meter *m, const json_t *usage)
{
    m->input_tokens = json_get_int(usage, "input_tokens", m->input_tokens);
    m->output_tokens = json_get_int(usage, "output_tokens", m->output_tokens);
    m->cache_creation_tokens =
        json_get_int(usage, "cache_creation_input_tokens", m->cache_creation_tokens);
    m->cache_read_tokens = json_get_int(usage, "cache_read_input_tokens", m->cache_read_tokens);
}

static bool must_hide(struct str stop_reason)
{
    return str_eq_c(stop_reason, "max_tokens") ||
           str_eq_c(stop_reason, "model_context_window_exceeded");
}

/* `holder` is the object with the stop reason, `whole` what must be written when it changes. */
static bool read_stop_reason(struct meter *m, json_t *holder, const json_t *whole, struct buf *out)
{
    struct str reason = json_get_str(holder, "stop_reason");
    if (reason.len == 0)
        return false;
    copy_text(m->stop_reason, sizeof(m->stop_reason), reason);
    if (!must_hide(reason))
        return false;
    if (json_object_set_new(holder, "stop_reason", json_string("end_turn")) != 0)
        return false;
    char *text = json_dumps(whole, JSON_COMPACT | JSON_REAL_PRECISION(15));
    BUG_ON(!text);
    buf_adds(out, text);
    free(text);
    return buf_ok(out);
}

static void on_message_start(struct meter *m, struct str data)
{
    AUTO(json_unref_p) json_t *j = parse(data);
    read_usage(m, json_object_get(json_object_get(j, "message"), "usage"));
}

static bool on_message_delta(struct meter *m, struct str data, struct buf *ret_data)
{
    AUTO(json_unref_p) json_t *j = parse(data);
    const json_t *usage = json_object_get(j, "usage");
    read_usage(m, usage);
    if (json_is_integer(json_object_get(usage, "output_tokens")))
        m->final = true;
    return read_stop_reason(m, json_object_get(j, "delta"), j, ret_data);
}

bool meter_event(struct meter *m, struct str name, struct str data, struct buf *ret_data)
{
    if (str_eq_c(name, "content_block_delta"))
        m->text_bytes += delta_length(data);
    else if (str_eq_c(name, "content_block_start"))
        m->open_blocks++;
    else if (str_eq_c(name, "content_block_stop"))
        m->open_blocks -= m->open_blocks > 0;
    else if (str_eq_c(name, "message_start"))
        on_message_start(m, data);
    else if (str_eq_c(name, "message_delta"))
        return on_message_delta(m, data, ret_data);
    else if (str_eq_c(name, "message_stop"))
        m->stopped = true;
    else if (str_eq_c(name, "error"))
        meter_error(m, data);
    return false;
}

bool meter_message(struct meter *m, struct str body, struct buf *ret_body)
{
    AUTO(json_unref_p) json_t *j = parse(body);
    const json_t *usage = json_object_get(j, "usage");
    if (!json_is_object(usage))
        return false;
    read_usage(m, usage);
    m->final = true;
    m->stopped = true;
    return read_stop_reason(m, j, j, ret_body);
}

void meter_error(struct meter *m, struct str body)
{
    AUTO(json_unref_p) json_t *j = parse(body);
    const json_t *error = json_object_get(j, "error");
    if (!json_is_object(error))
        return;
    copy_text(m->error_type, sizeof(m->error_type), json_get_str(error, "type"));
    copy_text(m->error_message, sizeof(m->error_message), json_get_str(error, "message"));
    x_replace(&m->error_json, NULL);
    if (json_dumpb(error, NULL, 0, JSON_COMPACT) < METER_ERROR_MAX)
        m->error_json = json_dumps(error, JSON_COMPACT);
}

void meter_reset(struct meter *m)
{
    free(m->error_json);
    *m = (struct meter){.final = false};
}

int64_t meter_output(const struct meter *m)
{
    int64_t seen = (int64_t)((m->text_bytes + 3) / 4);
    return m->final || seen < m->output_tokens ? m->output_tokens : seen;
}
