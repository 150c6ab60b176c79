/* redis_ops.c - operations as commands, replies as answers. What the scripts take and reply stands
 * at the top of each .lua file; a reply of another shape is our own or Redis' fault and counts as
 * Redis being away, because nothing is known then. */
#include "shared/redis.h"

#include "core/buf.h"

#define TICKETS_PER_CALL 64

static struct redis *redis_of(struct shared *s)
{
    return container_of(s, struct redis, common);
}

static void bad_reply(struct err *err)
{
    err_set(err, ERR_UNAVAILABLE, "Redis gave an answer of an unexpected form");
}

static bool is_ints(const redisReply *reply, size_t at_least)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements < at_least)
        return false;
    for (size_t i = 0; i < reply->elements; i++) {
        if (reply->element[i]->type != REDIS_REPLY_INTEGER)
            return false;
    }
    return true;
}

/* --- buckets ----------------------------------------------------------------------------- */

static void group_words(struct args *a, const struct redis *r, enum redis_script script,
                        const char *group)
{
    redis_words(a, r, script, 2);
    args_key(a, r, "", group, ":b");
    args_key(a, r, "", group, ":t");
}

#define TAKE_HEAD  4
#define TAKE_LEVEL 5 /* numbers per bucket */

static void take_answer(struct request *req, const redisReply *reply, const struct err *err)
{
    shared_take_fn *done = (shared_take_fn *)req->done;
    struct shared_taken out = {0};
    struct err bad;
    if (!err && (!is_ints(reply, TAKE_HEAD) ||
                 (reply->elements - TAKE_HEAD) / TAKE_LEVEL > SHARED_BUCKETS_MAX)) {
        bad_reply(&bad);
        err = &bad;
    }
    if (err) {
        done(req->ctx, NULL, err);
        return;
    }
    redisReply **v = reply->element;
    out.admitted = v[0]->integer == 1;
    out.refused = (size_t)v[1]->integer;
    out.retry_ms = v[2]->integer;
    out.now_ms = v[3]->integer;
    for (size_t i = 0; TAKE_HEAD + (i + 1) * TAKE_LEVEL <= reply->elements; i++) {
        redisReply **n = v + TAKE_HEAD + i * TAKE_LEVEL;
        out.levels[i] = (struct shared_level){.remaining = n[0]->integer,
                                              .reset_ms = n[1]->integer,
                                              .used = n[2]->integer,
                                              .held = n[3]->integer,
                                              .window_end = n[4]->integer};
    }
    done(req->ctx, &out, NULL);
}

static const char *kind_word(enum shared_kind kind)
{
    return kind == SHARED_RATE ? "r" : kind == SHARED_COUNTER ? "c" : "t";
}

static void redis_take(struct shared *s, const struct shared_take *take, shared_take_fn *done,
                       void *ctx)
{
    struct redis *r = redis_of(s);
    struct args a;
    group_words(&a, r, SCRIPT_TAKE, take->group);
    args_addc(&a, take->look ? "1" : "0");
    args_addc(&a, take->ticket ? take->ticket : "");
    args_addi(&a, take->ticket_ms);
    for (size_t i = 0; i < take->count; i++) {
        const struct shared_bucket *b = &take->buckets[i];
        args_addc(&a, kind_word(b->kind));
        args_addc(&a, b->name);
        args_addi(&a, b->limit);
        args_addi(&a, b->period_ms);
        args_addi(&a, b->spend);
        args_addi(&a, b->hold);
        for (size_t w = 0; w < 3; w++)
            args_addi(&a, b->window[w]);
    }
    redis_send(r, "take", SCRIPT_TAKE, &a, take_answer, (any_fn *)done, ctx);
}

static void done_answer(struct request *req, const redisReply *reply, const struct err *err)
{
    (void)reply;
    ((shared_done_fn *)req->done)(req->ctx, err);
}

static void redis_adjust(struct shared *s, const char *group, const char *ticket,
                         const struct shared_use *uses, size_t count, shared_done_fn *done,
                         void *ctx)
{
    struct redis *r = redis_of(s);
    struct args a;
    group_words(&a, r, SCRIPT_ADJUST, group);
    args_addc(&a, ticket ? ticket : "");
    for (size_t i = 0; i < count; i++) {
        args_addc(&a, kind_word(uses[i].kind));
        args_addc(&a, uses[i].name);
        args_addi(&a, uses[i].add);
        args_addi(&a, uses[i].window_end);
        args_addi(&a, uses[i].period_ms);
    }
    redis_send(r, "adjust", SCRIPT_ADJUST, &a, done_answer, (any_fn *)done, ctx);
}

/* Many tickets are several commands; the caller hears once. */
struct renewal {
    size_t left;
    struct err err;
    shared_done_fn *done;
    void *ctx;
};

static void count_down(struct renewal *all)
{
    if (--all->left > 0)
        return;
    all->done(all->ctx, all->err.code ? &all->err : NULL);
    free(all);
}

static void renew_answer(struct request *req, const redisReply *reply, const struct err *err)
{
    struct renewal *all = req->ctx;
    (void)reply;
    if (err)
        all->err = *err;
    count_down(all);
}

static void redis_renew(struct shared *s, const char *group, const char *const *tickets,
                        size_t count, int64_t ticket_ms, shared_done_fn *done, void *ctx)
{
    struct redis *r = redis_of(s);
    struct renewal *all = x_calloc(1, sizeof(*all));
    all->left = 1; /* held until all are sent: the answers may come at once */
    all->done = done;
    all->ctx = ctx;
    for (size_t from = 0; from < count; from += TICKETS_PER_CALL) {
        struct args a;
        group_words(&a, r, SCRIPT_RENEW, group);
        args_addi(&a, ticket_ms);
        for (size_t i = from; i < count && i < from + TICKETS_PER_CALL; i++)
            args_addc(&a, tickets[i]);
        all->left++;
        redis_send(r, "renew", SCRIPT_RENEW, &a, renew_answer, NULL, all);
    }
    count_down(all);
}

static void redis_seed(struct shared *s, const char *group, const struct shared_seed *seeds,
                       size_t count, shared_done_fn *done, void *ctx)
{
    struct redis *r = redis_of(s);
    struct args a;
    group_words(&a, r, SCRIPT_SEED, group);
    for (size_t i = 0; i < count; i++) {
        args_addc(&a, seeds[i].name);
        args_addi(&a, seeds[i].at_least);
        for (size_t w = 0; w < 3; w++)
            args_addi(&a, seeds[i].window[w]);
    }
    redis_send(r, "seed", SCRIPT_SEED, &a, done_answer, (any_fn *)done, ctx);
}

/* --- leases, nonces ----------------------------------------------------------------------- */

static void lease_answer(struct request *req, const redisReply *reply, const struct err *err)
{
    shared_lease_fn *done = (shared_lease_fn *)req->done;
    struct shared_lease out = {0};
    struct err bad;
    if (!err && (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3 ||
                 reply->element[2]->type != REDIS_REPLY_STRING)) {
        bad_reply(&bad);
        err = &bad;
    }
    if (err) {
        done(req->ctx, NULL, err);
        return;
    }
    out.mine = reply->element[0]->integer == 1;
    out.wanted = reply->element[1]->integer == 1;
    snprintf(out.holder, sizeof(out.holder), "%s", reply->element[2]->str);
    done(req->ctx, &out, NULL);
}

static void redis_lease(struct shared *s, enum shared_lease_op op, const char *name,
                        const char *owner, int64_t ttl_ms, shared_lease_fn *done, void *ctx)
{
    static const char *const words[] = {[SHARED_LEASE_ACQUIRE] = "a",
                                        [SHARED_LEASE_RENEW] = "r",
                                        [SHARED_LEASE_RELEASE] = "f",
                                        [SHARED_LEASE_WANT] = "w"};
    struct redis *r = redis_of(s);
    struct args a;
    redis_words(&a, r, SCRIPT_LEASE, 1);
    args_key(&a, r, "", name, ":lease");
    args_addc(&a, words[op]);
    args_addc(&a, owner);
    args_addi(&a, ttl_ms);
    args_addc(&a, r->bus);
    args_addc(&a, SHARED_LEASE_CHANNEL);
    args_addc(&a, name);
    redis_send(r, "lease", SCRIPT_LEASE, &a, lease_answer, (any_fn *)done, ctx);
}

static void nonce_answer(struct request *req, const redisReply *reply, const struct err *err)
{
    shared_nonce_fn *done = (shared_nonce_fn *)req->done;
    done(req->ctx, reply && reply->type == REDIS_REPLY_STATUS, err);
}

static void redis_nonce(struct shared *s, const char *value, int64_t ttl_ms, shared_nonce_fn *done,
                        void *ctx)
{
    struct redis *r = redis_of(s);
    struct args a;
    redis_words(&a, r, SCRIPT_NONE, 0);
    args_addc(&a, "SET");
    args_key(&a, r, "nonce:", value, "");
    args_addc(&a, "1");
    args_addc(&a, "NX");
    args_addc(&a, "PX");
    args_addi(&a, ttl_ms);
    redis_send(r, "nonce", SCRIPT_NONE, &a, nonce_answer, (any_fn *)done, ctx);
}

/* --- messages ----------------------------------------------------------------------------- */

static void redis_publish(struct shared *s, const char *channel, struct str payload,
                          shared_done_fn *done, void *ctx)
{
    struct redis *r = redis_of(s);
    AUTO(buf_release) struct buf text;
    struct args a;
    buf_init(&text, SHARED_NAME_MAX + 1 + SHARED_MESSAGE_MAX + 1);
    buf_adds(&text, channel);
    buf_addc(&text, ' ');
    buf_addstr(&text, payload);
    redis_words(&a, r, SCRIPT_NONE, 0);
    args_addc(&a, "PUBLISH");
    args_addc(&a, r->bus);
    args_add(&a, buf_str(&text));
    redis_send(r, "publish", SCRIPT_NONE, &a, done_answer, (any_fn *)done, ctx);
}

/* --- cached values ------------------------------------------------------------------------ */

static void get_answer(struct request *req, const redisReply *reply, const struct err *err)
{
    struct str value = {NULL, 0};
    if (reply && reply->type == REDIS_REPLY_STRING)
        value = str_n(reply->str, reply->len);
    ((shared_value_fn *)req->done)(req->ctx, value, err);
}

static void redis_cache_get(struct shared *s, const char *name, shared_value_fn *done, void *ctx)
{
    struct redis *r = redis_of(s);
    struct args a;
    redis_words(&a, r, SCRIPT_NONE, 0);
    args_addc(&a, "GET");
    args_key(&a, r, "cache:", name, "");
    redis_send(r, "cache", SCRIPT_NONE, &a, get_answer, (any_fn *)done, ctx);
}

static void redis_cache_set(struct shared *s, const char *name, struct str value, int64_t ttl_ms,
                            shared_done_fn *done, void *ctx)
{
    struct redis *r = redis_of(s);
    struct args a;
    redis_words(&a, r, SCRIPT_NONE, 0);
    args_addc(&a, "SET");
    args_key(&a, r, "cache:", name, "");
    args_add(&a, value);
    args_addc(&a, "PX");
    args_addi(&a, ttl_ms);
    redis_send(r, "cache", SCRIPT_NONE, &a, done_answer, (any_fn *)done, ctx);
}

static void redis_cache_delete(struct shared *s, const char *name, shared_done_fn *done, void *ctx)
{
    struct redis *r = redis_of(s);
    struct args a;
    redis_words(&a, r, SCRIPT_NONE, 0);
    args_addc(&a, "DEL");
    args_key(&a, r, "cache:", name, "");
    redis_send(r, "cache", SCRIPT_NONE, &a, done_answer, (any_fn *)done, ctx);
}

const struct shared_ops redis_ops = {.close = redis_close,
                                     .health = redis_health,
                                     .take = redis_take,
                                     .adjust = redis_adjust,
                                     .renew = redis_renew,
                                     .seed = redis_seed,
                                     .lease = redis_lease,
                                     .nonce = redis_nonce,
                                     .publish = redis_publish,
                                     .cache_get = redis_cache_get,
                                     .cache_set = redis_cache_set,
                                     .cache_delete = redis_cache_delete};
