/* key.c - `claudegate key create|list|set|revoke`. Works while the server runs: it writes to the
 * same database, and the server notices. */
#include "auth/auth.h"
#include "cmd/cmd.h"
#include "core/clock.h"
#include "setup/make_key.h"
#include "setup/setup.h"
#include "store/key_json.h"

#include <unistd.h>

#define EXPIRES_DAYS_MAX 36500
#define MODELS_MAX       64

static void usage(FILE *out)
{
    fputs("Usage: claudegate key create --name NAME [OPTIONS]\n"
          "       claudegate key list [--json]\n"
          "       claudegate key set ID --priority N\n"
          "       claudegate key revoke ID\n\n"
          "Options of create (defaults come from the settings keys.*):\n"
          "  --name NAME                what the key is for\n"
          "  --user NAME                the user it belongs to (default: admin, made if missing)\n"
          "  --requests-per-minute N    or 'unlimited'\n"
          "  --requests-per-day N       or 'unlimited'\n"
          "  --tokens-per-day N         or 'unlimited'\n"
          "  --max-concurrent N         requests at once, or 'unlimited' (default)\n"
          "  --cost-per-day USD         such as 2.50, or 'unlimited' (default)\n"
          "  --cost-per-month USD       the same\n"
          "  --max-tokens N             of one answer, or 'unlimited'\n"
          "  --models LIST              comma-separated names, '*' matches anything\n"
          "  --no-streaming             refuse stream:true\n"
          "  --allow-agent              may ask for agent turns, where agent.enabled is set\n"
          "  --priority N               1 to 10: its share of the workers when they are scarce\n"
          "                             (default: 1; 10 gets ten times the time of 1)\n"
          "  --expires WHEN             2027-01-31, 2027-01-31T12:00:00Z, or 30d from now\n"
          "  --json                     print one JSON object\n"
          "  --config FILE              the YAML file (default: CLAUDEGATE_CONFIG, or none)\n\n"
          "The key is printed once and stored only as a hash. ID is the key's id or the 12\n"
          "characters after 'sk-cg-'.\n",
          out);
}

struct options {
    const char *config, *user, *models, *expires, *rpm, *rpd, *tpd, *max_tokens, *priority;
    const char *max_concurrent, *cost_per_day, *cost_per_month;
    bool json, no_streaming, allow_agent;
    struct new_key key;
    int64_t expires_at;
    int priority_value;
};

/* --- printing ---------------------------------------------------------------------------- */

static void put_limit(struct buf *b, const char *name, int64_t v)
{
    buf_printf(b, "\"%s\":", name);
    if (v < 0)
        buf_adds(b, "null");
    else
        buf_printf(b, "%lld", (long long)v);
}

static void put_time(struct buf *b, const char *name, int64_t at)
{
    char text[CLOCK_RFC3339_SIZE];
    if (at)
        buf_printf(b, "\"%s\":\"%s\"", name, clock_rfc3339(at, text));
    else
        buf_printf(b, "\"%s\":null", name);
}

static void put_key(struct buf *b, const struct api_key *k, const char *text)
{
    buf_printf(b, "{\"id\":\"%s\",\"publicId\":\"%s\",", k->id, k->public_id);
    if (text)
        buf_printf(b, "\"key\":\"%s\",", text);
    buf_adds(b, "\"name\":");
    buf_json_str(b, str_c(k->name));
    buf_printf(b, ",\"status\":\"%s\",\"priority\":%d,", k->status, k->priority);
    put_time(b, "createdAt", k->created_at);
    buf_addc(b, ',');
    put_time(b, "expiresAt", k->expires_at);
    buf_addc(b, ',');
    put_time(b, "lastUsedAt", k->last_used_at);
    buf_adds(b, ",\"limits\":");
    key_limits_write(b, &k->limits);
    buf_adds(b, ",\"permissions\":{\"models\":[");
    for (char **m = k->permissions.models; *m; m++) {
        if (m != k->permissions.models)
            buf_addc(b, ',');
        buf_json_str(b, str_c(*m));
    }
    buf_adds(b, "],");
    put_limit(b, "maxTokens", k->permissions.max_tokens);
    buf_printf(b, ",\"allowStreaming\":%s,\"allowAgent\":%s}}",
               k->permissions.allow_streaming ? "true" : "false",
               k->permissions.allow_agent ? "true" : "false");
}

static void print_created(const struct options *o, const struct api_key *k, const char *text)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    if (o->json) {
        put_key(&b, k, text);
        buf_addc(&b, '\n');
    } else {
        buf_printf(&b, "Key '%s' created. It is shown only now:\n\n  %s\n", k->name, text);
    }
    fputs(buf_cstr(&b), stdout);
    buf_release(&b);
}

/* --- create ------------------------------------------------------------------------------ */

static bool parse_expires(const char *text, int64_t *ret_at)
{
    uint64_t days;
    size_t n = strlen(text);
    if (n > 1 && text[n - 1] == 'd' && str_to_u64(str_n(text, n - 1), &days) && days > 0 &&
        days <= EXPIRES_DAYS_MAX) {
        *ret_at = clock_wall_ms() + (int64_t)days * 86400000;
        return true;
    }
    if (!clock_parse_rfc3339(text, ret_at)) {
        fprintf(stderr,
                "claudegate: --expires: must be a date such as 2027-01-31, a time such as "
                "2027-01-31T12:00:00Z, or a number of days such as 30d; got '%s'\n",
                text);
        return false;
    }
    if (*ret_at <= clock_wall_ms()) {
        fprintf(stderr, "claudegate: --expires: '%s' is in the past\n", text);
        return false;
    }
    return true;
}

static bool parse_priority(const char *text, int *ret_priority)
{
    uint64_t v;
    if (!str_to_u64(str_c(text), &v) || v < 1 || v > KEY_PRIORITY_MAX) {
        fprintf(stderr, "claudegate: --priority: must be a whole number from 1 to %d; got '%s'\n",
                KEY_PRIORITY_MAX, text);
        return false;
    }
    *ret_priority = (int)v;
    return true;
}

static bool parse_models(const char *list, char **out)
{
    struct str rest = str_c(list);
    size_t n = 0;
    do {
        struct str one = str_trim(str_split(&rest, ','));
        if (one.len == 0 || n == MODELS_MAX) {
            fprintf(stderr, "claudegate: --models: must list 1 to %d names; got '%s'\n", MODELS_MAX,
                    list);
            return false;
        }
        out[n++] = str_dup(one);
    } while (rest.len);
    return true;
}

/* A sum in USD, or "unlimited". */
static bool parse_cost(const char *option, const char *text, int64_t *ret_nano)
{
    *ret_nano = -1;
    if (strcmp(text, "unlimited") == 0 || key_money_parse(str_c(text), ret_nano))
        return true;
    fprintf(stderr,
            "claudegate: --%s: must be a sum in USD such as 2.50, at most 4000000 and with at most "
            "nine digits after the point, or 'unlimited'; got '%s'\n",
            option, text);
    return false;
}

static bool fill_newer_limits(const struct options *o, struct key_limits *l)
{
    return (!o->max_concurrent ||
            cmd_parse_limit("max-concurrent", o->max_concurrent, &l->max_concurrent)) &&
           (!o->cost_per_day || parse_cost("cost-per-day", o->cost_per_day, &l->cost_per_day)) &&
           (!o->cost_per_month ||
            parse_cost("cost-per-month", o->cost_per_month, &l->cost_per_month));
}

static bool fill_limits(struct options *o, const struct conf *conf, struct api_key *k)
{
    new_key_defaults(conf, k);
    return (!o->rpm ||
            cmd_parse_limit("requests-per-minute", o->rpm, &k->limits.requests_per_minute)) &&
           (!o->rpd || cmd_parse_limit("requests-per-day", o->rpd, &k->limits.requests_per_day)) &&
           (!o->tpd || cmd_parse_limit("tokens-per-day", o->tpd, &k->limits.tokens_per_day)) &&
           (!o->max_tokens ||
            cmd_parse_limit("max-tokens", o->max_tokens, &k->permissions.max_tokens)) &&
           fill_newer_limits(o, &k->limits);
}

static bool fill_key(struct options *o, const struct conf *conf, struct api_key *k)
{
    if (!fill_limits(o, conf, k))
        return false;
    if (o->models) {
        char *models[MODELS_MAX + 1] = {0};
        bool ok = parse_models(o->models, models);
        new_key_set_models(k, models);
        for (size_t i = 0; models[i]; i++)
            free(models[i]);
        if (!ok)
            return false;
    }
    if (o->no_streaming)
        k->permissions.allow_streaming = false;
    k->permissions.allow_agent = o->allow_agent;
    if (o->priority)
        k->priority = o->priority_value;
    k->expires_at = o->expires_at;
    return true;
}

static int create(struct options *o)
{
    struct loop *loop;
    struct db *db;
    int rc = -1;
    if (!o->key.name || !o->key.name[0] || strlen(o->key.name) > 255) {
        fputs("claudegate: --name: is required and may be 255 bytes long\n", stderr);
        return 2;
    }
    if (o->expires && !parse_expires(o->expires, &o->expires_at))
        return 2;
    if (o->priority && !parse_priority(o->priority, &o->priority_value))
        return 2;
    struct conf *conf = cmd_load_conf(o->config);
    if (!conf)
        return 1;
    struct api_key key = {0};
    if (!fill_key(o, conf, &key)) {
        api_key_release(&key);
        conf_free(conf);
        return 2;
    }
    if (cmd_open_db(conf, &loop, &db) == 0) {
        char text[KEY_TEXT_SIZE];
        rc = new_key_insert(loop, db, &o->key, &key, text);
        if (rc == 0)
            print_created(o, &key, text);
        explicit_bzero(text, sizeof(text));
        cmd_close_db(loop, db);
    }
    api_key_release(&key);
    conf_free(conf);
    return rc == 0 ? 0 : 1;
}

/* --- list, set, revoke -------------------------------------------------------------------- */

struct asked {
    struct setup_wait wait;
    const struct options *o;
    const char *id; /* as it was given; NULL: list */
};

static void print_line(const struct api_key *k)
{
    char when[CLOCK_RFC3339_SIZE] = "never";
    if (k->last_used_at)
        clock_rfc3339(k->last_used_at, when);
    printf("%s  %-8s  priority %-2d  last used %-24s  %s\n", k->public_id, k->status, k->priority,
           when, k->name);
}

static void on_list(void *ctx, const struct api_key *keys, size_t count, const struct err *err)
{
    struct asked *a = ctx;
    struct buf b;
    buf_init(&b, (size_t)256 << 20);
    buf_addc(&b, '[');
    for (size_t i = 0; i < count && !err; i++) {
        if (!a->o->json) {
            print_line(&keys[i]);
            continue;
        }
        buf_adds(&b, i ? "," : "");
        put_key(&b, &keys[i], NULL);
    }
    if (a->o->json && !err)
        printf("%s]\n", buf_cstr(&b));
    buf_release(&b);
    setup_answered(&a->wait, err);
}

static void on_revoked(void *ctx, const struct api_key *key, const struct err *err)
{
    struct asked *a = ctx;
    (void)key;
    if (!err)
        printf("Key %s revoked.\n", a->id);
    setup_answered(&a->wait, err);
}

static void on_set(void *ctx, const struct api_key *key, const struct err *err)
{
    struct asked *a = ctx;
    if (!err)
        printf("Key %s has priority %d.\n", a->id, key->priority);
    setup_answered(&a->wait, err);
}

typedef void ask_fn(struct db *db, struct asked *a);

static void ask_list(struct db *db, struct asked *a)
{
    api_key_list(db, on_list, a);
}

static void ask_set(struct db *db, struct asked *a)
{
    api_key_set_priority(db, a->id, a->o->priority_value, on_set, a);
}

static void ask_revoke(struct db *db, struct asked *a)
{
    api_key_set_status(db, a->id, "revoked", on_revoked, a);
}

static int with_db(const struct options *o, const char *id, ask_fn *ask)
{
    struct conf *conf = cmd_load_conf(o->config);
    struct asked a = {.o = o, .id = id};
    struct db *db;
    int rc = -1;
    if (conf && cmd_open_db(conf, &a.wait.loop, &db) == 0) {
        ask(db, &a);
        rc = setup_wait(&a.wait);
        cmd_close_db(a.wait.loop, db);
    }
    conf_free(conf);
    return rc == 0 ? 0 : 1;
}

static int set(struct options *o, const char *id)
{
    if (!o->priority) {
        fputs("claudegate: key set: needs --priority\n", stderr);
        return 2;
    }
    return parse_priority(o->priority, &o->priority_value) ? with_db(o, id, ask_set) : 2;
}

/* --- arguments --------------------------------------------------------------------------- */

int cmd_key(int argc, char **argv)
{
    struct options o = {.key = {.user = "admin"}};
    const struct cmd_option options[] = {
        {"name", 0, &o.key.name, NULL},
        {"user", 0, &o.key.user, NULL},
        {"requests-per-minute", 0, &o.rpm, NULL},
        {"requests-per-day", 0, &o.rpd, NULL},
        {"tokens-per-day", 0, &o.tpd, NULL},
        {"max-tokens", 0, &o.max_tokens, NULL},
        {"models", 0, &o.models, NULL},
        {"no-streaming", 0, NULL, &o.no_streaming},
        {"allow-agent", 0, NULL, &o.allow_agent},
        {"priority", 0, &o.priority, NULL},
        {"expires", 0, &o.expires, NULL},
        {"json", 0, NULL, &o.json},
        {"max-concurrent", 0, &o.max_concurrent, NULL},
        {"cost-per-day", 0, &o.cost_per_day, NULL},
        {"cost-per-month", 0, &o.cost_per_month, NULL},
        {"config", 0, &o.config, NULL},
        {0},
    };
    int rc = cmd_options(argc, argv, options, 1, 2, usage);
    if (rc != CMD_GO_ON)
        return rc;
    const char *what = argv[optind], *id = optind + 1 < argc ? argv[optind + 1] : NULL;
    if (strcmp(what, "create") == 0 && !id)
        return create(&o);
    if (strcmp(what, "list") == 0 && !id)
        return with_db(&o, NULL, ask_list);
    if (strcmp(what, "set") == 0 && id)
        return set(&o, id);
    if (strcmp(what, "revoke") == 0 && id)
        return with_db(&o, id, ask_revoke);
    usage(stderr);
    return 2;
}
