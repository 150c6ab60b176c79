/* ask.c - see the header. An answer is collected whole and handed out once; what the API said of a
 * failure is kept, but for what concerns the server's own credential. When another target may do
 * better, the question goes there before anybody is told. */
#include "gateway/ask.h"

#include "core/clock.h"
#include "upstream/client.h"
#include "upstream/meter.h"
#include "upstream/policy.h"

#define ASK_TAG    TAG4('A', 'S', 'K', '_')
#define ANSWER_MAX ((size_t)4 << 20)

struct ask {
    uint32_t tag;
    struct gateway *g;
    struct exchange *ex;
    ask_done_fn *done;
    void *ctx;
    struct buf body, answer;
    char *path, *version, *betas;
    bool get;
    struct target_walk walk;
    struct target *target;
    int status, retry_after_s, should_retry;
    struct meter said; /* of an error */
};

static void send_question(struct ask *a);

static void destroy(void *obj)
{
    struct ask *a = OBJ(obj, struct ask, ASK_TAG);
    buf_release(&a->body);
    buf_release(&a->answer);
    meter_reset(&a->said);
    free(a->path);
    free(a->version);
    free(a->betas);
    a->tag = 0;
    free(a);
}

static void on_header(void *ctx, struct str name, struct str value)
{
    struct ask *a = OBJ(ctx, struct ask, ASK_TAG);
    AUTO(free_charp) char *v = str_dup(value);
    if (str_ieq_c(name, "retry-after"))
        a->retry_after_s = policy_retry_after(v);
    else if (str_ieq_c(name, "x-should-retry"))
        a->should_retry = policy_should_retry(value);
}

static void on_head(void *ctx, int status)
{
    struct ask *a = OBJ(ctx, struct ask, ASK_TAG);
    a->status = status;
}

static bool on_body(void *ctx, struct str bytes)
{
    struct ask *a = OBJ(ctx, struct ask, ASK_TAG);
    buf_addstr(&a->answer, bytes);
    return true;
}

static int refused(struct ask *a, struct err *err)
{
    const struct meter *said = &a->said;
    meter_error(&a->said, buf_str(&a->answer));
    if (a->status == 401 || a->status == 402 || a->status == 403) {
        err_set(err, ERR_UPSTREAM, "The upstream API refused this server's credential (%d)",
                a->status);
        err->status = 502;
        return -1;
    }
    err_set(err, ERR_UPSTREAM, "Upstream answered %d: %s", a->status, said->error_message);
    err->status = a->status >= 400 ? a->status : 502;
    err->retry_after_s = a->retry_after_s;
    err->should_retry = a->should_retry;
    if (said->error_type[0] && said->error_message[0]) {
        snprintf(err->upstream_type, sizeof(err->upstream_type), "%.39s", said->error_type);
        err->upstream_at = strlen("Upstream answered 000: ");
        err->upstream_error = said->error_json;
    }
    return -1;
}

static int judge(struct ask *a, const struct exchange_end *end, struct err *err)
{
    if (end->timed_out)
        return err_set(err, ERR_TIMEOUT, "The upstream API did not answer in time");
    if (end->result != EXCHANGE_DONE)
        return err_set(err, ERR_UPSTREAM_UNREACHABLE, "The upstream API could not be reached");
    if (a->status != 200)
        return refused(a, err);
    if (!buf_ok(&a->answer))
        return err_set(err, ERR_UPSTREAM, "The upstream API's answer is too large");
    return 0;
}

/* True when the question is on its way to another target. */
static bool ask_elsewhere(struct ask *a, const struct exchange_end *end)
{
    bool late = end->timed_out && end->connected;
    bool answered = end->result == EXCHANGE_DONE;
    if (answered ? !policy_may_differ(a->status)
                 : end->result != EXCHANGE_NO_ANSWER || late || end->by_proxy)
        return false;
    a->target = targets_next(upstream_targets(a->g->upstream), &a->walk, clock_mono_ms());
    if (!a->target)
        return false;
    buf_clear(&a->answer);
    a->status = a->retry_after_s = a->should_retry = 0;
    meter_reset(&a->said);
    send_question(a);
    return true;
}

static void on_end(void *ctx, const struct exchange_end *end)
{
    struct ask *a = OBJ(ctx, struct ask, ASK_TAG);
    struct err err;
    a->ex = NULL;
    if (ask_elsewhere(a, end))
        return;
    bool good = judge(a, end, &err) == 0;
    loop_defer(a->g->loop, destroy, a);
    a->done(a->ctx, good ? buf_str(&a->answer) : STR(""), good ? NULL : &err);
}

static const struct exchange_ops callbacks = {
    .header = on_header, .head = on_head, .body = on_body, .end = on_end};

static void send_question(struct ask *a)
{
    struct str headers[3][2] = {{STR("anthropic-version"), str_c(a->version)},
                                {STR("content-type"), STR("application/json")},
                                {STR("anthropic-beta"), str_c(a->betas)}};
    struct exchange_req req = {.target = a->target,
                               .path = a->path,
                               .get = a->get,
                               .headers = (const struct str(*)[2])headers,
                               .header_count = a->betas ? 3 : 2,
                               .body = buf_str(&a->body)};
    a->ex = exchange_start(a->g->upstream, &req, &callbacks, a);
}

struct ask *ask_upstream(struct gateway *g, const struct ask_opts *opts, ask_done_fn *done,
                         void *ctx)
{
    struct ask *a = x_calloc(1, sizeof(*a));
    *a = (struct ask){.tag = ASK_TAG, .g = g, .done = done, .ctx = ctx, .get = opts->get};
    buf_init(&a->body, opts->body.len + 1);
    buf_init(&a->answer, ANSWER_MAX);
    buf_addstr(&a->body, opts->body);
    a->path = x_strdup(opts->path);
    a->version = x_strdup(opts->version ? opts->version : "2023-06-01");
    a->betas = opts->betas ? x_strdup(opts->betas) : NULL;
    a->target = targets_first(upstream_targets(g->upstream), &a->walk, clock_mono_ms());
    send_question(a);
    return a;
}

void ask_cancel(struct ask *a)
{
    exchange_abort(a->ex);
    loop_defer(a->g->loop, destroy, a);
}
