/* fake_upstream.c - FAKE_UPSTREAM=1: turns are really asked for, over plain HTTP/1.1.
 *
 * Goes to ANTHROPIC_UNIX_SOCKET, else to the host of ANTHROPIC_BASE_URL (http only). One
 * connection per request. An event is shown as it came, re-serialised without spaces as the real
 * program does; pings and unknown events are not. Retries follow CLAUDE_CODE_MAX_RETRIES with the
 * real schedule; nothing is asked for again without streaming (the real program does that after
 * a 404 even when told not to). An interrupt closes the connection. */
#include "fake_upstream.h"

#include <errno.h>
#include <netdb.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BETAS                                                                               \
    "claude-code-20250219,interleaved-thinking-2025-05-14,thinking-token-count-2026-05-13," \
    "context-management-2025-06-27,prompt-caching-scope-2026-01-05"
#define HEAD_MAX 65536
#define BODY_MAX (1u << 20)

static void upstream_new(struct fake *f)
{
    struct upstream *u = f->upstream = x_calloc(1, sizeof(*u));
    u->fd = u->preheat_fd = -1;
    buf_init(&u->request, FAKE_MAX_BYTES);
    buf_init(&u->in, FAKE_MAX_BYTES);
    buf_init(&u->body, BODY_MAX);
    buf_init(&u->line, FAKE_MAX_BYTES);
    buf_init(&u->data, FAKE_MAX_BYTES);
}

static void disconnect(struct upstream *u)
{
    if (u->fd >= 0)
        close(u->fd);
    u->fd = -1;
    buf_clear(&u->in);
    buf_clear(&u->body);
    buf_clear(&u->line);
    buf_clear(&u->data);
}

void upstream_stop(struct fake *f)
{
    if (!f->upstream)
        return;
    disconnect(f->upstream);
    f->upstream->state = UP_IDLE;
    f->upstream->wake = -1;
}

/* ---- connecting ---- */

static int connect_unix(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path))
        return -1;
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_tcp(struct str authority)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    char *host = str_dup(str_split(&authority, ':'));
    char *port = str_dup(authority.len ? authority : STR("80"));
    int fd = -1;
    if (getaddrinfo(host, port, &hints, &list) == 0 && list) {
        fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) != 0 && errno != EINPROGRESS) {
            close(fd);
            fd = -1;
        }
    }
    if (list)
        freeaddrinfo(list);
    free(host);
    free(port);
    return fd;
}

/* The authority of ANTHROPIC_BASE_URL; *ret_path = what follows it. */
static struct str base_authority(struct fake *f, struct str *ret_path)
{
    struct str url = str_c(fake_env(f, "ANTHROPIC_BASE_URL"));
    if (str_starts(url, "http://")) {
        url.p += 7;
        url.len -= 7;
    }
    struct str authority = str_split(&url, '/');
    *ret_path = url;
    return authority.len ? authority : STR("relay.invalid");
}

static int connect_upstream(struct fake *f)
{
    const char *path = fake_env(f, "ANTHROPIC_UNIX_SOCKET");
    struct str rest;
    return path ? connect_unix(path) : connect_tcp(base_authority(f, &rest));
}

void upstream_preheat(struct fake *f)
{
    struct str rest, host = base_authority(f, &rest);
    struct buf head;
    upstream_new(f);
    int fd = connect_upstream(f);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (fd < 0)
        return;
    buf_init(&head, HEAD_MAX);
    buf_printf(&head, "HEAD / HTTP/1.1\r\nhost: %.*s\r\nconnection: close\r\n\r\n", (int)host.len,
               host.p);
    if (poll(&p, 1, 200) == 1 && write(fd, head.data, head.len) == (ssize_t)head.len)
        f->upstream->preheat_fd = fd;
    else
        close(fd);
    buf_release(&head);
}

/* ---- the request ---- */

static void build_request(struct fake *f)
{
    struct upstream *u = f->upstream;
    struct str prefix, host = base_authority(f, &prefix);
    const char *key = fake_env(f, "ANTHROPIC_API_KEY");
    json_t *body = request_body(f), *headers = request_headers(f), *v;
    const char *name;
    buf_clear(&u->data);
    json_write(&u->data, body);
    buf_clear(&u->request);
    buf_printf(&u->request,
               "POST %s%.*s/v1/messages?beta=true HTTP/1.1\r\nhost: %.*s\r\n"
               "accept: application/json\r\ncontent-type: application/json\r\n"
               "user-agent: claude-cli/" FAKE_VERSION " (external, sdk-cli)\r\n"
               "x-claude-code-session-id: %s\r\nanthropic-beta: " BETAS "\r\n"
               "anthropic-version: 2023-06-01\r\nx-app: cli\r\nconnection: close\r\n",
               prefix.len ? "/" : "", (int)prefix.len, prefix.p ? prefix.p : "", (int)host.len,
               host.p, f->session_id);
    if (key)
        buf_printf(&u->request, "x-api-key: %s\r\n", key);
    json_object_foreach(headers, name, v)
        buf_printf(&u->request, "%s: %s\r\n", name, json_string_value(v));
    buf_printf(&u->request, "content-length: %zu\r\n\r\n", u->data.len);
    buf_addstr(&u->request, buf_str(&u->data));
    buf_clear(&u->data);
    json_decref(headers);
    json_decref(body);
}

static int max_retries(struct fake *f)
{
    uint64_t n = 10;
    const char *text = fake_env(f, "CLAUDE_CODE_MAX_RETRIES");
    return text && str_to_u64(str_c(text), &n) ? (int)(n > 15 ? 15 : n) : (int)n;
}

static int64_t header_limit_us(struct fake *f)
{
    uint64_t ms = 0;
    const char *text = fake_env(f, "API_TIMEOUT_MS");
    return text && str_to_u64(str_c(text), &ms) && ms ? (int64_t)ms * 1000 : FAKE_STALL_US;
}

static void failed(struct fake *f, int status, struct str message)
{
    struct upstream *u = f->upstream;
    struct turn *t = &f->turn;
    bool retryable = status == 0 || status == 401 || status == 408 || status == 409 ||
                     status == 429 || status >= 500;
    if (retryable && u->may_retry && u->retry_after <= 60 && t->attempt < max_retries(f)) {
        double delay = 500.0 * (double)(1 << (t->attempt < 6 ? t->attempt : 6));
        delay = delay < u->retry_after * 1000.0 ? u->retry_after * 1000.0 : delay;
        t->attempt++;
        turn_retry_line(f, max_retries(f), delay, status);
        disconnect(u);
        u->state = UP_WAIT;
        u->wake = f->now + (int64_t)(delay * 1000.0);
        return;
    }
    memcpy(t->msg.request_id, u->request_id, sizeof(t->msg.request_id));
    turn_http_error(f, status, message, STR(""));
}

static void send_request(struct fake *f)
{
    struct upstream *u = f->upstream;
    disconnect(u);
    u->sent = 0;
    u->status = u->retry_after = 0;
    u->may_retry = true;
    u->chunked = u->saw_event = false;
    u->left = -1;
    u->request_id[0] = '\0';
    u->wake = f->now + header_limit_us(f);
    u->state = UP_SENDING;
    u->fd = connect_upstream(f);
    if (u->fd < 0)
        failed(f, 0, STR("Unable to connect to API (ConnectionRefused)"));
}

void upstream_start(struct fake *f)
{
    f->upstream->first_errors = 0;
    build_request(f);
    send_request(f);
}

/* ---- the response ---- */

static void read_header(struct upstream *u, struct str name, struct str value)
{
    uint64_t n;
    if (str_ieq_c(name, "transfer-encoding") && str_ieq_c(value, "chunked"))
        u->chunked = true;
    else if (str_ieq_c(name, "content-length") && str_to_u64(value, &n))
        u->left = (int64_t)n;
    else if (str_ieq_c(name, "request-id"))
        snprintf(u->request_id, sizeof(u->request_id), "%.*s", (int)value.len, value.p);
    else if (str_ieq_c(name, "retry-after") && str_to_u64(value, &n))
        u->retry_after = n > 1000000 ? 1000000 : (int)n;
    else if (str_ieq_c(name, "x-should-retry") && str_ieq_c(value, "false"))
        u->may_retry = false;
}

/* False = more bytes are needed. */
static bool take_head(struct fake *f)
{
    struct upstream *u = f->upstream;
    const char *end = u->in.len ? memmem(u->in.data, u->in.len, "\r\n\r\n", 4) : NULL;
    uint64_t status = 0;
    if (!end)
        return false;
    struct str head = str_n(u->in.data, (size_t)(end - u->in.data));
    struct str first = str_split(&head, '\n');
    str_split(&first, ' ');
    str_to_u64(str_trim(str_split(&first, ' ')), &status);
    u->status = (int)status;
    while (head.len) {
        struct str value = str_split(&head, '\n'), name = str_split(&value, ':');
        if (value.len && value.p[value.len - 1] == '\r')
            value.len--;
        read_header(u, name, str_trim(value));
    }
    buf_consume(&u->in, (size_t)(end + 4 - u->in.data));
    u->state = UP_BODY;
    return true;
}

static void error_body(struct fake *f)
{
    struct upstream *u = f->upstream;
    json_t *j = json_loadb(buf_cstr(&u->body), u->body.len, JSON_ALLOW_NUL, NULL);
    struct str message = json_get_str(json_object_get(j, "error"), "message");
    if (record_wanted(f))
        record_write(f, json_pack("{s:s,s:i}", "event", "upstream", "status", u->status));
    failed(f, u->status, message.len ? message : STR("no body"));
    json_decref(j);
}

static void body_end(struct fake *f)
{
    struct upstream *u = f->upstream;
    memcpy(f->turn.msg.request_id, u->request_id, sizeof(u->request_id));
    if (u->status != 200)
        error_body(f);
    else if (!u->saw_event)
        turn_fail(f, "API Error: Stream ended without receiving any events", "unknown", 0, false,
                  "completed");
    else
        turn_stream_cut(f);
}

static void feed(struct fake *f, struct str bytes)
{
    struct upstream *u = f->upstream;
    if (u->status == 200)
        sse_feed(f, bytes);
    else
        buf_addstr(&u->body, bytes);
}

/* Between two chunks: the end of the last one and the size of the next. False = nothing to feed:
 * more bytes are needed, or the body has ended. */
static bool next_chunk(struct fake *f)
{
    struct upstream *u = f->upstream;
    size_t skip = 0;
    while (skip < u->in.len && (u->in.data[skip] == '\r' || u->in.data[skip] == '\n'))
        skip++;
    buf_consume(&u->in, skip);
    const char *end = u->in.len ? memchr(u->in.data, '\n', u->in.len) : NULL;
    if (!end)
        return false;
    u->left = strtoll(u->in.data, NULL, 16);
    buf_consume(&u->in, (size_t)(end + 1 - u->in.data));
    if (u->left > 0)
        return u->in.len > 0;
    body_end(f);
    return false;
}

/* Feeds what belongs to the chunk or the body. Feeding may end the response or start another:
 * the bytes are moved out before, so that `in` may be emptied meanwhile. */
static void feed_some(struct fake *f)
{
    struct upstream *u = f->upstream;
    size_t n = u->left >= 0 && (size_t)u->left < u->in.len ? (size_t)u->left : u->in.len;
    struct buf got = u->in;
    buf_init(&u->in, FAKE_MAX_BYTES);
    buf_add(&u->in, got.data + n, got.len - n);
    if (u->left >= 0)
        u->left -= (int64_t)n;
    if (u->chunked && u->left == 0)
        u->left = -1;
    feed(f, str_n(got.data, n));
    buf_release(&got);
}

static void take_body(struct fake *f)
{
    struct upstream *u = f->upstream;
    while (u->state == UP_BODY && u->in.len && u->left != 0) {
        if (u->chunked && u->left < 0 && !next_chunk(f))
            return;
        feed_some(f);
    }
    if (u->state == UP_BODY && u->left == 0)
        body_end(f);
}

static void connection_closed(struct fake *f)
{
    struct upstream *u = f->upstream;
    if (u->state != UP_BODY) {
        failed(f, 0, STR("Unable to connect to API (ECONNRESET)"));
        return;
    }
    body_end(f);
}

static void read_more(struct fake *f)
{
    struct upstream *u = f->upstream;
    if (!buf_reserve(&u->in, 65536))
        return;
    ssize_t n = read(u->fd, u->in.data + u->in.len, 65536);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        connection_closed(f);
        return;
    }
    buf_grow_len(&u->in, (size_t)n);
    u->wake = f->now + FAKE_STALL_US;
    if (u->state == UP_HEAD && !take_head(f)) {
        if (u->in.len > HEAD_MAX)
            connection_closed(f);
        return;
    }
    take_body(f);
}

static void write_more(struct fake *f)
{
    struct upstream *u = f->upstream;
    ssize_t n = send(u->fd, u->request.data + u->sent, u->request.len - u->sent, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        failed(f, 0,
               errno == ECONNREFUSED ? STR("Unable to connect to API (ConnectionRefused)")
                                     : STR("Unable to connect to API (ECONNRESET)"));
        return;
    }
    u->sent += (size_t)n;
    if (u->sent == u->request.len)
        u->state = UP_HEAD;
}

static void timed_out(struct fake *f)
{
    struct upstream *u = f->upstream;
    if (u->state == UP_WAIT)
        send_request(f);
    else if (u->state == UP_BODY)
        turn_fail(f, "API Error: The operation timed out.", "unknown", 0, false, "completed");
    else
        failed(f, 0, STR("Request timed out"));
}

void upstream_again(struct fake *f, int64_t delay_us)
{
    disconnect(f->upstream);
    f->upstream->state = UP_WAIT;
    f->upstream->wake = f->now + delay_us;
}

/* ---- the loop's side ---- */

int upstream_polls(const struct fake *f, struct pollfd p[2])
{
    const struct upstream *u = f->upstream;
    int n = 0;
    if (!u)
        return 0;
    if (u->preheat_fd >= 0)
        p[n++] = (struct pollfd){.fd = u->preheat_fd, .events = POLLIN};
    if (u->fd >= 0)
        p[n++] = (struct pollfd){.fd = u->fd, .events = u->state == UP_SENDING ? POLLOUT : POLLIN};
    return n;
}

int64_t upstream_wake(const struct fake *f)
{
    return f->upstream->wake;
}

void upstream_ready(struct fake *f, const struct pollfd *p, int n)
{
    struct upstream *u = f->upstream;
    for (int i = 0; i < n; i++) {
        if (!p[i].revents)
            continue;
        if (p[i].fd == u->preheat_fd) {
            close(u->preheat_fd);
            u->preheat_fd = -1;
        } else if (p[i].fd == u->fd && u->state == UP_SENDING) {
            write_more(f);
        } else if (p[i].fd == u->fd) {
            read_more(f);
        }
    }
    if (u && u->state != UP_IDLE && u->wake >= 0 && u->wake <= f->now)
        timed_out(f);
}
