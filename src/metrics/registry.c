/* registry.c - from label values to the number that is counted.
 *
 * This is the hot path: some ten calls per request. The values are joined into a key on the
 * stack, hashed with SipHash (values may come from clients: a model name) and looked up; only a
 * new label set allocates, and there are at most METRIC_MAX_SERIES of one metric. Label text is
 * escaped once, when the series is born. */
#include "metrics/registry.h"

#include <assert.h>
#include <math.h>
#include <sodium.h>
#include <stdarg.h>

#define KEY_SIZE       (METRIC_MAX_LABELS * (METRIC_MAX_VALUE + 1))
#define MAX_COLLECTORS 64
#define INDEX_START    16

static const double default_buckets[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                         2.5,   5,    10,    30,   60,  120,  300};

static struct {
    struct metric *first, *last;
    struct {
        metrics_collect_fn *fn;
        void *ctx;
    } collectors[MAX_COLLECTORS];
    size_t collector_count;
    bool collecting;
    bool seeded;
    unsigned char seed[crypto_shorthash_KEYBYTES];
} reg;

struct metric *metrics_first(void)
{
    return reg.first;
}

size_t metric_label_count(const struct metric *m)
{
    size_t n = 0;
    while (n < METRIC_MAX_LABELS && m->labels[n])
        n++;
    return n;
}

/* ---- registration ---- */

/* [a-zA-Z_:][a-zA-Z0-9_:]*, labels without the colon. */
static bool name_is_valid(const char *name, bool colon)
{
    if (!name || !*name)
        return false;
    for (const char *p = name; *p; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_';
        bool digit = *p >= '0' && *p <= '9' && p != name;
        if (!letter && !digit && !(colon && *p == ':'))
            return false;
    }
    return true;
}

static void check_buckets(struct metric *m)
{
    if (!m->buckets) {
        m->buckets = default_buckets;
        m->bucket_count = ARRAY_SIZE(default_buckets);
    }
    BUG_ON(m->bucket_count == 0 || m->bucket_count > METRIC_MAX_BUCKETS);
    for (size_t i = 0; i < m->bucket_count; i++) {
        BUG_ON(!isfinite(m->buckets[i]));
        BUG_ON(i > 0 && m->buckets[i] <= m->buckets[i - 1]);
    }
}

static void check_metric(struct metric *m)
{
    BUG_ON(!name_is_valid(m->name, true));
    BUG_ON(!m->help || !str_is_utf8(str_c(m->help)));
    BUG_ON(m->labels[METRIC_MAX_LABELS] != NULL);
    for (size_t i = 0; i < metric_label_count(m); i++) {
        BUG_ON(!name_is_valid(m->labels[i], false));
        BUG_ON(strncmp(m->labels[i], "__", 2) == 0);
        BUG_ON(m->type == METRIC_HISTOGRAM && strcmp(m->labels[i], "le") == 0);
        for (size_t j = 0; j < i; j++)
            BUG_ON(strcmp(m->labels[i], m->labels[j]) == 0);
    }
    for (const struct metric *other = reg.first; other; other = other->next)
        BUG_ON(strcmp(other->name, m->name) == 0);
    if (m->type == METRIC_HISTOGRAM)
        check_buckets(m);
}

static struct series *find_or_add(struct metric *m, const char *key, size_t len);

void metric_register(struct metric *m)
{
    if (m->registered)
        return;
    check_metric(m);
    if (!reg.seeded)
        crypto_shorthash_keygen(reg.seed);
    reg.seeded = true;
    m->series = x_calloc(1, sizeof(*m->series));
    m->next = NULL;
    if (reg.last)
        reg.last->next = m;
    else
        reg.first = m;
    reg.last = m;
    m->registered = true;
    if (metric_label_count(m) == 0)
        find_or_add(m, "", 0);
}

/* ---- series ---- */

static char *label_text(const struct metric *m, const char *key)
{
    struct buf text;
    buf_init(&text, METRIC_MAX_LABELS * (2 * METRIC_MAX_VALUE + 256));
    for (size_t i = 0; i < metric_label_count(m); i++) {
        buf_printf(&text, "%s%s=\"", i ? "," : "", m->labels[i]);
        metrics_write_escaped(&text, key);
        buf_addc(&text, '"');
        key += strlen(key) + 1;
    }
    BUG_ON(!buf_ok(&text));
    return buf_take(&text);
}

static void index_put(struct metric_series *all, uint64_t hash, size_t position)
{
    size_t at = hash & (all->index_size - 1);
    while (all->index[at])
        at = (at + 1) & (all->index_size - 1);
    all->index[at] = (uint32_t)position + 1;
}

static void index_grow(struct metric_series *all)
{
    free(all->index);
    all->index_size = all->index_size ? all->index_size * 2 : INDEX_START;
    all->index = x_calloc(all->index_size, sizeof(*all->index));
    for (size_t i = 0; i < all->count; i++)
        index_put(all, all->items[i]->hash, i);
}

static struct series *add_series(struct metric *m, const char *key, size_t len, uint64_t hash)
{
    struct metric_series *all = m->series;
    struct series *s = x_calloc(1, sizeof(*s));
    s->labels = label_text(m, key);
    s->key = x_malloc(len);
    memcpy(s->key, key, len);
    s->key_len = len;
    s->hash = hash;
    if (m->type == METRIC_HISTOGRAM)
        s->buckets = x_calloc(m->bucket_count + 1, sizeof(*s->buckets));
    if (all->count == all->cap) {
        all->cap = all->cap ? all->cap * 2 : 4;
        all->items = x_realloc(all->items, all->cap * sizeof(struct series *));
    }
    all->items[all->count++] = s;
    if (all->count * 2 > all->index_size)
        index_grow(all);
    else
        index_put(all, hash, all->count - 1);
    return s;
}

static uint64_t hash_key(const char *key, size_t len)
{
    uint64_t hash;
    unsigned char out[crypto_shorthash_BYTES];
    static_assert(sizeof(hash) == sizeof(out), "the hash is one word");
    crypto_shorthash(out, (const unsigned char *)key, len, reg.seed);
    memcpy(&hash, out, sizeof(hash));
    return hash;
}

static struct series *find(const struct metric_series *all, const char *key, size_t len,
                           uint64_t hash)
{
    if (!all->index_size)
        return NULL;
    for (size_t at = hash & (all->index_size - 1);; at = (at + 1) & (all->index_size - 1)) {
        if (!all->index[at])
            return NULL;
        struct series *s = all->items[all->index[at] - 1];
        if (s->hash == hash && s->key_len == len && memcmp(s->key, key, len) == 0)
            return s;
    }
}

/* Past the cap. The set with values "other" may have been used as itself before. */
static struct series *find_or_add_other(struct metric *m)
{
    char key[METRIC_MAX_LABELS * sizeof("other")];
    size_t len = metric_label_count(m) * sizeof("other");
    for (size_t at = 0; at < len; at += sizeof("other"))
        memcpy(key + at, "other", sizeof("other"));
    uint64_t hash = hash_key(key, len);
    struct series *s = find(m->series, key, len, hash);
    return s ? s : add_series(m, key, len, hash);
}

static struct series *find_or_add(struct metric *m, const char *key, size_t len)
{
    struct metric_series *all = m->series;
    if (len == 0 && all->count) /* no labels: there is one */
        return all->items[0];
    uint64_t hash = hash_key(key, len);
    struct series *s = find(all, key, len, hash);
    if (s)
        return s;
    if (all->count < METRIC_MAX_SERIES)
        return add_series(m, key, len, hash);
    if (!all->other)
        all->other = find_or_add_other(m);
    return all->other;
}

/* Copies one label value to at most METRIC_MAX_VALUE bytes and a NUL; returns its length. */
static size_t copy_value(char *to, const char *value)
{
    size_t n = 0;
    bool ascii = true;
    for (; n < METRIC_MAX_VALUE && value[n]; n++) {
        to[n] = value[n];
        ascii = ascii && (unsigned char)value[n] < 0x80;
    }
    if (!ascii && value[n]) { /* cut between characters */
        while (n && ((unsigned char)value[n] & 0xC0) == 0x80)
            n--;
    }
    /* The server that scrapes refuses the whole page for one invalid byte. */
    if (!ascii && !str_is_utf8(str_n(to, n))) {
        for (size_t i = 0; i < n; i++)
            to[i] = (unsigned char)to[i] < 0x80 ? to[i] : '?';
    }
    to[n] = '\0';
    return n;
}

static struct series *pick(struct metric *m, va_list ap)
{
    char key[KEY_SIZE];
    size_t len = 0;
    metric_register(m);
    for (size_t i = 0; i < METRIC_MAX_LABELS && m->labels[i]; i++) {
        const char *value = va_arg(ap, const char *);
        len += copy_value(key + len, value ? value : "") + 1;
    }
    return find_or_add(m, key, len);
}

void metric_add(struct metric *m, double v, ...)
{
    BUG_ON(m->type == METRIC_HISTOGRAM);
    BUG_ON(m->type == METRIC_COUNTER && !(v >= 0));
    va_list ap;
    va_start(ap, v);
    pick(m, ap)->value += v;
    va_end(ap);
}

void metric_set(struct metric *m, double v, ...)
{
    BUG_ON(m->type == METRIC_HISTOGRAM);
    BUG_ON(m->type == METRIC_COUNTER && (!reg.collecting || !(v >= 0)));
    va_list ap;
    va_start(ap, v);
    pick(m, ap)->value = v;
    va_end(ap);
}

void metric_observe(struct metric *m, double v, ...)
{
    BUG_ON(m->type != METRIC_HISTOGRAM || isnan(v));
    va_list ap;
    va_start(ap, v);
    struct series *s = pick(m, ap);
    va_end(ap);
    size_t i = 0;
    while (i < m->bucket_count && v > m->buckets[i])
        i++;
    s->buckets[i]++;
    s->value += v;
}

/* ---- collectors ---- */

void metrics_add_collector(metrics_collect_fn *fn, void *ctx)
{
    BUG_ON(reg.collecting || reg.collector_count == MAX_COLLECTORS);
    reg.collectors[reg.collector_count].fn = fn;
    reg.collectors[reg.collector_count++].ctx = ctx;
}

void metrics_remove_collector(metrics_collect_fn *fn, void *ctx)
{
    BUG_ON(reg.collecting);
    for (size_t i = 0; i < reg.collector_count; i++) {
        if (reg.collectors[i].fn != fn || reg.collectors[i].ctx != ctx)
            continue;
        reg.collector_count--;
        memmove(&reg.collectors[i], &reg.collectors[i + 1],
                (reg.collector_count - i) * sizeof(reg.collectors[0]));
        return;
    }
}

void metrics_run_collectors(void)
{
    reg.collecting = true;
    for (size_t i = 0; i < reg.collector_count; i++)
        reg.collectors[i].fn(reg.collectors[i].ctx);
    reg.collecting = false;
}

/* ---- the end ---- */

static void free_series(struct metric_series *all)
{
    for (size_t i = 0; i < all->count; i++) {
        free(all->items[i]->labels);
        free(all->items[i]->key);
        free(all->items[i]->buckets);
        free(all->items[i]);
    }
    free(all->items);
    free(all->index);
    free(all);
}

void metrics_reset(void)
{
    struct metric *next;
    BUG_ON(reg.collecting);
    for (struct metric *m = reg.first; m; m = next) {
        next = m->next;
        free_series(m->series);
        m->series = NULL;
        m->next = NULL;
        m->registered = false;
    }
    reg.first = reg.last = NULL;
    reg.collector_count = 0;
    metrics_system_release();
}
