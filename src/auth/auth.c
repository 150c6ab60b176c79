/* auth.c - the caches in front of the key table, and the lookups that fill them.
 *
 * A key text is known here only by its digest: BLAKE2b keyed with a random key of this process.
 *  - entries:  good keys, by public id. An entry holds the digest of the right secret and the row.
 *  - refusals: digests that were not good, oldest first.
 *  - lookups:  one per digest in work; everyone who presents the same key meanwhile waits on it.
 *
 * An entry is `clean` while no other process has written to the database since it was read
 * (auth->generation, see poll_done; a server that shares Redis with others also hears of changes
 * at once). A clean entry answers at once; when it is older than times.fresh it is read again
 * behind the answer. A dirty one makes its callers wait for the new row. A lookup that fails, or
 * hangs, leaves the entry usable for times.stale.
 *
 * A key has one secret, or two for a while after a rotation. A digest stands for a bcrypt hash of
 * the row, wherever in the row that is by now: bcrypt runs once per secret, and a wrong one is
 * refused without it once every hash of the row has its digest.
 *
 * An unknown public id is answered without bcrypt, so it is answered sooner than a known one with
 * a wrong secret. That is meant: 71 random bits are not found by trying, and a dummy bcrypt would
 * let anyone burn the processor. */
#include "auth/auth.h"

#include "auth/last_use.h"
#include "auth/secret.h"
#include "core/clock.h"
#include "core/list.h"
#include "core/log.h"

#include <sodium.h>
#include <stdatomic.h>
#define HASH_FUNCTION HASH_FNV /* what is hashed is random already; the default warns in clang */
#include <uthash.h>

#define AUTH_TAG   TAG4('A', 'U', 'T', 'H')
#define LOOKUP_TAG TAG4('A', 'L', 'K', 'P')
#define CHECK_TAG  TAG4('A', 'C', 'H', 'K')
#define POLL_TAG   TAG4('A', 'P', 'O', 'L')

#define DIGEST_LEN         32
#define BCRYPT_THREADS     2
#define MAX_ENTRIES        100000
#define MAX_REFUSALS       10000
#define MAX_LOOKUPS        256   /* of keys not in the cache: an attacker cannot grow memory */
#define MAX_LOOKUPS_PER_ID 16    /* one leaked public id cannot fill the queue for the others */
#define RETRY_MS           1000  /* between lookups for one entry while the database fails */
#define SLOW_LOOKUP_MS     1000  /* after this a dirty entry is used as if the lookup had failed */
#define LOST_LOOKUP_MS     10000 /* after this nobody waits any longer */

static const struct auth_times default_times = {
    .fresh = 60000, .stale = 600000, .refused = 10000, .poll = 1000, .touch = 5000};

enum { SECRET_NOW, SECRET_OLD, SECRETS };

struct proof {
    bool known;
    unsigned char digest[DIGEST_LEN]; /* of the secret whose hash is in the row */
};

struct entry {
    char public_id[KEY_PUBLIC_ID_LEN + 1];
    struct proof proofs[SECRETS];
    struct auth_key *k;
    int64_t read_at; /* mono ms, when the database last confirmed it */
    int64_t retry_at;
    uint64_t generation;
    struct node used; /* on auth->by_use, least recent first */
    UT_hash_handle hh;
};

struct refusal {
    unsigned char digest[DIGEST_LEN];
    int64_t until;
    struct node node;
    UT_hash_handle hh;
};

struct auth_check {
    uint32_t tag;
    struct list *on; /* its lookup's waiters */
    struct node node;
    auth_done_fn *done;
    void *ctx;
};

struct lookup {
    uint32_t tag;
    struct auth *auth; /* NULL: auth_free() came first */
    struct key_text text;
    unsigned char digest[DIGEST_LEN];
    char secret[KEY_SECRET_LEN + 1];
    int64_t started; /* mono ms */
    uint64_t generation;
    bool counted; /* in auth->unproven */
    bool hashing; /* the row is here, bcrypt runs on a worker thread: row and matched are its */
    struct auth_key *row;
    const char *hashes[SECRETS]; /* of row, that may be the one; NULL = not that */
    int matched;                 /* which, or -1 */
    struct list waiters;
    UT_hash_handle hh; /* by digest */
};

struct poll {
    uint32_t tag;
    struct auth *auth; /* NULL: auth_free() came first */
};

struct auth {
    uint32_t tag;
    struct loop *loop;
    struct db *db;
    struct work *work;
    struct auth_times times;
    unsigned char hash_key[crypto_generichash_KEYBYTES];
    uint64_t generation;
    struct entry *entries;
    struct list by_use;
    struct refusal *refusals;
    struct list refusals_by_age;
    struct lookup *lookups;
    size_t unproven; /* lookups of keys that had no entry */
    struct last_use *last_use;
    struct poll *polling;
    struct shared *shared; /* NULL: not shared */
    struct shared_subscription *changes;
    struct timer tick;
    bool db_failing;     /* said so in the log */
    atomic_bool closing; /* the one field the bcrypt threads read */
};

/* --- keys -------------------------------------------------------------------------------- */

static struct auth_key *auth_key_new(const struct api_key *row)
{
    struct auth_key *k = x_calloc(1, sizeof(*k));
    api_key_copy(&k->key, row);
    k->refs = 1;
    return k;
}

void auth_key_ref(struct auth_key *k)
{
    k->refs++;
}

void auth_key_unref(struct auth_key *k)
{
    if (!k)
        return;
    BUG_ON(k->refs == 0);
    if (--k->refs)
        return;
    api_key_release(&k->key);
    free(k);
}

static int refuse(struct err *err)
{
    return err_set(err, ERR_UNAUTHENTICATED, "Invalid API key");
}

static int unavailable(struct err *err, const char *why)
{
    err_set(err, ERR_UNAVAILABLE, "cannot verify the API key: %s", why);
    err->retry_after_s = 1;
    return -1;
}

/* The secret was right; may it be used now? */
static int check_usable(const struct api_key *key, struct err *err)
{
    if (key->status && strcmp(key->status, "disabled") == 0)
        return err_set(err, ERR_UNAUTHENTICATED, "API key disabled");
    if (!key->status || strcmp(key->status, "active") != 0)
        return err_set(err, ERR_UNAUTHENTICATED, "API key revoked");
    if (key->expires_at && clock_wall_ms() >= key->expires_at)
        return err_set(err, ERR_UNAUTHENTICATED, "API key expired");
    return 0;
}

static void answer(struct auth_key *k, auth_done_fn *done, void *ctx)
{
    struct err err = {0};
    auth_key_ref(k); /* done() may empty the cache */
    if (check_usable(&k->key, &err) == 0)
        done(ctx, k, NULL);
    else
        done(ctx, NULL, &err);
    auth_key_unref(k);
}

/* --- the cache of good keys -------------------------------------------------------------- */

static struct entry *entry_find(struct auth *auth, const char *public_id)
{
    struct entry *e;
    HASH_FIND_STR(auth->entries, public_id, e);
    return e;
}

static const char *row_hash(const struct api_key *key, int which)
{
    return which == SECRET_NOW ? key->secret_hash : key->old_secret_hash;
}

/* The old secret has its time. */
static const char *usable_hash(const struct api_key *key, int which)
{
    bool over = which == SECRET_OLD && clock_wall_ms() >= key->old_secret_until;
    return over ? NULL : row_hash(key, which);
}

static bool entry_is(const struct entry *e, const unsigned char digest[DIGEST_LEN])
{
    bool found = false;
    for (int i = 0; e && i < SECRETS; i++)
        found |= e->proofs[i].known && usable_hash(&e->k->key, i) &&
                 sodium_memcmp(e->proofs[i].digest, digest, DIGEST_LEN) == 0;
    return found;
}

/* No secret but those known here can be right. */
static bool entry_complete(const struct entry *e)
{
    bool complete = true;
    for (int i = 0; i < SECRETS; i++)
        complete &= e->proofs[i].known || !usable_hash(&e->k->key, i);
    return complete;
}

static bool entry_clean(const struct auth *auth, const struct entry *e)
{
    return e->generation == auth->generation;
}

static bool entry_within(const struct entry *e, int64_t ms)
{
    return clock_mono_ms() - e->read_at < ms;
}

static void entry_free(struct auth *auth, struct entry *e)
{
    if (!e)
        return;
    HASH_DEL(auth->entries, e);
    list_remove(&auth->by_use, &e->used);
    auth_key_unref(e->k);
    sodium_memzero(e->proofs, sizeof(e->proofs));
    free(e);
}

static void entry_used(struct auth *auth, struct entry *e)
{
    list_remove(&auth->by_use, &e->used);
    list_push_back(&auth->by_use, &e->used);
}

/* What was proven of a hash stays so, also when a rotation has moved it to another place. */
static void move_proofs(struct entry *e, const struct api_key *row)
{
    struct proof before[SECRETS];
    memcpy(before, e->proofs, sizeof(before));
    memset(e->proofs, 0, sizeof(e->proofs));
    for (int i = 0; i < SECRETS; i++) {
        const char *hash = row_hash(row, i);
        for (int j = 0; hash && e->k && j < SECRETS; j++) {
            const char *was = row_hash(&e->k->key, j);
            if (before[j].known && was && strcmp(was, hash) == 0)
                e->proofs[i] = before[j];
        }
    }
    sodium_memzero(before, sizeof(before));
}

/* The row a lookup has read. */
static void entry_update(struct entry *e, const struct lookup *lk)
{
    move_proofs(e, &lk->row->key);
    auth_key_ref(lk->row);
    auth_key_unref(e->k);
    e->k = lk->row;
    e->read_at = lk->started;
    e->retry_at = 0;
    e->generation = lk->generation;
}

static void entry_put(struct auth *auth, const struct lookup *lk)
{
    struct entry *e = entry_find(auth, lk->text.public_id);
    if (!e) {
        if (auth->by_use.len >= MAX_ENTRIES)
            entry_free(auth, container_of(list_first(&auth->by_use), struct entry, used));
        e = x_calloc(1, sizeof(*e));
        memcpy(e->public_id, lk->text.public_id, sizeof(e->public_id));
        HASH_ADD_STR(auth->entries, public_id, e);
    }
    entry_update(e, lk);
    e->proofs[lk->matched].known = true;
    memcpy(e->proofs[lk->matched].digest, lk->digest, DIGEST_LEN);
    entry_used(auth, e);
}

/* --- the cache of refused keys ----------------------------------------------------------- */

static void refusal_free(struct auth *auth, struct refusal *r)
{
    HASH_DEL(auth->refusals, r);
    list_remove(&auth->refusals_by_age, &r->node);
    free(r);
}

static struct refusal *refusal_oldest(const struct auth *auth)
{
    struct node *n = list_first(&auth->refusals_by_age);
    return n ? container_of(n, struct refusal, node) : NULL;
}

static void refusals_expire(struct auth *auth, int64_t now)
{
    struct refusal *r;
    while ((r = refusal_oldest(auth)) && r->until <= now)
        refusal_free(auth, r);
}

static void refusals_clear(struct auth *auth)
{
    refusals_expire(auth, INT64_MAX);
}

static bool refusal_known(struct auth *auth, const unsigned char digest[DIGEST_LEN])
{
    struct refusal *r;
    refusals_expire(auth, clock_mono_ms());
    HASH_FIND(hh, auth->refusals, digest, DIGEST_LEN, r);
    return r != NULL;
}

static void refusal_put(struct auth *auth, const struct lookup *lk)
{
    if (lk->generation != auth->generation || refusal_known(auth, lk->digest))
        return;
    if (auth->refusals_by_age.len >= MAX_REFUSALS)
        refusal_free(auth, refusal_oldest(auth));
    struct refusal *r = x_calloc(1, sizeof(*r));
    memcpy(r->digest, lk->digest, DIGEST_LEN);
    r->until = clock_mono_ms() + auth->times.refused;
    HASH_ADD(hh, auth->refusals, digest, DIGEST_LEN, r);
    list_push_back(&auth->refusals_by_age, &r->node);
}

/* --- changes made elsewhere -------------------------------------------------------------- */

void auth_keys_changed(struct auth *auth)
{
    auth->generation++;
    refusals_clear(auth);
}

static void poll_done(void *ctx, bool changed)
{
    struct poll *poll = OBJ(ctx, struct poll, POLL_TAG);
    if (poll->auth) {
        poll->auth->polling = NULL;
        if (changed)
            auth_keys_changed(poll->auth);
    }
    free(poll);
}

static void poll_start(struct auth *auth)
{
    if (auth->polling)
        return;
    struct poll *poll = x_calloc(1, sizeof(*poll));
    *poll = (struct poll){.tag = POLL_TAG, .auth = auth};
    auth->polling = poll;
    db_poll_changed(auth->db, poll_done, poll);
}

/* --- lookups ----------------------------------------------------------------------------- */

static void lookup_free(struct lookup *lk)
{
    struct node *n;
    while ((n = list_pop_front(&lk->waiters)))
        free(container_of(n, struct auth_check, node));
    auth_key_unref(lk->row);
    sodium_memzero(lk, sizeof(*lk));
    free(lk);
}

/* Nobody can join it any more. */
static void lookup_unlink(struct lookup *lk)
{
    HASH_DEL(lk->auth->lookups, lk);
    if (lk->counted)
        lk->auth->unproven--;
}

/* Tells everyone who waits now: a done() may cancel others, or ask again and join. k or err. */
static void lookup_tell(struct lookup *lk, struct auth_key *k, const struct err *err)
{
    struct node *n;
    if (k)
        auth_key_ref(k);
    for (size_t left = lk->waiters.len; left && (n = list_pop_front(&lk->waiters)); left--) {
        struct auth_check *check = container_of(n, struct auth_check, node);
        auth_done_fn *done = check->done;
        void *done_ctx = check->ctx;
        check->tag = 0;
        free(check);
        if (k)
            answer(k, done, done_ctx);
        else
            done(done_ctx, NULL, err);
    }
    auth_key_unref(k);
}

static void lookup_good(struct lookup *lk, struct auth_key *k)
{
    lookup_unlink(lk);
    lookup_tell(lk, k, NULL);
    lookup_free(lk);
}

static void lookup_bad(struct lookup *lk)
{
    struct err err = {0};
    refuse(&err);
    refusal_put(lk->auth, lk);
    lookup_unlink(lk);
    lookup_tell(lk, NULL, &err);
    lookup_free(lk);
}

/* The database did not answer: the cache does, if it may. */
static void lookup_unanswered(struct lookup *lk, const char *why)
{
    struct entry *e = entry_find(lk->auth, lk->text.public_id);
    struct err err = {0};
    unavailable(&err, why);
    if (entry_is(e, lk->digest) && entry_within(e, lk->auth->times.stale)) {
        e->retry_at = clock_mono_ms() + RETRY_MS;
        lookup_tell(lk, e->k, NULL);
    } else {
        lookup_tell(lk, NULL, &err);
    }
}

static void bcrypt_run(void *ctx)
{
    struct lookup *lk = OBJ(ctx, struct lookup, LOOKUP_TAG);
    for (int i = 0; i < SECRETS && lk->matched < 0 && !lk->auth->closing; i++) {
        if (lk->hashes[i] && auth_bcrypt_check(lk->secret, lk->hashes[i]))
            lk->matched = i;
    }
}

static void bcrypt_done(void *ctx)
{
    struct lookup *lk = OBJ(ctx, struct lookup, LOOKUP_TAG);
    lk->hashing = false;
    if (lk->auth->closing) {
        lookup_unlink(lk);
        lookup_free(lk);
        return;
    }
    if (lk->matched < 0) {
        lookup_bad(lk);
        return;
    }
    entry_put(lk->auth, lk);
    lookup_good(lk, lk->row);
}

/* The row is here: is the presented secret the one it holds the hash of? */
static void lookup_compare(struct lookup *lk)
{
    struct auth *auth = lk->auth;
    struct entry *e = entry_find(auth, lk->text.public_id);
    if (e)
        entry_update(e, lk);
    if (entry_is(e, lk->digest)) {
        lookup_good(lk, e->k);
        return;
    }
    if (e && entry_complete(e)) {
        lookup_bad(lk);
        return;
    }
    for (int i = 0; i < SECRETS; i++)
        lk->hashes[i] = e && e->proofs[i].known ? NULL : usable_hash(&lk->row->key, i);
    lk->matched = -1;
    if (!lk->waiters.len) { /* all cancelled: not worth the time */
        lookup_unlink(lk);
        lookup_free(lk);
        return;
    }
    lk->hashing = true;
    work_submit(auth->work, bcrypt_run, bcrypt_done, lk);
}

static void note_db(struct auth *auth, const struct err *err)
{
    if (err && !auth->db_failing)
        log_warn("keys cannot be read, cached ones stay in use", LF_S("error", err->msg));
    if (!err && auth->db_failing)
        log_info("keys can be read again");
    auth->db_failing = err != NULL;
}

static void lookup_row(void *ctx, const struct api_key *row, const struct err *err)
{
    struct lookup *lk = OBJ(ctx, struct lookup, LOOKUP_TAG);
    if (!lk->auth) {
        lookup_free(lk);
        return;
    }
    note_db(lk->auth, err);
    if (err) {
        lookup_unlink(lk);
        lookup_unanswered(lk, err->msg);
        lookup_free(lk);
    } else if (!row) {
        entry_free(lk->auth, entry_find(lk->auth, lk->text.public_id));
        lookup_bad(lk);
    } else {
        lk->row = auth_key_new(row);
        lookup_compare(lk);
    }
}

static struct lookup *lookup_find(struct auth *auth, const unsigned char digest[DIGEST_LEN])
{
    struct lookup *lk;
    HASH_FIND(hh, auth->lookups, digest, DIGEST_LEN, lk);
    return lk;
}

static size_t lookups_of_id(struct auth *auth, const char *public_id)
{
    size_t count = 0;
    struct lookup *lk, *next;
    HASH_ITER(hh, auth->lookups, lk, next)
    {
        count += strcmp(lk->text.public_id, public_id) == 0;
    }
    return count;
}

/* NULL: too many are in work. */
static struct lookup *lookup_start(struct auth *auth, const struct key_text *text,
                                   const unsigned char digest[DIGEST_LEN], bool proven)
{
    if (!proven && (auth->unproven >= MAX_LOOKUPS ||
                    lookups_of_id(auth, text->public_id) >= MAX_LOOKUPS_PER_ID))
        return NULL;
    struct lookup *lk = x_calloc(1, sizeof(*lk));
    lk->tag = LOOKUP_TAG;
    lk->auth = auth;
    lk->text = *text;
    lk->text.secret = NULL; /* not ours to keep */
    memcpy(lk->digest, digest, DIGEST_LEN);
    memcpy(lk->secret, text->secret, KEY_SECRET_LEN);
    lk->started = clock_mono_ms();
    lk->generation = auth->generation;
    lk->counted = !proven;
    auth->unproven += lk->counted;
    list_init(&lk->waiters);
    HASH_ADD(hh, auth->lookups, digest, DIGEST_LEN, lk);
    if (!timer_pending(&auth->tick))
        timer_set(&auth->tick, auth->times.poll);
    api_key_find(auth->db, lk->text.public_id, lookup_row, lk);
    return lk;
}

static struct auth_check *lookup_join(struct lookup *lk, auth_done_fn *done, void *ctx)
{
    struct auth_check *check = x_calloc(1, sizeof(*check));
    *check = (struct auth_check){.tag = CHECK_TAG, .on = &lk->waiters, .done = done, .ctx = ctx};
    list_push_back(&lk->waiters, &check->node);
    return check;
}

/* Once a second while there is anything to look after. */
static void on_tick(void *obj)
{
    struct auth *auth = OBJ(obj, struct auth, AUTH_TAG);
    int64_t now = clock_mono_ms();
    struct lookup *lk, *next;
    HASH_ITER(hh, auth->lookups, lk, next)
    {
        int64_t age = now - lk->started;
        bool cached = entry_is(entry_find(auth, lk->text.public_id), lk->digest);
        if (!lk->hashing && age >= (cached ? SLOW_LOOKUP_MS : LOST_LOOKUP_MS))
            lookup_unanswered(lk, "the database does not answer");
    }
    refusals_expire(auth, now);
    if (auth->entries || auth->refusals)
        poll_start(auth);
    if (auth->entries || auth->refusals || auth->lookups)
        timer_set(&auth->tick, auth->times.poll);
}

/* --- checks ------------------------------------------------------------------------------ */

/* Answers from the entry if it can. */
static bool answer_cached(struct auth *auth, const struct key_text *text,
                          const unsigned char digest[DIGEST_LEN], auth_done_fn *done, void *ctx)
{
    struct entry *e = entry_find(auth, text->public_id);
    int64_t now = clock_mono_ms();
    if (!entry_is(e, digest) || !entry_within(e, auth->times.stale))
        return false;
    struct lookup *lk = lookup_find(auth, digest);
    bool failing = now < e->retry_at || (lk && now - lk->started >= SLOW_LOOKUP_MS);
    if (!entry_clean(auth, e) && !failing)
        return false;
    if (!entry_within(e, auth->times.fresh) && !failing && !lk)
        lookup_start(auth, text, digest, true);
    entry_used(auth, e);
    answer(e->k, done, ctx);
    return true;
}

/* Known to be wrong without asking anyone? */
static bool known_wrong(struct auth *auth, const struct key_text *text,
                        const unsigned char digest[DIGEST_LEN])
{
    struct entry *e = entry_find(auth, text->public_id);
    if (e && entry_clean(auth, e) && entry_within(e, auth->times.fresh)) {
        if (entry_is(e, digest))
            return false;
        if (entry_complete(e))
            return true;
    }
    return refusal_known(auth, digest);
}

static void digest_of(const struct auth *auth, struct str presented,
                      unsigned char ret_digest[DIGEST_LEN])
{
    BUG_ON(crypto_generichash(ret_digest, DIGEST_LEN, (const unsigned char *)presented.p,
                              presented.len, auth->hash_key, sizeof(auth->hash_key)) != 0);
}

bool auth_remembers(struct auth *auth, struct str presented)
{
    struct key_text text;
    unsigned char digest[DIGEST_LEN];
    if (!key_text_parse(presented, &text))
        return false;
    digest_of(auth, presented, digest);
    return entry_is(entry_find(auth, text.public_id), digest); /* auth_verify() looks again */
}

struct auth_check *auth_verify(struct auth *auth, struct str presented, auth_done_fn *done,
                               void *ctx)
{
    struct err err = {0};
    struct key_text text;
    unsigned char digest[DIGEST_LEN];
    if (!presented.len) {
        err_set(&err, ERR_UNAUTHENTICATED, "Missing API key");
        done(ctx, NULL, &err);
        return NULL;
    }
    if (!key_text_parse(presented, &text)) {
        refuse(&err);
        done(ctx, NULL, &err);
        return NULL;
    }
    digest_of(auth, presented, digest);
    if (answer_cached(auth, &text, digest, done, ctx))
        return NULL;
    if (known_wrong(auth, &text, digest)) {
        refuse(&err);
        done(ctx, NULL, &err);
        return NULL;
    }
    struct lookup *lk = lookup_find(auth, digest);
    if (!lk)
        lk = lookup_start(auth, &text, digest, entry_is(entry_find(auth, text.public_id), digest));
    if (!lk) {
        unavailable(&err, "too many keys are being verified");
        done(ctx, NULL, &err);
        return NULL;
    }
    return lookup_join(lk, done, ctx);
}

void auth_cancel(struct auth_check *check)
{
    if (!check)
        return;
    BUG_ON(check->tag != CHECK_TAG);
    list_remove(check->on, &check->node);
    check->tag = 0;
    free(check);
}

void auth_touch(struct auth *auth, struct auth_key *k)
{
    last_use_note(auth->last_use, k->key.id, auth->times.touch);
}

/* --- life -------------------------------------------------------------------------------- */

struct auth *auth_new(struct loop *loop, struct db *db)
{
    struct auth *auth = x_calloc(1, sizeof(*auth));
    auth->tag = AUTH_TAG;
    auth->loop = loop;
    auth->db = db;
    auth->times = default_times;
    auth->work = work_new(loop, "bcrypt", BCRYPT_THREADS);
    list_init(&auth->by_use);
    list_init(&auth->refusals_by_age);
    timer_init(&auth->tick, loop, on_tick, auth);
    auth->last_use = last_use_new(loop, db);
    randombytes_buf(auth->hash_key, sizeof(auth->hash_key));
    poll_start(auth); /* from here on changes count */
    return auth;
}

static void on_change(void *ctx, struct str payload, bool missed)
{
    (void)payload;
    (void)missed; /* whether one was lost or came: something may have changed */
    auth_keys_changed(OBJ(ctx, struct auth, AUTH_TAG));
}

void auth_share(struct auth *auth, struct shared *shared)
{
    BUG_ON(auth->shared);
    auth->shared = shared;
    auth->changes = shared_subscribe(shared, AUTH_CHANNEL, on_change, auth);
}

void auth_announce(struct shared *shared, shared_done_fn *done, void *ctx)
{
    shared_publish(shared, AUTH_CHANNEL, STR("changed"), done, ctx);
}

void auth_set_times(struct auth *auth, const struct auth_times *times)
{
    auth->times = *times;
}

/* Those that wait for the database are left to its callback; bcrypt is waited for. */
static void drop_lookups(struct auth *auth)
{
    struct lookup *lk, *next;
    HASH_ITER(hh, auth->lookups, lk, next)
    {
        if (lk->hashing)
            continue;
        lookup_unlink(lk);
        lk->auth = NULL;
    }
    work_free(auth->work);
}

void auth_free(struct auth *auth)
{
    if (!auth)
        return;
    auth->closing = true;
    if (auth->shared)
        shared_unsubscribe(auth->shared, auth->changes);
    last_use_free(auth->last_use);
    drop_lookups(auth);
    if (auth->polling)
        auth->polling->auth = NULL;
    while (auth->by_use.len)
        entry_free(auth, container_of(list_first(&auth->by_use), struct entry, used));
    refusals_clear(auth);
    timer_release(&auth->tick);
    sodium_memzero(auth->hash_key, sizeof(auth->hash_key));
    auth->tag = 0;
    free(auth);
}
