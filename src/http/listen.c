/* listen.c - from "host:port" or "unix:PATH" to a listening socket given to evhttp.
 *
 * The socket is made here rather than by evhttp because accepted sockets inherit TCP_NODELAY and
 * keep-alive from it, and because evhttp's own listener spins when file descriptors run out. */
#include "http/internal.h"

#include "core/clock.h"
#include "core/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#define TELL_EVERY_MS 10000
#define UNIX_PREFIX   "unix:"

/* Splits at the last colon; the brackets of an IPv6 address are taken off. */
static int split(const char *listen_on, char *host, size_t host_size, char *port, size_t port_size,
                 struct err *err)
{
    const char *colon = strrchr(listen_on, ':');
    uint64_t number;
    if (!colon || !str_to_u64(str_c(colon + 1), &number) || number > 65535)
        return err_set(err, ERR_CONFIG, "cannot listen on '%s': not of the form host:port",
                       listen_on);
    struct str h = str_n(listen_on, (size_t)(colon - listen_on));
    if (h.len >= 2 && h.p[0] == '[' && h.p[h.len - 1] == ']')
        h = str_n(h.p + 1, h.len - 2);
    else if (memchr(h.p, ':', h.len))
        return err_set(err, ERR_CONFIG,
                       "cannot listen on '%s': write an IPv6 address as [addr]:port", listen_on);
    if (h.len >= host_size)
        return err_set(err, ERR_CONFIG, "cannot listen on '%s': host name too long", listen_on);
    snprintf(host, host_size, "%.*s", (int)h.len, h.p);
    snprintf(port, port_size, "%u", (unsigned)number);
    return 0;
}

static void set_flag(int fd, int level, int name, int value)
{
    if (setsockopt(fd, level, name, &value, sizeof(value)) != 0)
        log_debug("setsockopt failed, ignoring", LF_S("error", strerror(errno)));
}

/* -1 with errno. */
static int open_socket(const struct addrinfo *ai)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_flag(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_flag(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
    set_flag(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (ai->ai_family == AF_INET6)
        set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0); /* "[::]" serves IPv4 too */
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

/* A bound, listening socket, or -1 with errno, or -1 with *ret_gai set. */
static int open_any(const char *host, const char *port, int *ret_gai)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *list = NULL;
    int fd = -1, e = 0;
    *ret_gai = getaddrinfo(host, port, &hints, &list);
    if (*ret_gai != 0)
        return -1;
    for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = open_socket(ai);
        e = errno;
    }
    freeaddrinfo(list);
    errno = e;
    return fd;
}

static int open_listener(const char *listen_on, struct err *err)
{
    char host[256] = "", port[8] = "";
    int gai = 0;
    if (split(listen_on, host, sizeof(host), port, sizeof(port), err) != 0)
        return -1;
    int fd = open_any(host[0] ? host : "::", port, &gai);
    if (fd < 0 && !host[0] && (gai || errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL))
        fd = open_any("0.0.0.0", port, &gai); /* a kernel without IPv6 */
    if (fd < 0 && gai)
        return err_set(err, ERR_CONFIG, "cannot listen on '%s': %s", listen_on, gai_strerror(gai));
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot listen on '%s': %s", listen_on, strerror(errno));
    return fd;
}

static char *socket_name(int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    BUG_ON(getsockname(fd, (struct sockaddr *)&ss, &len) != 0);
    getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    return ss.ss_family == AF_INET6 ? x_printf("[%.64s]:%.6s", host, port)
                                    : x_printf("%.64s:%.6s", host, port);
}

/* Out of descriptors: without a pause the loop would spin on the ready socket. The server's sweep
 * enables the listener again. (ctx is evhttp's.) */
static void on_accept_error(struct evconnlistener *listener, void *ctx)
{
    static int64_t told_ms;
    int e = errno;
    (void)ctx;
    evconnlistener_disable(listener);
    if (told_ms == 0 || clock_mono_ms() - told_ms > TELL_EVERY_MS) {
        told_ms = clock_mono_ms();
        log_warn("cannot accept connections, pausing", LF_S("error", strerror(e)));
    }
}

int server_listen(struct http_server *s, struct err *err)
{
    s->is_unix = strncmp(s->listen, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0;
    int fd = s->is_unix ? unix_listen(s->listen + strlen(UNIX_PREFIX), &s->unix_name, err)
                        : open_listener(s->listen, err);
    if (fd < 0)
        return -1;
    s->address = s->is_unix ? x_strdup(s->listen) : socket_name(fd);
    struct evconnlistener *listener = evconnlistener_new(
        loop_base(s->loop), NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    BUG_ON(!listener);
    evconnlistener_set_error_cb(listener, on_accept_error);
    s->bound = evhttp_bind_listener(s->http, listener);
    BUG_ON(!s->bound);
    return 0;
}

void server_unlisten(struct http_server *s)
{
    struct evhttp_bound_socket *bound = TAKE_PTR(s->bound);
    if (!bound)
        return;
    if (s->unix_name.name)
        unix_unlisten(&s->unix_name);
    evhttp_del_accept_socket(s->http, bound);
}
