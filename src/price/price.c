/* price.c - the table of prices: JSON, first the shipped text, then the operator's file.
 *
 * Prices stand there in USD per million tokens, as Anthropic publishes them, with at most six
 * decimals: so each is a whole number of pico-USD per token, and no sum is ever rounded before its
 * end. */
#include "price/price.h"

#include "core/buf.h"
#include "core/json.h"
#include "price/shipped.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

#define FILE_MAX    ((size_t)1 << 20)
#define ENTRIES_MAX 10000
#define USD_MAX     10000 /* per million tokens */
#define NAME_SIZE   100   /* of usage_logs.model */
#define TOKENS_MAX  INT64_C(1000000000)
#define RATE_RULE \
    "must be USD per million tokens: a number from 0 to 10000 with at most six decimals"

struct prices {
    struct price *entries;
    size_t count, room;
};

/* --- reading ------------------------------------------------------------------------------ */

static void release_price(struct price *p)
{
    free(p->pattern);
    free(p->name);
}

void prices_free(struct prices *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->count; i++)
        release_price(&p->entries[i]);
    free(p->entries);
    free(p);
}

static int read_rate(const json_t *entry, const char *name, int64_t *ret_rate, struct err *err)
{
    const json_t *v = json_object_get(entry, name);
    if (!v)
        return err_field(err, name, "is missing");
    double usd = json_number_value(v), micro = usd * 1e6;
    if (!json_is_number(v) || !(usd >= 0 && usd <= USD_MAX) || fabs(micro - rint(micro)) > 1e-4)
        return err_field(err, name, RATE_RULE);
    *ret_rate = (int64_t)rint(micro);
    return 0;
}

static int read_rates(const json_t *entry, struct price_rates *rates, struct err *err)
{
    return read_rate(entry, "input", &rates->input, err) != 0 ||
                   read_rate(entry, "output", &rates->output, err) != 0 ||
                   read_rate(entry, "cacheWrite", &rates->cache_write, err) != 0 ||
                   read_rate(entry, "cacheRead", &rates->cache_read, err) != 0
               ? -1
               : 0;
}

static int known_names(const json_t *obj, const char *const *names, struct err *err)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        size_t i = 0;
        while (names[i] && strcmp(names[i], key) != 0)
            i++;
        if (!names[i])
            return err_field(err, key, "unknown name");
    }
    return 0;
}

static int read_tokens(const json_t *obj, const char *name, int64_t *ret_tokens, struct err *err)
{
    const json_t *v = json_object_get(obj, name);
    int64_t n = json_is_integer(v) ? json_integer_value(v) : 0;
    if (n < 1 || n > TOKENS_MAX)
        return err_field(err, name, "must be a number of tokens, 1 to 1000000000");
    *ret_tokens = n;
    return 0;
}

static int read_long(const json_t *entry, struct price *p, struct err *err)
{
    static const char *const names[] = {"over", "input", "output", "cacheWrite", "cacheRead", NULL};
    const json_t *v = json_object_get(entry, "longPrompt");
    if (!v)
        return 0;
    if (!json_is_object(v))
        return err_field(err, "longPrompt", "must be an object");
    if (known_names(v, names, err) != 0 || read_tokens(v, "over", &p->long_over, err) != 0 ||
        read_rates(v, &p->long_rates, err) != 0)
        return err_prefix(err, "longPrompt");
    return 0;
}

static bool is_model_name(struct str s, bool pattern)
{
    if (s.len == 0 || s.len >= NAME_SIZE)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] <= ' ' || s.p[i] > '~' || (s.p[i] == '*' && !pattern))
            return false;
    }
    return true;
}

static int read_name(const json_t *entry, const char *pattern, struct price *p, struct err *err)
{
    const json_t *v = json_object_get(entry, "name");
    struct str name = v ? json_str_of(v) : str_c(pattern);
    if (!v && strchr(pattern, '*'))
        return 0;
    if (!is_model_name(name, false) || !str_glob(pattern, name))
        return err_field(err, "name", "must be the name of a model that the pattern matches");
    p->name = str_dup(name);
    return 0;
}

static int read_entry(const char *pattern, const json_t *entry, struct price *p, struct err *err)
{
    static const char *const names[] = {"input",     "output",     "cacheWrite", "cacheRead",
                                        "maxTokens", "longPrompt", "name",       NULL};
    if (!is_model_name(str_c(pattern), true))
        return err_set(err, ERR_CONFIG,
                       "must be named by a model or a pattern with *: at most 99 visible ASCII "
                       "characters");
    if (!json_is_object(entry))
        return err_set(err, ERR_CONFIG,
                       "must be an object with input, output, cacheWrite and "
                       "cacheRead");
    if (known_names(entry, names, err) != 0 || read_rates(entry, &p->rates, err) != 0)
        return -1;
    if (json_object_get(entry, "maxTokens") &&
        read_tokens(entry, "maxTokens", &p->max_tokens, err) != 0)
        return -1;
    if (read_long(entry, p, err) != 0 || read_name(entry, pattern, p, err) != 0)
        return -1;
    p->pattern = x_strdup(pattern);
    return 0;
}

/* Adds, or replaces the entry of the same pattern. */
static void put_entry(struct prices *p, const struct price *entry)
{
    BUG_ON(!entry->pattern);
    for (size_t i = 0; i < p->count; i++) {
        if (strcmp(p->entries[i].pattern, entry->pattern) == 0) {
            release_price(&p->entries[i]);
            p->entries[i] = *entry;
            return;
        }
    }
    if (p->count == p->room) {
        p->room = p->room ? p->room * 2 : 32;
        p->entries = x_realloc(p->entries, p->room * sizeof(*p->entries));
    }
    p->entries[p->count++] = *entry;
}

static int read_text(struct prices *p, struct str text, struct err *err)
{
    static const char *const names[] = {"source", "date", "note", "models", NULL};
    AUTO(json_unref_p) json_t *root = json_parse(text, err);
    const char *pattern;
    json_t *v;
    if (!root)
        return -1;
    const json_t *models = json_object_get(root, "models");
    if (!json_is_object(models) || json_object_size(models) > ENTRIES_MAX)
        return err_field(err, "models", "must be an object of at most 10000 models");
    if (known_names(root, names, err) != 0)
        return -1;
    json_object_foreach((json_t *)(uintptr_t)models, pattern, v)
    {
        struct price entry = {0};
        if (read_entry(pattern, v, &entry, err) != 0) {
            release_price(&entry);
            return err_prefix(err, "models.%.120s", pattern);
        }
        put_entry(p, &entry);
    }
    return 0;
}

static int read_all(int fd, struct buf *b)
{
    for (;;) {
        if (!buf_reserve(b, 65536))
            return E2BIG;
        ssize_t n = read(fd, b->data + b->len, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : 0;
        buf_grow_len(b, (size_t)n);
    }
}

static int read_file(struct prices *p, const char *path, struct err *err)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, FILE_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int e = fd < 0 ? errno : read_all(fd, &b);
    if (fd >= 0)
        close(fd);
    if (e)
        return err_set(err, ERR_CONFIG, "cannot read: %s",
                       e == E2BIG ? "it is larger than 1 MiB" : strerror(e));
    return read_text(p, buf_str(&b), err);
}

struct prices *prices_load(const char *path, struct err *err)
{
    struct prices *p = x_calloc(1, sizeof(*p));
    struct err why = {0};
    BUG_ON(read_text(p, str_n(prices_shipped, prices_shipped_len), &why) != 0);
    if (!path || !*path || read_file(p, path, &why) == 0)
        return p;
    err_set(err, ERR_CONFIG, "pricing.file '%s': %s", path, why.msg);
    prices_free(p);
    return NULL;
}

/* --- asking ------------------------------------------------------------------------------- */

/* How well a pattern that matches says which model is meant. */
static size_t weight(const struct price *p)
{
    size_t stars = 0, len = strlen(p->pattern);
    for (const char *c = p->pattern; *c; c++)
        stars += *c == '*';
    return stars ? (len - stars) * 2 : len * 2 + 1;
}

const struct price *prices_find(const struct prices *p, const char *model)
{
    const struct price *best = NULL;
    for (size_t i = 0; i < p->count; i++) {
        const struct price *one = &p->entries[i];
        if (str_glob(one->pattern, str_c(model)) && (!best || weight(one) > weight(best)))
            best = one;
    }
    return best;
}

static void add_product(int64_t *sum, int64_t tokens, int64_t rate)
{
    int64_t product;
    if (__builtin_mul_overflow(tokens < 0 ? 0 : tokens, rate, &product) ||
        __builtin_add_overflow(*sum, product, sum))
        *sum = INT64_MAX;
}

int64_t price_cost(const struct price *price, const struct price_tokens *tokens)
{
    int64_t pico = 0;
    if (!price)
        return PRICE_UNKNOWN;
    int64_t prompt = tokens->input + tokens->cache_write + tokens->cache_read;
    bool is_long = price->long_over && prompt > price->long_over;
    const struct price_rates *r = is_long ? &price->long_rates : &price->rates;
    add_product(&pico, tokens->input, r->input);
    add_product(&pico, tokens->output, r->output);
    add_product(&pico, tokens->cache_write, r->cache_write);
    add_product(&pico, tokens->cache_read, r->cache_read);
    return pico / 1000 + (pico % 1000 >= 500);
}

size_t prices_count(const struct prices *p)
{
    return p->count;
}

const struct price *prices_at(const struct prices *p, size_t i)
{
    BUG_ON(i >= p->count);
    return &p->entries[i];
}
