/* test_gateway.c - what is left of a key's limits, as headers: the words of each dialect. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/clock.h"
#include "gateway/gateway.h"
#include "metrics/metrics.h"

#include <arpa/inet.h>
#include <event2/event.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS 10000

static struct limit_views views;
static bool spent; /* the handler refuses */

static void handler(struct http_req *req, void *ctx)
{
    struct err err;
    (void)ctx;
    gateway_limit_headers(req, &views);
    if (spent)
        err_set(&err, ERR_QUOTA, "The day is spent.");
    else
        http_reply(req, 200, "text/plain", STR("ok"));
    if (spent)
        http_reply_error(req, &err);
}

static const struct http_route routes[] = {
    {"GET", "/native", SCOPE_PUBLIC, DIALECT_NATIVE, handler, false},
    {"GET", "/anthropic", SCOPE_PUBLIC, DIALECT_ANTHROPIC, handler, false},
    {"GET", "/openai", SCOPE_PUBLIC, DIALECT_OPENAI, handler, false},
};

static char reply[4096]; /* the last one's head and body */

static void fetch(const char *path)
{
    struct err err;
    struct loop *loop = loop_new();
    const struct http_opts o = {.listen = "127.0.0.1:0",
                                .max_body_bytes = 1000,
                                .max_header_bytes = 4000,
                                .idle_timeout_s = 10,
                                .read_timeout_s = 10,
                                .max_connections = 10,
                                .routes = routes,
                                .route_count = ARRAY_SIZE(routes)};
    struct http_server *server = http_server_new(loop, &o, &err);
    assert_non_null(server);
    struct str port = str_c(http_server_address(server));
    str_split(&port, ':');
    uint64_t number = 0;
    assert_true(str_to_u64(port, &number));
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)number),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
    dprintf(fd, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    size_t len = 0;
    for (int64_t end = clock_mono_ms() + PATIENCE_MS;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_true(clock_mono_ms() < end);
        event_base_loop(loop_base(loop), EVLOOP_NONBLOCK);
        if (poll(&p, 1, 5) < 1)
            continue;
        ssize_t n = read(fd, reply + len, sizeof(reply) - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    reply[len] = '\0';
    close(fd);
    http_server_free(server);
    loop_free(loop);
}

static void has(const char *line)
{
    if (!strstr(reply, line))
        fail_msg("no '%s' in:\n%s", line, reply);
}

static void has_not(const char *text)
{
    if (strcasestr(reply, text))
        fail_msg("'%s' in:\n%s", text, reply);
}

static int set_up(void **state)
{
    const struct limit_view none = {-1, -1, 0, 0};
    (void)state;
    spent = false;
    views = (struct limit_views){none, none, none, none, none, none};
    return 0;
}

static const struct limit_view minute = {10, 4, 36, INT64_C(1795428036000)};
static const struct limit_view day = {1000, 3, 50400, INT64_C(1795478400000)};
static const struct limit_view tokens = {5000, 0, 399, INT64_C(1795478400000)};

static void test_nothing_known(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
        fetch(routes[i].path);
        has("HTTP/1.1 200 ");
        has_not("ratelimit");
    }
}

static void test_native(void **state)
{
    (void)state;
    views.minute = minute;
    fetch("/native");
    has("\r\nRateLimit-Limit: 10\r\nRateLimit-Remaining: 4\r\nRateLimit-Reset: 36\r\n");
    views.day_requests = day; /* is nearer to its end */
    fetch("/native");
    has("\r\nRateLimit-Limit: 1000\r\nRateLimit-Remaining: 3\r\nRateLimit-Reset: 50400\r\n");
    views.minute = (struct limit_view){-1, -1, 0, 0};
    fetch("/native");
    has("\r\nRateLimit-Limit: 1000\r\n");
}

static void test_anthropic(void **state)
{
    (void)state;
    views.minute = minute;
    fetch("/anthropic");
    has("\r\nanthropic-ratelimit-requests-limit: 10\r\n");
    has("\r\nanthropic-ratelimit-requests-remaining: 4\r\n");
    has("\r\nanthropic-ratelimit-requests-reset: 2026-11-23T10:00:36Z\r\n");
    has_not("ratelimit-tokens");
    views.day_tokens = tokens;
    fetch("/anthropic");
    has("\r\nanthropic-ratelimit-tokens-limit: 5000\r\n");
    has("\r\nanthropic-ratelimit-tokens-remaining: 0\r\n");
    has("\r\nanthropic-ratelimit-tokens-reset: 2026-11-24T00:00:00Z\r\n");
}

static void test_openai(void **state)
{
    (void)state;
    views.minute = minute;
    views.day_tokens = tokens;
    fetch("/openai");
    has("\r\nx-ratelimit-limit-requests: 10\r\n");
    has("\r\nx-ratelimit-remaining-requests: 4\r\n");
    has("\r\nx-ratelimit-reset-requests: 36s\r\n");
    has("\r\nx-ratelimit-limit-tokens: 5000\r\n");
    has("\r\nx-ratelimit-reset-tokens: 6m39s\r\n");
    views.day_requests = day;
    fetch("/openai");
    has("\r\nx-ratelimit-reset-requests: 14h0m0s\r\n");
}

/* What keeps the official SDKs from trying again, in every dialect. */
static void test_spent(void **state)
{
    (void)state;
    spent = true;
    views.day_requests = (struct limit_view){1000, 0, 50400, INT64_C(1795478400000)};
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
        fetch(routes[i].path);
        has("HTTP/1.1 429 ");
        has("\r\nx-should-retry: false\r\n");
        has_not("retry-after");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_nothing_known, set_up),
        cmocka_unit_test_setup(test_native, set_up),
        cmocka_unit_test_setup(test_anthropic, set_up),
        cmocka_unit_test_setup(test_openai, set_up),
        cmocka_unit_test_setup(test_spent, set_up),
    };
    id_init();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    metrics_reset();
    return failed;
}
