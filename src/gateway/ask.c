/* ask.c - see the header. An answer is collected whole and handed out once; what the API said of a
 * failure is kept, but for what concerns the server's own credential. */
#include "gateway/ask.h"

#include "upstream/client.h"
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
    int status, retry_after_s, should_retry;
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

static int refused(const struct ask *a, struct err *err)
{
    AUTO(json_unref_p)
    json_t *j = json_loadb(buf_str(&a->answer).p, a->answer.len, JSON_ALLOW_NUL, NULL);
    const json_t *said = json_object_get(j, "error");
    struct str type = json_get_str(said, "type"), message = json_get_str(said, "message");
    if (a->status == 401 || a->status == 402 || a->status == 403) {
        err_set(err, ERR_UPSTREAM, "The upstream API refused this server's credential (%d)",
                a->status);
        err->status = 502;
        return -1;
    }
    err_set(err, ERR_UPSTREAM, "Upstream answered %d: %.*s", a->status,
            (int)(message.len < 300 ? message.len : 300), message.p);
    err->status = a->status >= 400 ? a->status : 502;
    err->retry_after_s = a->retry_after_s;
    err->should_retry = a->should_retry;
    if (type.len && message.len) {
        snprintf(err->upstream_type, sizeof(err->upstream_type), "%.*s",
                 (int)(type.len < 39 ? type.len : 39), type.p);
        err->upstream_at = strlen("Upstream answered 000: ");
    }
    return -1;
}

static int judge(const struct ask *a, const struct exchange_end *end, struct err *err)
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
