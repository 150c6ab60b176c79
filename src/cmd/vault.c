/* vault.c - `claudegate vault`: with which master keys the database is sealed, and sealing it anew.
 *
 * Rotation works while servers run: it goes through the rows in batches, opens each and seals it
 * with the first key, and writes it back only if nobody has changed it meanwhile. What a server
 * writes in between it has sealed itself, with its own first key: so servers are restarted with the
 * new key first. A row that does not open is left as it is and told. */
#include "auth/signature.h"
#include "cmd/cmd.h"
#include "gateway/replay_seal.h"
#include "session/content.h"
#include "setup/setup.h"
#include "store/store.h"

#include <getopt.h>
#include <sodium.h>

#define BATCH      200
#define KEYS_SHOWN 32
#define ERRORS_MAX 10 /* that are printed */
#define SECRET_MAX 4096
#define FIRST_ID   "00000000-0000-0000-0000-000000000000"

static void usage(FILE *out)
{
    fputs(
        "Usage: claudegate vault status|rotate [--config FILE]\n\n"
        "  status  with which master keys sessions, kept replies and signing secrets are sealed;\n"
        "          exits with 1 when something is not sealed with the first key, or its key is\n"
        "          missing\n"
        "  rotate  seals all of it with the first key; servers may run meanwhile\n\n"
        "To change the master key: put the new one in front of the old one (vault.master_key or\n"
        "vault.master_key_file), restart the servers, rotate, remove the old one, restart.\n",
        out);
}

struct tally { /* of one kind of values */
    struct {
        char key[16]; /* "" = not sealed */
        int64_t count;
    } rows[KEYS_SHOWN];
    size_t len;
};

struct outcome {
    int64_t sealed, changed, failed;
};

struct run {
    struct loop *loop;
    struct db *db;
    struct vault *vault;
    struct setup_wait wait;
    struct tally *tally;
    struct session_row *rows; /* of the batch at work */
    size_t row_count;
    struct reply_row reply; /* at work */
    struct buf stored;      /* the row at work, sealed anew */
    int64_t version, count;
    bool found, failed;
    struct api_key *keys;
    size_t key_count;
    int64_t failures;
};

static void begin(struct run *r)
{
    r->wait = (struct setup_wait){.loop = r->loop};
}

static void tally_add(struct tally *t, const char *key, int64_t count)
{
    size_t i = 0;
    while (i < t->len && strcmp(t->rows[i].key, key) != 0)
        i++;
    if (i == KEYS_SHOWN)
        return;
    if (i == t->len)
        snprintf(t->rows[t->len++].key, sizeof(t->rows[i].key), "%s", key);
    t->rows[i].count += count;
}

static void note_failure(struct run *r, const struct err *err)
{
    r->failed = true;
    if (++r->failures <= ERRORS_MAX)
        fprintf(stderr, "claudegate: %s\n", err->msg);
}

/* --- sessions ----------------------------------------------------------------------------- */

static void on_seals(void *ctx, const struct seal_count *counts, size_t count,
                     const struct err *err)
{
    struct run *r = ctx;
    for (size_t i = 0; i < count; i++)
        tally_add(r->tally, counts[i].key, counts[i].count);
    setup_answered(&r->wait, err);
}

static int count_sessions(struct run *r)
{
    begin(r);
    session_seal_counts(r->db, on_seals, r);
    return setup_wait(&r->wait);
}

static void on_batch(void *ctx, const struct session_row *rows, size_t count, const struct err *err)
{
    struct run *r = ctx;
    memcpy(r->rows, rows, count * sizeof(*rows)); /* only the ids are used */
    r->row_count = count;
    setup_answered(&r->wait, err);
}

static void on_row(void *ctx, const struct session_row *row, const struct err *err)
{
    struct run *r = ctx;
    struct buf plain;
    struct err why;
    r->found = row != NULL;
    if (row) {
        r->version = row->version;
        session_content_buf(&plain, row->context.len);
        session_content_buf(&r->stored, row->context.len);
        if (session_content_open(r->vault, row->id, row->context, &plain, &why) == 0)
            session_content_seal(r->vault, row->id, buf_str(&plain), &r->stored);
        else
            note_failure(r, &why);
        if (plain.data)
            sodium_memzero(plain.data, plain.len);
        buf_release(&plain);
    }
    setup_answered(&r->wait, err);
}

static void on_written(void *ctx, int64_t count, const struct err *err)
{
    struct run *r = ctx;
    r->count = count;
    setup_answered(&r->wait, err);
}

static int write_session(struct run *r, const char *id)
{
    begin(r);
    session_reseal(r->db, id, r->version, buf_str(&r->stored), vault_key_id(r->vault, 0),
                   on_written, r);
    return setup_wait(&r->wait);
}

static int rotate_session(struct run *r, const struct session_row *row, struct outcome *out)
{
    begin(r);
    r->found = r->failed = false;
    r->stored = (struct buf){0};
    session_find(r->db, row->id, row->api_key_id, on_row, r);
    int rc = setup_wait(&r->wait);
    if (rc == 0 && r->failed) {
        out->failed++;
    } else if (rc == 0 && r->found) {
        rc = write_session(r, row->id);
        out->sealed += rc == 0 && r->count == 1;
        out->changed += rc == 0 && r->count == 0;
    }
    buf_release(&r->stored);
    return rc;
}

static int rotate_sessions(struct run *r, struct outcome *out)
{
    char after[ID_UUID_SIZE] = FIRST_ID;
    int rc = 0;
    r->rows = x_calloc(BATCH, sizeof(*r->rows));
    do {
        begin(r);
        session_list_unsealed(r->db, vault_key_id(r->vault, 0), after, BATCH, on_batch, r);
        rc = setup_wait(&r->wait);
        for (size_t i = 0; i < r->row_count && rc == 0; i++) {
            rc = rotate_session(r, &r->rows[i], out);
            memcpy(after, r->rows[i].id, sizeof(after));
        }
    } while (rc == 0 && r->row_count == BATCH);
    free(TAKE_PTR(r->rows));
    return rc;
}

/* --- answers kept for an Idempotency-Key -------------------------------------------------- */

static int count_replies(struct run *r)
{
    begin(r);
    reply_seal_counts(r->db, on_seals, r);
    return setup_wait(&r->wait);
}

/* One at a time: each may be large. */
static void on_reply(void *ctx, const struct reply_row *rows, size_t count, const struct err *err)
{
    struct run *r = ctx;
    struct err why;
    r->found = count > 0;
    if (count > 0) {
        r->reply = *rows; /* only the ids are used */
        if (replay_reseal(r->vault, rows, &r->stored, &why) != 0)
            note_failure(r, &why);
    }
    setup_answered(&r->wait, err);
}

static int write_reply(struct run *r)
{
    begin(r);
    reply_reseal(r->db, r->reply.id, r->reply.request_id, buf_str(&r->stored),
                 vault_key_id(r->vault, 0), on_written, r);
    return setup_wait(&r->wait);
}

static int rotate_replies(struct run *r, struct outcome *out)
{
    char after[REPLY_ID_SIZE] = "";
    int rc;
    do {
        begin(r);
        r->found = r->failed = false;
        r->stored = (struct buf){0};
        reply_list_unsealed(r->db, vault_key_id(r->vault, 0), after, 1, on_reply, r);
        rc = setup_wait(&r->wait);
        if (rc == 0 && r->found && !r->failed)
            rc = write_reply(r);
        out->failed += r->failed;
        if (rc == 0 && r->found && !r->failed) {
            out->sealed += r->count == 1;
            out->changed += r->count == 0;
        }
        buf_release(&r->stored);
        memcpy(after, r->reply.id, sizeof(after));
    } while (rc == 0 && r->found);
    return rc;
}

/* --- signing secrets of API keys ---------------------------------------------------------- */

static void on_keys(void *ctx, const struct api_key *keys, size_t count, const struct err *err)
{
    struct run *r = ctx;
    r->keys = x_calloc(count + 1, sizeof(*r->keys));
    for (size_t i = 0; i < count; i++)
        api_key_copy(&r->keys[i], &keys[i]);
    r->key_count = count;
    setup_answered(&r->wait, err);
}

static int list_keys(struct run *r)
{
    begin(r);
    api_key_list(r->db, on_keys, r);
    return setup_wait(&r->wait);
}

static void free_keys(struct run *r)
{
    for (size_t i = 0; i < r->key_count; i++)
        api_key_release(&r->keys[i]);
    free(TAKE_PTR(r->keys));
    r->key_count = 0;
}

static int count_secrets(struct run *r)
{
    int rc = list_keys(r);
    for (size_t i = 0; i < r->key_count; i++) {
        const char *secrets[] = {r->keys[i].signing_secret, r->keys[i].old_signing_secret};
        for (size_t k = 0; k < ARRAY_SIZE(secrets); k++) {
            char id[VAULT_KEY_ID_SIZE] = "";
            if (secrets[k] && !vault_is_sealed(str_c(secrets[k]), id))
                id[0] = '\0';
            if (secrets[k])
                tally_add(r->tally, id, 1);
        }
    }
    free_keys(r);
    return rc;
}

/* True: it is another text now. */
static bool reseal_secret(struct run *r, const struct api_key *key, char **secret)
{
    char context[SIGNING_CONTEXT_SIZE];
    struct buf plain, sealed;
    struct err err;
    if (!*secret || vault_is_current(r->vault, str_c(*secret)))
        return false;
    buf_init(&plain, SECRET_MAX);
    buf_init(&sealed, SECRET_MAX);
    signing_context(key, context);
    bool opened = vault_open(r->vault, context, str_c(*secret), false, &plain, &err) == 0;
    if (opened) {
        vault_seal(r->vault, context, buf_str(&plain), &sealed);
        free(*secret);
        *secret = buf_take(&sealed);
        sodium_memzero(plain.data, plain.len);
    } else {
        note_failure(r, &err);
    }
    buf_release(&plain);
    buf_release(&sealed);
    return opened;
}

/* A key that was changed meanwhile is no error: it is looked at again. */
static void on_key_written(void *ctx, const struct api_key *key, const struct err *err)
{
    struct run *r = ctx;
    (void)key;
    bool changed = err && (err->code == ERR_CONFLICT || err->code == ERR_NOT_FOUND);
    r->count = err ? 0 : 1;
    setup_answered(&r->wait, changed ? NULL : err);
}

static int rotate_key(struct run *r, struct api_key *key, struct outcome *out)
{
    r->failed = false;
    bool first = reseal_secret(r, key, &key->signing_secret);
    bool second = reseal_secret(r, key, &key->old_signing_secret);
    out->failed += r->failed;
    if (!first && !second)
        return 0;
    begin(r);
    api_key_update(r->db, key, on_key_written, r);
    int rc = setup_wait(&r->wait);
    if (rc == 0 && r->count)
        out->sealed += first + second;
    else if (rc == 0)
        out->changed += first + second;
    return rc;
}

static int rotate_secrets(struct run *r, struct outcome *out)
{
    int rc = list_keys(r);
    for (size_t i = 0; i < r->key_count && rc == 0; i++)
        rc = rotate_key(r, &r->keys[i], out);
    free_keys(r);
    return rc;
}

/* --- all kinds ---------------------------------------------------------------------------- */

static const struct kind {
    const char *name;
    int (*count)(struct run *r); /* into r->tally */
    int (*rotate)(struct run *r, struct outcome *out);
} kinds[] = {
    {"sessions", count_sessions, rotate_sessions},
    {"replies", count_replies, rotate_replies},
    {"signing secrets", count_secrets, rotate_secrets},
};

static bool have_key(const struct vault *v, const char *id)
{
    const char *mine;
    for (size_t i = 0; (mine = vault_key_id(v, i)); i++) {
        if (strcmp(mine, id) == 0)
            return true;
    }
    return false;
}

static int64_t print_tally(const struct run *r, const char *name, const struct tally *t)
{
    int64_t to_do = 0;
    printf("%s:%s\n", name, t->len ? "" : " none");
    for (size_t i = 0; i < t->len; i++) {
        const char *key = t->rows[i].key, *first = vault_key_id(r->vault, 0);
        bool current = first ? strcmp(key, first) == 0 : !key[0];
        long long n = (long long)t->rows[i].count;
        to_do += current ? 0 : t->rows[i].count;
        if (!key[0])
            printf("  %lld not sealed\n", n);
        else
            printf("  %lld sealed with %s%s\n", n, key,
                   have_key(r->vault, key) ? "" : ", which is not configured: they do not open");
    }
    return to_do;
}

/* What is left to be done, or -1. */
static int64_t count_all(struct run *r)
{
    int64_t to_do = 0;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct tally t = {.len = 0};
        r->tally = &t;
        if (kinds[i].count(r) != 0)
            return -1;
        to_do += print_tally(r, kinds[i].name, &t);
    }
    return to_do;
}

static int status(struct run *r)
{
    const char *id;
    printf("master keys:%s\n", vault_has_key(r->vault) ? "" : " none");
    for (size_t i = 0; (id = vault_key_id(r->vault, i)); i++)
        printf("  %s%s\n", id, i == 0 ? " (seals)" : "");
    return count_all(r) == 0 ? 0 : 1;
}

static int rotate(struct run *r)
{
    bool failed = false;
    if (!vault_has_key(r->vault)) {
        fputs("claudegate: no master key is configured: set vault.master_key or "
              "vault.master_key_file\n",
              stderr);
        return 1;
    }
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct outcome out = {0};
        int rc = kinds[i].rotate(r, &out);
        printf("%s: %lld sealed with %s, %lld changed meanwhile, %lld not readable\n",
               kinds[i].name, (long long)out.sealed, vault_key_id(r->vault, 0),
               (long long)out.changed, (long long)out.failed);
        failed = failed || rc != 0 || out.failed > 0;
    }
    if (failed)
        return 1;
    int64_t left = count_all(r);
    if (left > 0)
        printf("%lld are not sealed with %s: a server that still uses another key has written "
               "them; restart it and rotate again\n",
               (long long)left, vault_key_id(r->vault, 0));
    return left == 0 ? 0 : 1;
}

static int run(const char *what, const struct conf *conf)
{
    struct run r = {0};
    struct err err;
    int rc = 1;
    r.vault = setup_open_vault(conf, &err);
    if (!r.vault) {
        fprintf(stderr, "claudegate: %s\n", err.msg);
        return 1;
    }
    if (cmd_open_db(conf, &r.loop, &r.db) == 0) {
        rc = strcmp(what, "rotate") == 0 ? rotate(&r) : status(&r);
        cmd_close_db(r.loop, r.db);
    }
    vault_free(r.vault);
    return rc;
}

int cmd_vault(int argc, char **argv)
{
    const char *config = NULL;
    const struct cmd_option options[] = {{"config", 'c', &config, NULL}, {0}};
    int rc = cmd_options(argc, argv, options, 1, 1, usage);
    if (rc != CMD_GO_ON)
        return rc;
    const char *what = argv[optind];
    if (strcmp(what, "status") != 0 && strcmp(what, "rotate") != 0) {
        usage(stderr);
        return 2;
    }
    struct conf *conf = cmd_load_conf(config);
    if (!conf)
        return 1;
    rc = run(what, conf);
    conf_free(conf);
    return rc;
}
