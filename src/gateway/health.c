/* health.c - /healthz (the process lives), /readyz (it can serve), /metrics. */
#include "gateway/gateway.h"

#include "core/clock.h"
#include "metrics/metrics.h"
#include "upstream/client.h"

#define BODY_MAX    65536
#define METRICS_MAX ((size_t)64 << 20)

void gateway_healthz(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct buf b;
    buf_init(&b, BODY_MAX);
    buf_printf(&b,
               "{\"status\":\"ok\",\"version\":\"%s\",\"claude\":\"%s\",\"upstream\":\"%s\","
               "\"demo\":%s,\"uptimeSeconds\":%lld}",
               CG_VERSION, g->cli_version, g->upstream_kind,
               strcmp(g->upstream_kind, "demo") == 0 ? "true" : "false",
               (long long)(clock_wall_ms() - g->started_wall_ms) / 1000);
    http_reply_json(req, 200, &b);
    buf_release(&b);
}

/* Why no turn could be served now; NULL when one could. */
static const char *not_ready_reason(const struct gateway *g, const struct pool_status *s)
{
    if (g->draining)
        return "draining";
    if (s->start_failures_in_row > 0 && s->spare + s->idle + s->busy == 0)
        return "no claude process can be started";
    if (journal_disk_is_full(g->journal) &&
        g->conf->usage.when_disk_is_full == CONF_DISK_FULL_REFUSE)
        return "the disk of the usage journal is full";
    if (!s->ready_once && g->conf->pool.min_spare > 0)
        return "the first claude process is starting";
    return NULL;
}

/* Away is no reason to be not ready: limits.when_redis_is_away says what happens then. */
static const char *redis_state(const struct shared *s)
{
    return !shared_is_remote(s) ? "not used" : shared_is_up(s) ? "up" : "away";
}

/* What each target is like. Never a reason to be not ready: one that is left alone is still asked
 * when there is no better one. */
static void write_targets(const struct gateway *g, struct buf *b)
{
    const struct targets *ts = upstream_targets(g->upstream);
    int64_t now = clock_mono_ms();
    buf_adds(b, ",\"upstreamTargets\":[");
    for (size_t i = 0; i < targets_count(ts); i++) {
        const struct target *t = targets_at(ts, i);
        buf_adds(b, i ? ",{\"name\":" : "{\"name\":");
        buf_json_str(b, str_c(t->name));
        buf_printf(b, ",\"state\":\"%s\",\"coolingMs\":%lld,\"weight\":%d}",
                   target_state_name(t->state), (long long)target_cooling_ms(t, now), t->weight);
    }
    buf_addc(b, ']');
}

void gateway_readyz(struct http_req *req, void *ctx)
{
    struct gateway *g = OBJ(ctx, struct gateway, GATEWAY_TAG);
    struct pool_status s;
    struct buf b;
    pool_status(g->pool, &s);
    const char *reason = not_ready_reason(g, &s);
    buf_init(&b, BODY_MAX);
    buf_printf(&b, "{\"status\":\"%s\"", reason ? "not_ready" : "ready");
    if (reason)
        buf_printf(&b, ",\"reason\":\"%s\"", reason);
    buf_printf(
        &b,
        ",\"upstream\":\"%s\",\"workers\":{\"starting\":%zu,\"spare\":%zu,\"idle\":%zu,"
        "\"busy\":%zu,\"ending\":%zu},\"queued\":%zu,\"startFailuresInRow\":%lld,"
        "\"startsPausedMs\":%lld,\"usageJournalPending\":%zu,\"history\":\"%s\",\"sandbox\":",
        g->upstream_kind, s.starting, s.spare, s.idle, s.busy, s.ending, s.queued,
        (long long)s.start_failures_in_row, (long long)s.breaker_open_ms,
        journal_pending(g->journal), pool_history_name(s.history));
    buf_json_str(&b, str_c(sandbox_status(g->sandbox)->summary));
    buf_printf(&b, ",\"redis\":\"%s\",\"usageJournal\":\"%s\"", redis_state(g->shared),
               journal_disk_is_full(g->journal) ? "disk full" : "ok");
    write_targets(g, &b);
    buf_addc(&b, '}');
    http_reply_json(req, reason ? 503 : 200, &b);
    buf_release(&b);
}

void gateway_metrics(struct http_req *req, void *ctx)
{
    struct buf b;
    (void)ctx;
    buf_init(&b, METRICS_MAX);
    metrics_write(&b);
    http_reply(req, 200, "text/plain; version=0.0.4; charset=utf-8", buf_str(&b));
    buf_release(&b);
}
