/* cost.c - what turns cost, and whether that can be written down.
 *
 * The price is that of the model which has answered, because that is what Anthropic bills: a name
 * may be an alias, and another model may stand in. A model without a price costs an unknown amount
 * (NULL in the database, never 0), which a counter makes visible. */
#include "gateway/gateway.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#define RETRY_S 10

static struct metric cost_total = {.name = "claudegate_cost_usd_total",
                                   .help = "What turns have cost, by model, in USD.",
                                   .type = METRIC_COUNTER,
                                   .labels = {"model"}};
static struct metric unpriced_total = {
    .name = "claudegate_unpriced_turns_total",
    .help = "Turns of a model without a price: their cost is unknown.",
    .type = METRIC_COUNTER,
    .labels = {"model"}};

static struct metric unbilled_total = {
    .name = "claudegate_usage_write_errors_total",
    .help = "Usage rows the journal's disk refused; they wait in memory.",
    .type = METRIC_COUNTER};

void gateway_price(const struct gateway *g, struct usage_row *row, const char *answered)
{
    const char *model = answered[0] ? answered : row->model;
    const struct price_tokens tokens = {.input = row->input_tokens,
                                        .output = row->output_tokens,
                                        .cache_write = row->cache_creation_tokens,
                                        .cache_read = row->cache_read_tokens};
    if (row->cached) { /* also where the model has no price: nobody was asked */
        row->cost_nano = 0;
        return;
    }
    row->cost_nano = price_cost(prices_find(g->prices, model), &tokens);
    if (row->cost_nano < 0)
        metric_add(&unpriced_total, 1, model);
    else
        metric_add(&cost_total, (double)row->cost_nano / 1e9, model);
}

int gateway_estimate_cost(const struct gateway *g, const struct api_key *key, const char *model,
                          int64_t input_tokens, int64_t max_tokens, int64_t *ret_nano,
                          struct err *err)
{
    bool limited = key->limits.cost_per_day >= 0 || key->limits.cost_per_month >= 0;
    const struct price *price = prices_find(g->prices, model ? model : g->conf->claude.model);
    /* What is asked may all be written to the cache, which costs most. */
    const struct price_tokens tokens = {.cache_write = input_tokens, .output = max_tokens};
    if (!price && model && limited)
        return err_set(err, ERR_FORBIDDEN,
                       "model: '%s' has no price here, and this API key has a limit of cost",
                       model);
    *ret_nano = price ? price_cost(price, &tokens) : 0;
    return 0;
}

int gateway_check_journal(const struct gateway *g, struct err *err)
{
    if (g->conf->usage.when_disk_is_full == CONF_DISK_FULL_SERVE ||
        !journal_disk_is_full(g->journal))
        return 0;
    err_set(err, ERR_UNAVAILABLE,
            "the disk of the usage journal is full; requests are refused, for they could not be "
            "billed");
    err->retry_after_s = RETRY_S;
    return -1;
}

void gateway_begin_row(struct usage_row *row, const struct http_req *http,
                       const struct auth_key *key, const char *model)
{
    snprintf(row->request_id, sizeof(row->request_id), "%s", http_req_id(http));
    snprintf(row->api_key_id, sizeof(row->api_key_id), "%s", key->key.id);
    snprintf(row->endpoint, sizeof(row->endpoint), "%s", http_req_route(http));
    snprintf(row->method, sizeof(row->method), "%s", http_req_method(http));
    snprintf(row->model, sizeof(row->model), "%s", model);
    row->timestamp = clock_wall_ms();
    row->cost_nano = PRICE_UNKNOWN;
}

void gateway_end_row(const struct gateway *g, struct usage_row *row, const struct err *err)
{
    struct err why;
    row->status_code = err ? err_status(err) : 200;
    if (err)
        snprintf(row->error, sizeof(row->error), "%s: %s", err_info(err->code)->name, err->msg);
    str_end_utf8(row->error); /* it may have been cut, and PostgreSQL takes whole characters only */
    if (journal_append(g->journal, row, &why) == 0)
        return;
    metric_add(&unbilled_total, 1);
    log_error("usage row could not be written to the journal, it waits in memory",
              LF_S("request_id", row->request_id), LF_S("error", why.msg));
}
