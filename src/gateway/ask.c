/* ask.c - see the header. An answer is collected whole and handed out once; what the API said of a
 * failure is kept, but for what concerns the server's own credential. */
#include "gateway/ask.h"

#include "upstream/client.h"
#include "upstream/meter.h"

#define ASK_TAG    TAG4('A', 'S', 'K', '_')
#define ANSWER_MAX ((size_t)4 << 20)

struct ask {
    uint32_t tag;
    struct gateway *g;
    struct exchange *ex;
    ask_done_fn *done;
    void *ctx;
    struct buf body, answer;
    struct meter said; /* of an error */
    int status, retry_after_s;
};

static void destroy(void *obj)
{
    struct ask *a = OBJ(obj, struct ask, ASK_TAG);
    buf_release(&a->body);
    buf_release(&a->answer);
    a->tag = 0;
    free(a);
}

static void on_header(void *ctx, struct str name, struct str value)
{
    struct ask *a = OBJ(ctx, struct ask, ASK_TAG);
    uint64_t s;
    if (str_ieq_c(name, "retry-after") && str_to_u64(value, &s) && s < 86400)
        a->retry_after_s = (int)s;
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
    if (said->error_type[0] && said->error_message[0]) {
        snprintf(err->upstream_type, sizeof(err->upstream_type), "%.39s", said->error_type);
        err->upstream_at = strlen("Upstream answered 000: ");
        err->upstream_error = said->error_json[0] ? said->error_json : NULL;
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

static void on_end(void *ctx, const struct exchange_end *end)
{
    struct ask *a = OBJ(ctx, struct ask, ASK_TAG);
    struct err err;
    a->ex = NULL;
    bool good = judge(a, end, &err) == 0;
    loop_defer(a->g->loop, destroy, a);
    a->done(a->ctx, good ? buf_str(&a->answer) : STR(""), good ? NULL : &err);
}

static const struct exchange_ops callbacks = {
    .header = on_header, .head = on_head, .body = on_body, .end = on_end};

struct ask *ask_upstream(struct gateway *g, const struct ask_opts *opts, ask_done_fn *done,
                         void *ctx)
{
    struct ask *a = x_calloc(1, sizeof(*a));
    struct str version = opts->version ? str_c(opts->version) : STR("2023-06-01");
    struct str headers[3][2] = {{STR("anthropic-version"), version},
                                {STR("content-type"), STR("application/json")}};
    size_t count = 2;
    *a = (struct ask){.tag = ASK_TAG, .g = g, .done = done, .ctx = ctx};
    buf_init(&a->body, opts->body.len + 1);
    buf_init(&a->answer, ANSWER_MAX);
    buf_addstr(&a->body, opts->body);
    if (opts->betas) {
        headers[count][0] = STR("anthropic-beta");
        headers[count++][1] = str_c(opts->betas);
    }
    struct exchange_req req = {.path = opts->path,
                               .get = opts->get,
                               .headers = (const struct str(*)[2])headers,
                               .header_count = count,
                               .body = buf_str(&a->body)};
    a->ex = exchange_start(g->upstream, &req, &callbacks, a);
    return a;
}

void ask_cancel(struct ask *a)
{
    exchange_abort(a->ex);
    loop_defer(a->g->loop, destroy, a);
}
