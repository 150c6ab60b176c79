/* sandbox_rig.h - one confined process under test, with what it must not reach: another worker's
 * directory, a listener on the host's loopback, the host's processes. The program in the box is
 * this test's own executable, which can play the adversary (see inside_main()) or start a shell. */
#ifndef CG_TESTS_SANDBOX_RIG_H
#define CG_TESTS_SANDBOX_RIG_H

#include "child/sandbox.h"
#include "child/users.h"
#include "child_rig.h"

#include <ftw.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define CANARY "cg-canary-5f1c"

struct box {
    uint32_t tag;
    struct rig *rig;
    char self[PATH_MAX]; /* our own executable */
    char dir[64], home[128], work[128], socket[128], secret[128];
    int relay, tcp, abstract; /* listeners */
    int port;
    struct sandbox_opts opts;
    struct sandbox *s;
    struct sandbox_job job;
    struct sandboxed p;
};

/* --- the adversary ------------------------------------------------------------------------ */

static int connect_to(const struct sockaddr *addr, socklen_t len, int family)
{
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, addr, len) != 0) {
        printf("refused: %s\n", strerror(errno));
        return 1;
    }
    ssize_t n = write(fd, "hello", 5);
    printf("connected\n");
    return n == 5 ? 0 : 1;
}

/* "@name" is an abstract address. */
static int inside_unix(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (path[0] == '@')
        un.sun_path[0] = '\0';
    return connect_to((struct sockaddr *)&un, path[0] == '@' ? len : sizeof(un), AF_UNIX);
}

static int inside_tcp(const char *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    in.sin_port = htons((uint16_t)strtol(port, NULL, 10));
    return connect_to((struct sockaddr *)&in, sizeof(in), AF_INET);
}

/* Holds so many MiB, and has burnt a quarter of a second of CPU when it says so. */
static int inside_eat(const char *mb)
{
    size_t size = (size_t)strtol(mb, NULL, 10) << 20;
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return 1;
    memset(p, 1, size);
    struct rusage u;
    do
        getrusage(RUSAGE_SELF, &u);
    while (u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec < 250000);
    printf("eaten\n");
    fflush(stdout);
    sleep(60);
    return 0;
}

/* Raises its limits as far as it may and shows them. */
static int inside_limits(const char *file)
{
    char block[65536] = {0};
    struct rlimit rl, more = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    int opened = 0, fd;
    size_t written = 0;
    setrlimit(RLIMIT_NOFILE, &more);
    setrlimit(RLIMIT_FSIZE, &more);
    getrlimit(RLIMIT_CORE, &rl);
    while (opened < 4096 && open("/dev/null", O_RDONLY) >= 0)
        opened++;
    close(3);
    signal(SIGXFSZ, SIG_IGN);
    fd = open(file, O_WRONLY | O_CREAT, 0600);
    for (ssize_t n; written < ((size_t)64 << 20) && (n = write(fd, block, sizeof(block))) > 0;)
        written += (size_t)n;
    printf("files %d bytes %zu core %d\n", opened, written, (int)rl.rlim_max);
    return 0;
}

static int inside_main(char **argv)
{
    const char *what = argv[0], *arg = argv[1];
    if (strcmp(what, "sh") == 0)
        return execl("/bin/sh", "sh", "-c", arg, (char *)NULL);
    int rc = strcmp(what, "unix") == 0     ? inside_unix(arg)
             : strcmp(what, "tcp") == 0    ? inside_tcp(arg)
             : strcmp(what, "eat") == 0    ? inside_eat(arg)
             : strcmp(what, "limits") == 0 ? inside_limits(arg)
                                           : 99;
    fflush(stdout);
    _exit(rc); /* no look for leaks: it would need to trace itself */
}

/* --- the host ----------------------------------------------------------------------------- */

static void make_dir(const char *path, mode_t mode)
{
    assert_int_equal(mkdir(path, mode), 0);
    assert_int_equal(chmod(path, mode), 0);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* "" when it is not there. */
static const char *file_text(const char *path)
{
    static char text[4096];
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = '\0';
    return text;
}

static int listen_at(const struct sockaddr *addr, socklen_t len, int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, addr, len), 0);
    assert_int_equal(listen(fd, 8), 0);
    return fd;
}

static void open_listeners(struct box *b)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un un = {.sun_family = AF_UNIX}, ab = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(in);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", b->socket);
    int n = snprintf(ab.sun_path + 1, sizeof(ab.sun_path) - 1, CANARY "-%d", (int)getpid());
    b->relay = listen_at((struct sockaddr *)&un, sizeof(un), AF_UNIX);
    b->abstract =
        listen_at((struct sockaddr *)&ab,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n), AF_UNIX);
    b->tcp = listen_at((struct sockaddr *)&in, len, AF_INET);
    assert_int_equal(getsockname(b->tcp, (struct sockaddr *)&in, &len), 0);
    b->port = ntohs(in.sin_port);
}

/* What a client of this listener said, or "" when there was none. */
static const char *heard(int listener)
{
    static char text[64];
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

/* How many processes of the host have this word in their command line. */
static int marked_processes(const char *mark)
{
    char path[300], text[8192];
    int found = 0;
    DIR *d = opendir("/proc");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9')
            continue;
        snprintf(path, sizeof(path), "/proc/%s/cmdline", e->d_name);
        FILE *f = fopen(path, "re");
        size_t n = f ? fread(text, 1, sizeof(text), f) : 0;
        if (f)
            fclose(f);
        bool on_its_way = n > 6 && memcmp(text, "setsid", 6) == 0; /* still in our group */
        found += n && !on_its_way && memmem(text, n, mark, strlen(mark));
    }
    closedir(d);
    return found;
}

static bool wait_marked(const char *mark, bool present)
{
    for (int i = 0; i < 1500; i++) {
        if ((marked_processes(mark) > 0) == present)
            return true;
        usleep(2000);
    }
    return false;
}

/* --- set-up ------------------------------------------------------------------------------- */

static int box_set_up(void **state)
{
    struct box *b = x_calloc(1, sizeof(*b));
    char other[128];
    b->tag = RIG_TAG;
    rig_set_up((void **)&b->rig);
    ssize_t n = readlink("/proc/self/exe", b->self, sizeof(b->self) - 1);
    assert_true(n > 0);
    snprintf(b->dir, sizeof(b->dir), "/tmp/cg-sandbox-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    assert_int_equal(chmod(b->dir, 0711), 0);
    snprintf(b->home, sizeof(b->home), "%s/home", b->dir);
    snprintf(b->work, sizeof(b->work), "%s/work", b->dir);
    snprintf(b->socket, sizeof(b->socket), "%s/relay.sock", b->dir);
    snprintf(other, sizeof(other), "%s/other", b->dir);
    snprintf(b->secret, sizeof(b->secret), "%s/other/" CANARY, b->dir);
    make_dir(b->home, 0700);
    make_dir(b->work, 0700);
    make_dir(other, 0700);
    write_file(b->secret, CANARY "\n");
    open_listeners(b);
    b->opts = (struct sandbox_opts){.mode = SANDBOX_ON, .uids = "", .program = b->self};
    b->job = (struct sandbox_job){
        .program = b->self, .home = b->home, .work = b->work, .socket = b->socket};
    *state = b;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int box_tear_down(void **state)
{
    struct box *b = *state;
    rig_tear_down((void **)&b->rig);
    sandbox_leave(&b->p);
    sandbox_free(b->s);
    close(b->relay);
    close(b->tcp);
    close(b->abstract);
    nftw(b->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(b);
    return 0;
}

#define SKIP(...)                   \
    do {                            \
        print_message("skipped: "); \
        print_message(__VA_ARGS__); \
        print_message("\n");        \
        skip();                     \
    } while (0)

static bool we_are_root(void)
{
    return geteuid() == 0;
}

/* Skips the test where this machine cannot do what it needs. */
static void box_open(struct box *b)
{
    struct err err;
    bool wants_users = b->opts.uids[0];
    char blocked[PATH_MAX];
    if (wants_users && !we_are_root())
        SKIP("needs root");
    if (wants_users && !users_can_reach(200000, b->self, blocked, sizeof(blocked)))
        SKIP("'%s' is closed to other users", blocked);
    b->s = sandbox_new(&b->opts, &err);
    if (!b->s && b->opts.mode == SANDBOX_ON && strstr(err.msg, "bubblewrap"))
        SKIP("%s", err.msg);
    if (!b->s)
        fail_msg("%s", err.msg);
}

static void box_spawn(struct box *b, const char *what, const char *arg)
{
    struct sandbox_view view;
    struct err err;
    sandbox_view(b->s, &b->job, &view);
    const char *const argv[] = {view.program, "--inside", what, arg, NULL};
    const char *const envp[] = {"PATH=/usr/bin:/bin", "HOME=/home/w", NULL};
    if (sandbox_enter(b->s, 1, &b->job, argv, &b->p, &err) != 0)
        fail_msg("%s", err.msg);
    b->rig->ended = 0;
    b->rig->line_count = 0;
    buf_clear(&b->rig->lines);
    b->rig->opts.envp = envp;
    b->rig->opts.cwd = b->p.cwd;
    b->rig->opts.confine = &b->p.confine;
    rig_spawn_argv(b->rig, b->p.argv);
}

/* Runs it to its end; what it said is in rig->lines. */
static void box_run(struct box *b, const char *what, const char *arg)
{
    box_spawn(b, what, arg);
    rig_wait_end(b->rig);
    rig_run_for(b->rig, 3);
    sandbox_leave(&b->p);
}

static void box_sh(struct box *b, const char *script)
{
    box_run(b, "sh", script);
}

static const char *said(const struct box *b)
{
    return buf_cstr(&b->rig->lines);
}

#endif
