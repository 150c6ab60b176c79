/* redis.c - the Redis driver: two connections, requests with time-outs, scripts, heartbeats.
 *
 * Redis is up while the connection for commands is settled: logged in, scripts loaded, and one
 * script has written something (a replica, or one that is still loading its data, has not). Every
 * request is on `pending` from the time it was sent until its answer; all have the same time-out,
 * so the oldest stands in front. The first that gets no answer ends the connection, and with it all
 * the others: while Redis hangs, requests are refused at once instead of a second later. A script
 * that Redis has forgotten is loaded again and the request repeated.
 *
 * Every server beats: it says that it lives, learns how many do, and sends a message to all. A
 * connection that listens but hears no beat, not even its own, is dead, and is made anew. */
#include "shared/redis.h"

#include "core/clock.h"
#include "core/id.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "shared/redis_scripts.h"

#include <signal.h>

#define REQUEST_TAG TAG4('R', 'E', 'Q', 'U')

#define BEAT_MS      5000
#define SILENCE_MS   15000 /* a server, or the messages, not heard of for so long: gone */
#define SETTLE_MS    1000  /* more than a command has */
#define PENDING_MAX  100000
#define COMPLAIN_MS  10000
#define BEAT_CHANNEL "beat"

static const char *const scripts[SCRIPT_COUNT] = {
    [SCRIPT_TAKE] = script_take, [SCRIPT_ADJUST] = script_adjust, [SCRIPT_RENEW] = script_renew,
    [SCRIPT_SEED] = script_seed, [SCRIPT_LEASE] = script_lease,   [SCRIPT_BEAT] = script_beat};

static const double latency_buckets[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
                                         0.01,   0.025,   0.05,   0.1,   0.25,   1};
static struct metric redis_seconds = {.name = "claudegate_redis_seconds",
                                      .help = "Request sent to Redis to its answer.",
                                      .type = METRIC_HISTOGRAM,
                                      .labels = {"op"},
                                      .buckets = latency_buckets,
                                      .bucket_count = ARRAY_SIZE(latency_buckets)};
static struct metric redis_errors = {
    .name = "claudegate_redis_errors_total",
    .help = "Requests that Redis did not answer, or answered with an error.",
    .type = METRIC_COUNTER,
    .labels = {"op"}};
static struct metric redis_up = {.name = "claudegate_redis_up",
                                 .help = "1 while Redis can be used, otherwise 0.",
                                 .type = METRIC_GAUGE};
static struct metric redis_outages = {.name = "claudegate_redis_outages_total",
                                      .help = "Times that Redis went away.",
                                      .type = METRIC_COUNTER};

static struct redis *redis_of(void *ctx)
{
    return container_of(OBJ(ctx, struct shared, SHARED_TAG), struct redis, common);
}

/* --- words ------------------------------------------------------------------------------- */

void args_add(struct args *a, struct str word)
{
    BUG_ON(a->count == ARGS_MAX);
    a->v[a->count] = word.p ? word.p : "";
    a->len[a->count++] = word.len;
}

void args_addc(struct args *a, const char *word)
{
    args_add(a, str_c(word));
}

static void PRINTF_LIKE(2, 3) add_text(struct args *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(a->text + a->used, sizeof(a->text) - a->used, fmt, ap);
    va_end(ap);
    BUG_ON(n < 0 || (size_t)n >= sizeof(a->text) - a->used);
    args_add(a, str_n(a->text + a->used, (size_t)n));
    a->used += (size_t)n + 1;
}

void args_addi(struct args *a, int64_t number)
{
    add_text(a, "%lld", (long long)number);
}

void args_key(struct args *a, const struct redis *r, const char *before, const char *name,
              const char *after)
{
    add_text(a, "%s%s{%s}%s", r->prefix, before, name, after);
}

void redis_words(struct args *a, const struct redis *r, enum redis_script script, int keys)
{
    a->count = 0;
    a->used = 0;
    if (script == SCRIPT_NONE)
        return;
    args_addc(a, "EVALSHA");
    args_addc(a, r->sha[script]);
    args_addi(a, keys);
}

/* --- away and back ----------------------------------------------------------------------- */

static void set_away(struct redis *r, const char *why)
{
    bool was_up = shared_is_up(&r->common);
    if (was_up || strcmp(r->why, why) != 0)
        log_error("Redis is away", LF_S("reason", why));
    snprintf(r->why, sizeof(r->why), "%s", why);
    metric_set(&redis_up, 0);
    if (!was_up)
        return;
    metric_add(&redis_outages, 1);
    r->changed_ms = clock_mono_ms();
    shared_set_up(&r->common, false);
}

static void set_back(struct redis *r)
{
    int64_t now = clock_mono_ms();
    log_info("Redis is there", LF_I("replicas", r->replicas), LF_I("away_ms", now - r->changed_ms));
    r->why[0] = '\0';
    r->changed_ms = now;
    metric_set(&redis_up, 1);
    shared_set_up(&r->common, true);
}

/* --- requests ---------------------------------------------------------------------------- */

static void finish(struct request *req, const redisReply *reply, const struct err *err)
{
    if (err)
        metric_add(&redis_errors, 1, req->op);
    else
        metric_observe(&redis_seconds, (double)(clock_mono_us() - req->sent_us) / 1e6, req->op);
    list_remove(&req->r->pending, &req->node);
    req->answer(req, reply, err);
    req->tag = 0;
    redisFreeCommand(req->cmd);
    free(req);
}

static void finish_away(struct request *req)
{
    struct err err;
    err_set(&err, ERR_UNAVAILABLE, "Redis is away: %s",
            req->r->why[0] ? req->r->why : "not connected");
    finish(req, NULL, &err);
}

static void on_reply(redisAsyncContext *ac, void *r, void *ctx);

static bool submit(struct request *req)
{
    redisAsyncContext *ac = redis_conn_context(req->r->conn);
    return ac && redisAsyncFormattedCommand(ac, on_reply, req, req->cmd, (size_t)req->cmd_len) ==
                     REDIS_OK;
}

/* Redis was restarted with the connection alive (through a proxy), or told to forget scripts. */
static bool load_and_repeat(struct request *req)
{
    redisAsyncContext *ac = redis_conn_context(req->r->conn);
    if (req->repeated || req->script == SCRIPT_NONE || !ac)
        return false;
    req->repeated = true;
    redisAsyncCommand(ac, NULL, NULL, "SCRIPT LOAD %s", scripts[req->script]);
    return submit(req);
}

static void complain(struct redis *r, const char *op, const char *what)
{
    int64_t now = clock_mono_ms();
    if (r->complained_ms && now - r->complained_ms < COMPLAIN_MS)
        return;
    r->complained_ms = now;
    log_error("Redis refuses a request", LF_S("op", op), LF_S("error", what));
}

/* An error that says that this Redis cannot be written to now: whoever connects next may reach
 * another one. Before version 7 what a script ran into stood in the middle of the text. */
static bool is_away_error(const char *text)
{
    static const char *const words[] = {"-READONLY ", "-LOADING ",    "-MASTERDOWN ",
                                        "-MISCONF ",  "-NOREPLICAS ", "-CLUSTERDOWN ",
                                        "-NOAUTH ",   "-OOM ",        "-BUSY "};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        if (str_starts(str_c(text), words[i] + 1) || strstr(text, words[i]))
            return true;
    }
    return false;
}

static void on_reply(redisAsyncContext *ac, void *r, void *ctx)
{
    struct request *req = OBJ(ctx, struct request, REQUEST_TAG);
    struct redis *redis = req->r;
    const redisReply *reply = r;
    struct err err;
    if (!reply) { /* the connection has ended; lost() has told, or will */
        if (shared_is_up(&redis->common))
            set_away(redis, ac->c.errstr[0] ? ac->c.errstr : "the connection ended");
        finish_away(req);
        return;
    }
    if (reply->type != REDIS_REPLY_ERROR) {
        finish(req, reply, NULL);
        return;
    }
    if (str_starts(str_c(reply->str), "NOSCRIPT") && load_and_repeat(req))
        return;
    err_set(&err, ERR_UNAVAILABLE, "Redis: %s", reply->str);
    if (is_away_error(reply->str) && shared_is_up(&redis->common))
        redis_conn_drop(redis->conn, reply->str);
    else
        complain(redis, req->op, reply->str);
    finish(req, NULL, &err);
}

void redis_send(struct redis *r, const char *op, enum redis_script script, const struct args *a,
                request_answer_fn *answer, any_fn *done, void *ctx)
{
    struct request *req = x_calloc(1, sizeof(*req));
    *req = (struct request){.tag = REQUEST_TAG,
                            .r = r,
                            .op = op,
                            .script = script,
                            .answer = answer,
                            .done = done,
                            .ctx = ctx,
                            .sent_us = clock_mono_us()};
    bool up = shared_is_up(&r->common) && r->pending.len < PENDING_MAX;
    if (up) {
        req->cmd_len =
            redisFormatCommandArgv(&req->cmd, a->count, (const char **)(uintptr_t)a->v, a->len);
        BUG_ON(req->cmd_len < 0);
    }
    if (!up || !submit(req)) {
        finish_away(req);
        return;
    }
    list_push_back(&r->pending, &req->node);
    if (!timer_pending(&r->slow))
        timer_set(&r->slow, r->timeout_ms);
}

static void on_slow(void *obj)
{
    struct redis *r = redis_of(obj);
    struct node *n = list_first(&r->pending);
    char why[80];
    if (!n)
        return;
    struct request *req = container_of(n, struct request, node);
    int64_t left = r->timeout_ms - (clock_mono_us() - req->sent_us) / 1000;
    if (left > 0) {
        timer_set(&r->slow, left);
        return;
    }
    snprintf(why, sizeof(why), "no answer in %lld ms", (long long)r->timeout_ms);
    set_away(r, why); /* first: what the callbacks ask for now must not wait again */
    redis_conn_drop(r->conn, why);
}

/* --- heartbeats -------------------------------------------------------------------------- */

static void on_beaten(struct request *req, const redisReply *reply, const struct err *err)
{
    if (!err && reply->type == REDIS_REPLY_INTEGER && reply->integer > 0)
        req->r->replicas = (size_t)reply->integer;
}

static void beat_words(struct args *a, const struct redis *r)
{
    redis_words(a, r, SCRIPT_BEAT, 1);
    args_key(a, r, "", "replicas", "");
    args_addc(a, r->id);
    args_addi(a, SILENCE_MS);
}

static void on_beat(void *obj)
{
    struct redis *r = redis_of(obj);
    timer_set(&r->beat, BEAT_MS);
    if (!shared_is_up(&r->common))
        return;
    struct args a;
    beat_words(&a, r);
    redis_send(r, "beat", SCRIPT_BEAT, &a, on_beaten, NULL, NULL);
    shared_publish(&r->common, BEAT_CHANNEL, STR(""), NULL, NULL);
    if (r->hears && clock_mono_ms() - r->heard_ms > SILENCE_MS)
        redis_conn_drop(r->ears, "no message for a long time");
}

/* --- the connection for commands ---------------------------------------------------------- */

static void on_settled(redisAsyncContext *ac, void *reply_or_null, void *ctx)
{
    struct redis *r = ctx;
    const redisReply *reply = reply_or_null;
    (void)ac;
    if (!reply)
        return;
    if (reply->type != REDIS_REPLY_INTEGER) {
        redis_conn_drop(r->conn, reply->type == REDIS_REPLY_ERROR ? reply->str : "no Redis");
        return;
    }
    r->replicas = reply->integer > 0 ? (size_t)reply->integer : 1;
    redis_conn_settled(r->conn);
    set_back(r);
}

static void first_beat(struct redis *r)
{
    struct args a;
    beat_words(&a, r);
    redisAsyncCommandArgv(redis_conn_context(r->conn), on_settled, r, a.count,
                          (const char **)(uintptr_t)a.v, a.len);
}

static void on_loaded(redisAsyncContext *ac, void *reply_or_null, void *ctx)
{
    struct redis *r = ctx;
    const redisReply *reply = reply_or_null;
    if (!reply || !redis_conn_context(r->conn) || redis_conn_context(r->conn) != ac)
        return;
    if (reply->type != REDIS_REPLY_STRING || reply->len != SHA_SIZE - 1) {
        redis_conn_drop(r->conn, reply->type == REDIS_REPLY_ERROR ? reply->str : "no Redis");
        return;
    }
    memcpy(r->sha[SCRIPT_COUNT - r->loading], reply->str, SHA_SIZE);
    if (--r->loading == 0)
        first_beat(r);
}

static void on_conn_ready(void *ctx)
{
    struct redis *r = redis_of(ctx);
    r->loading = SCRIPT_COUNT;
    for (int i = 0; i < SCRIPT_COUNT; i++)
        redisAsyncCommand(redis_conn_context(r->conn), on_loaded, r, "SCRIPT LOAD %s", scripts[i]);
}

static void on_conn_lost(void *ctx, const char *why)
{
    set_away(redis_of(ctx), why);
}

/* --- the connection for messages ---------------------------------------------------------- */

static void on_message(redisAsyncContext *ac, void *reply_or_null, void *ctx)
{
    struct redis *r = ctx;
    const redisReply *reply = reply_or_null;
    if (!reply || redis_conn_context(r->ears) != ac)
        return;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3) {
        redis_conn_drop(r->ears, reply->type == REDIS_REPLY_ERROR ? reply->str : "no Redis");
        return;
    }
    r->heard_ms = clock_mono_ms();
    if (!r->hears) { /* the answer to SUBSCRIBE */
        r->hears = true;
        redis_conn_settled(r->ears);
        shared_deliver_missed(&r->common);
    } else if (reply->element[2]->type == REDIS_REPLY_STRING) {
        struct str text = str_n(reply->element[2]->str, reply->element[2]->len);
        struct str channel = str_split(&text, ' ');
        shared_deliver(&r->common, channel, text);
    }
}

static void on_ears_ready(void *ctx)
{
    struct redis *r = redis_of(ctx);
    redisAsyncCommand(redis_conn_context(r->ears), on_message, r, "SUBSCRIBE %s", r->bus);
}

static void on_ears_lost(void *ctx, const char *why)
{
    struct redis *r = redis_of(ctx);
    if (r->hears && shared_is_up(&r->common))
        log_warn("Redis sends no messages", LF_S("reason", why));
    r->hears = false;
}

/* --- life -------------------------------------------------------------------------------- */

void redis_health(const struct shared *s, struct shared_health *ret_health)
{
    const struct redis *r = container_of(s, const struct redis, common);
    ret_health->for_ms = clock_mono_ms() - r->changed_ms;
    ret_health->replicas = r->replicas;
    if (!s->up)
        snprintf(ret_health->reason, sizeof(ret_health->reason), "%s",
                 r->why[0] ? r->why : "not connected yet");
}

/* What waits in the library's buffer goes to the socket: the tickets of the last requests. */
static void say_goodbye(struct redis *r)
{
    redisAsyncContext *ac = redis_conn_context(r->conn);
    if (!ac || !shared_is_up(&r->common))
        return;
    redisAsyncCommand(ac, NULL, NULL, "ZREM %s{replicas} %s", r->prefix, r->id);
    redisAsyncHandleWrite(ac);
}

void redis_close(struct shared *s)
{
    struct redis *r = redis_of(s);
    say_goodbye(r);
    s->up = false; /* nobody watches any more */
    redis_conn_free(r->conn);
    BUG_ON(r->pending.len);
    redis_conn_free(r->ears);
    timer_release(&r->slow);
    timer_release(&r->beat);
    redis_url_release(&r->url);
    free(r->prefix);
    s->tag = 0;
    free(r);
}

struct shared *shared_redis_open(struct loop *loop, const struct shared_opts *opts, struct err *err)
{
    struct redis_url url = {0};
    const char *broken = redis_url_parse(str_c(opts->url), &url);
    if (broken) {
        err_set(err, ERR_CONFIG, "redis.url: %s", broken);
        return NULL;
    }
    signal(SIGPIPE, SIG_IGN); /* hiredis writes with write(2), which has no MSG_NOSIGNAL */
    struct redis *r = x_calloc(1, sizeof(*r));
    shared_init(&r->common, &redis_ops, loop, true);
    r->url = url;
    r->prefix = x_strdup(opts->prefix ? opts->prefix : "");
    r->timeout_ms = opts->timeout_ms;
    r->replicas = 1;
    r->changed_ms = clock_mono_ms();
    BUG_ON(strlen(r->prefix) > SHARED_NAME_MAX);
    snprintf(r->bus, sizeof(r->bus), "%sbus", r->prefix);
    id_alnum(r->id, sizeof(r->id) - 1);
    list_init(&r->pending);
    timer_init(&r->slow, loop, on_slow, &r->common);
    timer_init(&r->beat, loop, on_beat, &r->common);
    timer_set(&r->beat, BEAT_MS);
    metric_set(&redis_up, 0);
    struct redis_conn_opts o = {.loop = loop,
                                .url = &r->url,
                                .timeout_ms = opts->timeout_ms + SETTLE_MS,
                                .ready = on_conn_ready,
                                .lost = on_conn_lost,
                                .ctx = &r->common};
    r->conn = redis_conn_new(&o);
    o.ready = on_ears_ready;
    o.lost = on_ears_lost;
    r->ears = redis_conn_new(&o);
    return &r->common;
}
