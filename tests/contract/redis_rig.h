/* redis_rig.h - a Redis server of the test's own: a free port of 127.0.0.1 (and a unix socket),
 * nothing saved, in a directory that goes at the end. It dies with the test, however that ends. */
#ifndef CG_TESTS_REDIS_RIG_H
#define CG_TESTS_REDIS_RIG_H

#include "core/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <sodium.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct redis_server {
    pid_t pid;
    int port;
    char dir[64], socket[96], url[64];
    const char *more; /* one more option with its value, "name value"; NULL = none */
};

/* Below those that the kernel gives to connections: one of them could take the port while Redis is
 * down between a kill and the next start. */
static int rig_free_port(void)
{
    for (int i = 0; i < 1000; i++) {
        int port = 15000 + (int)randombytes_uniform(17000);
        struct sockaddr_in sa = {.sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                 .sin_port = htons((uint16_t)port)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        BUG_ON(fd < 0);
        int rc = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
        close(fd);
        if (rc == 0)
            return port;
    }
    fprintf(stderr, "no free port\n");
    exit(1);
}

static noreturn void rig_exec(const struct redis_server *s)
{
    char port[8], name[64] = "", *value = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(port, sizeof(port), "%d", s->port);
    if (s->more) {
        const char *space = strchr(s->more, ' ');
        snprintf(name, sizeof(name), "--%.*s", (int)(space - s->more), s->more);
        value = x_strdup(space + 1);
    }
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    const char *argv[] = {"redis-server",
                          "--port",
                          port,
                          "--bind",
                          "127.0.0.1",
                          "--save",
                          "",
                          "--appendonly",
                          "no",
                          "--dir",
                          s->dir,
                          "--unixsocket",
                          s->socket,
                          "--daemonize",
                          "no",
                          "--enable-debug-command",
                          "yes",
                          name[0] ? name : NULL,
                          value,
                          NULL};
    const char *env[] = {"PATH=/usr/bin:/bin:/usr/local/bin", NULL};
    execvpe(argv[0], (char **)(uintptr_t)argv, (char **)(uintptr_t)env);
    fprintf(stderr, "cannot start redis-server (Debian package redis-server): %s\n",
            strerror(errno));
    _exit(127);
}

/* A connection of the test's own, to look behind the scenes; NULL when nobody answers. */
static redisContext *rig_connect(const struct redis_server *s)
{
    struct timeval limit = {5, 0};
    redisContext *c = redisConnectWithTimeout("127.0.0.1", s->port, limit);
    if (c && !c->err && redisSetTimeout(c, limit) == REDIS_OK)
        return c;
    if (c)
        redisFree(c);
    return NULL;
}

/* The reply as a number (status and texts: 0); -1 for an error. */
static long long rig_ask(const struct redis_server *s, const char *fmt, ...)
{
    long long n = -1;
    redisContext *c = rig_connect(s);
    if (!c)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    redisReply *r = redisvCommand(c, fmt, ap);
    va_end(ap);
    if (r && r->type != REDIS_REPLY_ERROR)
        n = r->type == REDIS_REPLY_INTEGER ? r->integer : 0;
    if (r)
        freeReplyObject(r);
    redisFree(c);
    return n;
}

static void rig_launch(struct redis_server *s)
{
    s->pid = fork();
    BUG_ON(s->pid < 0);
    if (s->pid == 0)
        rig_exec(s);
    for (int i = 0; i < 500; i++) {
        if (rig_ask(s, "PING") == 0)
            return;
        BUG_ON(waitpid(s->pid, NULL, WNOHANG) != 0); /* it ended: its message is on stderr */
        usleep(20000);
    }
    fprintf(stderr, "redis-server does not answer\n");
    exit(1);
}

static void rig_start(struct redis_server *s, const char *more)
{
    snprintf(s->dir, sizeof(s->dir), "/tmp/test_redis.XXXXXX");
    BUG_ON(!mkdtemp(s->dir));
    snprintf(s->socket, sizeof(s->socket), "%s/r.sock", s->dir);
    s->port = rig_free_port();
    s->more = more;
    snprintf(s->url, sizeof(s->url), "redis://127.0.0.1:%d", s->port);
    rig_launch(s);
}

static void rig_kill(struct redis_server *s)
{
    if (s->pid <= 0)
        return;
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

static void rig_end(struct redis_server *s)
{
    rig_kill(s);
    unlink(s->socket);
    AUTO(free_charp) char *nodes = x_printf("%s/nodes.conf", s->dir);
    unlink(nodes);
    rmdir(s->dir);
}

#endif
