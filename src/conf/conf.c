/* conf.c - one load: defaults, then the file, then the environment, then what must hold between
 * settings.
 *
 * Nothing stops at the first error: each is added to the report, the setting keeps its former
 * value and is marked broken, so that rules between settings are not judged on a value nobody
 * wrote. A setting in the file is checked even where the environment replaces it. */
#include "conf/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1 << 20)

/* ---- errors ---- */

/* Names from the file stand in messages: no control characters from there. */
static void add_printable(struct buf *out, const char *s)
{
    for (; *s; s++)
        buf_addc(out, (unsigned char)*s < 0x20 || *s == 0x7F ? '?' : *s);
}

static void PRINTF_LIKE(4, 0)
    add_error(struct loader *l, const char *where, const char *name, const char *fmt, va_list ap)
{
    if (++l->error_count > LOAD_MAX_ERRORS)
        return;
    add_printable(l->errors, where);
    buf_adds(l->errors, ": ");
    if (name) {
        add_printable(l->errors, name);
        buf_adds(l->errors, ": ");
    }
    buf_vprintf(l->errors, fmt, ap);
    buf_addc(l->errors, '\n');
}

void loader_error(struct loader *l, const char *where, const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    add_error(l, where, name, fmt, ap);
    va_end(ap);
}

void loader_error_at(struct loader *l, int line, const char *name, const char *fmt, ...)
{
    AUTO(free_charp)
    char *where =
        l->variable ? x_printf("environment: %s", l->variable) : x_printf("%s:%d", l->path, line);
    va_list ap;
    va_start(ap, fmt);
    add_error(l, where, name, fmt, ap);
    va_end(ap);
}

/* An error of a setting, put where its value came from. */
static void PRINTF_LIKE(3, 4) value_error(struct loader *l, int index, const char *fmt, ...)
{
    const struct conf_origin *o = &l->conf->origins[index];
    bool env = o->kind == ORIGIN_ENV;
    va_list ap;
    va_start(ap, fmt);
    add_error(l,
              env        ? "environment"
              : o->where ? o->where
                         : "default",
              env ? o->where : settings[index].name, fmt, ap);
    va_end(ap);
}

/* ---- values ---- */

/* Parses text as the value of a row; where is owned afterwards. */
static void set_value_consume(struct loader *l, int index, struct str text, enum origin_kind kind,
                              char *where)
{
    AUTO(buf_release) struct buf rule;
    struct conf_origin *o = &l->conf->origins[index];
    buf_init(&rule, 1024);
    free(o->where);
    o->where = where;
    o->kind = kind;
    if (setting_parse(&settings[index], text, l->conf, &rule) != 0) {
        o->broken = true;
        value_error(l, index, "%s", buf_cstr(&rule));
    }
}

void loader_note_file(struct loader *l, int index, int line)
{
    struct conf_origin *o = &l->conf->origins[index];
    o->kind = ORIGIN_FILE;
    x_replace(&o->where, NULL);
    o->where = x_printf("%s:%d", l->path, line);
}

void loader_set_from_file(struct loader *l, int index, struct str text, int line)
{
    set_value_consume(l, index, text, ORIGIN_FILE, x_printf("%s:%d", l->path, line));
}

static void set_defaults(struct conf *conf)
{
    for (size_t i = 0; i < settings_count; i++) {
        AUTO(buf_release) struct buf rule;
        buf_init(&rule, 1024);
        int rc = setting_parse(&settings[i], str_c(settings[i].def), conf, &rule);
        BUG_ON(rc != 0);
    }
}

/* ---- file ---- */

static int read_all(int fd, struct buf *text)
{
    for (;;) {
        if (!buf_reserve(text, 1)) {
            errno = EFBIG;
            return -1;
        }
        ssize_t n = read(fd, text->data + text->len, text->cap - text->len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        buf_grow_len(text, (size_t)n);
    }
}

static void read_file(struct loader *l)
{
    struct buf text;
    buf_init(&text, FILE_MAX);
    /* All at once: growing would leave copies of secrets in freed memory. */
    bool room = buf_reserve(&text, FILE_MAX);
    BUG_ON(!room);
    int fd = open(l->path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : read_all(fd, &text);
    if (rc != 0 && errno == EFBIG)
        loader_error(l, l->path, NULL, "must be smaller than 1 MiB");
    else if (rc != 0)
        loader_error(l, l->path, NULL, "cannot read: %s", strerror(errno));
    else
        loader_read_yaml(l, buf_str(&text));
    if (fd >= 0)
        close(fd);
    if (text.data)
        explicit_bzero(text.data, text.cap);
    buf_release(&text);
}

/* ---- environment ---- */

const char *loader_env(const struct loader *l, const char *name)
{
    size_t n = strlen(name);
    for (char *const *env = l->env; *env; env++) {
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
            return (*env)[n + 1] ? *env + n + 1 : NULL;
    }
    return NULL;
}

static void set_list_from_env(struct loader *l, int index, struct str text, const char *name)
{
    struct conf_origin *o = &l->conf->origins[index];
    o->kind = ORIGIN_ENV;
    x_replace(&o->where, name);
    l->variable = name;
    loader_read_yaml_list(l, index, text);
    l->variable = NULL;
}

static void read_env_setting(struct loader *l, int index)
{
    const struct setting *s = &settings[index];
    char mechanical[SETTING_ENV_SIZE];
    const char *name = s->env;
    const char *value = name ? loader_env(l, name) : NULL;
    if (!value) {
        name = setting_env_name(s, mechanical);
        value = loader_env(l, name);
    }
    if (value && s->kind == SET_TARGETS)
        set_list_from_env(l, index, str_c(value), name);
    else if (value)
        set_value_consume(l, index, str_c(value), ORIGIN_ENV, x_strdup(name));
}

/* PORT, which platforms set, replaces the port of server.listen; a socket has none. */
static void read_env_port(struct loader *l)
{
    const char *port = loader_env(l, "PORT");
    uint64_t n;
    if (!port)
        return;
    if (!str_to_u64(str_c(port), &n) || n > 65535) {
        loader_error(l, "environment", "PORT", "must be a whole number from 0 to 65535");
        return;
    }
    if (str_starts(str_c(l->conf->server.listen), "unix:"))
        return;
    int index = setting_find(STR("server.listen"));
    struct conf_origin *o = &l->conf->origins[index];
    char *colon = strrchr(l->conf->server.listen, ':');
    char *listen = x_printf("%.*s:%llu", (int)(colon - l->conf->server.listen),
                            l->conf->server.listen, (unsigned long long)n);
    free(l->conf->server.listen);
    l->conf->server.listen = listen;
    free(o->also);
    o->also = x_strdup("PORT");
}

static bool env_is_known(struct str name)
{
    char mechanical[SETTING_ENV_SIZE];
    if (str_eq_c(name, "CLAUDEGATE_CONFIG"))
        return true;
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        if (str_eq_c(name, setting_env_name(s, mechanical)) || (s->env && str_eq_c(name, s->env)))
            return true;
    }
    return false;
}

/* A mistyped variable must not pass in silence. */
static void refuse_unknown_env(struct loader *l)
{
    for (char *const *env = l->env; *env; env++) {
        struct str value = str_c(*env);
        struct str name = str_split(&value, '=');
        if (!str_starts(name, "CLAUDEGATE_") || value.len == 0 || env_is_known(name))
            continue;
        AUTO(buf_release) struct buf near;
        AUTO(free_charp) char *shown = x_strndup(name.p, name.len < 100 ? name.len : 100);
        buf_init(&near, 1024);
        setting_suggest_env(&near, name);
        loader_error(l, "environment", shown, "unknown variable %s", buf_cstr(&near));
    }
}

static void read_env(struct loader *l)
{
    for (size_t i = 0; i < settings_count; i++)
        read_env_setting(l, (int)i);
    read_env_port(l);
    refuse_unknown_env(l);
}

/* ---- rules between settings ---- */

/* The two indexes, unless one of them is broken already. */
static bool both_sound(struct loader *l, const char *a, const char *b, int *ret_a, int *ret_b)
{
    *ret_a = setting_find(str_c(a));
    *ret_b = setting_find(str_c(b));
    BUG_ON(*ret_a < 0 || *ret_b < 0);
    return !l->conf->origins[*ret_a].broken && !l->conf->origins[*ret_b].broken;
}

/* The one of two settings that was set explicitly, the first when both were. */
static int at_fault(struct loader *l, int a, int b)
{
    return l->conf->origins[a].kind == ORIGIN_DEFAULT ? b : a;
}

static void check_between(struct loader *l)
{
    const struct conf *c = l->conf;
    int a, b;
    if (both_sound(l, "upstream.api_key", "upstream.auth_token", &a, &b) &&
        c->upstream.api_key[0] && c->upstream.auth_token[0])
        value_error(l, a, "cannot be set together with upstream.auth_token (from %s)",
                    c->origins[b].where);
    if (both_sound(l, "vault.master_key", "vault.master_key_file", &a, &b) &&
        c->vault.master_key[0] && c->vault.master_key_file[0])
        value_error(l, a, "cannot be set together with vault.master_key_file (from %s)",
                    c->origins[b].where);
    if (both_sound(l, "agent.enabled", "sandbox.uids", &a, &b) && c->agent.enabled &&
        c->sandbox.uids[0])
        value_error(l, a,
                    "cannot be set together with sandbox.uids (from %s): the workspaces are in "
                    "data_dir, which is closed to all users but the server's own",
                    c->origins[b].where);
    if (both_sound(l, "pool.min_spare", "pool.max_workers", &a, &b) &&
        c->pool.min_spare > c->pool.max_workers)
        value_error(l, at_fault(l, a, b),
                    "pool.min_spare (%lld) must be at most "
                    "pool.max_workers (%lld)",
                    (long long)c->pool.min_spare, (long long)c->pool.max_workers);
    if (both_sound(l, "pool.silence_timeout_ms", "pool.turn_timeout_ms", &a, &b) &&
        c->pool.silence_timeout_ms >= c->pool.turn_timeout_ms)
        value_error(l, at_fault(l, a, b),
                    "pool.silence_timeout_ms (%lld) must be less than "
                    "pool.turn_timeout_ms (%lld)",
                    (long long)c->pool.silence_timeout_ms, (long long)c->pool.turn_timeout_ms);
}

/* The list against the rest. A worker is built from nothing, but pass_env could hand a credential's
 * variable on to it. */
static void check_targets(struct loader *l)
{
    const struct conf *c = l->conf;
    const struct conf_targets *list = c->upstream.targets;
    static const char *const others[] = {"upstream.api_key", "upstream.auth_token"};
    int at, other;
    int64_t weights = 0;
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        bool sound = both_sound(l, "upstream.targets", others[i], &at, &other);
        if (sound && list && (*setting_text(&settings[other], l->conf))[0])
            value_error(l, at, "cannot be set together with %s (from %s): make it one of them",
                        others[i], c->origins[other].where);
    }
    if (!list || !both_sound(l, "upstream.targets", "claude.pass_env", &at, &other))
        return;
    for (size_t i = 0; i < list->count; i++) {
        const struct conf_target *t = &list->items[i];
        weights += t->weight;
        if (pass_env_has(c->claude.pass_env, t->api_key_env) ||
            pass_env_has(c->claude.pass_env, t->auth_token_env))
            value_error(l, other,
                        "must not name the variable of a credential (upstream.targets[%zu])", i);
    }
    if (weights == 0)
        value_error(l, at, "one of them must have a weight above 0");
}

int conf_load(const char *path, char *const *env, struct conf **ret_conf, struct buf *ret_errors)
{
    struct conf *conf = x_calloc(1, sizeof(*conf));
    struct loader l = {
        .conf = conf, .path = path, .env = env ? env : environ, .errors = ret_errors};
    conf->origins = x_calloc(settings_count, sizeof(*conf->origins));
    set_defaults(conf);
    if (path)
        read_file(&l);
    read_env(&l);
    check_between(&l);
    check_targets(&l);
    if (l.error_count > LOAD_MAX_ERRORS)
        buf_printf(ret_errors, "and %d more errors\n", l.error_count - LOAD_MAX_ERRORS);
    if (l.error_count) {
        conf_free(conf);
        return -1;
    }
    *ret_conf = conf;
    return 0;
}

void conf_free(struct conf *conf)
{
    if (!conf)
        return;
    for (size_t i = 0; i < settings_count; i++) {
        setting_release(&settings[i], conf);
        if (conf->origins) {
            free(conf->origins[i].where);
            free(conf->origins[i].also);
        }
    }
    free(conf->origins);
    free(conf);
}
