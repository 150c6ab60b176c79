/* usage.c - GET /api/usage and GET /api/usage/requests: what the caller's key has used.
 *
 * Sums come from the roll-up by hour, so times are taken as whole hours, and a day is one of UTC.
 * Single requests come newest first, by pages. Costs are those of priced models: where none of the
 * requests had a price the cost is null, and unpricedRequests says how many are missing. */
#include "api/native/native.h"

#include "core/clock.h"
#include "store/key_json.h"

#define SUMS_TAG     TAG4('N', 'U', 'S', 'G')
#define PAGE_TAG     TAG4('N', 'U', 'S', 'P')
#define ANSWER_MAX   ((size_t)16 << 20)
#define DAY_MS       (24 * USAGE_HOUR_MS)
#define DEFAULT_DAYS 30
#define DAYS_MAX     3660 /* by day and by model */
#define HOUR_DAYS    366  /* by hour */
#define PAGE_DEFAULT 50
#define PAGE_MAX     500

static void put_int(struct buf *b, const char *name, int64_t v)
{
    buf_adds(b, name);
    buf_int(b, v);
}

static void put_text(struct buf *b, const char *name, const char *v)
{
    buf_adds(b, name);
    if (v[0])
        buf_json_str(b, str_c(v));
    else
        buf_adds(b, "null");
}

static void put_time(struct buf *b, const char *name, int64_t at)
{
    char text[CLOCK_RFC3339_SIZE];
    put_text(b, name, clock_rfc3339(at, text));
}

static void put_cost(struct buf *b, int64_t nano)
{
    buf_adds(b, ",\"costUsd\":");
    if (nano < 0)
        buf_adds(b, "null");
    else
        key_money_write(b, nano);
}

static void put_tokens(struct buf *b, int64_t input, int64_t output, int64_t creation, int64_t read)
{
    int64_t prompt = input + creation + read;
    put_int(b, ",\"promptTokens\":", prompt);
    put_int(b, ",\"completionTokens\":", output);
    put_int(b, ",\"totalTokens\":", prompt + output);
    put_int(b, ",\"inputTokens\":", input);
    put_int(b, ",\"cacheCreationTokens\":", creation);
    put_int(b, ",\"cacheReadTokens\":", read);
}

/* --- sums ---------------------------------------------------------------------------------- */

static const char *const group_names[] = {
    [USAGE_BY_HOUR] = "hour", [USAGE_BY_DAY] = "day", [USAGE_BY_MODEL] = "model"};

struct sums {
    uint32_t tag;
    struct http_req *http; /* NULL: the client has left */
    int64_t from, to;      /* hours */
    enum usage_group group;
};

static void put_total(struct buf *b, const struct usage_total *t)
{
    put_int(b, "\"requests\":", t->requests);
    put_int(b, ",\"errors\":", t->errors);
    put_int(b, ",\"cachedRequests\":", t->cached);
    put_tokens(b, t->input_tokens, t->output_tokens, t->cache_creation_tokens,
               t->cache_read_tokens);
    put_cost(b, t->requests && t->unpriced == t->requests ? PRICE_UNKNOWN : t->cost_nano);
    put_int(b, ",\"unpricedRequests\":", t->unpriced);
}

static void put_group(struct buf *b, enum usage_group group, const struct usage_total *t)
{
    char at[CLOCK_RFC3339_SIZE];
    clock_rfc3339(t->start, at);
    if (group == USAGE_BY_MODEL)
        put_text(b, "{\"model\":", t->model);
    else if (group == USAGE_BY_DAY)
        buf_printf(b, "{\"day\":\"%.10s\"", at);
    else
        buf_printf(b, "{\"hour\":\"%s\"", at);
    buf_addc(b, ',');
    put_total(b, t);
    buf_addc(b, '}');
}

static void add_total(struct usage_total *sum, const struct usage_total *t)
{
    sum->requests += t->requests;
    sum->errors += t->errors;
    sum->cached += t->cached;
    sum->input_tokens += t->input_tokens;
    sum->output_tokens += t->output_tokens;
    sum->cache_creation_tokens += t->cache_creation_tokens;
    sum->cache_read_tokens += t->cache_read_tokens;
    sum->cost_nano += t->cost_nano;
    sum->unpriced += t->unpriced;
}

static void write_sums(const struct sums *s, const struct usage_total *totals, size_t count)
{
    struct usage_total sum = {0};
    AUTO(buf_release) struct buf b;
    buf_init(&b, ANSWER_MAX);
    put_time(&b, "{\"success\":true,\"from\":", s->from * USAGE_HOUR_MS);
    put_time(&b, ",\"to\":", s->to * USAGE_HOUR_MS);
    buf_printf(&b, ",\"group\":\"%s\",\"usage\":[", group_names[s->group]);
    for (size_t i = 0; i < count; i++) {
        if (i)
            buf_addc(&b, ',');
        put_group(&b, s->group, &totals[i]);
        add_total(&sum, &totals[i]);
    }
    buf_adds(&b, "],\"totals\":{");
    put_total(&b, &sum);
    buf_adds(&b, "}}");
    http_reply_json(s->http, 200, &b);
}

static void on_totals(void *ctx, const struct usage_total *totals, size_t count,
                      const struct err *err)
{
    struct sums *s = OBJ(ctx, struct sums, SUMS_TAG);
    if (s->http) {
        http_req_on_gone(s->http, NULL, NULL);
        if (err)
            http_reply_error(s->http, err);
        else
            write_sums(s, totals, count);
    }
    s->tag = 0;
    free(s);
}

static void on_sums_gone(void *ctx)
{
    OBJ(ctx, struct sums, SUMS_TAG)->http = NULL; /* the database's answer is still to come */
}

static int read_time(struct http_req *req, const char *name, int64_t fallback, int64_t *ret_at,
                     struct err *err)
{
    const char *text = http_req_query(req, name);
    *ret_at = fallback;
    if (text && (!clock_parse_rfc3339(text, ret_at) || *ret_at < 0))
        return err_field(err, name,
                         "must be a date like 2026-11-23, or a time like 2026-11-23T10:00:00Z "
                         "(in a URL, + is written %%2B)");
    return 0;
}

static int read_group(struct http_req *req, enum usage_group *ret_group, struct err *err)
{
    const char *text = http_req_query(req, "group");
    *ret_group = USAGE_BY_DAY;
    if (!text)
        return 0;
    for (size_t i = USAGE_BY_HOUR; i < ARRAY_SIZE(group_names); i++) {
        if (strcmp(text, group_names[i]) == 0) {
            *ret_group = (enum usage_group)i;
            return 0;
        }
    }
    return err_field(err, "group", "must be day, hour or model");
}

static int read_span(struct http_req *req, struct sums *s, struct err *err)
{
    int64_t from, to;
    if (read_group(req, &s->group, err) != 0 ||
        read_time(req, "to", clock_wall_ms(), &to, err) != 0 ||
        read_time(req, "from", to > DEFAULT_DAYS * DAY_MS ? to - DEFAULT_DAYS * DAY_MS : 0, &from,
                  err) != 0)
        return -1;
    int64_t days = s->group == USAGE_BY_HOUR ? HOUR_DAYS : DAYS_MAX;
    if (from >= to)
        return err_field(err, "from", "must be before to");
    if (to - from > days * DAY_MS)
        return err_field(err, "from", "must be at most %lld days before to when grouped by %s",
                         (long long)days, group_names[s->group]);
    s->from = from / USAGE_HOUR_MS;
    s->to = (to - 1) / USAGE_HOUR_MS + 1;
    return 0;
}

void native_usage(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct sums s = {.tag = SUMS_TAG, .http = req};
    struct err err;
    if (read_span(req, &s, &err) != 0) {
        http_reply_error(req, &err);
        return;
    }
    struct sums *call = x_calloc(1, sizeof(*call));
    *call = s;
    http_req_on_gone(req, on_sums_gone, call);
    usage_totals(g->db, gateway_key(req)->key.id, s.from, s.to, s.group, on_totals, call);
}

/* --- single requests ----------------------------------------------------------------------- */

struct page {
    uint32_t tag;
    struct http_req *http; /* NULL: the client has left */
    size_t limit;
};

/* The name of the error; its text is for the operator. */
static void put_error(struct buf *b, const struct usage_row *row)
{
    char name[sizeof(row->error)];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(row->error, ":"), row->error);
    put_text(b, ",\"error\":", name);
}

static void put_row(struct buf *b, const struct usage_row *row)
{
    put_text(b, "{\"requestId\":", row->request_id);
    put_text(b, ",\"sessionId\":", row->session_id);
    put_time(b, ",\"timestamp\":", row->timestamp);
    put_text(b, ",\"endpoint\":", row->endpoint);
    put_text(b, ",\"method\":", row->method);
    put_text(b, ",\"model\":", row->model);
    put_tokens(b, row->input_tokens, row->output_tokens, row->cache_creation_tokens,
               row->cache_read_tokens);
    buf_printf(b, ",\"estimated\":%s,\"cached\":%s", row->estimated ? "true" : "false",
               row->cached ? "true" : "false");
    put_cost(b, row->cost_nano);
    put_int(b, ",\"statusCode\":", row->status_code);
    put_error(b, row);
    put_int(b, ",\"responseTimeMs\":", row->response_time_ms);
    if (row->ttft_ms >= 0)
        put_int(b, ",\"ttftMs\":", row->ttft_ms);
    else
        buf_adds(b, ",\"ttftMs\":null");
    put_int(b, ",\"queueMs\":", row->queue_ms);
    put_int(b, ",\"upstreamCalls\":", row->upstream_calls);
    put_int(b, ",\"retries\":", row->retries);
    buf_addc(b, '}');
}

static void write_page(const struct page *p, const struct usage_row *rows, size_t count)
{
    size_t shown = count > p->limit ? p->limit : count;
    AUTO(buf_release) struct buf b;
    buf_init(&b, ANSWER_MAX);
    buf_adds(&b, "{\"success\":true,\"requests\":[");
    for (size_t i = 0; i < shown; i++) {
        if (i)
            buf_addc(&b, ',');
        put_row(&b, &rows[i]);
    }
    put_text(&b, "],\"next\":", count > shown ? rows[shown - 1].request_id : "");
    buf_addc(&b, '}');
    http_reply_json(p->http, 200, &b);
}

static void refuse_page(struct http_req *req, const struct err *err)
{
    struct err why;
    if (err->code == ERR_NOT_FOUND) {
        err_field(&why, "before", "must be the requestId of a request of this API key");
        err = &why;
    }
    http_reply_error(req, err);
}

static void on_rows(void *ctx, const struct usage_row *rows, size_t count, const struct err *err)
{
    struct page *p = OBJ(ctx, struct page, PAGE_TAG);
    if (p->http) {
        http_req_on_gone(p->http, NULL, NULL);
        if (err)
            refuse_page(p->http, err);
        else
            write_page(p, rows, count);
    }
    p->tag = 0;
    free(p);
}

static void on_page_gone(void *ctx)
{
    OBJ(ctx, struct page, PAGE_TAG)->http = NULL;
}

static int read_limit(struct http_req *req, size_t *ret_limit, struct err *err)
{
    const char *text = http_req_query(req, "limit");
    uint64_t n = PAGE_DEFAULT;
    if (text && (!str_to_u64(str_c(text), &n) || n < 1 || n > PAGE_MAX))
        return err_field(err, "limit", "must be a number from 1 to %d", PAGE_MAX);
    *ret_limit = (size_t)n;
    return 0;
}

static int check_before(const char *before, struct err *err)
{
    if (before && (!str_is_utf8(str_c(before)) || strlen(before) >= ID_REQUEST_SIZE))
        return err_field(err, "before", "must be the id of a request");
    return 0;
}

void native_usage_requests(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct err err;
    size_t limit = 0;
    if (read_limit(req, &limit, &err) != 0 ||
        check_before(http_req_query(req, "before"), &err) != 0) {
        http_reply_error(req, &err);
        return;
    }
    struct page *p = x_calloc(1, sizeof(*p));
    *p = (struct page){.tag = PAGE_TAG, .http = req, .limit = limit};
    http_req_on_gone(req, on_page_gone, p);
    usage_list(g->db, gateway_key(req)->key.id, http_req_query(req, "before"), limit + 1, on_rows,
               p);
}
