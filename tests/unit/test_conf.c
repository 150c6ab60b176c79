/* test_conf.c - settings: defaults, every kind, every error with its line, who wins, what is shown.
 *
 * Files are written to a directory of the test's own. load() takes the text of a file and a list
 * of variables and leaves the result in `conf` and `errors`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "conf/conf.h"
#include "conf/redis_url.h"
#include "conf/settings.h"

#include <sys/stat.h>
#include <unistd.h>

#define SECRET "sk-ant-very-secret-0123456789"

static char dir[] = "/tmp/test_conf.XXXXXX";
static char *file;
static struct conf *conf;
static struct buf errors;

#define ENV(...) ((const char *const[]){__VA_ARGS__, NULL})
static const char *const no_env[] = {NULL};
static char *const nothing[] = {NULL};

static void write_file(const char *text, size_t len)
{
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void forget(void)
{
    conf_free(conf);
    conf = NULL;
    buf_release(&errors);
    buf_init(&errors, 1 << 20);
}

static int load_n(const char *text, size_t len, const char *const *env)
{
    forget();
    if (text)
        write_file(text, len);
    int rc = conf_load(text ? file : NULL, (char *const *)(uintptr_t)env, &conf, &errors);
    assert_int_equal(rc == 0, conf != NULL);
    assert_int_equal(rc == 0, errors.len == 0);
    return rc;
}

static int load(const char *text, const char *const *env)
{
    return load_n(text, text ? strlen(text) : 0, env);
}

static void assert_loads(const char *text, const char *const *env)
{
    if (load(text, env) != 0)
        fail_msg("refused: %s", buf_cstr(&errors));
}

static size_t count_lines(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += *s == '\n';
    return n;
}

/* Is there a line "FILE:<expected>"? '\n' at the end of `expected` pins the end of the line. */
static void assert_file_error(const char *expected)
{
    AUTO(free_charp) char *line = x_printf("%s:%s", file, expected);
    if (!strstr(buf_cstr(&errors), line))
        fail_msg("no line '%s' in:\n%s", line, buf_cstr(&errors));
}

static void assert_error(const char *expected)
{
    if (!strstr(buf_cstr(&errors), expected))
        fail_msg("no '%s' in:\n%s", expected, buf_cstr(&errors));
}

/* One line of YAML is refused, on line 1 or 2, with this rule. */
static void assert_refused(const char *text, const char *expected)
{
    assert_int_equal(load(text, no_env), -1);
    assert_file_error(expected);
    if (count_lines(buf_cstr(&errors)) != 1)
        fail_msg("more than one error:\n%s", buf_cstr(&errors));
}

static void assert_env_refused(const char *variable, const char *expected)
{
    assert_int_equal(load(NULL, ENV(variable)), -1);
    assert_string_equal(buf_cstr(&errors), expected);
}

static const char *show(void)
{
    static struct buf out;
    buf_release(&out);
    buf_init(&out, 1 << 20);
    if (conf)
        conf_show(conf, &out);
    return buf_cstr(&out);
}

static void assert_shown(const char *line)
{
    if (!strstr(show(), line))
        fail_msg("no '%s' in:\n%s", line, show());
}

static void test_defaults(void **state)
{
    (void)state;
    assert_loads(NULL, no_env);
    assert_string_equal(conf->server.listen, "127.0.0.1:3001");
    assert_int_equal(conf->server.max_body_bytes, 33554432);
    assert_int_equal(conf->server.max_header_bytes, 32768);
    assert_false(conf->server.hsts);
    assert_string_equal(conf->data_dir, "data");
    assert_string_equal(conf->log.level, "info");
    assert_string_equal(conf->log.dir, "");
    assert_true(conf->log.console);
    assert_string_equal(conf->database.url, "");
    assert_string_equal(conf->redis.url, "");
    assert_int_equal(conf->limits.when_redis_is_away, CONF_AWAY_SHARE);
    assert_string_equal(conf->limits.timezone, "UTC");
    assert_string_equal(conf->upstream.base_url, "https://api.anthropic.com");
    assert_string_equal(conf->upstream.api_key, "");
    assert_int_equal(conf->upstream.demo, DEMO_OFF);
    assert_string_equal(conf->claude.model, "claude-sonnet-4-5");
    assert_int_equal(conf->pool.max_workers, 8);
    assert_int_equal(conf->pool.silence_timeout_ms, 240000);
    assert_int_equal(conf->session.ttl, 3600);
    assert_int_equal(conf->keys.requests_per_minute, 10);
    assert_int_equal(conf->keys.requests_per_day, 1000);
    assert_int_equal(conf->keys.tokens_per_day, 100000);
    assert_int_equal(conf->keys.max_tokens, 4096);
    assert_string_equal(conf->keys.models, "claude-*");
    assert_string_equal(conf->metrics.token, "");
}

static void test_empty_file_is_defaults(void **state)
{
    (void)state;
    assert_loads("", no_env);
    assert_loads("# only a comment\n", no_env);
    assert_loads("---\npool:\n  # max_workers: 3\nserver: ~\n...\n", no_env);
    assert_int_equal(conf->pool.max_workers, 8);
}

/* The rows and the struct belong together: every byte range once, names unique, defaults valid. */
static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        assert_non_null(s->help);
        assert_int_equal(setting_find(str_c(s->name)), i);
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(settings[j].offset, s->offset);
        if (!setting_is_text(s) && s->kind != SET_BOOL && s->kind != SET_INDEX &&
            s->kind != SET_TARGETS)
            assert_true(s->min < s->max);
        assert_true(s->kind != SET_CHOICE || s->choices);
    }
    /* No member of struct conf without a row: each takes one word. */
    for (size_t at = 0; at < offsetof(struct conf, origins); at += sizeof(int64_t)) {
        bool found = false;
        for (size_t i = 0; i < settings_count; i++)
            found = found || settings[i].offset / sizeof(int64_t) == at / sizeof(int64_t);
        if (!found)
            fail_msg("no row for the member at byte %zu of struct conf", at);
    }
}

static void test_kinds_from_file(void **state)
{
    (void)state;
    assert_loads("server:\n  listen: '[::1]:80'\n  hsts: true\n  idle_timeout: 5m\n"
                 "  max_body_bytes: 1GiB\n"
                 "log: {level: debug, console: false}\n"
                 "upstream:\n  demo: auto\n  connect_timeout_ms: 1500ms\n  api_key: 12345\n"
                 "pool:\n  max_workers: 20\n  max_rss_mb: 1GiB\n  turn_timeout_ms: \"1h\"\n"
                 "keys:\n  requests_per_day: -1\n"
                 "data_dir: /srv/d\xC3\xA4ta\n",
                 no_env);
    assert_string_equal(conf->server.listen, "[::1]:80");
    assert_true(conf->server.hsts);
    assert_int_equal(conf->server.idle_timeout, 300);
    assert_int_equal(conf->server.max_body_bytes, 1073741824);
    assert_string_equal(conf->log.level, "debug");
    assert_false(conf->log.console);
    assert_int_equal(conf->upstream.demo, DEMO_AUTO);
    assert_int_equal(conf->upstream.connect_timeout_ms, 1500);
    assert_string_equal(conf->upstream.api_key, "12345");
    assert_int_equal(conf->pool.max_workers, 20);
    assert_int_equal(conf->pool.max_rss_mb, 1024);
    assert_int_equal(conf->pool.turn_timeout_ms, 3600000);
    assert_int_equal(conf->keys.requests_per_day, -1);
    assert_string_equal(conf->data_dir, "/srv/d\xC3\xA4ta");
    assert_int_equal(conf->server.max_header_bytes, 32768); /* untouched */
}

static void test_suffixes(void **state)
{
    static const struct {
        const char *text;
        int64_t seconds; /* -1: refused */
    } durations[] = {{"30", 30},
                     {"30s", 30},
                     {"2m", 120},
                     {"1h", 3600},
                     {"1d", 86400},
                     {"2000ms", 2},
                     {"500ms", -1},
                     {"1.5h", -1},
                     {"30 s", -1},
                     {"30S", -1},
                     {"s", -1},
                     {"-5s", -1},
                     {"", -1},
                     {"2d", -1},
                     {"1w", -1},
                     {"0x10", -1},
                     {"30ss", -1},
                     {"+30", -1},
                     {" 30", -1},
                     {"30MiB", -1},
                     {"9223372036854775807d", -1},
                     {"99999999999999999999", -1}};
    static const struct {
        const char *text;
        int64_t bytes;
    } sizes[] = {{"4096", 4096}, {"4096B", 4096}, {"4KiB", 4096},         {"1MiB", 1048576},
                 {"4KB", -1},    {"4k", -1},      {"17179869184GiB", -1}, {"2GiB", -1}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(durations); i++) {
        AUTO(free_charp)
        char *text = x_printf("server:\n  idle_timeout: \"%s\"\n", durations[i].text);
        AUTO(free_charp)
        char *env = x_printf("CLAUDEGATE_SERVER_IDLE_TIMEOUT=%s", durations[i].text);
        int rc = durations[i].seconds < 0 ? -1 : 0;
        assert_int_equal(load(text, no_env), rc);
        if (rc == 0)
            assert_int_equal(conf->server.idle_timeout, durations[i].seconds);
        else
            assert_file_error("2: server.idle_timeout: must be a duration from 1 to 86400 seconds, "
                              "as a plain number or like 30s, 5m or 1h\n");
        if (durations[i].text[0]) {
            assert_int_equal(load(NULL, ENV(env)), rc);
            if (rc == 0)
                assert_int_equal(conf->server.idle_timeout, durations[i].seconds);
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        AUTO(free_charp) char *env = x_printf("CLAUDEGATE_SERVER_MAX_BODY_BYTES=%s", sizes[i].text);
        assert_int_equal(load(NULL, ENV(env)), sizes[i].bytes < 0 ? -1 : 0);
        if (sizes[i].bytes >= 0)
            assert_int_equal(conf->server.max_body_bytes, sizes[i].bytes);
    }
}

static void test_all_errors_at_once(void **state)
{
    (void)state;
    int rc = load("server:\n"
                  "  listen: nonsense\n" /* 2 */
                  "  max_body_byte: 5\n" /* 3 unknown */
                  "  hsts: yes\n"        /* 4 */
                  "pool:\n"
                  "  max_workers: 0\n"      /* 6 */
                  "  max_workers: 4\n"      /* 7 duplicate */
                  "  min_spare: [1, 2]\n"   /* 8 */
                  "  max_requests: \"5\"\n" /* 9 quoted */
                  "  queue_max: lots\n"     /* 10 */
                  "log: loud\n"             /* 11 */
                  "data_dir:\n"             /* 12 */
                  "servers:\n"              /* 13 unknown section */
                  "  listen: 127.0.0.1:1\n"
                  "claude:\n"
                  "  model: true\n"  /* 16 */
                  "  bin: {a: b}\n"  /* 17 */
                  "log:\n"           /* 18 duplicate section */
                  "  level: INFO\n", /* 19 */
                  ENV("CLAUDEGATE_POOL_MAX_AGE=old", "PORT=http"));
    assert_int_equal(rc, -1);
    assert_file_error("2: server.listen: must be IPv4:port, [IPv6]:port");
    assert_file_error("3: server.max_body_byte: unknown setting (nearest: server.max_body_bytes");
    assert_file_error("4: server.hsts: must be true or false, without quotes\n");
    assert_file_error("6: pool.max_workers: must be a whole number from 1 to 10000");
    assert_file_error("7: pool.max_workers: is given twice, first on line 6\n");
    assert_file_error("8: pool.min_spare: must be a whole number from 0 to 10000");
    assert_file_error("9: pool.max_requests: must be a whole number");
    assert_file_error("10: pool.queue_max: must be a whole number");
    assert_file_error("11: log: must be a section");
    assert_file_error("12: data_dir: has no value; an empty text is written \"\"\n");
    assert_file_error("13: servers: unknown setting (nearest: server");
    assert_file_error("16: claude.model: must be a text that is not empty\n");
    assert_file_error("17: claude.bin: must be a text\n");
    assert_file_error("18: log: is given twice, first on line 11\n");
    assert_file_error("19: log.level: must be one of debug, info, warn, error\n");
    assert_error("environment: CLAUDEGATE_POOL_MAX_AGE: must be a duration from 1 to");
    assert_error("environment: PORT: must be a whole number from 0 to 65535\n");
    assert_int_equal(count_lines(buf_cstr(&errors)), 17);
}

static void test_unknown_names(void **state)
{
    (void)state;
    assert_refused("max_workers: 3\n",
                   "1: max_workers: unknown setting (nearest: pool.max_workers");
    assert_refused("pool:\n  listen: 127.0.0.1:1\n",
                   "2: pool.listen: unknown setting (nearest: server.listen");
    assert_refused("pool.max_workers: 3\n", "1: pool.max_workers: unknown setting; write 'pool:' "
                                            "and below it, indented, 'max_workers: ...'\n");
    assert_refused("zzzzzzzz: 3\n", "1: zzzzzzzz: unknown setting (nearest: ");
    assert_refused("pool:\n  ? [a, b]\n  : 3\n", "2: pool: a name must be a single word\n");
    assert_refused("\"pool\\0x\": 3\n", "1: pool: unknown setting");
    assert_refused("\"a\\nb\": 3\n", "1: a?b: unknown setting");
    assert_env_refused("CLAUDEGATE_POOL_MAXWORKERS=3",
                       "environment: CLAUDEGATE_POOL_MAXWORKERS: unknown variable (nearest: "
                       "CLAUDEGATE_POOL_MAX_WORKERS)\n");
    assert_env_refused("CLAUDEGATE_PORT=3",
                       "environment: CLAUDEGATE_PORT: unknown variable (nearest: PORT)\n");
    assert_env_refused("CLAUDEGATE_QUEUE_MAX=3", "environment: CLAUDEGATE_QUEUE_MAX: unknown "
                                                 "variable (nearest: CLAUDEGATE_POOL_QUEUE_MAX)\n");
    assert_loads(NULL, ENV("CLAUDEGATE_TYPO=", "CLAUDEGATE_CONFIG=/x", "ANTHROPIC_OTHER=1",
                           "POOL_MAX_WORKERS=9", "CLAUDEGATEX=1"));
}

static void test_env_precedence(void **state)
{
    static const char text[] = "pool:\n  max_workers: 3\nserver:\n  listen: 127.0.0.1:4\n";
    (void)state;
    assert_loads(text, no_env);
    assert_int_equal(conf->pool.max_workers, 3);
    assert_loads(text, ENV("CLAUDEGATE_POOL_MAX_WORKERS=5"));
    assert_int_equal(conf->pool.max_workers, 5);
    assert_loads(text, ENV("CLAUDEGATE_POOL_MAX_WORKERS="));
    assert_int_equal(conf->pool.max_workers, 3);
    assert_loads(text, ENV("CLAUDEGATE_SERVER_LISTEN=127.0.0.1:5"));
    assert_string_equal(conf->server.listen, "127.0.0.1:5");
    assert_loads(text, ENV("CLAUDEGATE_SERVER_LISTEN=127.0.0.1:5", "CLAUDEGATE_LISTEN=:6"));
    assert_string_equal(conf->server.listen, ":6");
    assert_loads(text, ENV("CLAUDEGATE_LOG_LEVEL=warn"));
    assert_string_equal(conf->log.level, "warn");
    assert_loads(text, ENV("CLAUDEGATE_LOG_LEVEL=warn", "LOG_LEVEL=error"));
    assert_string_equal(conf->log.level, "error");
    assert_loads(text, ENV("PORT=8080"));
    assert_string_equal(conf->server.listen, "127.0.0.1:8080");
    assert_loads(NULL, ENV("PORT=0", "CLAUDEGATE_LISTEN=[::1]:9"));
    assert_string_equal(conf->server.listen, "[::1]:0");
    assert_int_equal(load(NULL, ENV("PORT=65536")), -1);
}

/* Each setting through both of its variables and through the file. */
static void test_every_setting_has_a_variable(void **state)
{
    (void)state;
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        char name[SETTING_ENV_SIZE];
        const char *value = s->def[0]                                ? s->def
                            : strcmp(s->name, "database.url") == 0   ? "sqlite:x" /* a name too */
                            : strcmp(s->name, "sandbox.uids") == 0   ? "1-2"
                            : strcmp(s->name, "redis.url") == 0      ? "redis://x"
                            : strstr(s->name, "trusted_proxies")     ? "::1"
                            : strcmp(s->name, "models.aliases") == 0 ? "a=b"
                            : strcmp(s->name, "upstream.proxy") == 0 ? "http://x:1"
                                                                     : "x";
        AUTO(free_charp) char *a = x_printf("%s=%s", setting_env_name(s, name), value);
        AUTO(free_charp) char *b = x_printf("%s=%s", s->env ? s->env : name, value);
        AUTO(free_charp) char *shown = x_printf("# environment %s\n", s->env ? s->env : name);
        assert_loads(NULL, ENV(a));
        assert_non_null(strstr(show(), "# environment CLAUDEGATE_"));
        assert_loads(NULL, ENV(b));
        assert_non_null(strstr(show(), shown));
    }
}

static void test_aliases(void **state)
{
    (void)state;
    static const char *const bad[] = {"x", "a=", "=b", "a=b,,c=d", "a=b*", "a=b=c", "a b=c"};
    assert_loads("models:\n  aliases: 'gpt-4o*=claude-sonnet-4-5, o3 = claude-opus-4-5'\n",
                 ENV("PORT=0"));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(free_charp) char *text = x_printf("models:\n  aliases: '%s'\n", bad[i]);
        assert_refused(text, "2: models.aliases: must be name=model");
    }
}

static void test_environ_when_null(void **state)
{
    (void)state;
    char variable[] = "CLAUDEGATE_POOL_MAX_WORKERS=7";
    char *only[] = {variable, NULL};
    char **real = environ;
    environ = only;
    int rc = load(NULL, NULL);
    environ = real;
    if (rc != 0)
        fail_msg("refused: %s", buf_cstr(&errors));
    assert_int_equal(conf->pool.max_workers, 7);
}

static void test_show_tells_origins(void **state)
{
    (void)state;
    assert_loads("pool:\n  max_workers: 3\n  max_age: 2h\nupstream:\n  api_key: " SECRET "\n",
                 ENV("CLAUDEGATE_POOL_MIN_SPARE=2", "PORT=77", "CLAUDEGATE_DATA_DIR=/a \"b\""));
    AUTO(free_charp) char *workers = x_printf("  max_workers: 3  # %s:2\n", file);
    AUTO(free_charp) char *age = x_printf("  max_age: 7200  # %s:3\n", file);
    AUTO(free_charp) char *key = x_printf("  api_key: (set)  # %s:5\n", file);
    assert_shown(workers);
    assert_shown(age);
    assert_shown(key);
    assert_shown("  min_spare: 2  # environment CLAUDEGATE_POOL_MIN_SPARE\n");
    assert_shown("  listen: \"127.0.0.1:77\"  # default, port from environment PORT\n");
    assert_shown("\ndata_dir: \"/a \\\"b\\\"\"  # environment CLAUDEGATE_DATA_DIR\n");
    assert_shown("  auth_token: (not set)  # default\n");
    assert_shown("  demo: \"off\"  # default\n");
    assert_shown("  queue_max: 1000  # default\n");
}

/* What is shown is itself a file with the same meaning (secrets apart). */
static void test_show_can_be_loaded(void **state)
{
    (void)state;
    assert_loads("pool: {max_workers: 3}\nserver: {listen: ':80'}\n", no_env);
    AUTO(buf_release) struct buf copy;
    buf_init(&copy, 1 << 20);
    for (const char *p = show(); *p; p++) { /* without the lines of secrets */
        const char *end = strchr(p, '\n');
        struct str line = str_n(p, (size_t)(end - p));
        if (!str_contains(line, ": (not set)"))
            buf_addstr(&copy, str_n(p, line.len + 1));
        p = end;
    }
    assert_loads(buf_cstr(&copy), no_env);
    assert_int_equal(conf->pool.max_workers, 3);
    assert_string_equal(conf->server.listen, ":80");
}

static void test_secrets_never_shown(void **state)
{
    static const char *const secret_env[] = {
        "DATABASE_URL=sqlite:/" SECRET, "REDIS_URL=redis://:" SECRET "@h",
        "ANTHROPIC_API_KEY=" SECRET, "CLAUDEGATE_METRICS_TOKEN=" SECRET, NULL};
    static const char *const wrong_env[] = {"DATABASE_URL=mysql:/" SECRET,
                                            "REDIS_URL=redis://:" SECRET "@h:port",
                                            "ANTHROPIC_API_KEY=x " SECRET,
                                            "ANTHROPIC_AUTH_TOKEN=x " SECRET,
                                            "CLAUDEGATE_METRICS_TOKEN=\t" SECRET,
                                            "ANTHROPIC_BASE_URL=https://u:" SECRET "@h",
                                            NULL};
    (void)state;
    assert_loads(NULL, secret_env);
    assert_null(strstr(show(), SECRET));
    assert_shown("  url: (set)  # environment DATABASE_URL\n");
    assert_shown("  token: (set)  # environment CLAUDEGATE_METRICS_TOKEN\n");
    assert_loads(NULL, ENV("ANTHROPIC_AUTH_TOKEN=" SECRET));
    assert_null(strstr(show(), SECRET));
    assert_shown("  auth_token: (set)  # environment ANTHROPIC_AUTH_TOKEN\n");

    assert_int_equal(load("upstream:\n  api_key: [" SECRET "]\n  auth_token: 'a " SECRET "'\n"
                          "metrics:\n  token: {x: " SECRET "}\n",
                          wrong_env),
                     -1);
    assert_null(strstr(buf_cstr(&errors), SECRET));
    assert_int_equal(count_lines(buf_cstr(&errors)), 9);
}

static void test_listen(void **state)
{
    static const char *const good[] = {
        "127.0.0.1:0", "0.0.0.0:65535", "[::]:80", "[::1]:80",
        ":3001",       "localhost:1",   "unix:/s", "unix:/run/a:b/x.sock"};
    static const char *const bad[] = {
        "3001",         "127.0.0.1",      "127.0.0.1:",    "127.0.0.1:65536",
        "::1:80",       "[::1]",          "[]:80",         "[127.0.0.1]:80",
        "256.0.0.1:80", "example.com:80", "127.0.0.1:80 ", "127.0.0.1:-1",
        "a:b:c",        "unix:",          "unix:s",        "unix:/run/"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        AUTO(free_charp) char *env = x_printf("CLAUDEGATE_LISTEN=%s", good[i]);
        assert_loads(NULL, ENV(env));
        assert_string_equal(conf->server.listen, good[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(free_charp) char *env = x_printf("CLAUDEGATE_LISTEN=%s", bad[i]);
        assert_int_equal(load(NULL, ENV(env)), -1);
        assert_error("environment: CLAUDEGATE_LISTEN: must be IPv4:port");
    }
    assert_loads(NULL, ENV("CLAUDEGATE_LISTEN=unix:/s", "PORT=80")); /* it has no port */
    assert_string_equal(conf->server.listen, "unix:/s");
}

static void test_base_url(void **state)
{
    static const char *const good[] = {"https://api.example.com", "https://api.example.com:8443/p/",
                                       "http://127.0.0.1:9",      "http://127.8.9.1",
                                       "http://[::1]:9/x",        "http://localhost:9"};
    static const char *const clear[] = {
        "http://api.example.com",   "http://10.0.0.1:80", "http://127.0.0.1.example.com",
        "http://localhost.example", "http://[::2]/",      "http://127.example.com"};
    static const char *const bad[] = {
        "api.example.com", "ftp://h/",     "unix:/x",
        "https://",        "https://u@h",  "http://127.0.0.1@evil.example/",
        "https://h/?q=1",  "https://h/#f", "file:///etc/passwd"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        AUTO(free_charp) char *env = x_printf("ANTHROPIC_BASE_URL=%s", good[i]);
        assert_loads(NULL, ENV(env));
        assert_string_equal(conf->upstream.base_url, good[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(clear); i++) {
        AUTO(free_charp) char *env = x_printf("ANTHROPIC_BASE_URL=%s", clear[i]);
        assert_int_equal(load(NULL, ENV(env)), -1);
        assert_error("environment: ANTHROPIC_BASE_URL: plain http is allowed to this machine only");
        assert_error("prompts and the credential would travel in the clear");
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(free_charp) char *env = x_printf("ANTHROPIC_BASE_URL=%s", bad[i]);
        assert_int_equal(load(NULL, ENV(env)), -1);
    }
}

static void test_stores(void **state)
{
    static const char *const misread[] = {"u:se@cret@h/d", "u:se/cret@h/d",
                                          "u:12/cret@h/d", "u:se%cret@h/d",
                                          "u:p@h:port/d",  "u:p@h/d?no_such_option=1",
                                          "u:p@[::1/d"};
    (void)state;
    assert_loads(NULL, ENV("DATABASE_URL=sqlite:data/x.db"));
    assert_loads(NULL, ENV("DATABASE_URL=sqlite:///var/x.db"));
    assert_loads(NULL, ENV("DATABASE_URL=postgres://u:p@h/d"));
    assert_loads(NULL, ENV("DATABASE_URL=postgresql://u:p%40%2F%3A@h:5433/d?sslmode=verify-full"));
    assert_loads(NULL, ENV("DATABASE_URL=postgres://u@h1:1,h2:2/d?target_session_attrs=any"));
    assert_loads(NULL, ENV("DATABASE_URL=postgres:///d?host=/run/postgresql"));
    for (size_t i = 0; i < ARRAY_SIZE(misread); i++) {
        AUTO(free_charp) char *env = x_printf("DATABASE_URL=postgres://%s", misread[i]);
        assert_env_refused(env, "environment: DATABASE_URL: must have the form "
                                "postgres://user:password@host:port/database?option=value, with "
                                "special characters written as %XX\n");
    }
    assert_env_refused("DATABASE_URL=sqlite:",
                       "environment: DATABASE_URL: must be empty, sqlite:PATH or postgres://...\n");
    assert_env_refused("DATABASE_URL=sqlite://x.db",
                       "environment: DATABASE_URL: must be empty, sqlite:PATH or postgres://...\n");
    assert_refused("keys:\n  models: 'claude-*,,x'\n", "2: keys.models: must be model names");
    assert_loads("keys:\n  models: 'claude-*, claude-3-5-haiku'\n", no_env);
}

#include "conf_networks_cases.h"
#include "conf_targets_cases.h"

static void test_redis_url(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host, *path, *user, *password;
        int port, db;
    } good[] = {
        {"redis://h", "h", NULL, NULL, NULL, 6379, 0},
        {"redis://h/", "h", NULL, NULL, NULL, 6379, 0},
        {"redis://127.0.0.1:6380/2", "127.0.0.1", NULL, NULL, NULL, 6380, 2},
        {"redis://:p%40%2Fw@[::1]:1/15", "::1", NULL, NULL, "p@/w", 1, 15},
        {"redis://me:pw@redis.local", "redis.local", NULL, "me", "pw", 6379, 0},
        {"unix:/run/r.sock", NULL, "/run/r.sock", NULL, NULL, 0, 0},
        {"unix:///run/r.sock?db=3", NULL, "/run/r.sock", NULL, NULL, 0, 3},
        {"unix://:pw@/run/r.sock", NULL, "/run/r.sock", NULL, "pw", 0, 0},
        {"unix://me:pw@/run/r.sock?db=1", NULL, "/run/r.sock", "me", "pw", 0, 1},
    };
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct redis_url u = {0};
        assert_null(redis_url_parse(str_c(good[i].text), &u));
        assert_int_equal(u.host == NULL, good[i].host == NULL);
        assert_string_equal(u.host ? u.host : "", good[i].host ? good[i].host : "");
        assert_string_equal(u.path ? u.path : "", good[i].path ? good[i].path : "");
        assert_string_equal(u.user ? u.user : "", good[i].user ? good[i].user : "");
        assert_string_equal(u.password ? u.password : "", good[i].password ? good[i].password : "");
        assert_int_equal(u.port, good[i].port);
        assert_int_equal(u.db, good[i].db);
        redis_url_release(&u);
    }
    static const char *const bad[] = {
        "redis://",       "redis://h:0",       "redis://h:99999", "redis://h/x", "redis://h/1/2",
        "redis://h?db=1", "redis://me@h",      "redis://h#x",     "http://h",    "h:6379",
        "redis:h",        "unix:run/r.sock",   "unix://h/r.sock", "unix:",       "unix:/",
        "unix:/r?db=x",   "unix:/r?x=1",       "unix://me@/r",    "redis://a b", "redis:///1",
        "redis://h/-1",   "unix:/r?db=1&db=2",
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct redis_url u = {0};
        const char *rule = redis_url_parse(str_c(bad[i]), &u);
        if (!rule)
            print_error("taken: %s\n", bad[i]);
        assert_non_null(rule);
        assert_null(u.host);
    }
    assert_int_equal(load(NULL, ENV("REDIS_URL=redis://h:x")), -1);
    assert_error("environment: REDIS_URL: must be redis://[[user]:password@]host[:port]");
    assert_int_equal(load(NULL, ENV("REDIS_URL=rediss://h")), -1);
    assert_error("environment: REDIS_URL: TLS to Redis (rediss://) is not available");
    assert_loads(NULL, ENV("REDIS_URL=redis://h"));
    assert_refused("redis:\n  prefix: 'a{b}'\n", "2: redis.prefix: must be at most 64");
}

static void test_timezone(void **state)
{
    (void)state;
    static const char *const bad[] = {"",       "Nowhere/Land", "../zoneinfo/UTC", "/etc/passwd",
                                      "Europe", "zone.tab",     "Europe/Berlin\n", "CET-1"};
    assert_loads("limits:\n  timezone: Europe/Berlin\n", no_env);
    assert_string_equal(conf->limits.timezone, "Europe/Berlin");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(check_timezone(str_c(bad[i])) == NULL, 0);
    assert_refused("limits:\n  timezone: Mars/Base\n", "2: limits.timezone: must be UTC or a");
    assert_loads("limits:\n  when_redis_is_away: closed\n", no_env);
    assert_int_equal(conf->limits.when_redis_is_away, CONF_AWAY_CLOSED);
    assert_refused("limits:\n  when_redis_is_away: maybe\n",
                   "2: limits.when_redis_is_away: must be one of closed, open, share\n");
}

static void test_pass_env(void **state)
{
    static const char *const bad[] = {
        "A-B", "A,,B", "1A", "A B", ",", "A=1", "A,B,C,D,E,F,G,H,I,J,K,L,M,N,O,P,Q,R,S,T,U"};
    static const char *const held[] = {"ANTHROPIC_API_KEY",
                                       "TZ, CLAUDE_CODE_OAUTH_TOKEN",
                                       "HOME",
                                       "CLAUDEGATE_METRICS_TOKEN",
                                       "PATH",
                                       "DATABASE_URL"};
    (void)state;
    assert_loads("claude:\n  pass_env: TZ, _X9\n", no_env);
    assert_string_equal(conf->claude.pass_env, "TZ, _X9");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(free_charp) char *text = x_printf("claude:\n  pass_env: '%s'\n", bad[i]);
        assert_refused(text, "2: claude.pass_env: must be at most 20 names");
    }
    for (size_t i = 0; i < ARRAY_SIZE(held); i++) {
        AUTO(free_charp) char *text = x_printf("claude:\n  pass_env: '%s'\n", held[i]);
        assert_refused(text, "2: claude.pass_env: must not name HOME");
    }
}

static void test_agent_tools(void **state)
{
    static const char *const bad[] = {",",       "Bash,",      ",Bash",   "Bash,,Read", "Bash Read",
                                      "Bash(x)", "Bash, Read", "--model", "mcp__x"};
    (void)state;
    assert_loads(NULL, no_env);
    assert_false(conf->agent.enabled);
    assert_true(conf->agent.require_sandbox);
    assert_string_equal(conf->agent.tools, "Bash,Read,Write,Edit,Glob,Grep");
    assert_int_equal(conf->agent.max_turns, 50);
    assert_loads("agent:\n  enabled: true\n  tools: Read\n  max_turns: 0\n", no_env);
    assert_true(conf->agent.enabled);
    assert_string_equal(conf->agent.tools, "Read");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(free_charp) char *text = x_printf("agent:\n  tools: '%s'\n", bad[i]);
        assert_refused(text, "2: agent.tools: must be names of letters, separated by commas");
    }
    assert_refused("agent:\n  tools: ''\n", "2: agent.tools: must");
    assert_refused("agent:\n  max_turns: 1001\n", "2: agent.max_turns: must");
}

static void test_rules_between_settings(void **state)
{
    (void)state;
    assert_env_refused("CLAUDEGATE_POOL_MIN_SPARE=9",
                       "environment: CLAUDEGATE_POOL_MIN_SPARE: pool.min_spare (9) must be at most "
                       "pool.max_workers (8)\n");
    assert_loads("pool:\n  min_spare: 8\n  max_workers: 8\n", no_env);
    assert_refused("pool:\n  turn_timeout_ms: 4m\n",
                   "2: pool.turn_timeout_ms: pool.silence_timeout_ms (240000) must be less than "
                   "pool.turn_timeout_ms (240000)\n");
    assert_int_equal(load("upstream:\n  api_key: a\n", ENV("ANTHROPIC_AUTH_TOKEN=b")), -1);
    assert_file_error("2: upstream.api_key: cannot be set together with upstream.auth_token (from "
                      "ANTHROPIC_AUTH_TOKEN)\n");
    assert_refused("agent:\n  enabled: true\nsandbox:\n  uids: 1-2\n",
                   "2: agent.enabled: cannot be set together with sandbox.uids (from ");
    /* Broken values are not judged a second time. */
    assert_refused("pool:\n  min_spare: 9\n  max_workers: many\n", "3: pool.max_workers: must be");
}

static void test_not_yaml(void **state)
{
    static const char nul[] = "pool:\n  max_workers: 3\0\n";
    static const char latin1[] = "# one\n# two\ndata_dir: \xE4\n";
    (void)state;
    assert_refused("pool: {max_workers: 3\n", "2: invalid YAML: ");
    assert_refused("pool:\n\tmax_workers: 3\n", "2: invalid YAML: ");
    assert_refused("data_dir: \"x\n", "2: invalid YAML: ");
    assert_refused("- a\n- b\n", "1: must be a mapping of sections\n");
    assert_refused("just text\n", "1: must be a mapping of sections\n");
    assert_refused("data_dir: a\n---\ndata_dir: b\n", "2: must hold one document only\n");
    assert_refused("data_dir: \"a\\0b\"\n", "1: data_dir: must be UTF-8 text without control");
    assert_refused("data_dir: \"a\\nb\"\n", "1: data_dir: must be UTF-8 text without control");
    assert_int_equal(load_n(nul, sizeof(nul) - 1, no_env), -1);
    assert_file_error("2: invalid YAML: ");
    assert_int_equal(load_n(latin1, sizeof(latin1) - 1, no_env), -1);
    assert_file_error("3: invalid YAML: ");
    assert_int_equal(load("pool:\n  max_workers: 0\nx: [\n", no_env), -1);
    assert_file_error("2: pool.max_workers: must be"); /* found before the text broke off */
}

static void test_no_expansion(void **state)
{
    static const char laughs[] = "a: &a [x,x,x,x,x,x,x,x,x]\n"
                                 "b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
                                 "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
                                 "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
                                 "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";
    (void)state;
    assert_int_equal(load(laughs, no_env), -1);
    assert_int_equal(count_lines(buf_cstr(&errors)), 5);
    assert_refused("data_dir: &d x\n", "1: data_dir: anchors (&name) are not allowed\n");
    assert_refused("data_dir: !!str 5\n", "1: data_dir: tags (!name) are not allowed\n");
    assert_refused("pool: !x {max_workers: 3}\n", "1: pool: tags (!name) are not allowed\n");
    assert_refused("&r {data_dir: x}\n", "1: anchors (&name) are not allowed\n");
    assert_refused("pool: {<<: {max_workers: 3}}\n", "1: pool.<<: unknown setting");
    assert_int_equal(load("log: {dir: &x y}\ndata_dir: *x\nclaude: *x\n*x : 3\n", no_env), -1);
    assert_file_error("1: log.dir: anchors");
    assert_file_error("2: data_dir: aliases (*name) are not allowed\n");
    assert_file_error("3: claude: aliases (*name) are not allowed\n");
    assert_file_error("4: aliases (*name) are not allowed\n");
}

static void test_files_that_cannot_be_read(void **state)
{
    AUTO(buf_release) struct buf big;
    (void)state;
    forget();
    assert_int_equal(conf_load("/nonexistent/c.yaml", nothing, &conf, &errors), -1);
    assert_string_equal(buf_cstr(&errors),
                        "/nonexistent/c.yaml: cannot read: No such file or directory\n");
    forget();
    assert_int_equal(conf_load(dir, nothing, &conf, &errors), -1);
    assert_error(": cannot read: Is a directory\n");

    buf_init(&big, 4 << 20);
    for (int i = 0; i < 1 << 18; i++)
        buf_adds(&big, "# 8901\n");
    assert_int_equal(load_n(big.data, big.len, no_env), -1);
    assert_error(": must be smaller than 1 MiB\n");
    assert_int_equal(load_n(big.data, 900000, no_env), 0);

    buf_clear(&big); /* nesting as deep as the size allows must not exhaust the stack */
    buf_adds(&big, "x: ");
    for (int i = 0; i < 3000; i++)
        buf_adds(&big, "[");
    assert_int_equal(load_n(big.data, big.len, no_env), -1);
}

static void test_errors_are_bounded(void **state)
{
    AUTO(buf_release) struct buf text;
    (void)state;
    buf_init(&text, 1 << 20);
    for (int i = 0; i < 5000; i++)
        buf_printf(&text, "k%d: 1\n", i);
    assert_int_equal(load(buf_cstr(&text), no_env), -1);
    assert_int_equal(count_lines(buf_cstr(&errors)), LOAD_MAX_ERRORS + 1);
    assert_error("and 4900 more errors\n");
}

/* build/tests/unit/test_conf + __FILE__ (relative to build, or absolute) -> the source tree. */
static char *source_path(const char *name)
{
    char exe[4096];
    AUTO(free_charp) char *here = x_strdup(__FILE__);
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    assert_true(n > 0);
    exe[n] = '\0';
    for (int up = 0; up < 3; up++) {
        *strrchr(exe, '/') = '\0';
        *strrchr(here, '/') = '\0';
    }
    return here[0] == '/' ? x_printf("%s/%s", here, name) : x_printf("%s/%s/%s", exe, here, name);
}

/* The example sets every setting, each to its default, and is accepted unchanged. */
static void test_example_file(void **state)
{
    AUTO(free_charp) char *example = source_path("deploy/claudegate.yaml");
    AUTO(buf_release) struct buf defaults, from_file;
    (void)state;
    buf_init(&defaults, 1 << 16);
    buf_init(&from_file, 1 << 16);
    forget();
    if (conf_load(example, nothing, &conf, &errors) != 0)
        fail_msg("refused: %s", buf_cstr(&errors));
    assert_null(strstr(show(), "# default"));
    for (size_t i = 0; i < settings_count; i++) {
        if (!settings[i].secret)
            setting_write(&settings[i], conf, &from_file);
        buf_printf(&from_file, " %s\n", settings[i].name);
    }
    assert_loads(NULL, no_env);
    for (size_t i = 0; i < settings_count; i++) {
        if (!settings[i].secret)
            setting_write(&settings[i], conf, &defaults);
        buf_printf(&defaults, " %s\n", settings[i].name);
    }
    assert_string_equal(buf_cstr(&from_file), buf_cstr(&defaults));
}

static void test_reference(void **state)
{
    AUTO(buf_release) struct buf out;
    (void)state;
    buf_init(&out, 1 << 16);
    conf_write_reference(&out);
    assert_true(buf_ok(&out));
    for (size_t i = 0; i < settings_count; i++) {
        char name[SETTING_ENV_SIZE];
        AUTO(free_charp) char *start = x_printf("\n| `%s` | ", settings[i].name);
        const char *row = strstr(buf_cstr(&out), start);
        assert_non_null(row);
        struct str line = str_n(row + 1, (size_t)(strchr(row + 1, '\n') - row - 1));
        AUTO(free_charp) char *text = str_dup(line);
        size_t bars = 0;
        for (size_t k = 0; text[k]; k++)
            bars += text[k] == '|' && (k == 0 || text[k - 1] != '\\');
        assert_int_equal(bars, 6);
        assert_non_null(strstr(text, setting_env_name(&settings[i], name)));
        assert_true(!settings[i].env || strstr(text, settings[i].env));
        assert_true(!settings[i].def[0] || strstr(text, settings[i].def));
        assert_true(settings[i].secret == (strstr(text, ", secret |") != NULL));
    }
}

static void test_conf_free(void **state)
{
    struct conf by_hand = {.origins = NULL}; /* as other modules' tests build one */
    AUTO(buf_release) struct buf out;
    (void)state;
    conf_free(NULL);
    for (size_t i = 0; i < settings_count; i++) {
        if (setting_is_text(&settings[i]))
            *setting_text(&settings[i], &by_hand) = x_strdup("x");
    }
    buf_init(&out, 1 << 16);
    conf_show(&by_hand, &out);
    assert_non_null(strstr(buf_cstr(&out), "  listen: \"x\"  # default\n"));
    for (size_t i = 0; i < settings_count; i++)
        setting_release(&settings[i], &by_hand);
    assert_null(by_hand.upstream.api_key);
}

static int set_up(void **state)
{
    (void)state;
    buf_init(&errors, 1 << 20);
    if (!mkdtemp(dir))
        return -1;
    file = x_printf("%s/c.yaml", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    forget();
    show();
    unlink(file);
    rmdir(dir);
    free(file);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_empty_file_is_defaults),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_kinds_from_file),
        cmocka_unit_test(test_suffixes),
        cmocka_unit_test(test_all_errors_at_once),
        cmocka_unit_test(test_unknown_names),
        cmocka_unit_test(test_env_precedence),
        cmocka_unit_test(test_every_setting_has_a_variable),
        cmocka_unit_test(test_aliases),
        cmocka_unit_test(test_environ_when_null),
        cmocka_unit_test(test_show_tells_origins),
        cmocka_unit_test(test_show_can_be_loaded),
        cmocka_unit_test(test_secrets_never_shown),
        cmocka_unit_test(test_listen),
        cmocka_unit_test(test_base_url),
        cmocka_unit_test(test_stores),
        cmocka_unit_test(test_redis_url),
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_timezone),
        cmocka_unit_test(test_pass_env),
        cmocka_unit_test(test_agent_tools),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_targets_credentials),
        cmocka_unit_test(test_targets_refused),
        cmocka_unit_test(test_targets_from_env),
        cmocka_unit_test(test_targets_and_others),
        cmocka_unit_test(test_proxy),
        cmocka_unit_test(test_rules_between_settings),
        cmocka_unit_test(test_not_yaml),
        cmocka_unit_test(test_no_expansion),
        cmocka_unit_test(test_files_that_cannot_be_read),
        cmocka_unit_test(test_errors_are_bounded),
        cmocka_unit_test(test_example_file),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_conf_free),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
