/* key.c - `claudegate key create|list|show|set|disable|enable|rotate|revoke`. Works while the
 * server runs: it writes to the same database, and the servers notice within a second, or at once
 * where they share Redis. A change reads the key, applies what was asked and writes it back, if
 * nobody else has changed it meanwhile. */
#include "auth/auth.h"
#include "cmd/cmd.h"
#include "cmd/key_options.h"
#include "cmd/key_print.h"
#include "core/clock.h"
#include "setup/make_key.h"
#include "setup/setup.h"

#include <unistd.h>

#define OUTPUT_MAX ((size_t)256 << 20)

static void usage(FILE *out)
{
    fputs(
        "Usage: claudegate key create --name NAME [OPTIONS]\n"
        "       claudegate key list\n"
        "       claudegate key show ID\n"
        "       claudegate key set ID OPTIONS\n"
        "       claudegate key disable ID      until it is enabled again\n"
        "       claudegate key enable ID\n"
        "       claudegate key rotate ID [--overlap 24h]\n"
        "                                      a new secret; the old one works until then, 0: not\n"
        "       claudegate key revoke ID       for good\n\n"
        "Options of create and set (create takes defaults from the settings keys.*):\n"
        "  --name NAME                what the key is for\n"
        "  --user NAME                create: the user it belongs to (default: admin, made if\n"
        "                             missing)\n"
        "  --requests-per-minute N    or 'unlimited'\n"
        "  --requests-per-day N       or 'unlimited'\n"
        "  --tokens-per-day N         or 'unlimited'\n"
        "  --max-concurrent N         requests at once, or 'unlimited' (default)\n"
        "  --cost-per-day USD         such as 2.50, or 'unlimited' (default)\n"
        "  --cost-per-month USD       the same\n"
        "  --max-tokens N             of one answer, or 'unlimited'\n"
        "  --models LIST              comma-separated names, '*' matches anything\n"
        "  --allow-streaming | --no-streaming\n"
        "                             stream:true (default: allowed)\n"
        "  --allow-agent | --no-agent agent turns, where agent.enabled is set (default: not)\n"
        "  --allow-tools | --no-tools tools that a request defines (default: allowed)\n"
        "  --require-signature | --no-signature\n"
        "                             refuse requests that are not signed (default: not); makes\n"
        "                             a signing secret if there is none. docs/signing.md\n"
        "  --response-cache | --no-response-cache\n"
        "                             the same request with temperature 0 gets the same answer\n"
        "                             again for a while, at no cost (default: not)\n"
        "  --signing-secret           make a (new) signing secret\n"
        "  --priority N               1 to 10: its share of the workers when they are scarce\n"
        "                             (default: 1; 10 gets ten times the time of 1)\n"
        "  --expires WHEN             2027-01-31, 2027-01-31T12:00:00Z, 30d from now, or 'never'\n"
        "  --metadata JSON            an object of your own, up to 8192 bytes; '' removes it\n\n"
        "Options of all:\n"
        "  --json                     print JSON\n"
        "  --config FILE              the YAML file (default: CLAUDEGATE_CONFIG, or none)\n\n"
        "Secrets are printed once; the key is stored only as a hash. ID is the key's id or the 12\n"
        "characters after 'sk-cg-'.\n",
        out);
}

/* One run: what was asked, and what was opened for it. */
struct run {
    struct setup_wait wait;
    const struct key_options *o;
    const char *id; /* as it was given */
    struct conf *conf;
    struct vault *vault;
    struct db *db;
    struct api_key key; /* as it was read, then as it was written */
    char text[KEY_TEXT_SIZE], signing[SIGNING_TEXT_SIZE];
};

static int run_open(struct run *r)
{
    struct err err;
    r->conf = cmd_load_conf(r->o->config);
    if (!r->conf)
        return -1;
    r->vault = setup_open_vault(r->conf, &err);
    if (!r->vault) {
        fprintf(stderr, "claudegate: %s\n", err.msg);
        return -1;
    }
    return cmd_open_db(r->conf, &r->wait.loop, &r->db);
}

static void run_close(struct run *r)
{
    if (r->db)
        cmd_close_db(r->wait.loop, r->db);
    vault_free(r->vault);
    conf_free(r->conf);
    api_key_release(&r->key);
    explicit_bzero(r->text, sizeof(r->text));
    explicit_bzero(r->signing, sizeof(r->signing));
}

/* For the next question. */
static int run_wait(struct run *r)
{
    int rc = setup_wait(&r->wait);
    r->wait = (struct setup_wait){.loop = r->wait.loop};
    return rc;
}

static void on_key(void *ctx, const struct api_key *key, const struct err *err)
{
    struct run *r = ctx;
    if (key) {
        struct api_key copy;
        api_key_copy(&copy, key);
        api_key_release(&r->key);
        r->key = copy;
    }
    setup_answered(&r->wait, err);
}

/* --- telling the servers ------------------------------------------------------------------ */

static void on_announced(void *ctx, const struct err *err)
{
    (void)err; /* they look by themselves, too */
    setup_answered(ctx, NULL);
}

static void announce(struct run *r)
{
    struct err err;
    struct shared *s =
        r->conf->redis.url[0] ? setup_open_shared(r->conf, r->wait.loop, &err) : NULL;
    if (!s)
        return;
    auth_announce(s, on_announced, &r->wait);
    (void)!run_wait(r);
    shared_close(s);
}

/* --- printing ----------------------------------------------------------------------------- */

static void print_buf(struct buf *b)
{
    fputs(buf_cstr(b), stdout);
    if (b->data)
        explicit_bzero(b->data, b->len);
    buf_release(b);
}

static void print_json(const struct run *r)
{
    struct buf b;
    const struct new_secrets secrets = {.key = r->text, .signing = r->signing};
    buf_init(&b, OUTPUT_MAX);
    key_put_json(&b, &r->key, &secrets);
    buf_addc(&b, '\n');
    print_buf(&b);
}

static void print_secrets(const struct run *r, const char *what)
{
    if (r->text[0])
        printf("Key '%s' %s. It is shown only now:\n\n  %s\n", r->key.name, what, r->text);
    if (r->signing[0])
        printf("%sIts signing secret, shown only now:\n\n  %s\n", r->text[0] ? "\n" : "",
               r->signing);
}

/* --- create ------------------------------------------------------------------------------- */

static int make(struct run *r)
{
    const struct key_options *o = r->o;
    bool signing = o->signing_secret || o->require_signature;
    const struct new_key what = {.name = o->name,
                                 .user = o->user ? o->user : "admin",
                                 .signing_text = signing ? r->signing : NULL,
                                 .vault = r->vault};
    new_key_defaults(r->conf, &r->key);
    if (!key_options_apply(o, &r->key))
        return -1;
    if (new_key_insert(r->wait.loop, r->db, &what, &r->key, r->text) != 0)
        return -1;
    announce(r);
    if (o->json)
        print_json(r);
    else
        print_secrets(r, "created");
    return 0;
}

static bool check_options(const struct key_options *o)
{
    struct api_key scratch = {0};
    bool ok = key_options_apply(o, &scratch);
    api_key_release(&scratch);
    return ok;
}

static int create(const struct key_options *o, const char *id)
{
    struct run r = {.o = o};
    struct key_options named = *o;
    (void)id;
    named.name = o->name ? o->name : "";
    if (!check_options(&named))
        return 2;
    int rc = run_open(&r) == 0 ? make(&r) : -1;
    run_close(&r);
    return rc == 0 ? 0 : 1;
}

/* --- list and show ------------------------------------------------------------------------ */

static void on_list(void *ctx, const struct api_key *keys, size_t count, const struct err *err)
{
    struct run *r = ctx;
    struct buf b;
    buf_init(&b, OUTPUT_MAX);
    if (r->o->json)
        buf_addc(&b, '[');
    for (size_t i = 0; i < count && !err; i++) {
        if (!r->o->json) {
            key_put_line(&b, &keys[i]);
            continue;
        }
        buf_adds(&b, i ? "," : "");
        key_put_json(&b, &keys[i], NULL);
    }
    if (r->o->json)
        buf_adds(&b, "]\n");
    if (!err)
        fputs(buf_cstr(&b), stdout);
    buf_release(&b);
    setup_answered(&r->wait, err);
}

static int list(const struct key_options *o, const char *id)
{
    struct run r = {.o = o};
    int rc = run_open(&r);
    (void)id;
    if (rc == 0) {
        api_key_list(r.db, on_list, &r);
        rc = run_wait(&r);
    }
    run_close(&r);
    return rc == 0 ? 0 : 1;
}

static int read_key(struct run *r)
{
    api_key_get(r->db, r->id, on_key, r);
    return run_wait(r);
}

static int show(const struct key_options *o, const char *id)
{
    struct run r = {.o = o, .id = id};
    struct buf b;
    int rc = run_open(&r) == 0 ? read_key(&r) : -1;
    if (rc == 0 && o->json) {
        print_json(&r);
    } else if (rc == 0) {
        buf_init(&b, OUTPUT_MAX);
        key_put_text(&b, &r.key);
        print_buf(&b);
    }
    run_close(&r);
    return rc == 0 ? 0 : 1;
}

/* --- changes ------------------------------------------------------------------------------ */

/* Changes r->key; -1 after having printed why not. */
typedef int change_fn(struct run *r);

static int write_key(struct run *r, change_fn *change)
{
    if (strcmp(r->key.status, "revoked") == 0) {
        fprintf(stderr, "claudegate: key %s is revoked, and that is final\n", r->id);
        return -1;
    }
    if (change(r) != 0)
        return -1;
    api_key_update(r->db, &r->key, on_key, r);
    if (run_wait(r) != 0)
        return -1;
    announce(r);
    return 0;
}

/* Reads, changes and writes; then prints it as JSON if that was asked. ret_run stays open. */
static int change_key(struct run *ret_run, change_fn *change)
{
    int rc = run_open(ret_run) == 0 ? read_key(ret_run) : -1;
    if (rc == 0)
        rc = write_key(ret_run, change);
    if (rc == 0 && ret_run->o->json)
        print_json(ret_run);
    return rc;
}

static int new_signing_secret(struct run *r)
{
    struct err err;
    if (auth_signing_generate(&r->key, r->vault, r->signing, &err) == 0)
        return 0;
    fprintf(stderr, "claudegate: %s\n", err.msg);
    return -1;
}

static int apply_set(struct run *r)
{
    if (!key_options_apply(r->o, &r->key))
        return -1;
    if (r->o->signing_secret) /* the one it had ends now, whatever overlap a rotation has left */
        free(TAKE_PTR(r->key.signing_secret));
    if (r->o->signing_secret || (r->key.permissions.require_signature && !r->key.signing_secret))
        return new_signing_secret(r);
    return 0;
}

static int set(const struct key_options *o, const char *id)
{
    struct run r = {.o = o, .id = id};
    if (!key_options_any(o)) {
        fputs("claudegate: key set: needs at least one option that says what to set\n", stderr);
        return 2;
    }
    if (!check_options(o))
        return 2;
    int rc = change_key(&r, apply_set);
    if (rc == 0 && !o->json) {
        printf("Key %s changed.\n", id);
        print_secrets(&r, "");
    }
    run_close(&r);
    return rc == 0 ? 0 : 1;
}

static int apply_disable(struct run *r)
{
    x_replace(&r->key.status, "disabled");
    return 0;
}

static int apply_enable(struct run *r)
{
    x_replace(&r->key.status, "active");
    return 0;
}

static int change_status(const struct key_options *o, const char *id, change_fn *change,
                         const char *what)
{
    struct run r = {.o = o, .id = id};
    int rc = change_key(&r, change);
    if (rc == 0 && !o->json)
        printf("Key %s %s.\n", id, what);
    run_close(&r);
    return rc == 0 ? 0 : 1;
}

static int disable(const struct key_options *o, const char *id)
{
    return change_status(o, id, apply_disable, "disabled");
}

static int enable(const struct key_options *o, const char *id)
{
    return change_status(o, id, apply_enable, "enabled");
}

static int apply_rotate(struct run *r)
{
    int64_t overlap = 0;
    if (!key_options_overlap(r->o, &overlap))
        return -1;
    auth_key_rotate(&r->key, overlap, r->text);
    return r->key.signing_secret ? new_signing_secret(r) : 0;
}

static int rotate(const struct key_options *o, const char *id)
{
    struct run r = {.o = o, .id = id};
    char until[CLOCK_RFC3339_SIZE];
    int64_t overlap;
    if (!key_options_overlap(o, &overlap))
        return 2;
    int rc = change_key(&r, apply_rotate);
    if (rc == 0 && !o->json) {
        print_secrets(&r, "has a new secret");
        if (r.key.old_secret_until)
            printf("\nWhat it had works until %s.\n", clock_rfc3339(r.key.old_secret_until, until));
        else
            printf("\nWhat it had does not work any more.\n");
    }
    run_close(&r);
    return rc == 0 ? 0 : 1;
}

/* Whatever else is done to the key in this moment. */
static int revoke_key(const struct key_options *o, const char *id)
{
    struct run r = {.o = o, .id = id};
    int rc = run_open(&r);
    if (rc == 0) {
        api_key_revoke(r.db, id, on_key, &r);
        rc = run_wait(&r);
    }
    if (rc == 0) {
        announce(&r);
        if (o->json)
            print_json(&r);
        else
            printf("Key %s revoked.\n", id);
    }
    run_close(&r);
    return rc == 0 ? 0 : 1;
}

/* --- arguments ---------------------------------------------------------------------------- */

enum { TAKES_FIELDS = 1, TAKES_USER = 2, TAKES_OVERLAP = 4, TAKES_ID = 8 };

static const struct {
    const char *name;
    int takes;
    int (*fn)(const struct key_options *o, const char *id);
} commands[] = {
    {"create", TAKES_FIELDS | TAKES_USER, create},
    {"list", 0, list},
    {"show", TAKES_ID, show},
    {"set", TAKES_ID | TAKES_FIELDS, set},
    {"disable", TAKES_ID, disable},
    {"enable", TAKES_ID, enable},
    {"rotate", TAKES_ID | TAKES_OVERLAP, rotate},
    {"revoke", TAKES_ID, revoke_key},
};

static int run_command(size_t index, int argc, char **argv)
{
    struct key_options o = {0};
    int takes = commands[index].takes, operands = takes & TAKES_ID ? 1 : 0;
    const struct {
        int needs;
        struct cmd_option option;
    } all[] = {
        {0, {"json", 0, NULL, &o.json}},
        {0, {"config", 0, &o.config, NULL}},
        {TAKES_USER, {"user", 0, &o.user, NULL}},
        {TAKES_OVERLAP, {"overlap", 0, &o.overlap, NULL}},
        {TAKES_FIELDS, {"name", 0, &o.name, NULL}},
        {TAKES_FIELDS, {"requests-per-minute", 0, &o.rpm, NULL}},
        {TAKES_FIELDS, {"requests-per-day", 0, &o.rpd, NULL}},
        {TAKES_FIELDS, {"tokens-per-day", 0, &o.tpd, NULL}},
        {TAKES_FIELDS, {"max-concurrent", 0, &o.max_concurrent, NULL}},
        {TAKES_FIELDS, {"cost-per-day", 0, &o.cost_per_day, NULL}},
        {TAKES_FIELDS, {"cost-per-month", 0, &o.cost_per_month, NULL}},
        {TAKES_FIELDS, {"max-tokens", 0, &o.max_tokens, NULL}},
        {TAKES_FIELDS, {"models", 0, &o.models, NULL}},
        {TAKES_FIELDS, {"allow-streaming", 0, NULL, &o.allow_streaming}},
        {TAKES_FIELDS, {"no-streaming", 0, NULL, &o.no_streaming}},
        {TAKES_FIELDS, {"allow-agent", 0, NULL, &o.allow_agent}},
        {TAKES_FIELDS, {"no-agent", 0, NULL, &o.no_agent}},
        {TAKES_FIELDS, {"allow-tools", 0, NULL, &o.allow_tools}},
        {TAKES_FIELDS, {"no-tools", 0, NULL, &o.no_tools}},
        {TAKES_FIELDS, {"require-signature", 0, NULL, &o.require_signature}},
        {TAKES_FIELDS, {"no-signature", 0, NULL, &o.no_signature}},
        {TAKES_FIELDS, {"response-cache", 0, NULL, &o.response_cache}},
        {TAKES_FIELDS, {"no-response-cache", 0, NULL, &o.no_response_cache}},
        {TAKES_FIELDS, {"signing-secret", 0, NULL, &o.signing_secret}},
        {TAKES_FIELDS, {"priority", 0, &o.priority, NULL}},
        {TAKES_FIELDS, {"expires", 0, &o.expires, NULL}},
        {TAKES_FIELDS, {"metadata", 0, &o.metadata, NULL}},
    };
    struct cmd_option options[ARRAY_SIZE(all) + 1] = {0};
    for (size_t i = 0, n = 0; i < ARRAY_SIZE(all); i++) {
        if ((all[i].needs & takes) == all[i].needs)
            options[n++] = all[i].option;
    }
    int rc = cmd_options(argc, argv, options, operands, operands, usage);
    if (rc != CMD_GO_ON)
        return rc;
    return commands[index].fn(&o, operands ? argv[optind] : NULL);
}

int cmd_key(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(what, commands[i].name) == 0)
            return run_command(i, argc - 1, argv + 1);
    }
    bool help = strcmp(what, "--help") == 0 || strcmp(what, "-h") == 0;
    usage(help ? stdout : stderr);
    return help ? 0 : 2;
}
