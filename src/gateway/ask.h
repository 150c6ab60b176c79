/* ask.h - one small question to the upstream API that needs no claude program: its models, a count
 * of tokens. Each usable upstream target is tried once; SDKs repeat by themselves. */
#ifndef CG_GATEWAY_ASK_H
#define CG_GATEWAY_ASK_H

#include "gateway/gateway.h"

struct ask;
struct ask_opts {
    const char *path; /* "/v1/models?limit=1000" */
    bool get;
    struct str body;     /* copied */
    const char *version; /* for the header anthropic-version; NULL = 2023-06-01 */
    const char *betas;   /* for the header anthropic-beta; NULL = none */
};
/* err NULL: the body of a 200, borrowed. Exactly once, later, never after ask_cancel(). */
typedef void ask_done_fn(void *ctx, struct str body, const struct err *err);
struct ask *ask_upstream(struct gateway *g, const struct ask_opts *opts, ask_done_fn *done,
                         void *ctx);
void ask_cancel(struct ask *a);

/* What the upstream API says there is, as its list's `data`: [{"type":"model","id",...}]. Asked
 * for at most every five minutes; err NULL when it is known. An API that has no such list (404)
 * counts as one with the configured model. Cancelled like an ask; NULL = done() has run already. */
typedef void models_done_fn(void *ctx, const json_t *models, const struct err *err);
struct models_wait;
struct models_wait *gateway_models(struct gateway *g, models_done_fn *done, void *ctx);
void models_cancel(struct models_wait *w);

#endif
