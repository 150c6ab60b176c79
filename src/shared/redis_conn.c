/* redis_conn.c - see the header. hiredis 0.14 looks names up blocking, knows no time-outs and does
 * not close its socket on exec; all three are done here.
 *
 * A context belongs to hiredis: it frees it after a failed connect and after a disconnect. ac->data
 * is this connection as long as it cares; NULL tells the callbacks that it does not any more. */
#include "shared/redis_conn.h"

#include "core/clock.h"

#include <errno.h>
#include <event2/dns.h>
#include <event2/event.h>
#include <event2/util.h>
#include <fcntl.h>
#include <hiredis/adapters/libevent.h>
#include <sodium.h>

#define CONN_TAG     TAG4('R', 'C', 'O', 'N')
#define RETRY_MIN    100
#define RETRY_MAX    5000
#define ADDRESS_SIZE INET6_ADDRSTRLEN

/* A name being looked up. Outlives the connection that asked, until libevent has let go of it. */
struct lookup {
    struct redis_conn *c; /* NULL: nobody waits any more */
    struct loop *loop;
    struct evdns_getaddrinfo_request *request;
    struct evdns_base *dns;
};

struct redis_conn {
    uint32_t tag;
    struct redis_conn_opts o;
    redisAsyncContext *ac;
    bool logged_in;
    int greetings; /* answers awaited before ready() */
    struct lookup *lookup;
    char address[ADDRESS_SIZE];
    size_t attempts;   /* each takes the next of several addresses */
    struct timer next; /* to connect: after a back-off, or once the address is known */
    struct timer deadline;
    int64_t retry_ms;
};

static void lost(struct redis_conn *c, const char *why)
{
    /* Not all servers at the same moment. */
    int64_t ms = c->retry_ms / 2 + (int64_t)randombytes_uniform((uint32_t)c->retry_ms);
    c->logged_in = false;
    c->address[0] = '\0';
    c->attempts++;
    c->retry_ms = c->retry_ms * 2 < RETRY_MAX ? c->retry_ms * 2 : RETRY_MAX;
    timer_stop(&c->deadline);
    timer_set(&c->next, ms < RETRY_MAX ? ms : RETRY_MAX);
    c->o.lost(c->o.ctx, why);
}

/* --- looking up -------------------------------------------------------------------------- */

static void free_lookup(void *obj)
{
    struct lookup *l = obj;
    evdns_base_free(l->dns, 0);
    free(l);
}

static void end_lookup(struct redis_conn *c)
{
    struct lookup *l = TAKE_PTR(c->lookup);
    if (!l)
        return;
    l->c = NULL;
    if (l->request)
        evdns_getaddrinfo_cancel(l->request); /* the callback still comes */
    else
        free_lookup(l);
}

static bool write_address(const struct evutil_addrinfo *ai, char out[ADDRESS_SIZE])
{
    const void *from = NULL;
    if (ai->ai_family == AF_INET)
        from = &((const struct sockaddr_in *)(const void *)ai->ai_addr)->sin_addr;
    else if (ai->ai_family == AF_INET6)
        from = &((const struct sockaddr_in6 *)(const void *)ai->ai_addr)->sin6_addr;
    return from && evutil_inet_ntop(ai->ai_family, from, out, ADDRESS_SIZE);
}

static void choose_address(struct redis_conn *c, const struct evutil_addrinfo *found)
{
    size_t count = 0, i = 0;
    for (const struct evutil_addrinfo *ai = found; ai; ai = ai->ai_next)
        count++;
    for (const struct evutil_addrinfo *ai = found; ai; ai = ai->ai_next) {
        if (i++ == c->attempts % count && !write_address(ai, c->address))
            c->address[0] = '\0';
    }
}

static void on_address(int result, struct evutil_addrinfo *found, void *ctx)
{
    struct lookup *l = ctx;
    struct redis_conn *c = l->c;
    l->request = NULL;
    if (c && result == 0)
        choose_address(c, found);
    if (found)
        evutil_freeaddrinfo(found);
    if (c) /* libevent's own objects are still in use here: not at once */
        timer_set(&c->next, 0);
    else
        loop_defer(l->loop, free_lookup, l);
}

static void look_up(struct redis_conn *c)
{
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_protocol = IPPROTO_TCP,
                                    .ai_flags = EVUTIL_AI_ADDRCONFIG};
    struct lookup *l = c->lookup = x_calloc(1, sizeof(*l));
    l->c = c;
    l->loop = c->o.loop;
    l->dns = evdns_base_new(loop_base(c->o.loop), 0);
    BUG_ON(!l->dns);
    evdns_base_resolv_conf_parse(l->dns, DNS_OPTIONS_ALL, "/etc/resolv.conf");
    struct evdns_getaddrinfo_request *request =
        evdns_getaddrinfo(l->dns, c->o.url->host, NULL, &hints, on_address, l);
    if (request) /* otherwise the callback has run already */
        l->request = request;
}

/* --- connecting -------------------------------------------------------------------------- */

static void on_greeting(redisAsyncContext *ac, void *r, void *ctx)
{
    struct redis_conn *c = ac->data;
    const redisReply *reply = r;
    (void)ctx;
    if (!c || !reply)
        return;
    if (reply->type == REDIS_REPLY_ERROR) {
        redis_conn_drop(c, reply->str);
        return;
    }
    if (--c->greetings > 0)
        return;
    c->logged_in = true;
    c->o.ready(c->o.ctx);
}

static void log_in(struct redis_conn *c)
{
    const struct redis_url *u = c->o.url;
    c->greetings = 1 + (u->password != NULL) + (u->db != 0);
    if (u->password && u->user)
        redisAsyncCommand(c->ac, on_greeting, NULL, "AUTH %s %s", u->user, u->password);
    else if (u->password)
        redisAsyncCommand(c->ac, on_greeting, NULL, "AUTH %s", u->password);
    if (u->db)
        redisAsyncCommand(c->ac, on_greeting, NULL, "SELECT %d", u->db);
    redisAsyncCommand(c->ac, on_greeting, NULL, "PING");
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct redis_conn *c = ac->data;
    if (!c || status == REDIS_OK)
        return;
    c->ac = NULL;
    lost(c, ac->c.errstr);
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct redis_conn *c = ac->data;
    if (!c)
        return;
    c->ac = NULL;
    lost(c, status == REDIS_OK || !ac->c.errstr[0] ? "the connection ended" : ac->c.errstr);
}

static void give_up(struct redis_conn *c, const char *why)
{
    redisAsyncContext *ac = TAKE_PTR(c->ac);
    if (ac) {
        ac->data = NULL;
        redisAsyncFree(ac);
    }
    lost(c, why);
}

static void connect_now(struct redis_conn *c)
{
    const struct redis_url *u = c->o.url;
    redisAsyncContext *ac =
        u->path ? redisAsyncConnectUnix(u->path) : redisAsyncConnect(c->address, u->port);
    BUG_ON(!ac);
    c->ac = ac;
    if (ac->err) {
        char why[160];
        snprintf(why, sizeof(why), "%s", ac->c.errstr);
        give_up(c, why);
        return;
    }
    fcntl(ac->c.fd, F_SETFD, FD_CLOEXEC);
    ac->data = c;
    BUG_ON(redisLibeventAttach(ac, loop_base(c->o.loop)) != REDIS_OK);
    redisAsyncSetConnectCallback(ac, on_connect);
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    log_in(c);
}

static bool is_address(const char *host)
{
    struct in6_addr addr;
    return evutil_inet_pton(AF_INET, host, &addr) == 1 ||
           evutil_inet_pton(AF_INET6, host, &addr) == 1;
}

/* From the beginning, or on with the address that was found. */
static void on_next(void *obj)
{
    struct redis_conn *c = OBJ(obj, struct redis_conn, CONN_TAG);
    const char *host = c->o.url->host;
    bool looked_up = c->lookup != NULL;
    end_lookup(c);
    if (!looked_up)
        timer_set(&c->deadline, c->o.timeout_ms);
    if (!looked_up && host && !is_address(host)) {
        look_up(c);
        return;
    }
    if (host && is_address(host))
        snprintf(c->address, sizeof(c->address), "%s", host);
    if (host && !c->address[0])
        lost(c, "its name cannot be resolved");
    else
        connect_now(c);
}

static void on_deadline(void *obj)
{
    struct redis_conn *c = OBJ(obj, struct redis_conn, CONN_TAG);
    end_lookup(c);
    give_up(c, c->ac ? "no answer" : "its name cannot be resolved");
}

/* --- life -------------------------------------------------------------------------------- */

struct redis_conn *redis_conn_new(const struct redis_conn_opts *opts)
{
    struct redis_conn *c = x_calloc(1, sizeof(*c));
    c->tag = CONN_TAG;
    c->o = *opts;
    c->retry_ms = RETRY_MIN;
    timer_init(&c->next, opts->loop, on_next, c);
    timer_init(&c->deadline, opts->loop, on_deadline, c);
    timer_set(&c->next, 0);
    return c;
}

void redis_conn_free(struct redis_conn *c)
{
    if (!c)
        return;
    timer_release(&c->next);
    timer_release(&c->deadline);
    redisAsyncContext *ac = TAKE_PTR(c->ac);
    if (ac) {
        ac->data = NULL;
        redisAsyncFree(ac);
    }
    bool looking_up = c->lookup && c->lookup->request;
    struct loop *loop = c->o.loop;
    end_lookup(c);
    c->tag = 0;
    free(c);
    if (looking_up) /* libevent lets go of it in the loop's next turn, which may be the last */
        event_base_loop(loop_base(loop), EVLOOP_NONBLOCK);
}

redisAsyncContext *redis_conn_context(struct redis_conn *c)
{
    return c->logged_in ? c->ac : NULL;
}

void redis_conn_settled(struct redis_conn *c)
{
    c->retry_ms = RETRY_MIN;
    timer_stop(&c->deadline);
}

void redis_conn_drop(struct redis_conn *c, const char *why)
{
    if (c->ac)
        give_up(c, why);
}
