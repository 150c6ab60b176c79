/* cgroup.c - cgroup v2 through its files.
 *
 * A limit that was asked for and that this machine can set is always set: a group that cannot be
 * made fails the start of its process. Removing one kills first, so nothing that a worker started
 * outlives it, whatever session or parent it gave itself. The kernel needs a moment between the
 * kill and an empty group; what is still busy after some milliseconds waits in a list for the next
 * call, because the caller is the event loop. */
#include "child/cgroup.h"

#include "core/buf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX       65536
#define LEAF           "server"
#define WORKER         "worker-"
#define DESTROY_TRIES  5    /* a millisecond apart */
#define LEFTOVERS_MAX  4096 /* beyond that they are forgotten: an operator sees the directories */
#define LEFTOVERS_STEP 8    /* looked at per call */
#define CPU_PERIOD_US  100000

enum { MEMORY, CPU, PIDS, CONTROLLERS };
static const char *const controllers[CONTROLLERS] = {"memory", "cpu", "pids"};
static const char *const words[CONTROLLERS] = {"memory", "CPU", "processes"};

struct cgroup {
    char *root;
    bool on[CONTROLLERS];      /* limits in force */
    bool enabled[CONTROLLERS]; /* by us, in the root's subtree_control */
    bool moved;                /* we sit in the leaf */
    struct cgroup_limits limits;
    char in_force[64], missing[64];
    char **leftovers;
    size_t leftover_count;
};

static int open_in(const char *dir, const char *name, int flags)
{
    char *path = x_printf("%s/%s", dir, name);
    int fd = open(path, flags | O_CLOEXEC);
    int saved = errno;
    free(path);
    errno = saved;
    return fd;
}

/* False with errno. */
static bool write_in(const char *dir, const char *name, const char *text)
{
    int fd = open_in(dir, name, O_WRONLY | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = write(fd, text, strlen(text));
    int saved = errno;
    close(fd);
    errno = saved;
    return n == (ssize_t)strlen(text);
}

/* Empty when it cannot be read. Owned by the caller. */
static char *read_in(const char *dir, const char *name)
{
    struct buf b;
    buf_init(&b, FILE_MAX);
    int fd = open_in(dir, name, O_RDONLY);
    for (ssize_t n = 1; fd >= 0 && n > 0 && buf_reserve(&b, 4096);) {
        n = read(fd, b.data + b.len, 4096);
        buf_grow_len(&b, n > 0 ? (size_t)n : 0);
    }
    if (fd >= 0)
        close(fd);
    char *text = x_strndup(buf_cstr(&b), b.len);
    buf_release(&b);
    return text;
}

/* Is the word one of those in text, separated by blanks or line ends? */
static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = text; (p = strstr(p, word)); p += len) {
        if ((p == text || p[-1] == ' ' || p[-1] == '\n') &&
            (p[len] == '\0' || p[len] == ' ' || p[len] == '\n'))
            return true;
    }
    return false;
}

/* --- where we are ------------------------------------------------------------------------- */

/* Mount points come with blanks as \040. */
static char *unescape(struct str s)
{
    char *out = x_calloc(1, s.len + 1);
    for (size_t i = 0, n = 0; i < s.len; i++) {
        const char *p = s.p + i;
        if (*p == '\\' && i + 3 < s.len && p[1] >= '0' && p[1] <= '3') {
            out[n++] = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
            i += 3;
        } else {
            out[n++] = *p;
        }
    }
    return out;
}

/* Path of ours below this mount, or NULL. line: "id parent maj:min root point options ... - type"
 */
static char *below_mount(struct str line, const char *path)
{
    struct str field[5] = {{0}}, rest = line;
    for (size_t i = 0; i < ARRAY_SIZE(field); i++)
        field[i] = str_split(&rest, ' ');
    const char *dash = rest.len ? memmem(rest.p, rest.len, " - ", 3) : NULL;
    if (!dash || !str_starts(str_n(dash + 3, (size_t)(rest.p + rest.len - dash - 3)), "cgroup2 "))
        return NULL;
    char *root = unescape(field[3]), *point = unescape(field[4]), *full = NULL;
    size_t len = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(path, root, len) == 0 && (path[len] == '/' || path[len] == '\0'))
        full = x_printf("%s%s", point, strcmp(path + len, "/") == 0 ? "" : path + len);
    free(root);
    free(point);
    return full;
}

char *cgroup_locate(const char *self_cgroup, const char *mountinfo)
{
    struct str text = str_c(self_cgroup), mounts = str_c(mountinfo);
    char *path = NULL, *full = NULL;
    while (text.len && !path) {
        struct str line = str_split(&text, '\n');
        if (str_starts(line, "0::/") && !str_starts(line, "0::/..")) /* outside our namespace */
            path = x_strndup(line.p + 3, line.len - 3);
    }
    while (path && mounts.len && !full)
        full = below_mount(str_split(&mounts, '\n'), path);
    free(path);
    return full;
}

/* Ours, or the one above when an earlier life of this process has moved into its leaf. */
static char *find_root(void)
{
    char *self = read_in("/proc/self", "cgroup"), *mounts = read_in("/proc/self", "mountinfo");
    char *root = cgroup_locate(self, mounts), *slash = root ? strrchr(root, '/') : NULL;
    if (slash && strcmp(slash + 1, LEAF) == 0)
        *slash = '\0';
    free(self);
    free(mounts);
    return root;
}

/* --- setting up --------------------------------------------------------------------------- */

static bool asked(const struct cgroup_limits *l, int controller)
{
    return (controller == MEMORY ? l->memory_bytes
            : controller == CPU  ? l->cpu_percent
                                 : l->max_processes) > 0;
}

static void add_word(char *list, size_t size, const char *word)
{
    size_t len = strlen(list);
    snprintf(list + len, size - len, "%s%s", len ? ", " : "", word);
}

/* Sets what will be on; false when it is nothing. */
static bool choose(struct cgroup *g, const char *available)
{
    for (int i = 0; i < CONTROLLERS; i++) {
        if (!asked(&g->limits, i))
            continue;
        g->on[i] = has_word(available, controllers[i]);
        if (g->on[i])
            add_word(g->in_force, sizeof(g->in_force), words[i]);
        else
            add_word(g->missing, sizeof(g->missing), words[i]);
    }
    return g->in_force[0];
}

/* A group below the very top may not have both processes and controllers for its children. */
static bool we_are_in_the_way(const char *root)
{
    char pid[24], *type = read_in(root, "cgroup.type"), *procs = read_in(root, "cgroup.procs");
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    bool in = type[0] && has_word(procs, pid);
    free(type);
    free(procs);
    return in;
}

static bool move_to_leaf(struct cgroup *g)
{
    char *leaf = x_printf("%s/" LEAF, g->root);
    bool ok = (mkdir(leaf, 0755) == 0 || errno == EEXIST) && write_in(leaf, "cgroup.procs", "0");
    int saved = errno;
    free(leaf);
    errno = saved;
    g->moved = ok;
    return ok;
}

static void move_back(struct cgroup *g)
{
    if (!g->moved || !write_in(g->root, "cgroup.procs", "0"))
        return;
    char *leaf = x_printf("%s/" LEAF, g->root);
    rmdir(leaf);
    free(leaf);
    g->moved = false;
}

/* Writes "+memory +cpu" for those that are set: the kernel takes all of them or none. */
static bool change_controllers(struct cgroup *g, char sign, const bool set[CONTROLLERS])
{
    char change[64] = "";
    for (int i = 0; i < CONTROLLERS; i++) {
        size_t len = strlen(change);
        if (set[i])
            snprintf(change + len, sizeof(change) - len, "%s%c%s", len ? " " : "", sign,
                     controllers[i]);
    }
    return !change[0] || write_in(g->root, "cgroup.subtree_control", change);
}

static bool enable(struct cgroup *g)
{
    char *now = read_in(g->root, "cgroup.subtree_control");
    for (int i = 0; i < CONTROLLERS; i++)
        g->enabled[i] = g->on[i] && !has_word(now, controllers[i]);
    free(now);
    return change_controllers(g, '+', g->enabled);
}

static int set_up(struct cgroup *g, struct err *err)
{
    char *available = read_in(g->root, "cgroup.controllers");
    bool any = choose(g, available);
    free(available);
    if (!any)
        return err_set(err, ERR_UNAVAILABLE, "cgroup '%s' has no controller for %s", g->root,
                       g->missing);
    if (access(g->root, W_OK) != 0)
        return err_set(err, ERR_UNAVAILABLE, "cgroup '%s' is not delegated to us: %s", g->root,
                       strerror(errno));
    if (we_are_in_the_way(g->root) && !move_to_leaf(g))
        return err_set(err, ERR_UNAVAILABLE, "cannot move within cgroup '%s': %s", g->root,
                       strerror(errno));
    if (enable(g))
        return 0;
    int e = errno;
    move_back(g);
    return err_set(err, ERR_UNAVAILABLE, "cannot use cgroup '%s': %s", g->root,
                   e == EBUSY ? "other processes are in it" : strerror(e));
}

/* The pid in "worker-<pid>-<id>", or 0. */
static pid_t owner_of(const char *name)
{
    uint64_t pid;
    struct str rest = str_c(name);
    if (!str_starts(rest, WORKER))
        return 0;
    rest = str_n(rest.p + strlen(WORKER), rest.len - strlen(WORKER));
    return str_to_u64(str_split(&rest, '-'), &pid) && pid <= INT32_MAX ? (pid_t)pid : 0;
}

/* Groups whose server is dead go. Returns how many belong to one that lives (not to us). */
static size_t sweep(const char *root)
{
    size_t others = 0;
    DIR *d = opendir(root);
    for (struct dirent *e; d && (e = readdir(d));) {
        pid_t pid = owner_of(e->d_name);
        if (pid == 0 || pid == getpid())
            continue;
        char *dir = x_printf("%s/%s", root, e->d_name);
        bool dead = kill(pid, 0) != 0 && errno == ESRCH;
        others += !dead || !cgroup_destroy(dir);
        free(dir);
    }
    if (d)
        closedir(d);
    return others;
}

struct cgroup *cgroup_new(const char *root, const struct cgroup_limits *limits, struct err *err)
{
    struct cgroup *g = x_calloc(1, sizeof(*g));
    g->limits = *limits;
    g->root = root ? x_strdup(root) : find_root();
    if (g->root && set_up(g, err) == 0) {
        sweep(g->root);
        return g;
    }
    if (!g->root)
        err_set(err, ERR_UNAVAILABLE, "no cgroup v2 is mounted");
    free(g->root);
    free(g);
    return NULL;
}

/* --- one process -------------------------------------------------------------------------- */

static bool set_memory(const struct cgroup *g, const char *dir)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRId64, g->limits.memory_bytes);
    /* Absent without swap accounting, and before Linux 4.19. */
    return write_in(dir, "memory.max", text) &&
           (write_in(dir, "memory.swap.max", "0") || errno == ENOENT) &&
           (write_in(dir, "memory.oom.group", "1") || errno == ENOENT);
}

static bool set_limits(const struct cgroup *g, const char *dir)
{
    char cpu[64], pids[32];
    snprintf(cpu, sizeof(cpu), "%" PRId64 " %d", g->limits.cpu_percent * (CPU_PERIOD_US / 100),
             CPU_PERIOD_US);
    snprintf(pids, sizeof(pids), "%" PRId64, g->limits.max_processes);
    return (!g->on[MEMORY] || set_memory(g, dir)) &&
           (!g->on[CPU] || write_in(dir, "cpu.max", cpu)) &&
           (!g->on[PIDS] || write_in(dir, "pids.max", pids));
}

/* Before Linux 5.14: one by one. */
static void kill_each(const char *dir)
{
    char *procs = read_in(dir, "cgroup.procs");
    struct str rest = str_c(procs);
    while (rest.len) {
        uint64_t pid;
        if (str_to_u64(str_split(&rest, '\n'), &pid) && pid > 1 && pid <= INT32_MAX)
            kill((pid_t)pid, SIGKILL);
    }
    free(procs);
}

static bool destroy_within(const char *dir, int tries)
{
    for (int i = 0; rmdir(dir) != 0 && errno != ENOENT; i++) {
        if (!write_in(dir, "cgroup.kill", "1"))
            kill_each(dir);
        if (i == tries)
            return false;
        usleep(1000);
    }
    return true;
}

bool cgroup_destroy(const char *dir)
{
    return destroy_within(dir, DESTROY_TRIES);
}

static void retry_leftovers(struct cgroup *g)
{
    for (size_t i = 0; i < LEFTOVERS_STEP && g->leftover_count; i++) {
        char *dir = g->leftovers[0];
        memmove(g->leftovers, g->leftovers + 1, --g->leftover_count * sizeof(*g->leftovers));
        if (destroy_within(dir, 0))
            free(dir);
        else
            g->leftovers[g->leftover_count++] = dir;
    }
}

int cgroup_make(struct cgroup *g, unsigned id, char **ret_dir, int *ret_procs, struct err *err)
{
    retry_leftovers(g);
    char *dir = x_printf("%s/" WORKER "%d-%u", g->root, (int)getpid(), id);
    if (mkdir(dir, 0755) == 0 ||
        (errno == EEXIST && cgroup_destroy(dir) && mkdir(dir, 0755) == 0)) {
        int fd = set_limits(g, dir) ? open_in(dir, "cgroup.procs", O_WRONLY) : -1;
        if (fd >= 0) {
            *ret_dir = dir;
            *ret_procs = fd;
            return 0;
        }
    }
    err_set(err, ERR_IO, "cannot make the cgroup '%s': %s", dir, strerror(errno));
    rmdir(dir);
    free(dir);
    return -1;
}

void cgroup_drop_take(struct cgroup *g, char *dir)
{
    if (cgroup_destroy(dir) || g->leftover_count == LEFTOVERS_MAX) {
        free(dir);
        return;
    }
    g->leftovers = x_realloc(g->leftovers, (g->leftover_count + 1) * sizeof(*g->leftovers));
    g->leftovers[g->leftover_count++] = dir;
}

void cgroup_free(struct cgroup *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->leftover_count; i++) {
        (void)!cgroup_destroy(g->leftovers[i]); /* what stays is swept up by the next start */
        free(g->leftovers[i]);
    }
    if (sweep(g->root) == 0 && change_controllers(g, '-', g->enabled))
        move_back(g);
    free(g->leftovers);
    free(g->root);
    free(g);
}

const char *cgroup_in_force(const struct cgroup *g)
{
    return g->in_force;
}

const char *cgroup_missing(const struct cgroup *g)
{
    return g->missing;
}
