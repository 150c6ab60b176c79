/* workers.c - the pool as an operator sees it, and telling workers to retire. */
#include "api/control/control.h"

#include "core/log.h"

#define BODY_MAX ((size_t)16 << 20)

static void put_text(struct buf *b, const char *name, const char *text)
{
    buf_printf(b, "\"%s\":", name);
    if (text && text[0])
        buf_json_str(b, str_c(text));
    else
        buf_adds(b, "null");
    buf_addc(b, ',');
}

/* Seconds with the three decimals there are. */
static void put_seconds(struct buf *b, const char *name, int64_t ms)
{
    buf_printf(b, "\"%s\":%lld.%03d,", name, (long long)(ms / 1000), (int)(ms % 1000));
}

struct listing {
    struct buf *out;
    bool any;
};

static void put_worker(void *ctx, const struct pool_worker *w)
{
    struct listing *l = ctx;
    struct buf *b = l->out;
    buf_printf(b, "%s{\"id\":%u,\"pid\":%d,", l->any ? "," : "", w->id, w->pid);
    l->any = true;
    put_text(b, "state", w->state);
    put_text(b, "keyId", w->key_id);
    put_text(b, "profile", w->profile);
    put_text(b, "model", w->model);
    put_text(b, "requestId", w->request_id);
    put_text(b, "stderr", w->stderr_tail);
    put_seconds(b, "ageSeconds", w->age_ms);
    put_seconds(b, "stateSeconds", w->state_ms);
    put_seconds(b, "cpuSeconds", w->cpu_ms);
    buf_printf(b, "\"draining\":%s,\"turns\":%lld,\"rssBytes\":%lld}",
               w->draining ? "true" : "false", (long long)w->turns, (long long)w->rss_kb * 1024);
}

static void put_pool(struct buf *b, const struct pool_status *s)
{
    buf_printf(b,
               "\"queue\":{\"length\":%zu},\"pool\":{\"starting\":%zu,\"spare\":%zu,\"idle\":%zu,"
               "\"busy\":%zu,\"ending\":%zu,\"starts\":%lld,\"startFailuresInRow\":%lld,",
               s->queued, s->starting, s->spare, s->idle, s->busy, s->ending, (long long)s->starts,
               (long long)s->start_failures_in_row);
    put_seconds(b, "breakerOpenSeconds", s->breaker_open_ms);
    put_text(b, "lastStartError", s->last_start_error);
    buf_printf(b, "\"history\":\"%s\"}", pool_history_name(s->history));
}

void workers_json(const struct pool *p, struct buf *b)
{
    struct pool_status s;
    struct listing l = {.out = b};
    pool_status(p, &s);
    buf_adds(b, "{\"workers\":[");
    pool_each_worker(p, put_worker, &l);
    buf_adds(b, "],");
    put_pool(b, &s);
    buf_addc(b, '}');
}

void control_workers(struct http_req *req, void *ctx)
{
    const struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct buf b AUTO(buf_release);
    buf_init(&b, BODY_MAX);
    workers_json(g->pool, &b);
    http_reply_json(req, 200, &b);
}

static void reply_draining(struct http_req *req, size_t count)
{
    struct buf b AUTO(buf_release);
    buf_init(&b, 64);
    buf_printf(&b, "{\"draining\":%zu}", count);
    http_reply_json(req, 200, &b);
}

void control_drain_all(struct http_req *req, void *ctx)
{
    const struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    size_t count = pool_drain(g->pool, 0);
    log_info("operator drains all workers", LF_S("request_id", http_req_id(req)),
             LF_I("count", count));
    reply_draining(req, count);
}

void control_drain(struct http_req *req, void *ctx)
{
    const struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    const char *text = http_req_param(req, "id");
    uint64_t id;
    if (!str_to_u64(str_c(text), &id) || id == 0 || id > UINT32_MAX ||
        pool_drain(g->pool, (unsigned)id) == 0) {
        struct err err;
        err_set(&err, ERR_NOT_FOUND, "There is no worker '%.32s'", text);
        http_reply_error(req, &err);
        return;
    }
    log_info("operator drains a worker", LF_S("request_id", http_req_id(req)), LF_I("worker", id));
    reply_draining(req, 1);
}
