/* system.c - what the kernel knows about this process and this machine, read at every scrape.
 *
 * Names of process metrics follow the Prometheus client libraries, so that ready-made dashboards
 * work. Everything comes from /proc and a few calls; a file that is missing (containers, other
 * kernels) or looks different leaves its series out. Sums over devices and interfaces fall when
 * one is removed; Prometheus takes that for a restart of the counter, which is right. */
#include "metrics/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PROC_MAX    ((size_t)1 << 20)
#define SECTOR_SIZE 512 /* /proc/diskstats counts these whatever the device */

/* NOLINTBEGIN(bugprone-macro-parentheses): initialisers */
#define PROCESS(n, t, h)                           \
    {                                              \
        .name = "process_" n, .type = t, .help = h \
    }
#define HOST(n, t, label, h)                                                    \
    {                                                                           \
        .name = "claudegate_host_" n, .type = t, .help = h, .labels = { label } \
    }
/* NOLINTEND(bugprone-macro-parentheses) */

enum {
    CPU,
    RSS,
    OPEN_FDS,
    MAX_FDS,
    START,
    HOST_CPU,
    HOST_MEM,
    HOST_DISK,
    HOST_IO,
    HOST_NET,
    COUNT
};

static struct metric metrics[COUNT] = {
    [CPU] = PROCESS("cpu_seconds_total", METRIC_COUNTER,
                    "User and system CPU time of this process, without its children."),
    [RSS] = PROCESS("resident_memory_bytes", METRIC_GAUGE, "Resident memory of this process."),
    [OPEN_FDS] = PROCESS("open_fds", METRIC_GAUGE, "Open file descriptors of this process."),
    [MAX_FDS] = PROCESS("max_fds", METRIC_GAUGE, "File descriptors this process may open."),
    [START] = PROCESS("start_time_seconds", METRIC_GAUGE,
                      "Start of this process, in seconds since 1970-01-01 UTC."),
    [HOST_CPU] = HOST("cpu_seconds_total", METRIC_COUNTER, "mode",
                      "CPU time of the machine, all cores together."),
    [HOST_MEM] = HOST("memory_bytes", METRIC_GAUGE, "state",
                      "Memory of the machine: total, and available without swapping."),
    [HOST_DISK] = HOST("disk_bytes", METRIC_GAUGE, "state",
                       "File system of the data directory: total, and free for this process."),
    [HOST_IO] = HOST("disk_io_bytes_total", METRIC_COUNTER, "direction",
                     "Bytes read from and written to the disks of the machine."),
    [HOST_NET] = HOST("network_bytes_total", METRIC_COUNTER, "direction",
                      "Bytes received and sent on all interfaces but the loopback."),
};

static struct {
    char *root; /* NULL = "" */
    char *data_dir;
} sys;

static char *path_of(const char *name)
{
    return x_printf("%s/%s", sys.root ? sys.root : "", name);
}

/* Appends the file to text; false when there is nothing to read. */
static bool read_file(const char *name, struct buf *text)
{
    AUTO(free_charp) char *path = path_of(name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    while (buf_reserve(text, 4096)) {
        ssize_t n = read(fd, text->data + text->len, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        buf_grow_len(text, (size_t)n);
    }
    close(fd);
    return text->len > 0;
}

/* The next word of s, "" at the end of the line. */
static struct str word(struct str *s)
{
    *s = str_trim(*s);
    return str_split(s, ' ');
}

/* The next number; false when it is not one. */
static bool number(struct str *s, double *ret_value)
{
    uint64_t v;
    if (!str_to_u64(word(s), &v))
        return false;
    *ret_value = (double)v;
    return true;
}

static bool skip_words(struct str *s, int n)
{
    while (n-- > 0 && s->len)
        word(s);
    return s->len > 0;
}

/* ---- this process ---- */

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void collect_usage(void)
{
    struct rusage usage;
    struct rlimit fds;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        metric_set(&metrics[CPU], seconds(usage.ru_utime) + seconds(usage.ru_stime));
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0)
        metric_set(&metrics[MAX_FDS], (double)fds.rlim_cur);
}

static void collect_resident(void)
{
    AUTO(buf_release) struct buf text;
    double pages;
    buf_init(&text, PROC_MAX);
    if (!read_file("proc/self/statm", &text))
        return;
    struct str line = buf_str(&text);
    if (skip_words(&line, 1) && number(&line, &pages))
        metric_set(&metrics[RSS], pages * (double)sysconf(_SC_PAGESIZE));
}

static void collect_open_fds(void)
{
    AUTO(free_charp) char *path = path_of("proc/self/fd");
    DIR *dir = opendir(path);
    size_t n = 0;
    if (!dir)
        return;
    for (struct dirent *e = readdir(dir); e; e = readdir(dir))
        n += e->d_name[0] != '.';
    closedir(dir);
    metric_set(&metrics[OPEN_FDS], (double)(n ? n - 1 : 0)); /* without the one that counted */
}

/* Seconds since boot at which this process started. */
static bool read_start(double *ret_seconds)
{
    AUTO(buf_release) struct buf text;
    double ticks;
    buf_init(&text, PROC_MAX);
    if (!read_file("proc/self/stat", &text))
        return false;
    /* The second field is the program's name in parentheses and may hold anything. */
    const char *end = memrchr(text.data, ')', text.len);
    if (!end)
        return false;
    struct str rest = str_n(end + 1, (size_t)(text.data + text.len - end - 1));
    if (!skip_words(&rest, 19) || !number(&rest, &ticks))
        return false;
    *ret_seconds = ticks / (double)sysconf(_SC_CLK_TCK);
    return true;
}

/* ---- the machine ---- */

static void collect_cpu_line(struct str line)
{
    static const char *const modes[] = {"user",   "nice", "system",  "idle",
                                        "iowait", "irq",  "softirq", "steal"};
    double ticks;
    for (size_t i = 0; i < ARRAY_SIZE(modes) && number(&line, &ticks); i++)
        metric_set(&metrics[HOST_CPU], ticks / (double)sysconf(_SC_CLK_TCK), modes[i]);
}

/* CPU, and the time of boot that the start of this process counts from. */
static void collect_stat(void)
{
    AUTO(buf_release) struct buf text;
    double boot, start;
    buf_init(&text, PROC_MAX);
    if (!read_file("proc/stat", &text))
        return;
    struct str rest = buf_str(&text);
    while (rest.len) {
        struct str line = str_split(&rest, '\n');
        struct str name = word(&line);
        if (str_eq_c(name, "cpu"))
            collect_cpu_line(line);
        else if (str_eq_c(name, "btime") && number(&line, &boot) && read_start(&start))
            metric_set(&metrics[START], boot + start);
    }
}

static void collect_memory(void)
{
    AUTO(buf_release) struct buf text;
    double kib;
    buf_init(&text, PROC_MAX);
    if (!read_file("proc/meminfo", &text))
        return;
    struct str rest = buf_str(&text);
    while (rest.len) {
        struct str line = str_split(&rest, '\n');
        struct str name = word(&line);
        if (str_eq_c(name, "MemTotal:") && number(&line, &kib))
            metric_set(&metrics[HOST_MEM], kib * 1024, "total");
        else if (str_eq_c(name, "MemAvailable:") && number(&line, &kib))
            metric_set(&metrics[HOST_MEM], kib * 1024, "available");
    }
}

static void collect_disk_space(void)
{
    struct statvfs fs;
    if (statvfs(sys.data_dir, &fs) != 0)
        return;
    metric_set(&metrics[HOST_DISK], (double)fs.f_blocks * (double)fs.f_frsize, "total");
    metric_set(&metrics[HOST_DISK], (double)fs.f_bavail * (double)fs.f_frsize, "free");
}

/* A whole device of its own: partitions are no entries of /sys/block, and what lies on other
 * devices or in memory would be counted twice or is no disk. */
static bool is_whole_disk(struct str name)
{
    static const char *const stacked[] = {"loop", "ram", "zram", "dm-", "md"};
    if (name.len == 0 || memchr(name.p, '/', name.len))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(stacked); i++) {
        if (str_starts(name, stacked[i]))
            return false;
    }
    AUTO(free_charp) char *entry = x_printf("sys/block/%.*s", (int)name.len, name.p);
    AUTO(free_charp) char *path = path_of(entry);
    return access(path, F_OK) == 0;
}

/* major minor name reads merged SECTORS_READ ms writes merged SECTORS_WRITTEN ... */
static void collect_disk_io(void)
{
    AUTO(buf_release) struct buf text;
    double in = 0, out = 0, r, w;
    bool any = false;
    buf_init(&text, PROC_MAX);
    if (!read_file("proc/diskstats", &text))
        return;
    struct str rest = buf_str(&text);
    while (rest.len) {
        struct str line = str_split(&rest, '\n');
        if (!skip_words(&line, 2) || !is_whole_disk(word(&line)))
            continue;
        if (skip_words(&line, 2) && number(&line, &r) && skip_words(&line, 3) &&
            number(&line, &w)) {
            in += r * SECTOR_SIZE;
            out += w * SECTOR_SIZE;
            any = true;
        }
    }
    if (any) {
        metric_set(&metrics[HOST_IO], in, "read");
        metric_set(&metrics[HOST_IO], out, "write");
    }
}

/* "  eth0: BYTES_IN and 7 more, BYTES_OUT ..."; the two lines of the head have no colon. */
static void collect_network(void)
{
    AUTO(buf_release) struct buf text;
    double in = 0, out = 0, r, t;
    bool any = false;
    buf_init(&text, PROC_MAX);
    if (!read_file("proc/net/dev", &text))
        return;
    struct str rest = buf_str(&text);
    while (rest.len) {
        struct str line = str_split(&rest, '\n');
        struct str name = str_trim(str_split(&line, ':'));
        if (str_eq_c(name, "lo"))
            continue;
        if (number(&line, &r) && skip_words(&line, 7) && number(&line, &t)) {
            in += r;
            out += t;
            any = true;
        }
    }
    if (any) {
        metric_set(&metrics[HOST_NET], in, "receive");
        metric_set(&metrics[HOST_NET], out, "transmit");
    }
}

static void collect(void *ctx)
{
    (void)ctx;
    collect_usage();
    collect_resident();
    collect_open_fds();
    collect_stat();
    collect_memory();
    collect_disk_space();
    collect_disk_io();
    collect_network();
}

void metrics_register_system(const char *data_dir)
{
    x_replace(&sys.data_dir, data_dir);
    metrics_remove_collector(collect, NULL);
    metrics_add_collector(collect, NULL);
}

void metrics_system_set_root(const char *root)
{
    x_replace(&sys.root, root);
}

void metrics_system_release(void)
{
    x_replace(&sys.data_dir, NULL);
    x_replace(&sys.root, NULL);
}
