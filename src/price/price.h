/* price.h - what a turn costs: the price of each model, and sums without rounding errors.
 *
 * Shipped are the public prices of Anthropic's models (prices.json, with source and date); a file
 * of the same form replaces and adds. A name is looked up among patterns with '*': the longest that
 * matches wins, and a name without '*' before a pattern. A model without a price costs an unknown
 * amount, never 0.
 *
 * Money is counted in integers: nano-USD (10^-9), and prices in pico-USD per token, which is the
 * same as micro-USD per million tokens. */
#ifndef CG_PRICE_PRICE_H
#define CG_PRICE_PRICE_H

#include "core/err.h"
#include "core/str.h"

#define PRICE_UNKNOWN INT64_C(-1)

struct price_rates { /* pico-USD per token */
    int64_t input, output;
    int64_t cache_write; /* kept for 5 minutes */
    int64_t cache_read;
};

struct price {
    char *pattern;
    char *name;         /* to offer the model by; NULL = a pattern only */
    int64_t max_tokens; /* of one answer; 0 = not said */
    struct price_rates rates;
    int64_t long_over; /* a prompt of more tokens has other rates; 0 = there are none */
    struct price_rates long_rates;
};

struct price_tokens {
    int64_t input, output, cache_write, cache_read;
};

struct prices;

/* path NULL or "": the shipped ones alone. ERR_CONFIG names the entry and the rule. Blocking. */
struct prices *prices_load(const char *path, struct err *err);
void prices_free(struct prices *p); /* NULL is fine */

/* NULL: the model has no price. Borrowed. */
const struct price *prices_find(const struct prices *p, const char *model);
/* Of one request, in nano-USD; PRICE_UNKNOWN when price is NULL. */
int64_t price_cost(const struct price *price, const struct price_tokens *tokens);

size_t prices_count(const struct prices *p);
const struct price *prices_at(const struct prices *p, size_t i);

#endif
