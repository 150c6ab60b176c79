/* replay_row.c - the row of a request with an Idempotency-Key: claimed, renewed, finished, dropped.
 *
 * The answer's text (http/record.h) is sealed where there is a master key (replay_seal.h). */
#include "core/clock.h"
#include "core/log.h"
#include "gateway/replay_internal.h"
#include "gateway/replay_seal.h"

#define LEASE_MS   6000
#define DOUBT_MS   5000 /* a renewal, and a new connection to the database for it */
#define STORES_MAX 10   /* one per REPLAY_RENEW_MS, while the database is away */

/* While it runs it does not expire, however short answers are kept. */
static struct reply_claim claim_of(const struct replay *r)
{
    int64_t now = clock_wall_ms();
    return (struct reply_claim){.id = r->id,
                                .api_key_id = r->api_key_id,
                                .fingerprint = r->fingerprint,
                                .request_id = r->request_id,
                                .owner = r->rs->owner,
                                .now = now,
                                .lease_until = now + LEASE_MS,
                                .expires_at = now + LEASE_MS + DOUBT_MS + r->rs->opts.ttl_s * 1000};
}

void replay_row_claim(struct replay *r, count_done_fn *done)
{
    struct reply_claim c = claim_of(r);
    r->claims++;
    r->refs++;
    reply_claim(r->rs->opts.db, &c, done, r);
}

void replay_row_find(struct replay *r, reply_done_fn *done)
{
    r->refs++;
    reply_find(r->rs->opts.db, r->id, clock_wall_ms(), done, r);
}

int replay_row_open(struct replay *r, const struct reply_row *row, struct err *err)
{
    struct buf plain;
    int rc = replay_unseal(r->rs->opts.vault, row, &plain, err);
    if (rc == 0)
        rc = http_record_read(r->record, buf_str(&plain), err);
    buf_release(&plain);
    return rc;
}

static void on_dropped(void *ctx, int64_t unused, const struct err *err)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    (void)unused;
    if (err) /* its lease runs out */
        log_warn("an unfinished idempotent request could not be removed, ignoring",
                 LF_S("request_id", r->request_id), LF_S("error", err->msg));
    replay_unref(r);
}

void replay_row_drop(struct replay *r)
{
    struct reply_claim c = claim_of(r);
    if (r->rs->stopped)
        return; /* the lease runs out */
    r->refs++;
    reply_drop(r->rs->opts.db, &c, on_dropped, r);
}

static void on_stored(void *ctx, int64_t changes, const struct err *err)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    r->storing = err && r->stores < STORES_MAX && !r->retired;
    if (!err && changes == 0)
        log_warn("an idempotent answer was not stored: another server took its key over",
                 LF_S("request_id", r->request_id));
    else if (err)
        log_error("an idempotent answer could not be stored", LF_S("request_id", r->request_id),
                  LF_S("error", err->msg), LF_B("again", r->storing));
    if (r->due && !r->storing && !r->retired)
        timer_set(&r->timer, 0);
    replay_unref(r);
}

void replay_row_store(struct replay *r)
{
    const struct vault *vault = r->rs->opts.vault;
    struct reply_claim c = claim_of(r);
    struct buf plain, sealed;
    size_t size = http_record_text_size(r->record);
    if (r->rs->stopped)
        return;
    buf_init(&plain, size);
    buf_init(&sealed, 1); /* "": lost */
    if (http_record_is_whole(r->record)) {
        http_record_write(r->record, &plain);
        BUG_ON(!buf_ok(&plain));
        replay_seal(vault, r->id, buf_str(&plain), &sealed);
    } else {
        log_info("the answer is too large to be kept for its Idempotency-Key",
                 LF_S("request_id", r->request_id));
    }
    c.expires_at = c.now + r->rs->opts.ttl_s * 1000;
    r->storing = true;
    r->stores++;
    r->refs++;
    reply_finish(r->rs->opts.db, &c, buf_str(&sealed), vault_key_id(vault, 0), on_stored, r);
    buf_release(&plain);
    buf_release(&sealed);
}

static void on_renewed(void *ctx, int64_t changes, const struct err *err)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    if (!err && changes == 0 && r->state == RUNNING)
        log_warn("an idempotent request was taken over by another server while it runs here",
                 LF_S("request_id", r->request_id));
    replay_unref(r);
}

void replay_row_renew(struct replay *r)
{
    struct reply_claim c = claim_of(r);
    r->refs++;
    reply_renew(r->rs->opts.db, &c, on_renewed, r);
}

static void on_doubted(void *ctx, int64_t changes, const struct err *err)
{
    struct replay *r = OBJ(ctx, struct replay, REPLAY_TAG);
    if (!err && changes)
        log_info("the server that answers an idempotent request has not been heard of",
                 LF_S("request_id", r->request_id), LF_I("take_over_ms", DOUBT_MS));
    replay_unref(r);
}

void replay_row_doubt(struct replay *r)
{
    int64_t now = clock_wall_ms();
    r->refs++;
    reply_doubt(r->rs->opts.db, r->id, now, now + DOUBT_MS, on_doubted, r);
}
