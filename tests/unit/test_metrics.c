/* test_metrics.c - the registry, and the page read back by a parser of its own.
 *
 * parse() takes the whole page apart and fails on anything the text format does not allow, so
 * every test that looks up a value also checks the format around it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/clock.h"
#include "metrics/registry.h"

#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a parser of the text format ---- */

struct sample {
    char *name; /* name{labels}, labels unescaped and separated by \x01 */
    double value;
};

static struct buf page;
static struct sample *samples;
static size_t sample_count;

static void forget_samples(void)
{
    for (size_t i = 0; i < sample_count; i++)
        free(samples[i].name);
    free(samples);
    samples = NULL;
    sample_count = 0;
}

static const char *skip_name(const char *p)
{
    const char *start = p;
    while ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_' || *p == ':' ||
           (p > start && *p >= '0' && *p <= '9'))
        p++;
    assert_ptr_not_equal(p, start);
    return p;
}

/* p stands after the opening quote; returns after the closing one. */
static const char *parse_quoted(const char *p, struct buf *out)
{
    for (; *p != '"'; p++) {
        assert_true(*p && *p != '\n');
        if (*p != '\\') {
            buf_addc(out, *p);
            continue;
        }
        p++;
        assert_true(*p == '\\' || *p == '"' || *p == 'n');
        buf_addc(out, *p == 'n' ? '\n' : *p);
    }
    return p + 1;
}

static const char *parse_labels(const char *p, struct buf *out)
{
    do {
        const char *name = ++p; /* after { or , */
        p = skip_name(p);
        buf_addc(out, '\x01');
        buf_add(out, name, (size_t)(p - name));
        assert_memory_equal(p, "=\"", 2);
        buf_addc(out, '=');
        p = parse_quoted(p + 2, out);
    } while (*p == ',');
    assert_int_equal(*p, '}');
    return p + 1;
}

static double parse_value(const char *p, const char *end)
{
    char *stop;
    double v;
    if (strncmp(p, "+Inf", 4) == 0 || strncmp(p, "-Inf", 4) == 0)
        return *p == '-' ? -HUGE_VAL : HUGE_VAL;
    v = strtod(p, &stop);
    assert_ptr_equal(stop, end);
    return v;
}

/* "# HELP name text" or "# TYPE name type" */
static void parse_comment(const char *p, char family[100])
{
    static const char *const types[] = {" counter\n", " gauge\n", " histogram\n"};
    bool type = strncmp(p, "# TYPE ", 7) == 0;
    bool known = false;
    assert_true(type || strncmp(p, "# HELP ", 7) == 0);
    const char *end = skip_name(p + 7);
    if (!type) {
        assert_int_equal(*end, ' ');
        snprintf(family, 100, "%.*s", (int)(end - p - 7), p + 7);
        return;
    }
    assert_string_not_equal(family, ""); /* HELP first, for the same family */
    assert_int_equal(strlen(family), end - p - 7);
    assert_memory_equal(family, p + 7, strlen(family));
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        known = known || strncmp(end, types[i], strlen(types[i])) == 0;
    assert_true(known);
}

static void add_sample(const char *line, const char *end, const char *family)
{
    struct buf name;
    buf_init(&name, 1 << 16);
    const char *p = skip_name(line);
    assert_true(strncmp(line, family, strlen(family)) == 0); /* families stand together */
    buf_add(&name, line, (size_t)(p - line));
    if (*p == '{')
        p = parse_labels(p, &name);
    assert_int_equal(*p, ' ');
    char *key = buf_take(&name);
    if (sample_count < 1000) { /* no series twice */
        for (size_t i = 0; i < sample_count; i++)
            assert_string_not_equal(samples[i].name, key);
    }
    if ((sample_count & (sample_count - 1)) == 0) /* 0, 1, 2, 4, ...: full */
        samples = x_realloc(samples, (sample_count ? sample_count * 2 : 1) * sizeof(*samples));
    samples[sample_count].name = key;
    samples[sample_count++].value = parse_value(p + 1, end);
}

static void parse(void)
{
    char family[100] = "";
    forget_samples();
    buf_release(&page);
    buf_init(&page, 16 << 20);
    metrics_write(&page);
    assert_true(buf_ok(&page));
    assert_true(str_is_utf8(buf_str(&page)));
    for (const char *p = buf_cstr(&page); *p;) {
        const char *end = strchr(p, '\n');
        assert_non_null(end);
        if (*p == '#')
            parse_comment(p, family);
        else
            add_sample(p, end, family);
        p = end + 1;
    }
}

static double *lookup(const char *name)
{
    for (size_t i = 0; i < sample_count; i++) {
        if (strcmp(samples[i].name, name) == 0)
            return &samples[i].value;
    }
    return NULL;
}

static double value(const char *name)
{
    double *v = lookup(name);
    if (!v)
        fail_msg("no sample '%s' in:\n%s", name, buf_cstr(&page));
    return v ? *v : 0;
}

static void assert_value(const char *name, double expected)
{
    double v = value(name);
    if (v != expected)
        fail_msg("%s is %.17g, not %.17g", name, v, expected);
}

static void assert_line(const char *line)
{
    if (!strstr(buf_cstr(&page), line))
        fail_msg("no line '%s' in:\n%s", line, buf_cstr(&page));
}

static int reset(void **state)
{
    (void)state;
    metrics_reset();
    forget_samples();
    buf_release(&page);
    return 0;
}

/* ---- tests ---- */

static const double bounds[] = {0.1, 1, 10};

static void test_counter_and_gauge(void **state)
{
    static struct metric plain = {
        .name = "t_plain_total", .help = "Counts\\things\nhere.", .type = METRIC_COUNTER};
    static struct metric gauge = {.name = "t_gauge", .help = "Level.", .type = METRIC_GAUGE};
    static struct metric by = {.name = "t_by_total",
                               .help = "By two.",
                               .type = METRIC_COUNTER,
                               .labels = {"route", "status"}};
    (void)state;
    metric_register(&plain);
    metric_register(&plain);
    metric_register(&by);
    parse();
    assert_string_equal(buf_cstr(&page), "# HELP t_plain_total Counts\\\\things\\nhere.\n"
                                         "# TYPE t_plain_total counter\n"
                                         "t_plain_total 0\n"
                                         "# HELP t_by_total By two.\n"
                                         "# TYPE t_by_total counter\n");
    metric_add(&plain, 1);
    metric_add(&plain, 2.5);
    metric_set(&gauge, 7);
    metric_add(&gauge, -9);
    for (int i = 0; i < 3; i++)
        metric_add(&by, 1, "/api/chat", "200");
    metric_add(&by, 1, "/api/chat", "500");
    metric_add(&by, 1, NULL, "500");
    metric_add(&by, 1, "/api/chat500", "");
    parse();
    assert_value("t_plain_total", 3.5);
    assert_value("t_gauge", -2);
    assert_value("t_by_total\x01route=/api/chat\x01status=200", 3);
    assert_value("t_by_total\x01route=/api/chat\x01status=500", 1);
    assert_value("t_by_total\x01route=\x01status=500", 1);
    assert_value("t_by_total\x01route=/api/chat500\x01status=", 1);
    assert_int_equal(sample_count, 6);
}

static void test_escaping(void **state)
{
    static struct metric m = {
        .name = "t_escape_total", .help = "H.", .type = METRIC_COUNTER, .labels = {"v"}};
    static const char *const values[] = {"a\"b",  "a\\b",       "a\nb", "\\n",      "\\\"\n\\",
                                         "{x=1}", "\xC3\xA4\t", "",     "# HELP a", "a,b=\"c\""};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(values); i++)
        metric_add(&m, (double)i + 1, values[i]);
    parse();
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        AUTO(free_charp) char *name = x_printf("t_escape_total\x01v=%s", values[i]);
        assert_value(name, (double)i + 1);
    }
    assert_int_equal(sample_count, ARRAY_SIZE(values));
    assert_line("\nt_escape_total{v=\"a\\\"b\"} 1\n");
    assert_line("\nt_escape_total{v=\"a\\nb\"} 3\n");
}

static void test_values_are_made_fit(void **state)
{
    static struct metric m = {
        .name = "t_fit_total", .help = "H.", .type = METRIC_COUNTER, .labels = {"v"}};
    char fits[METRIC_MAX_VALUE + 1], longer[METRIC_MAX_VALUE + 20];
    (void)state;
    metric_add(&m, 1,
               "bad\xFF"
               "byte");
    metric_add(&m, 1,
               "bad\xFE"
               "byte"); /* the same series: twice the same name would spoil the page */
    memset(fits, 'x', sizeof(fits));
    fits[METRIC_MAX_VALUE] = '\0';
    memset(longer, 'x', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    metric_add(&m, 1, fits);
    metric_add(&m, 1, longer);
    /* a character of two bytes across the end is left out whole */
    memcpy(longer + METRIC_MAX_VALUE - 1, "\xC3\xA4", 2);
    metric_add(&m, 1, longer);
    parse();
    assert_value("t_fit_total\x01v=bad?byte", 2);
    AUTO(free_charp) char *cut = x_printf("t_fit_total\x01v=%s", fits);
    assert_value(cut, 2);
    cut[strlen(cut) - 1] = '\0';
    assert_value(cut, 1);
    assert_int_equal(sample_count, 3);
}

static void test_histogram(void **state)
{
    static struct metric m = {.name = "t_seconds",
                              .help = "H.",
                              .type = METRIC_HISTOGRAM,
                              .labels = {"route"},
                              .buckets = bounds,
                              .bucket_count = 3};
    static struct metric standard = {
        .name = "t_std_seconds", .help = "H.", .type = METRIC_HISTOGRAM};
    (void)state;
    metric_observe(&m, 0.1, "a"); /* a bound belongs to its bucket */
    metric_observe(&m, 0.5, "a");
    metric_observe(&m, 0.6, "a");
    metric_observe(&m, 1e9, "a");
    metric_observe(&m, 5, "b");
    metric_register(&standard);
    parse();
    assert_value("t_seconds_bucket\x01route=a\x01le=0.1", 1);
    assert_value("t_seconds_bucket\x01route=a\x01le=1", 3);
    assert_value("t_seconds_bucket\x01route=a\x01le=10", 3);
    assert_value("t_seconds_bucket\x01route=a\x01le=+Inf", 4);
    assert_value("t_seconds_sum\x01route=a", 0.1 + 0.5 + 0.6 + 1e9);
    assert_value("t_seconds_count\x01route=a", 4);
    assert_value("t_seconds_bucket\x01route=b\x01le=1", 0);
    assert_value("t_seconds_count\x01route=b", 1);
    assert_value("t_std_seconds_bucket\x01le=0.005", 0);
    assert_value("t_std_seconds_bucket\x01le=300", 0);
    assert_value("t_std_seconds_bucket\x01le=+Inf", 0);
    assert_value("t_std_seconds_count", 0);
    assert_line("\nt_std_seconds_sum 0\n");
    assert_line("# TYPE t_std_seconds histogram\n");
}

static void test_numbers(void **state)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = {{0, "0"},
                 {-0.0, "0"},
                 {1, "1"},
                 {-3, "-3"},
                 {0.1, "0.1"},
                 {1e6, "1000000"},
                 {123456789012, "123456789012"},
                 {9007199254740992.0, "9007199254740992"},
                 {0.1 + 0.2, "0.30000000000000004"},
                 {1.0 / 3, "0.3333333333333333"},
                 {1e300, "1e+300"},
                 {HUGE_VAL, "+Inf"},
                 {-HUGE_VAL, "-Inf"}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        AUTO(buf_release) struct buf b;
        buf_init(&b, 100);
        metrics_write_number(&b, cases[i].v);
        assert_string_equal(buf_cstr(&b), cases[i].text);
    }
    for (double v = 1e-9; v < 1e18; v *= 3.7) { /* whatever is written reads back the same */
        AUTO(buf_release) struct buf b;
        buf_init(&b, 100);
        metrics_write_number(&b, v);
        assert_true(strtod(buf_cstr(&b), NULL) == v);
    }
}

static void test_series_cap(void **state)
{
    static struct metric m = {
        .name = "t_many_total", .help = "H.", .type = METRIC_COUNTER, .labels = {"a", "b"}};
    char text[32];
    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < METRIC_MAX_SERIES + 500; i++) {
            snprintf(text, sizeof(text), "v%d", i);
            metric_add(&m, 1, text, "x");
        }
    }
    parse();
    assert_int_equal(sample_count, METRIC_MAX_SERIES + 1);
    assert_value("t_many_total\x01"
                 "a=v0\x01"
                 "b=x",
                 2);
    assert_value("t_many_total\x01"
                 "a=v9999\x01"
                 "b=x",
                 2);
    assert_null(lookup("t_many_total\x01"
                       "a=v10000\x01"
                       "b=x"));
    assert_value("t_many_total\x01"
                 "a=other\x01"
                 "b=other",
                 1000);
    double sum = 0;
    for (size_t i = 0; i < sample_count; i++)
        sum += samples[i].value;
    assert_true(sum == 2.0 * (METRIC_MAX_SERIES + 500)); /* nothing is lost */
}

/* "other" used as a value before the cap is the same series afterwards. */
static void test_other_is_one_series(void **state)
{
    static struct metric m = {
        .name = "t_other_total", .help = "H.", .type = METRIC_COUNTER, .labels = {"a"}};
    char text[32];
    (void)state;
    metric_add(&m, 5, "other");
    for (int i = 0; i < METRIC_MAX_SERIES; i++) {
        snprintf(text, sizeof(text), "v%d", i);
        metric_add(&m, 1, text);
    }
    parse();
    assert_int_equal(sample_count, METRIC_MAX_SERIES);
    assert_value("t_other_total\x01"
                 "a=other",
                 6);
}

static struct metric collected = {.name = "t_collected", .help = "H.", .type = METRIC_GAUGE};
static struct metric counted = {
    .name = "t_counted_total", .help = "H.", .type = METRIC_COUNTER, .labels = {"k"}};

static void collect(void *ctx)
{
    int *calls = ctx;
    metric_set(&collected, ++*calls);
    metric_set(&counted, 100.0 * *calls, "x");
}

static void test_collectors(void **state)
{
    int calls = 0, others = 10;
    (void)state;
    metrics_add_collector(collect, &calls);
    parse();
    parse();
    assert_int_equal(calls, 2);
    assert_value("t_collected", 2);
    assert_value("t_counted_total\x01k=x", 200);
    metrics_add_collector(collect, &others);
    metrics_remove_collector(collect, &calls);
    metrics_remove_collector(collect, &calls); /* gone already */
    parse();
    assert_int_equal(calls, 2);
    assert_value("t_collected", 11);
}

static void test_reset_and_use_again(void **state)
{
    static struct metric m = {.name = "t_again_total", .help = "H.", .type = METRIC_COUNTER};
    (void)state;
    metric_add(&m, 4);
    metrics_reset();
    parse();
    assert_int_equal(page.len, 0);
    metric_add(&m, 1);
    parse();
    assert_value("t_again_total", 1);
}

static void test_page_over_its_limit(void **state)
{
    static struct metric m = {
        .name = "t_small_total", .help = "H.", .type = METRIC_COUNTER, .labels = {"a"}};
    AUTO(buf_release) struct buf small;
    char text[32];
    (void)state;
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof(text), "v%d", i);
        metric_add(&m, 1, text);
    }
    buf_init(&small, 200);
    metrics_write(&small);
    assert_false(buf_ok(&small)); /* the owner sees it and can say so */
}

/* ---- our own bugs stop the program ---- */

static bool aborts(void (*fn)(struct metric *), struct metric m)
{
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        fclose(stderr);
        fn(&m);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void add_minus_one(struct metric *m)
{
    metric_add(m, -1);
}

static void set_one(struct metric *m)
{
    metric_set(m, 1);
}

static void observe_one(struct metric *m)
{
    metric_observe(m, 1);
}

static void register_twin(struct metric *m)
{
    static struct metric first = {.name = "t_twin", .help = "H.", .type = METRIC_GAUGE};
    metric_register(&first);
    metric_register(m);
}

static void test_bugs(void **state)
{
    static const char *const bad[] = {"", "1abc", "a-b", "a b", "\xC3\xA4", "a{b"};
    static const double falling[] = {1, 1};
    const struct metric good = {.name = "t_x", .help = "H.", .type = METRIC_GAUGE, .labels = {"l"}};
    (void)state;
    assert_false(aborts(metric_register, good));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct metric m = good;
        m.name = bad[i];
        assert_true(aborts(metric_register, m));
        m = good;
        m.labels[0] = bad[i];
        assert_true(aborts(metric_register, m));
    }
    struct metric m = good;
    m.labels[0] = "a:b";
    assert_true(aborts(metric_register, m));
    m.labels[0] = "__name";
    assert_true(aborts(metric_register, m));
    m = (struct metric){.name = "t_x", .help = "H.", .type = METRIC_COUNTER};
    assert_true(aborts(add_minus_one, m));
    assert_true(aborts(set_one, m)); /* not in a collector */
    assert_true(aborts(observe_one, m));
    m.name = "t_twin";
    assert_true(aborts(register_twin, m));
    m = (struct metric){.name = "t_h", .help = "H.", .type = METRIC_HISTOGRAM};
    assert_false(aborts(observe_one, m));
    assert_true(aborts(set_one, m));
    m.buckets = falling;
    m.bucket_count = 2;
    assert_true(aborts(observe_one, m));
}

/* ---- process and host ---- */

static char root[] = "/tmp/test_metrics.XXXXXX";
static const char *const folders[] = {
    "proc",      "proc/self",     "proc/net",          "sys",
    "sys/block", "sys/block/sda", "sys/block/nvme0n1", "sys/block/dm-0"};
static const struct {
    const char *name, *text;
} files[] = {
    {"proc/self/stat", "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 500 20 21\n"},
    {"proc/self/statm", "1000 25 3 4 0 6 0\n"},
    {"proc/stat", "cpu  100 200 300 400 500 600 700 800 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
                  "intr 5 6\nbtime 1700000000\n"},
    {"proc/meminfo", "MemTotal:       2000 kB\nMemFree:   1 kB\nMemAvailable:    1500 kB\n"},
    {"proc/diskstats", "   8       0 sda 1 2 100 4 5 6 10 8 0 0 0\n"
                       "   8       1 sda1 1 2 100 4 5 6 10 8 0 0 0\n"
                       " 259       0 nvme0n1 1 2 1000 4 5 6 20 8 0 0 0\n"
                       " 253       0 dm-0 1 2 100 4 5 6 10 8 0 0 0\n"
                       " 253       9 ../../proc 1 2 100 4 5 6 10 8 0 0 0\n"
                       " 8 32 sdc\n\n"},
    {"proc/net/dev", "Inter-|   Receive                |  Transmit\n"
                     " face |bytes    packets errs drop fifo frame compressed multicast|bytes\n"
                     "    lo: 9000 1 0 0 0 0 0 0 9000 1 0 0 0 0 0 0\n"
                     "  eth0: 1000 2 0 0 0 0 0 0 70 3 0 0 0 0 0 0\n"
                     "eth1:12345678901 2 0 0 0 0 0 0 5 3 0 0 0 0 0 0\n"},
};

static char *root_path(const char *name)
{
    return x_printf("%s/%s", root, name);
}

static void make_root(void)
{
    assert_non_null(mkdtemp(root));
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        AUTO(free_charp) char *path = root_path(folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        AUTO(free_charp) char *path = root_path(files[i].name);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs(files[i].text, f);
        assert_int_equal(fclose(f), 0);
    }
}

static void remove_root(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        AUTO(free_charp) char *path = root_path(files[i].name);
        unlink(path);
    }
    for (size_t i = ARRAY_SIZE(folders); i-- > 0;) {
        AUTO(free_charp) char *path = root_path(folders[i]);
        rmdir(path);
    }
    rmdir(root);
}

static void test_host_from_known_files(void **state)
{
    double tick = (double)sysconf(_SC_CLK_TCK);
    (void)state;
    make_root();
    metrics_register_system(root);
    metrics_system_set_root(root);
    parse();
    remove_root();
    assert_value("claudegate_host_cpu_seconds_total\x01mode=user", 100 / tick);
    assert_value("claudegate_host_cpu_seconds_total\x01mode=idle", 400 / tick);
    assert_value("claudegate_host_cpu_seconds_total\x01mode=steal", 800 / tick);
    assert_value("claudegate_host_memory_bytes\x01state=total", 2000 * 1024);
    assert_value("claudegate_host_memory_bytes\x01state=available", 1500 * 1024);
    assert_value("claudegate_host_disk_io_bytes_total\x01"
                 "direction=read",
                 1100 * 512);
    assert_value("claudegate_host_disk_io_bytes_total\x01"
                 "direction=write",
                 30 * 512);
    assert_value("claudegate_host_network_bytes_total\x01"
                 "direction=receive",
                 12345679901);
    assert_value("claudegate_host_network_bytes_total\x01"
                 "direction=transmit",
                 75);
    assert_value("process_resident_memory_bytes", 25.0 * (double)sysconf(_SC_PAGESIZE));
    assert_value("process_start_time_seconds", 1700000000 + 500 / tick);
    assert_null(lookup("process_open_fds")); /* no proc/self/fd here */
}

static void test_host_without_files(void **state)
{
    (void)state;
    metrics_register_system("/nonexistent");
    metrics_system_set_root("/nonexistent");
    parse();
    assert_true(value("process_max_fds") > 0); /* from a call */
    assert_null(strstr(buf_cstr(&page), "claudegate_host"));
}

static void test_this_process(void **state)
{
    double now = (double)clock_wall_ms() / 1000;
    (void)state;
    metrics_register_system("/");
    metrics_register_system("/"); /* again is fine */
    parse();
    double fds = value("process_open_fds");
    int extra = dup(STDERR_FILENO);
    assert_true(extra >= 0);
    assert_true(value("process_resident_memory_bytes") > 1e6);
    assert_true(value("process_start_time_seconds") <= now + 1);
    assert_true(value("process_start_time_seconds") > now - 600);
    assert_true(value("claudegate_host_memory_bytes\x01state=total") >=
                value("claudegate_host_memory_bytes\x01state=available"));
    assert_true(value("claudegate_host_disk_bytes\x01state=total") >=
                value("claudegate_host_disk_bytes\x01state=free"));
    double cpu = value("process_cpu_seconds_total");
    for (int64_t end = clock_mono_ms() + 30; clock_mono_ms() < end;)
        continue;
    parse();
    close(extra);
    assert_value("process_open_fds", fds + 1);
    assert_true(value("process_cpu_seconds_total") > cpu);
}

/* ---- speed: printed, not judged ---- */

static void bench(const char *what, struct metric *m, int labels)
{
    static const char *const routes[] = {"/api/chat", "/v1/messages", "/v1/chat/completions"};
    const int calls = 300000;
    int64_t start = clock_mono_us();
    for (int i = 0; i < calls; i++) {
        if (labels == 0)
            metric_add(m, 1);
        else if (m->type == METRIC_HISTOGRAM)
            metric_observe(m, 0.2, routes[i % 3], "200");
        else
            metric_add(m, 1, routes[i % 3], "native", "200");
    }
    double us = (double)(clock_mono_us() - start);
    print_message("  %-28s %6.1f ns a call\n", what, us * 1000 / calls);
}

static void test_speed(void **state)
{
    static struct metric plain = {.name = "t_speed0_total", .help = "H.", .type = METRIC_COUNTER};
    static struct metric three = {.name = "t_speed3_total",
                                  .help = "H.",
                                  .type = METRIC_COUNTER,
                                  .labels = {"route", "dialect", "status"}};
    static struct metric seconds = {.name = "t_speed_seconds",
                                    .help = "H.",
                                    .type = METRIC_HISTOGRAM,
                                    .labels = {"route", "status"}};
    (void)state;
    bench("counter", &plain, 0);
    bench("counter, 3 labels", &three, 3);
    bench("histogram, 2 labels", &seconds, 2);
    parse();
    assert_value("t_speed0_total", 300000);
    assert_value("t_speed3_total\x01route=/api/chat\x01"
                 "dialect=native\x01status=200",
                 100000);
    assert_value("t_speed_seconds_count\x01route=/v1/messages\x01status=200", 100000);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, reset, reset)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_counter_and_gauge),   TEST(test_escaping),     TEST(test_values_are_made_fit),
        TEST(test_histogram),           TEST(test_numbers),      TEST(test_series_cap),
        TEST(test_other_is_one_series), TEST(test_collectors),   TEST(test_reset_and_use_again),
        TEST(test_page_over_its_limit), TEST(test_bugs),         TEST(test_host_from_known_files),
        TEST(test_host_without_files),  TEST(test_this_process), TEST(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
