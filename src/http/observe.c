/* observe.c - what operators see of HTTP: the access log and the metrics. */
#include "http/internal.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

static struct metric requests_total = {
    .name = "claudegate_http_requests_total",
    .help = "HTTP requests finished, by route pattern, method and status.",
    .type = METRIC_COUNTER,
    .labels = {"route", "method", "status"},
};
static struct metric request_seconds = {
    .name = "claudegate_http_request_seconds",
    .help = "Time from a request's first byte until its reply was sent.",
    .type = METRIC_HISTOGRAM,
    .labels = {"route"},
};
static struct metric connections = {
    .name = "claudegate_http_connections",
    .help = "Open client connections.",
    .type = METRIC_GAUGE,
};
static struct metric refused_total = {
    .name = "claudegate_http_refused_total",
    .help = "Requests and connections refused before routing, by reason.",
    .type = METRIC_COUNTER,
    .labels = {"reason"},
};
static struct metric client_gone_total = {
    .name = "claudegate_http_client_gone_total",
    .help = "Clients that left before their reply was complete.",
    .type = METRIC_COUNTER,
};

#define STATUS_CLIENT_GONE 499 /* no reply was begun; as nginx logs it */

/* Probes and scrapes would drown the rest. */
static enum log_level level_of(const struct http_req *req)
{
    static const char *const quiet[] = {"/healthz", "/readyz", "/metrics"};
    for (size_t i = 0; i < ARRAY_SIZE(quiet); i++) {
        if (strcmp(req->path, quiet[i]) == 0)
            return LOG_DEBUG;
    }
    return req->logged ? LOG_DEBUG : LOG_INFO;
}

/* What a client may have called its request, if it is fit to be logged. */
const char *http_req_client_id(const struct http_req *req)
{
    const char *id = http_req_header(req, "X-Request-Id");
    size_t len = id ? strlen(id) : 0;
    if (len == 0 || len > 128)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        if (!guard_is_tchar((unsigned char)id[i]) && !strchr(":/=", id[i]))
            return NULL;
    }
    return id;
}

static void write_access_line(const struct http_req *req, int status, double ms, bool aborted)
{
    /* Optional fields: a field without key ends the list. */
    struct log_field extra[4] = {LF_END, LF_END, LF_END, LF_END};
    size_t n = 0;
    const char *client_id = http_req_client_id(req);
    if (req->key_id[0])
        extra[n++] = LF_S("key", req->key_id);
    if (client_id)
        extra[n++] = LF_S("client_request_id", client_id);
    if (aborted)
        extra[n++] = LF_B("aborted", true);
    log_write(level_of(req), "request", LF_S("request_id", req->id), LF_S("method", req->method),
              LF_S("path", req->path), LF_S("route", http_req_route(req)), LF_I("status", status),
              LF_D("duration_ms", ms), LF_S("peer", req->peer), LF_I("bytes_out", req->bytes_out),
              extra[0], extra[1], extra[2], extra[3]);
}

void observe_request(const struct http_req *req, bool aborted)
{
    int64_t us = clock_mono_us() - req->start_us;
    int status = req->status ? req->status : STATUS_CLIENT_GONE;
    char text[16];
    snprintf(text, sizeof(text), "%d", status);
    metric_add(&requests_total, 1, http_req_route(req), req->method, text);
    metric_observe(&request_seconds, (double)us / 1e6, http_req_route(req));
    if (log_enabled(level_of(req)))
        write_access_line(req, status, (double)us / 1e3, aborted);
}

void observe_fault(const struct http_req *req, const struct err *err)
{
    const struct err_info *info = err_info(err->code);
    if (info->is_fault)
        log_error("request failed", LF_S("request_id", req->id), LF_S("route", http_req_route(req)),
                  LF_S("code", info->name), LF_S("error", err->msg));
}

void observe_refusal(const struct http_conn *c)
{
    const struct guard_reason_info *info = guard_reason_info(c->refusal);
    metric_add(&refused_total, 1, info->name);
    log_info("request refused", LF_S("request_id", c->refusal_id), LF_S("reason", info->name),
             LF_I("status", info->status), LF_S("peer", c->peer));
}

/* The sum over all servers of the process. */
void observe_connections(struct http_server *s)
{
    size_t now = http_server_connections(s);
    metric_add(&connections, (double)now - (double)s->observed);
    s->observed = now;
}

void observe_client_gone(void)
{
    metric_add(&client_gone_total, 1);
}

void observe_register(void)
{
    metric_register(&requests_total);
    metric_register(&request_seconds);
    metric_register(&connections);
    metric_register(&refused_total);
    metric_register(&client_gone_total);
}
