/* client.c - whose request it is, when it comes through proxies.
 *
 * Each proxy appends the address it sees to X-Forwarded-For. Read from the end, an entry counts as
 * long as the one who wrote it is trusted; what stands before the first address that is not trusted
 * was written by that client and may be anything. */
#include "gateway/gateway.h"

#include <arpa/inet.h>

#define HOPS_MAX  32
#define CHAIN_MAX ((size_t)8 << 10)

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80". False when it is none. */
static bool hop_address(struct str hop, char out[GATEWAY_CLIENT_SIZE])
{
    struct in6_addr any;
    hop = str_trim(hop);
    if (str_starts(hop, "[")) {
        hop = str_n(hop.p + 1, hop.len - 1);
        hop = str_split(&hop, ']');
    } else if (hop.len) {
        const char *colon = memchr(hop.p, ':', hop.len);
        if (colon && colon == memrchr(hop.p, ':', hop.len))
            hop.len = (size_t)(colon - hop.p);
    }
    if (hop.len == 0 || hop.len >= INET6_ADDRSTRLEN)
        return false;
    char text[INET6_ADDRSTRLEN];
    snprintf(text, sizeof(text), "%.*s", (int)hop.len, hop.p);
    if (inet_pton(AF_INET, text, &any) != 1 && inet_pton(AF_INET6, text, &any) != 1)
        return false;
    snprintf(out, GATEWAY_CLIENT_SIZE, "%s", text);
    return true;
}

/* Takes the last entry off. */
static struct str last_hop(struct str *chain)
{
    const char *comma = chain->len ? memrchr(chain->p, ',', chain->len) : NULL;
    size_t before = comma ? (size_t)(comma - chain->p) : 0;
    struct str hop = comma ? str_n(comma + 1, chain->len - before - 1) : *chain;
    chain->len = before;
    return hop;
}

const char *gateway_client(const struct gateway *g, const struct http_req *req,
                           char out[GATEWAY_CLIENT_SIZE])
{
    struct buf lines AUTO(buf_release);
    buf_init(&lines, CHAIN_MAX);
    snprintf(out, GATEWAY_CLIENT_SIZE, "%s", http_req_peer(req));
    if (!networks_contain(g->proxies, out) || !http_req_header_all(req, "x-forwarded-for", &lines))
        return out;
    struct str chain = buf_str(&lines);
    for (int i = 0; i < HOPS_MAX && chain.len && networks_contain(g->proxies, out); i++) {
        if (!hop_address(last_hop(&chain), out))
            break;
    }
    return out;
}
