/* networks.c - see the header. IPv4 is kept as IPv4-mapped IPv6 (::ffff:0:0/96), so that there is
 * one kind of network, and an address that arrives in either form is the same. */
#include "conf/networks.h"

#include <arpa/inet.h>

#define NETWORKS_MAX 256
#define TEXT_MAX     64

struct network {
    struct in6_addr address;
    unsigned bits;
};

struct networks {
    bool local; /* "unix" is in it */
    size_t count;
    struct network all[NETWORKS_MAX];
};

/* ret_v4: how many of the 128 bits an IPv4 address has in front of its own. */
static bool parse_address(struct str text, struct in6_addr *ret, unsigned *ret_v4)
{
    char copy[TEXT_MAX];
    struct in_addr v4;
    if (text.len == 0 || text.len >= sizeof(copy))
        return false;
    snprintf(copy, sizeof(copy), "%.*s", (int)text.len, text.p);
    *ret_v4 = 0;
    if (inet_pton(AF_INET6, copy, ret) == 1)
        return true;
    if (inet_pton(AF_INET, copy, &v4) != 1)
        return false;
    *ret = (struct in6_addr){.s6_addr = {[10] = 0xFF, [11] = 0xFF}};
    memcpy(&ret->s6_addr[12], &v4, sizeof(v4));
    *ret_v4 = 96;
    return true;
}

static bool same_network(const struct in6_addr *a, const struct in6_addr *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    if (memcmp(a->s6_addr, b->s6_addr, whole) != 0)
        return false;
    return rest == 0 || ((a->s6_addr[whole] ^ b->s6_addr[whole]) >> (8 - rest)) == 0;
}

/* Bits behind the network's own are a slip: 10.1.0.0/8 may have been meant as 10.1.0.0/16. */
static bool is_whole(const struct network *n)
{
    for (unsigned i = n->bits; i < 128; i++) {
        if (n->address.s6_addr[i / 8] >> (7 - i % 8) & 1)
            return false;
    }
    return true;
}

static bool parse_network(struct str text, struct network *ret)
{
    bool slash = text.len && memchr(text.p, '/', text.len);
    struct str rest = text, address = str_split(&rest, '/');
    uint64_t bits = 128;
    unsigned v4;
    if (!parse_address(address, &ret->address, &v4))
        return false;
    if (slash) {
        if (!str_to_u64(rest, &bits) || bits > 128 - v4)
            return false;
        bits += v4;
    }
    ret->bits = (unsigned)bits;
    return is_whole(ret);
}

static bool parse_list(struct str list, struct networks *ret)
{
    *ret = (struct networks){0};
    while (list.len) {
        struct str one = str_trim(str_split(&list, ','));
        if (str_eq_c(one, "unix"))
            ret->local = true;
        else if (ret->count == NETWORKS_MAX || !parse_network(one, &ret->all[ret->count++]))
            return false;
    }
    return true;
}

struct networks *networks_new(const char *list)
{
    struct networks *n = x_calloc(1, sizeof(*n));
    BUG_ON(!parse_list(str_c(list), n));
    return n;
}

void networks_free(struct networks *n)
{
    free(n);
}

bool networks_contain(const struct networks *n, const char *address)
{
    struct in6_addr a;
    unsigned v4;
    if (strcmp(address, "unix") == 0)
        return n->local;
    if (n->count == 0 || !parse_address(str_c(address), &a, &v4))
        return false;
    for (size_t i = 0; i < n->count; i++) {
        if (same_network(&a, &n->all[i].address, n->all[i].bits))
            return true;
    }
    return false;
}

const char *networks_check(struct str list)
{
    struct networks *n = x_calloc(1, sizeof(*n));
    bool good = parse_list(list, n);
    networks_free(n);
    return good ? NULL
                : "must be addresses and networks such as 10.0.0.0/8, ::1 (no bits set behind the "
                  "network's own), or the word unix, separated by commas";
}
