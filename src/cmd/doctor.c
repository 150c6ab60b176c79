/* doctor.c - `claudegate doctor`: says what is missing on this machine, one line a check. */
#include "child/sandbox.h"
#include "cli/launch.h"
#include "cli/protocol.h"
#include "cmd/cmd.h"

#include <errno.h>
#include <netdb.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DISK_MIN_MB   512
#define FILES_MIN     1024
#define ANTHROPIC_URL "https://api.anthropic.com"

enum verdict { OK, WARN, BAD };

struct doctor {
    const struct conf *conf;
    bool json;
    size_t lines;
    int worst;
};

static void say(struct doctor *d, enum verdict v, const char *check, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static void say(struct doctor *d, enum verdict v, const char *check, const char *fmt, ...)
{
    static const char *const words[] = {"ok", "warning", "problem"};
    struct buf text, line;
    va_list ap;
    buf_init(&text, 8192);
    buf_init(&line, 16384);
    va_start(ap, fmt);
    buf_vprintf(&text, fmt, ap);
    va_end(ap);
    if (d->json) {
        buf_printf(&line, "%s{\"check\":\"%s\",\"result\":\"%s\",\"detail\":", d->lines ? "," : "",
                   check, words[v]);
        buf_json_str(&line, buf_str(&text));
        buf_addc(&line, '}');
    } else {
        buf_printf(&line, "%-8s %-12s %s\n", words[v], check, buf_cstr(&text));
    }
    fputs(buf_cstr(&line), stdout);
    buf_release(&text);
    buf_release(&line);
    d->lines++;
    if ((int)v > d->worst)
        d->worst = (int)v;
}

static void check_claude(struct doctor *d)
{
    struct err err;
    char *bin = cli_find_program(d->conf->claude.bin, &err);
    if (!bin) {
        say(d, BAD, "claude", "%s", err.msg);
        return;
    }
    char *version = cli_program_version(bin, &err);
    if (!version)
        say(d, BAD, "claude", "%s", err.msg);
    else if (strcmp(version, CLI_VERSION_PINNED) != 0)
        say(d, WARN, "claude", "%s is version %s; this server was tested with %s", bin, version,
            CLI_VERSION_PINNED);
    else
        say(d, OK, "claude", "%s, version %s", bin, version);
    free(version);
    free(bin);
}

static void check_targets(struct doctor *d)
{
    const struct conf *c = d->conf;
    for (size_t i = 0; i < conf_target_count(c); i++) {
        struct conf_target t = conf_target_at(c, i);
        const char *backup = t.weight ? "" : "; a backup";
        if (t.credential[0])
            say(d, OK, "credential", "target '%s' has %s; its requests go to %s%s", t.name,
                t.bearer ? "a token" : "a key", t.base_url, backup);
        else
            say(d, strcmp(t.base_url, ANTHROPIC_URL) == 0 ? BAD : WARN, "credential",
                "target '%s' has none; its requests go to %s%s", t.name, t.base_url, backup);
    }
}

static void check_credential(struct doctor *d)
{
    const struct conf *c = d->conf;
    if (c->upstream.targets)
        check_targets(d);
    else if (c->upstream.api_key[0] || c->upstream.auth_token[0])
        say(d, OK, "credential", "%s is set; requests go to %s",
            c->upstream.api_key[0] ? "upstream.api_key" : "upstream.auth_token",
            c->upstream.base_url);
    else if (strcmp(c->upstream.base_url, ANTHROPIC_URL) != 0)
        say(d, WARN, "credential", "none is set; requests to %s will carry none",
            c->upstream.base_url);
    else if (c->upstream.demo == DEMO_AUTO)
        say(d, WARN, "credential", "none is set: the server will answer from its demo upstream");
    else
        say(d, BAD, "credential", "none is set: set ANTHROPIC_API_KEY, or start with --demo");
}

/* Tries what a start would try, and undoes it. */
static void check_sandbox(struct doctor *d)
{
    static const enum sandbox_mode modes[] = {[CONF_SANDBOX_AUTO] = SANDBOX_AUTO,
                                              [CONF_SANDBOX_ON] = SANDBOX_ON,
                                              [CONF_SANDBOX_OFF] = SANDBOX_OFF};
    const struct conf *c = d->conf;
    struct err err;
    char *bin = cli_find_program(c->claude.bin, &err); /* NULL is reported elsewhere */
    struct sandbox_opts o = {.mode = modes[c->sandbox.mode],
                             .memory_mb = c->sandbox.memory_mb,
                             .cpu_percent = c->sandbox.cpu_percent,
                             .max_processes = c->sandbox.max_processes,
                             .max_open_files = c->sandbox.max_open_files,
                             .max_file_mb = c->sandbox.max_file_mb,
                             .uids = c->sandbox.uids,
                             .program = bin};
    struct sandbox *s = sandbox_new(&o, &err);
    if (!s) {
        say(d, BAD, "sandbox", "%s", err.msg);
    } else {
        const struct sandbox_status *st = sandbox_status(s);
        bool root = geteuid() == 0 && !st->own_users;
        const char *as_root = "; the claude processes run as root: set sandbox.uids, or start the "
                              "server as another user";
        say(d, st->filesystem && !st->reason[0] && !root ? OK : WARN, "sandbox", "%s%s%s%s",
            st->summary, st->reason[0] ? "; " : "", st->reason, root ? as_root : "");
    }
    sandbox_free(s);
    free(bin);
}

static void check_disk(struct doctor *d)
{
    struct statvfs vfs;
    const char *dir = d->conf->data_dir;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        say(d, BAD, "disk", "data_dir '%s' cannot be created: %s", dir, strerror(errno));
        return;
    }
    if (access(dir, R_OK | W_OK | X_OK) != 0 || statvfs(dir, &vfs) != 0) {
        say(d, BAD, "disk", "data_dir '%s' cannot be used: %s", dir, strerror(errno));
        return;
    }
    unsigned long long mb = (unsigned long long)vfs.f_bavail * vfs.f_frsize >> 20;
    say(d, mb < DISK_MIN_MB ? WARN : OK, "disk", "%llu MiB free in data_dir '%s'", mb, dir);
}

static void check_files(struct doctor *d)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) != 0)
        return;
    unsigned long long have = rl.rlim_cur;
    say(d, have < FILES_MIN ? WARN : OK, "descriptors",
        "%llu open files allowed (connections and workers need them)", have);
}

static void check_memory(struct doctor *d)
{
    long long mb = (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) >> 20;
    long long need = d->conf->pool.max_workers * d->conf->pool.max_rss_mb;
    say(d, need > mb ? WARN : OK, "memory",
        "%lld MiB in this machine; pool.max_workers x pool.max_rss_mb may take %lld", mb, need);
}

/* Splits "host:port" and "[v6]:port". */
static void split_listen(const char *listen, char *host, size_t size, const char **ret_port)
{
    const char *colon = strrchr(listen, ':');
    struct str h = str_n(listen, colon ? (size_t)(colon - listen) : strlen(listen));
    if (h.len > 1 && h.p[0] == '[')
        h = str_n(h.p + 1, h.len - 2);
    snprintf(host, size, "%.*s", (int)h.len, h.p);
    *ret_port = colon ? colon + 1 : "0";
}

static void check_socket_dir(struct doctor *d, const char *path)
{
    const char *slash = strrchr(path, '/');
    AUTO(free_charp)
    char *dir = slash ? x_strndup(path, (size_t)(slash - path + 1)) : x_strdup(".");
    if (access(dir, R_OK | W_OK | X_OK) == 0)
        say(d, OK, "port", "the socket %s can be made", path);
    else
        say(d, BAD, "port", "the socket %s cannot be made: %s", path, strerror(errno));
}

static void check_port(struct doctor *d)
{
    const char *listen_at = d->conf->server.listen, *port;
    char host[256];
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *ai = NULL;
    int one = 1;
    if (strncmp(listen_at, "unix:", 5) == 0) {
        check_socket_dir(d, listen_at + 5);
        return;
    }
    split_listen(listen_at, host, sizeof(host), &port);
    if (getaddrinfo(host[0] ? host : NULL, port, &hints, &ai) != 0 || !ai) {
        say(d, BAD, "port", "server.listen '%s' is not an address", listen_at);
        return;
    }
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd < 0 || bind(fd, ai->ai_addr, ai->ai_addrlen) != 0)
        say(d, WARN, "port", "%s cannot be taken: %s%s", listen_at, strerror(errno),
            errno == EADDRINUSE ? " (is the server running?)" : "");
    else
        say(d, OK, "port", "%s is free", listen_at);
    if (fd >= 0)
        close(fd);
    freeaddrinfo(ai);
}

static void check_database(struct doctor *d)
{
    struct loop *loop;
    struct db *db;
    if (cmd_open_db(d->conf, &loop, &db) != 0) {
        say(d, BAD, "database", "cannot be opened; the reason stands above");
        return;
    }
    say(d, OK, "database", "opens, and its schema is current");
    cmd_close_db(loop, db);
}

static void usage(FILE *out)
{
    fputs("Usage: claudegate doctor [--json] [--config FILE]\n\n"
          "Checks configuration, claude program, credential, sandbox, disk, memory, descriptors,\n"
          "port and database. Exit status 0: nothing is missing; 1: there are problems.\n",
          out);
}

static int run_checks(struct doctor *d)
{
    if (d->json)
        putchar('[');
    check_claude(d);
    check_credential(d);
    check_sandbox(d);
    check_disk(d);
    check_memory(d);
    check_files(d);
    check_port(d);
    check_database(d);
    if (d->json)
        puts("]");
    return d->worst == BAD ? 1 : 0;
}

int cmd_doctor(int argc, char **argv)
{
    struct doctor d = {0};
    const char *path = NULL;
    const struct cmd_option options[] = {
        {"json", 'j', NULL, &d.json}, {"config", 'c', &path, NULL}, {0}};
    int rc = cmd_options(argc, argv, options, 0, 0, usage);
    if (rc != CMD_GO_ON)
        return rc;
    struct conf *conf = cmd_load_conf(path);
    if (!conf)
        return 1;
    d.conf = conf;
    int status = run_checks(&d);
    conf_free(conf);
    return status;
}
