/* usage.c - memory and CPU of a process and everything below it.
 *
 * From /proc also where there is a cgroup: memory.current counts the page cache, so a worker that
 * has read files would look fat and be replaced for nothing. What counts for that decision is what
 * the processes themselves hold. Pages that two of them share count twice; inside bubblewrap there
 * is one large process and two tiny ones.
 *
 * Kernels built without CONFIG_PROC_CHILDREN do not tell a process's children. Then all of /proc
 * is read, and that picture serves every worker's sample for a moment. It hides what started since
 * it was taken, so whoever asks what is left behind has a new one taken. */
#include "child/sandbox.h"
#include "core/clock.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#define TREE_MAX       4096  /* processes of one tree that are counted */
#define PICTURE_MAX    65536 /* processes of the machine */
#define PICTURE_AGE_MS 500

struct proc_stat {
    pid_t ppid;
    int64_t ticks, rss_pages;
};

struct pair {
    pid_t pid, ppid;
};

struct tree {
    pid_t pid[TREE_MAX];
    pid_t parent[TREE_MAX];
    size_t count;
};

/* Loop thread only, like everything here. */
static struct {
    struct pair *pairs;
    size_t count, cap;
    int64_t taken_ms;
} picture;

static size_t read_small(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

static bool read_stat(pid_t pid, struct proc_stat *ret)
{
    enum { PPID = 4, UTIME = 14, CSTIME = 17, RSS = 24 }; /* numbers as in proc(5) */
    char path[64], text[1024];
    struct proc_stat st = {0};
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    char *p = read_small(path, text, sizeof(text)) ? strrchr(text, ')') : NULL;
    if (!p || strlen(p) < 4)
        return false;
    p += 3; /* behind ") S" */
    for (int field = PPID; field <= RSS; field++) {
        int64_t v = strtoll(p, &p, 10);
        if (field == PPID)
            st.ppid = (pid_t)v;
        else if (field >= UTIME && field <= CSTIME)
            st.ticks += v;
        else if (field == RSS)
            st.rss_pages = v;
    }
    *ret = st;
    return true;
}

static void add(struct tree *t, pid_t pid, pid_t parent)
{
    if (t->count < TREE_MAX)
        t->parent[t->count] = parent, t->pid[t->count++] = pid;
}

/* --- children, told by the kernel --------------------------------------------------------- */

static bool kernel_tells(void)
{
    static int known = -1;
    if (known < 0)
        known = access("/proc/thread-self/children", R_OK) == 0;
    return known;
}

static pid_t next_number(DIR *d)
{
    for (struct dirent *e; (e = readdir(d));) {
        uint64_t n;
        if (str_to_u64(str_c(e->d_name), &n) && n <= INT32_MAX)
            return (pid_t)n;
    }
    return 0;
}

/* A child belongs to the thread that made it. */
static void add_told(struct tree *t, pid_t pid)
{
    char path[96], text[8192];
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    for (pid_t tid; d && (tid = next_number(d));) {
        uint64_t child;
        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)tid);
        struct str rest = str_n(text, read_small(path, text, sizeof(text)));
        while (rest.len) {
            if (str_to_u64(str_split(&rest, ' '), &child) && child <= INT32_MAX)
                add(t, (pid_t)child, pid);
        }
    }
    if (d)
        closedir(d);
}

/* --- children, found ---------------------------------------------------------------------- */

static void take_picture(void)
{
    DIR *d = opendir("/proc");
    picture.count = 0;
    for (pid_t pid; d && picture.count < PICTURE_MAX && (pid = next_number(d));) {
        struct proc_stat st;
        if (!read_stat(pid, &st))
            continue;
        if (picture.count == picture.cap) {
            picture.cap = picture.cap ? picture.cap * 2 : 256;
            picture.pairs = x_realloc(picture.pairs, picture.cap * sizeof(*picture.pairs));
        }
        picture.pairs[picture.count++] = (struct pair){pid, st.ppid};
    }
    if (d)
        closedir(d);
    picture.taken_ms = clock_mono_ms();
}

static void add_found(struct tree *t, pid_t pid)
{
    for (size_t i = 0; i < picture.count; i++) {
        if (picture.pairs[i].ppid == pid)
            add(t, picture.pairs[i].pid, pid);
    }
}

static bool sum_tree(const struct child *c, int64_t age_ms, struct child_usage *ret)
{
    struct tree t;
    struct child_usage sum = {0};
    if (!child_alive(c))
        return false;
    t.pid[0] = child_pid(c);
    t.count = 1;
    if (!kernel_tells() && (!picture.count || clock_mono_ms() - picture.taken_ms > age_ms))
        take_picture();
    for (size_t i = 0; i < t.count; i++) {
        struct proc_stat st;
        if (!read_stat(t.pid[i], &st) || (i > 0 && st.ppid != t.parent[i]))
            continue; /* gone meanwhile, and its number perhaps somebody else's */
        sum.processes++;
        sum.rss_kb += st.rss_pages * (sysconf(_SC_PAGESIZE) / 1024);
        sum.cpu_ms += st.ticks * 1000 / sysconf(_SC_CLK_TCK);
        if (kernel_tells())
            add_told(&t, t.pid[i]);
        else
            add_found(&t, t.pid[i]);
    }
    *ret = sum;
    return sum.processes > 0;
}

bool child_usage(const struct child *c, struct child_usage *ret)
{
    return sum_tree(c, PICTURE_AGE_MS, ret);
}

bool child_usage_fresh(const struct child *c, struct child_usage *ret)
{
    return sum_tree(c, -1, ret);
}
