/* http_unix.h - part of test_http.c: "unix:PATH" - the name, its mode, who may replace it. What a
 * server does with its connections is tested by the same cases as over TCP. */
#ifndef CG_TEST_HTTP_UNIX_H
#define CG_TEST_HTTP_UNIX_H

#include "http_app.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

static int set_up_unix_unstarted(void **state)
{
    struct fx *fx = fx_new();
    snprintf(fx->dir, sizeof(fx->dir), "/tmp/test_http_XXXXXX");
    assert_non_null(mkdtemp(fx->dir));
    snprintf(fx->path, sizeof(fx->path), "unix:%s/s", fx->dir);
    fx->opts.listen = fx->path;
    *state = fx;
    return 0;
}

static int set_up_unix(void **state)
{
    set_up_unix_unstarted(state);
    fx_start(*state);
    return 0;
}

static const char *socket_path(const struct fx *fx)
{
    return fx->path + strlen("unix:");
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

/* The server leaves nothing behind. */
static int tear_down_unix(void **state)
{
    struct fx *fx = *state;
    char *dir = x_strdup(fx->dir);
    tear_down(state);
    int rc = rmdir(dir);
    free(dir);
    return rc;
}

static void check_serves(struct fx *fx)
{
    struct client *c = dial(fx);
    puts_raw(c, "GET /hello/x HTTP/1.1\r\n" H "\r\n");
    expect_body(c, 200, "GET|/hello/x|x|-|/hello/:name|unix");
    hang_up(c);
}

static void check_refused_start(struct fx *fx, enum err_code code, const char *why)
{
    struct err err;
    assert_null(http_server_new(fx->loop, &fx->opts, &err));
    assert_int_equal(err.code, code);
    if (!strstr(err.msg, why) || !strstr(err.msg, fx->opts.listen))
        fail_msg("unexpected message: %s", err.msg);
}

static void test_unix_mode(void **state)
{
    struct fx *fx = *state;
    struct stat st;
    mode_t old = umask(0);
    fx_start(fx);
    umask(old);
    assert_int_equal(lstat(socket_path(fx), &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_string_equal(http_server_address(fx->server), fx->path);
    check_serves(fx);
}

/* Binds a socket the plain way and leaves its name there. */
static int leave_socket(const char *path, int backlog)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    if (backlog >= 0)
        assert_int_equal(listen(fd, backlog), 0);
    return fd;
}

static void test_unix_stale(void **state)
{
    struct fx *fx = *state;
    struct stat st;
    close(leave_socket(socket_path(fx), 1));
    assert_int_equal(dial_unix(socket_path(fx)), -1);
    fx_start(fx);
    assert_int_equal(lstat(socket_path(fx), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    check_serves(fx);
}

static void test_unix_living(void **state)
{
    struct fx *fx = *state;
    check_refused_start(fx, ERR_CONFIG, "another process does");
    check_serves(fx);
}

/* Somebody who listens but has no room for one more connection is alive as well. */
static void test_unix_living_full(void **state)
{
    struct fx *fx = *state;
    int listener = leave_socket(socket_path(fx), 0), clients[8], n = 0, rc = 0;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", socket_path(fx));
    while (rc == 0 && n < (int)ARRAY_SIZE(clients)) {
        clients[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        rc = connect(clients[n++], (struct sockaddr *)&a, sizeof(a));
    }
    assert_int_equal(rc, -1);
    assert_int_equal(errno, EAGAIN);
    check_refused_start(fx, ERR_CONFIG, "another process does");
    assert_true(exists(socket_path(fx)));
    while (n > 0)
        close(clients[--n]);
    close(listener);
    unlink(socket_path(fx));
}

static void test_unix_not_a_socket(void **state)
{
    struct fx *fx = *state;
    int fd = open(socket_path(fx), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "mine", 4), 4);
    close(fd);
    check_refused_start(fx, ERR_CONFIG, "not a socket");
    struct stat st;
    assert_int_equal(lstat(socket_path(fx), &st), 0);
    assert_int_equal(st.st_size, 4);
    unlink(socket_path(fx));
    assert_int_equal(symlink("elsewhere", socket_path(fx)), 0);
    check_refused_start(fx, ERR_CONFIG, "not a socket");
    unlink(socket_path(fx));
}

static void test_unix_bad_paths(void **state)
{
    struct fx *fx = *state;
    char listen_on[512];
    fx->opts.listen = listen_on;
    snprintf(listen_on, sizeof(listen_on), "unix:");
    check_refused_start(fx, ERR_CONFIG, "names no file");
    snprintf(listen_on, sizeof(listen_on), "unix:%s/", fx->dir);
    check_refused_start(fx, ERR_CONFIG, "names no file");
    snprintf(listen_on, sizeof(listen_on), "unix:%s/none/s", fx->dir);
    check_refused_start(fx, ERR_IO, "No such file or directory");
    snprintf(listen_on, sizeof(listen_on), "unix:%s/%0120d", fx->dir, 1);
    check_refused_start(fx, ERR_CONFIG, "file name too long");
}

/* Longer than sun_path. */
static void test_unix_long_path(void **state)
{
    struct fx *fx = *state;
    char *dir = x_printf("%s/%0100d", fx->dir, 1), *path = x_printf("unix:%s/s", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    fx->opts.listen = path;
    close(leave_socket(socket_path(fx), 1)); /* not this one */
    fx_start(fx);
    assert_string_equal(http_server_address(fx->server), path);
    check_serves(fx);
    check_refused_start(fx, ERR_CONFIG, "another process does");
    http_server_free(TAKE_PTR(fx->server));
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(unlink(socket_path(fx)), 0);
    free(dir);
    free(path);
}

static void test_unix_removed(void **state)
{
    struct fx *fx = *state;
    assert_true(exists(socket_path(fx)));
    http_server_drain(fx->server);
    assert_false(exists(socket_path(fx)));
    /* the next server may begin while the old one still drains, and keeps its name */
    struct http_server *old = TAKE_PTR(fx->server);
    fx_start(fx);
    http_server_free(old);
    check_serves(fx);
}

static void test_unix_name_taken_away(void **state)
{
    struct fx *fx = *state;
    struct http_server *old = TAKE_PTR(fx->server);
    assert_int_equal(unlink(socket_path(fx)), 0);
    fx_start(fx);
    http_server_free(old);
    assert_true(exists(socket_path(fx)));
    check_serves(fx);
}

static void test_unix_locked(void **state)
{
    struct fx *fx = *state;
    int dir = open(fx->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(dir, LOCK_EX), 0);
    check_refused_start(fx, ERR_CONFIG, "stays locked");
    close(dir);
    fx_start(fx);
    dir = open(fx->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(dir, LOCK_EX | LOCK_NB), 0); /* the server holds it no longer */
    close(dir);
}

/* Two servers of one process: the metric is their sum. */
static void test_unix_and_tcp(void **state)
{
    struct fx *fx = *state, tcp = *fx;
    struct buf b AUTO(buf_release);
    buf_init(&b, 1 << 20);
    tcp.opts.listen = "127.0.0.1:0";
    fx_start(&tcp);
    struct client *one = dial(fx), *two = dial(&tcp), *three = dial(&tcp);
    WAIT(fx, http_server_connections(fx->server) == 1 && http_server_connections(tcp.server) == 2);
    metrics_write(&b);
    assert_non_null(find(buf_str(&b), "\nclaudegate_http_connections 3\n"));
    hang_up(two);
    WAIT(fx, http_server_connections(tcp.server) == 1);
    http_server_free(tcp.server);
    buf_clear(&b);
    metrics_write(&b);
    assert_non_null(find(buf_str(&b), "\nclaudegate_http_connections 1\n"));
    hang_up(one);
    hang_up(three);
}

enum { RACERS = 4, RACES = 10 };

/* In a process of its own: says whether it got the name, and keeps it until it is told. */
static noreturn void race(struct fx *fx, int go, int answer)
{
    struct err err;
    char c = 0;
    if (read(go, &c, 1) != 0)
        _exit(2);
    struct http_server *s = http_server_new(fx->loop, &fx->opts, &err);
    c = s ? 'y' : err.code == ERR_CONFIG ? 'n' : '?';
    if (write(answer, &c, 1) != 1 || read(answer, &c, 1) != 0)
        _exit(2);
    _exit(0); /* without removing the name: the next round finds it stale */
}

/* Several servers start at the same moment where an ended one left its name: one gets it. */
static void test_unix_race(void **state)
{
    struct fx *fx = *state;
    for (int round = 0; round < RACES; round++) {
        int go[2], answers[RACERS][2], winners = 0, status;
        pid_t pids[RACERS];
        assert_int_equal(pipe2(go, O_CLOEXEC), 0);
        for (int i = 0; i < RACERS; i++) {
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, answers[i]), 0);
            pids[i] = fork();
            if (pids[i] == 0) {
                close(go[1]);
                for (int k = 0; k <= i; k++)
                    close(answers[k][0]);
                race(fx, go[0], answers[i][1]);
            }
            close(answers[i][1]);
        }
        close(go[0]);
        close(go[1]);
        for (int i = 0; i < RACERS; i++) {
            char c = 0;
            assert_int_equal(read(answers[i][0], &c, 1), 1);
            assert_true(c == 'y' || c == 'n');
            winners += c == 'y';
        }
        assert_int_equal(winners, 1);
        int fd = dial_unix(socket_path(fx));
        assert_true(fd >= 0); /* the name leads to the winner */
        close(fd);
        for (int i = 0; i < RACERS; i++) {
            close(answers[i][0]);
            assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
            assert_int_equal(status, 0);
        }
    }
    assert_int_equal(unlink(socket_path(fx)), 0);
}

#endif
