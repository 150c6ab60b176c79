/* call_headers.c - see the header. One place is kept free for the betas. */
#include "upstream/call_headers.h"

#include "upstream/policy.h"

#include <event2/http.h>
#include <event2/keyvalq_struct.h>

static size_t find(const struct call_headers *h, const char *name)
{
    size_t at = 0;
    while (at < h->count && !str_ieq_c(h->list[at][0], name))
        at++;
    return at;
}

static void add(struct call_headers *h, struct str name, struct str value)
{
    h->list[h->count][0] = name;
    h->list[h->count++][1] = value;
}

/* The version of the API that the client speaks: what was said with its words is judged by it. */
static void set_version(struct call_headers *h, const char *version)
{
    size_t at = find(h, "anthropic-version");
    if (version && at < h->count)
        h->list[at][1] = str_c(version);
}

static void add_betas(struct call_headers *h, const char *betas)
{
    size_t at = find(h, "anthropic-beta");
    if (!betas || at == CALL_HEADERS_MAX)
        return;
    h->betas = policy_join_betas(at < h->count ? h->list[at][1] : STR(""), str_c(betas));
    if (at == h->count)
        add(h, STR("anthropic-beta"), str_c(h->betas));
    else
        h->list[at][1] = str_c(h->betas);
}

void call_headers_pick(struct call_headers *h, struct evhttp_request *req,
                       const struct relay_turn *turn)
{
    bool has_type = false;
    struct evkeyval *kv;
    for (kv = evhttp_request_get_input_headers(req)->tqh_first; kv; kv = kv->next.tqe_next) {
        struct str name = str_c(kv->key), value = str_c(kv->value);
        if (!policy_for_upstream(name, value) || h->count >= CALL_HEADERS_MAX - 2)
            continue;
        has_type = has_type || str_ieq_c(name, "content-type");
        add(h, name, value);
    }
    if (!has_type)
        add(h, STR("content-type"), STR("application/json"));
    set_version(h, turn->version);
    add_betas(h, turn->betas);
}

void call_headers_release(struct call_headers *h)
{
    free(h->betas);
}
