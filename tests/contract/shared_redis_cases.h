/* shared_redis_cases.h - what only Redis can do wrong: being slow, away, restarted, refused, full
 * of other servers. */
#ifndef CG_TESTS_SHARED_REDIS_CASES_H
#define CG_TESTS_SHARED_REDIS_CASES_H

#include "shared_bucket_cases.h"
#include "shared_small_cases.h"

/* --- two servers on one Redis -------------------------------------------------------------- */

#define CHILDREN 3

static int child_volley(int go, int out, const struct shared_bucket *b, size_t count)
{
    struct volley v = {0};
    char byte;
    fx.loop = loop_new(); /* the parent's is not to be touched */
    fx.s = open_store(server.url);
    wait_up(fx.s, 10000);
    if (write(out, "r", 1) != 1 || read(go, &byte, 1) != 1) /* all at the same moment */
        return 1;
    fire(&v, 200, b, count);
    int n[2] = {v.admitted, v.failed};
    ssize_t written = write(out, n, sizeof(n));
    shared_close(fx.s);
    loop_free(fx.loop);
    return written == (ssize_t)sizeof(n) ? 0 : 1;
}

static void read_all(int fd, void *p, size_t n)
{
    for (size_t have = 0; have < n;) {
        ssize_t k = read(fd, (char *)p + have, n - have);
        assert_true(k > 0);
        have += (size_t)k;
    }
}

static int processes_volley(const struct shared_bucket *b, size_t count)
{
    int go[2], out[CHILDREN][2], admitted = 0;
    pid_t pids[CHILDREN];
    char byte;
    assert_int_equal(pipe(go), 0);
    for (int i = 0; i < CHILDREN; i++) {
        assert_int_equal(pipe(out[i]), 0);
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(child_volley(go[0], out[i][1], b, count));
        }
    }
    for (int i = 0; i < CHILDREN; i++)
        read_all(out[i][0], &byte, 1);
    assert_int_equal(write(go[1], "ggg", CHILDREN), CHILDREN);
    for (int i = 0; i < CHILDREN; i++) {
        int n[2], status;
        read_all(out[i][0], n, sizeof(n));
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
        assert_int_equal(n[1], 0);
        admitted += n[0];
        close(out[i][0]);
        close(out[i][1]);
    }
    close(go[0]);
    close(go[1]);
    return admitted;
}

static void test_processes(void **state)
{
    (void)state;
    struct shared_bucket kinds[] = {rate("r", 77, 3600000), counter("c", 77, 1, 0),
                                    counter("h", 77 * 13, 0, 13), tickets(77)};
    char old[sizeof(fx.prefix)];
    memcpy(old, fx.prefix, sizeof(old));
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        snprintf(fx.prefix, sizeof(fx.prefix), "p%d.%zu:", (int)getpid(), i);
        assert_int_equal(processes_volley(&kinds[i], 1), 77);
    }
    memcpy(fx.prefix, old, sizeof(old));
}

static void test_replicas(void **state)
{
    (void)state;
    struct shared_health h;
    shared_health(fx.s, &h);
    assert_true(h.remote && h.up);
    assert_int_equal(h.replicas, 1);
    struct shared *other = open_store(server.url);
    wait_up(other, 5000);
    shared_health(other, &h);
    assert_int_equal(h.replicas, 2);
    for (int i = 0; i < 80 && h.replicas != 1; i++)
        run_for(100), shared_health(fx.s, &h), h.replicas = h.replicas == 2 ? 1 : 0;
    assert_int_equal(h.replicas, 1); /* it has learned of the other one */
    shared_close(other);             /* which says goodbye */
    AUTO(free_charp) char *key = x_printf("%s{replicas}", fx.prefix);
    assert_int_equal(rig_ask(&server, "ZCARD %s", key), 1);
}

static void test_between_servers(void **state)
{
    (void)state;
    struct shared *other = open_ready(server.url), *mine = fx.s;
    struct heard h = {.wanted = 1};
    h.sub = shared_subscribe(other, "c", on_heard, &h);
    publish("c", STR("from the other side"));
    assert_true(run_until(&h.done, 3000));
    assert_string_equal(h.last, "from the other side");
    assert_true(lease(SHARED_LEASE_ACQUIRE, "me", 60000)->mine);
    cache_set("k", STR("v"), 60000);
    fx.s = other;
    assert_false(lease(SHARED_LEASE_ACQUIRE, "other", 60000)->mine);
    cache_get("k");
    assert_true(got.found);
    shared_close(other);
    fx.s = mine;
}

/* --- away and back ------------------------------------------------------------------------- */

static bool take_fails(int64_t *ret_ms)
{
    struct shared_bucket b = counter("c", -1, 1, 0);
    struct shared_take t = {.group = "g", .buckets = &b, .count = 1};
    int64_t start = clock_mono_ms();
    begin();
    shared_take(fx.s, &t, on_taken, &got);
    assert_true(got.done || run_until(&got.done, 5000));
    assert_int_equal(got.calls, 1);
    *ret_ms = clock_mono_ms() - start;
    if (got.failed)
        assert_int_equal(got.err.code, ERR_UNAVAILABLE);
    return got.failed;
}

static void test_stopped_server(void **state)
{
    (void)state;
    int64_t ms;
    struct shared_health h;
    kill(server.pid, SIGSTOP);
    assert_true(take_fails(&ms));
    assert_in_range(ms, TIMEOUT_MS - 50, TIMEOUT_MS + 300);
    assert_false(shared_is_up(fx.s));
    assert_true(take_fails(&ms)); /* nobody waits a second time */
    assert_in_range(ms, 0, 20);
    shared_health(fx.s, &h);
    assert_non_null(strstr(h.reason, "no answer"));
    run_for(2000); /* connections to it are made, but never answered */
    assert_false(shared_is_up(fx.s));
    kill(server.pid, SIGCONT);
    wait_up(fx.s, 8000);
    assert_false(take_fails(&ms));
}

static void test_pending_fail_together(void **state)
{
    (void)state;
    struct volley v = {0};
    struct shared_bucket b = counter("c", -1, 1, 0);
    kill(server.pid, SIGSTOP);
    int64_t start = clock_mono_ms();
    fire(&v, 500, &b, 1);
    assert_int_equal(v.failed, 500);
    assert_in_range(clock_mono_ms() - start, TIMEOUT_MS - 50, TIMEOUT_MS + 500);
    kill(server.pid, SIGCONT);
    wait_up(fx.s, 8000);
}

static void test_killed_and_restarted(void **state)
{
    (void)state;
    int64_t ms;
    struct heard h = {.wanted = 1};
    h.sub = shared_subscribe(fx.s, "c", on_heard, &h);
    take("a", counter("c", 10, 1, 0));
    for (int round = 0; round < 2; round++) {
        struct volley v = {0};
        struct shared_bucket b = counter("c", -1, 1, 0);
        rig_kill(&server);
        fire(&v, 50, &b, 1); /* on the way when it dies, or just after */
        assert_int_equal(v.failed, 50);
        wait_away(fx.s, 1000);
        assert_true(take_fails(&ms));
        assert_in_range(ms, 0, 20);
        run_for(500);
        rig_launch(&server);
        wait_up(fx.s, 8000);
        assert_int_equal(take("a", counter("c", 10, 1, 0))->levels[0].used,
                         1); /* it has forgotten */
        for (int i = 0; i < 800 && h.missed < round + 1; i++)
            run_for(10);
        assert_int_equal(h.missed, round + 1);
        publish("c", STR("heard"));
        h.done = false;
        assert_true(run_until(&h.done, 3000));
    }
    assert_int_equal(h.messages, 2);
}

/* The connection lives, the scripts do not. */
static void test_forgotten_scripts(void **state)
{
    (void)state;
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(rig_ask(&server, "SCRIPT FLUSH"), 0);
        struct volley v = {0};
        struct shared_bucket b = counter("c", -1, 1, 0);
        fire(&v, 20, &b, 1);
        assert_int_equal(v.admitted, 20);
        assert_int_equal(look(counter("c", -1, 0, 0))->levels[0].used, 20 * i);
    }
}

static void test_read_only_server(void **state)
{
    (void)state;
    int64_t ms;
    assert_int_equal(rig_ask(&server, "REPLICAOF 127.0.0.1 1"), 0);
    assert_true(take_fails(&ms));
    wait_away(fx.s, 1000);
    run_for(1500);
    assert_false(shared_is_up(fx.s));
    assert_int_equal(rig_ask(&server, "REPLICAOF NO ONE"), 0);
    wait_up(fx.s, 8000);
    assert_false(take_fails(&ms));
}

static void test_messages_come_back(void **state)
{
    (void)state;
    struct heard h = {.wanted = 1};
    h.sub = shared_subscribe(fx.s, "c", on_heard, &h);
    assert_true(rig_ask(&server, "CLIENT KILL TYPE pubsub") >= 1);
    for (int i = 0; i < 500 && h.missed < 1; i++)
        run_for(10);
    assert_int_equal(h.missed, 1);
    assert_true(shared_is_up(fx.s));
    publish("c", STR("heard"));
    assert_true(run_until(&h.done, 3000));
}

/* --- addresses ----------------------------------------------------------------------------- */

static void expect_works(const char *url)
{
    struct shared *old = fx.s;
    fx.s = open_ready(url);
    take(NULL, counter("c", -1, 1, 0));
    shared_close(fx.s);
    fx.s = old;
}

static void expect_away(const char *url, const char *reason)
{
    struct shared *s = open_store(url);
    struct shared_health h;
    run_for(700);
    shared_health(s, &h);
    assert_false(h.up);
    if (!strstr(h.reason, reason))
        fail_msg("the reason is '%s', not '%s'", h.reason, reason);
    shared_close(s);
}

static void test_addresses(void **state)
{
    (void)state;
    AUTO(free_charp) char *by_name = x_printf("redis://localhost:%d", server.port);
    AUTO(free_charp) char *by_socket = x_printf("unix:%s", server.socket);
    AUTO(free_charp) char *db = x_printf("%s/3", server.url);
    AUTO(free_charp) char *no_db = x_printf("%s/99", server.url);
    AUTO(free_charp) char *nobody = x_printf("redis://127.0.0.1:%d", rig_free_port());
    expect_works(by_name);
    expect_works(by_socket);
    expect_works(db);
    assert_true(rig_ask(&server, "DBSIZE") >= 0);
    expect_away(no_db, "DB index is out of range");
    expect_away(nobody, "refused");
    expect_away("unix:/tmp/there/is/no.sock", "No such file");
    struct err err;
    struct shared_opts o = {.url = "rediss://h", .prefix = "p", .timeout_ms = 100};
    assert_null(shared_open(fx.loop, &o, &err));
    assert_int_equal(err.code, ERR_CONFIG);
}

static void test_password(void **state)
{
    (void)state;
    struct redis_server locked = {0};
    rig_start(&locked, NULL);
    assert_int_equal(rig_ask(&locked, "ACL SETUSER me on >s3cr3t-of-me ~* &* +@all"), 0);
    assert_int_equal(rig_ask(&locked, "CONFIG SET requirepass s3cr3t%%40word"), 0);
    AUTO(free_charp) char *right = x_printf("redis://:s3cr3t%%2540word@127.0.0.1:%d", locked.port);
    AUTO(free_charp) char *user = x_printf("redis://me:s3cr3t-of-me@127.0.0.1:%d", locked.port);
    AUTO(free_charp) char *wrong = x_printf("redis://:s3cr3t-wrong@127.0.0.1:%d", locked.port);
    expect_works(right);
    expect_works(user);
    expect_away(wrong, "WRONGPASS");
    expect_away(locked.url, "NOAUTH");
    rig_end(&locked);
}

static void serve_nonsense(int listener, const char *text)
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && text && write(fd, text, strlen(text)) < 0)
            _exit(1);
        if (text)
            close(fd);
    }
}

static void expect_nonsense(const char *text, const char *reason)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(listener, 16), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve_nonsense(listener, text);
    }
    AUTO(free_charp) char *url = x_printf("redis://127.0.0.1:%d", ntohs(sa.sin_port));
    expect_away(url, reason);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(listener);
}

static void test_not_redis(void **state)
{
    (void)state;
    expect_nonsense("HTTP/1.1 400 Bad Request\r\n\r\n", "");
    expect_nonsense("-ERR go away\r\n", "go away");
    expect_nonsense("+PONG\r\n", ""); /* and then it hangs up */
    expect_nonsense("*3\r\n:1\r\n", "");
    expect_nonsense("+PONG\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n", "");
    expect_nonsense(NULL, "not connected yet"); /* takes connections and says nothing */
}

/* Ended in the middle of things: callbacks run once, nothing is left. */
static void test_close_any_time(void **state)
{
    (void)state;
    struct shared_bucket b = counter("c", -1, 1, 0);
    static const char *const urls[] = {"redis://no-such-host.invalid", "redis://localhost:1", NULL};
    for (int ms = 0; ms < 40; ms += 3) {
        for (size_t i = 0; i < ARRAY_SIZE(urls); i++) {
            struct volley v = {.asked = 3};
            struct shared *s = open_store(urls[i] ? urls[i] : server.url);
            run_for(ms);
            struct shared_take t = {.group = "g", .buckets = &b, .count = 1};
            for (int n = 0; n < 3; n++)
                shared_take(s, &t, on_volley, &v);
            shared_close(s);
            assert_int_equal(v.answered, 3);
        }
    }
}

/* What was sent before the end arrives: the tickets of the last requests. */
static void test_close_sends(void **state)
{
    (void)state;
    struct shared *s = open_store(server.url);
    wait_up(s, 5000);
    take("last", tickets(1));
    shared_adjust(s, "g", "last", NULL, 0, NULL, NULL);
    shared_close(s);
    for (int i = 0; i < 100 && look(tickets(1))->levels[0].used > 0; i++)
        run_for(10);
    assert_int_equal(look(tickets(1))->levels[0].used, 0);
}

/* --- keys ---------------------------------------------------------------------------------- */

static int check_key(redisContext *c, const char *key)
{
    redisReply *r = redisCommand(c, "PTTL %s", key);
    assert_non_null(r);
    long long ms = r->integer;
    freeReplyObject(r);
    if (ms <= 0)
        fail_msg("%s has no expiry", key);
    assert_non_null(strchr(key, '{'));
    return 1;
}

static void test_keys_expire(void **state)
{
    (void)state;
    int seen = 0;
    take("a", counter("c", 10, 1, 3), rate("r", 10, 1000), tickets(5));
    adjust_one("zz", use("adj", 3));
    renew("b", 1000);
    lease(SHARED_LEASE_ACQUIRE, "me", 1000);
    nonce("n", 1000);
    cache_set("k", STR("v"), 1000);
    redisContext *c = rig_connect(&server);
    assert_non_null(c);
    redisReply *r = redisCommand(c, "KEYS %s*", fx.prefix);
    assert_non_null(r);
    for (size_t i = 0; i < r->elements; i++)
        seen += check_key(c, r->element[i]->str);
    freeReplyObject(r);
    redisFree(c);
    assert_int_equal(seen, 6); /* buckets, tickets, lease, nonce, value, replicas */
}

/* In a cluster all keys of one command must be in one slot: Redis itself checks. */
static void test_cluster(void **state)
{
    (void)state;
    struct redis_server cluster = {0}, old_server = server;
    struct shared *old = fx.s;
    rig_start(&cluster, "cluster-enabled yes");
    assert_int_equal(rig_ask(&cluster, "CLUSTER ADDSLOTSRANGE 0 16383"), 0);
    server = cluster;
    fx.s = open_store(cluster.url);
    wait_up(fx.s, 15000);
    test_all_or_none(state);
    test_lease(state);
    test_seed(state);
    renew("b", 1000);
    nonce("n", 1000);
    cache_set("k", STR("v"), 1000);
    shared_close(fx.s);
    fx.s = old;
    server = old_server;
    rig_end(&cluster);
}

#endif
