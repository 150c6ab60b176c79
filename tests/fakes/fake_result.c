/* fake_result.c - result lines and the totals they report. total_cost_usd and modelUsage belong
 * to the process and are never reset; usage is the turn's. Money is counted in 1e-9 dollars. */
#include "fake.h"

static const struct {
    const char *part;
    int64_t input, output; /* nano-dollars per token */
} prices[] = {
    {"opus-4-1", 15000, 75000}, {"opus-4-2025", 15000, 75000},
    {"opus", 5000, 25000},      {"haiku", 1000, 5000},
    {"", 3000, 15000},
};

void usage_add(struct usage *sum, const struct usage *u)
{
    sum->input += u->input;
    sum->output += u->output;
    sum->cache_write += u->cache_write;
    sum->cache_read += u->cache_read;
}

static struct model_use *model_slot(struct fake *f)
{
    for (int i = 0; i < f->nmodels; i++) {
        if (strcmp(f->models[i].name, f->model) == 0)
            return &f->models[i];
    }
    if (f->nmodels == (int)ARRAY_SIZE(f->models))
        return &f->models[f->nmodels - 1];
    struct model_use *m = &f->models[f->nmodels++];
    memcpy(m->name, f->model, sizeof(m->name));
    return m;
}

void totals_add(struct fake *f, const struct usage *u)
{
    struct model_use *m = model_slot(f);
    size_t p = 0;
    while (!strstr(m->name, prices[p].part))
        p++;
    usage_add(&m->used, u);
    m->nano_usd += u->input * prices[p].input + u->output * prices[p].output +
                   u->cache_write * (prices[p].input + prices[p].input / 4) +
                   u->cache_read * (prices[p].input / 10);
    count_add(COUNT_INPUT, u->input);
    count_add(COUNT_OUTPUT, u->output);
}

static int64_t total_nano(const struct fake *f)
{
    int64_t sum = 0;
    for (int i = 0; i < f->nmodels; i++)
        sum += f->models[i].nano_usd;
    return sum;
}

static void add_usd(struct buf *b, int64_t nano)
{
    char fraction[] = ".000000000";
    size_t n = sizeof(fraction) - 1;
    int64_t rest = nano % 1000000000;
    for (size_t i = n - 1; i > 0; i--, rest /= 10)
        fraction[i] = (char)('0' + rest % 10);
    while (fraction[n - 1] == '0')
        n--;
    add_num(b, "", nano / 1000000000);
    buf_add(b, fraction, n == 1 ? 0 : n);
}

static void add_usage(struct buf *b, const struct usage *u)
{
    add_num(b, "{\"input_tokens\":", u->input);
    add_num(b, ",\"cache_creation_input_tokens\":", u->cache_write);
    add_num(b, ",\"cache_read_input_tokens\":", u->cache_read);
    add_num(b, ",\"output_tokens\":", u->output);
    buf_adds(b, ",\"server_tool_use\":{\"web_search_requests\":0,\"web_fetch_requests\":0},"
                "\"service_tier\":\"standard\",\"cache_creation\":{\"ephemeral_1h_input_tokens\":0,"
                "\"ephemeral_5m_input_tokens\":0},\"inference_geo\":\"\",\"iterations\":[],"
                "\"speed\":\"standard\"}");
}

static void add_model_usage(struct fake *f, struct buf *b)
{
    buf_adds(b, "{");
    for (int i = 0; i < f->nmodels; i++) {
        const struct model_use *m = &f->models[i];
        buf_adds(b, i ? "," : "");
        buf_json_str(b, str_c(m->name));
        add_num(b, ":{\"inputTokens\":", m->used.input);
        add_num(b, ",\"outputTokens\":", m->used.output);
        add_num(b, ",\"cacheReadInputTokens\":", m->used.cache_read);
        add_num(b, ",\"cacheCreationInputTokens\":", m->used.cache_write);
        buf_adds(b, ",\"webSearchRequests\":0,\"costUSD\":");
        add_usd(b, m->nano_usd);
        buf_adds(b, ",\"contextWindow\":200000,\"maxOutputTokens\":32000}");
    }
    buf_adds(b, "}");
}

json_t *totals_json(struct fake *f)
{
    struct buf b;
    buf_init(&b, 1u << 16);
    add_model_usage(f, &b);
    json_t *models = json_loadb(b.data, b.len, 0, NULL);
    json_t *total =
        json_pack("{s:{s:f,s:I,s:o?},s:n,s:b,s:n,s:n}", "session", "total_cost_usd",
                  (double)total_nano(f) / 1e9, "total_api_duration_ms",
                  (json_int_t)(f->api_us / 1000), "model_usage", models, "subscription_type",
                  "rate_limits_available", 0, "rate_limits", "behaviors");
    buf_release(&b);
    return total;
}

void totals_text(struct fake *f, struct buf *out)
{
    buf_printf(out,
               "Total cost:            $%.4f\nTotal duration (API):  %llds\n"
               "Total code changes:    0 lines added, 0 lines removed",
               (double)total_nano(f) / 1e9, (long long)(f->api_us / FAKE_TICK_US));
    for (int i = 0; i < f->nmodels; i++)
        buf_printf(out, "\n%20s:  %lld input, %lld output", f->models[i].name,
                   (long long)f->models[i].used.input, (long long)f->models[i].used.output);
}

static void add_stop_reason(struct fake *f, const char *reason)
{
    if (reason[0]) {
        out_adds(f, ",\"stop_reason\":");
        out_json_str(f, str_c(reason));
    } else {
        out_adds(f, ",\"stop_reason\":null");
    }
}

static void add_totals(struct fake *f, const struct usage *u)
{
    out_adds(f, ",\"session_id\":\"");
    out_adds(f, f->session_id);
    out_adds(f, "\",\"total_cost_usd\":");
    add_usd(&f->out, total_nano(f));
    out_adds(f, ",\"usage\":");
    add_usage(&f->out, u);
    out_adds(f, ",\"modelUsage\":");
    add_model_usage(f, &f->out);
    out_adds(f, ",\"permission_denials\":[]");
}

static void add_tail(struct fake *f, const char *terminal_reason)
{
    if (terminal_reason) {
        out_adds(f, ",\"terminal_reason\":\"");
        out_adds(f, terminal_reason);
        out_adds(f, "\"");
    }
    out_adds(f, ",\"fast_mode_state\":\"off\",\"uuid\":\"");
    out_uuid(f);
    out_adds(f, "\"");
}

static int64_t ms_since(const struct fake *f, int64_t then)
{
    return then ? (f->now - then) / 1000 : 0;
}

void result_success(struct fake *f, struct str text, bool is_error, int api_status,
                    const char *terminal_reason)
{
    const struct turn *t = &f->turn;
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":");
    out_adds(f, is_error ? "true,\"api_error_status\":" : "false,\"api_error_status\":");
    if (api_status)
        add_num(&f->out, "", api_status);
    else
        out_adds(f, "null");
    add_num(&f->out, ",\"duration_ms\":", ms_since(f, t->started));
    add_num(&f->out, ",\"duration_api_ms\":", f->api_us / 1000);
    if (!is_error && t->content_us)
        add_num(&f->out, ",\"ttft_ms\":", (t->content_us - t->started) / 1000);
    if (!is_error) {
        add_num(&f->out, ",\"ttft_stream_ms\":", (t->stream_us - t->started) / 1000);
        add_num(&f->out, ",\"time_to_request_ms\":", (t->first_request - t->started) / 1000);
    }
    add_num(&f->out, ",\"num_turns\":", 1 + t->user_lines);
    out_adds(f, ",\"result\":");
    out_json_str(f, text);
    add_stop_reason(f, is_error && strcmp(t->stop_reason, "refusal") != 0 ? "stop_sequence"
                                                                          : t->stop_reason);
    add_totals(f, &t->used);
    add_tail(f, terminal_reason);
    out_adds(f, "}");
    out_end(f, from);
    f->last_is_error = is_error;
}

void result_local(struct fake *f, struct str text)
{
    const struct usage none = {0};
    size_t from = out_begin(f);
    add_num(&f->out,
            "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"duration_ms\":1,"
            "\"duration_api_ms\":",
            f->api_us / 1000);
    out_adds(f, ",\"num_turns\":0,\"result\":");
    out_json_str(f, text);
    add_stop_reason(f, "");
    add_totals(f, &none);
    add_tail(f, NULL);
    out_adds(f, "}");
    out_end(f, from);
    f->last_is_error = false;
}

void result_aborted(struct fake *f, const char *terminal_reason)
{
    const struct turn *t = &f->turn;
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"result\",\"subtype\":\"error_during_execution\"");
    add_num(&f->out, ",\"duration_ms\":", ms_since(f, t->started));
    add_num(&f->out, ",\"duration_api_ms\":", f->api_us / 1000);
    add_num(&f->out, ",\"is_error\":true,\"num_turns\":", 1 + t->user_lines);
    add_stop_reason(f, t->stop_reason);
    add_totals(f, &t->used);
    add_tail(f, terminal_reason);
    buf_printf(&f->out,
               ",\"errors\":[\"[ede_diagnostic] result_type=user last_content_type=n/a "
               "stop_reason=%s\"]}",
               t->stop_reason[0] ? t->stop_reason : "null");
    out_end(f, from);
    f->last_is_error = true;
}

void result_no_content(struct fake *f)
{
    const struct usage none = {0};
    size_t from = out_begin(f);
    out_adds(f, "{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"duration_ms\":0,"
                "\"duration_api_ms\":0,\"is_error\":true,\"num_turns\":0,\"stop_reason\":null");
    add_totals(f, &none);
    out_adds(f, ",\"uuid\":\"");
    out_uuid(f);
    out_adds(f, "\",\"errors\":[\"undefined is not an object (evaluating 'e.filter')\"]}");
    out_end(f, from);
}
