/* fake_log.c - what the fake tells tests beside its stdout.
 *
 * FAKE_LOG: a file that gets one JSON line per event, each written with one append:
 *   {"event":"request","pid","turn","request","session_id","model","system","messages","tools",
 *    "headers","body"}   before each upstream request; request 1 is the turn's first. body is the
 *                        whole would-be request (EXTRA_BODY merged last), headers the custom ones
 *   {"event":"bash_command","pid","command"}   a bash_command line came (nothing is run)
 *   {"event":"upstream","pid","status"|"error"} FAKE_UPSTREAM: what came back
 *
 * FAKE_COUNT: a file of eight native-endian 64-bit numbers that any number of processes add to
 * atomically: magic "FAKECNT1", query turns started, finished, interrupted, errored, input
 * tokens, output tokens (both of completed responses, as counted in modelUsage), processes.
 * started - finished - interrupted - errored = turns in flight or lost with their process. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT_MAGIC UINT64_C(0x31544e43454b4146) /* "FAKECNT1" */
#define COUNT_BYTES (8 * sizeof(uint64_t))

static uint64_t *counters;

void record_open(struct fake *f)
{
    const char *path = getenv("FAKE_LOG");
    f->log_fd = -1;
    if (!path || !path[0])
        return;
    f->log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (f->log_fd < 0)
        fake_die(f, "fake-claude: FAKE_LOG '%s': %s", path, strerror(errno));
}

bool record_wanted(const struct fake *f)
{
    return f->log_fd >= 0;
}

void record_write(struct fake *f, json_t *record_consume)
{
    struct buf line;
    buf_init(&line, FAKE_MAX_BYTES);
    json_object_set_new(record_consume, "pid", json_integer(getpid()));
    json_write(&line, record_consume);
    buf_addc(&line, '\n');
    if (f->log_fd >= 0 && write(f->log_fd, line.data, line.len) != (ssize_t)line.len)
        fake_die(f, "fake-claude: FAKE_LOG: %s", strerror(errno));
    buf_release(&line);
    json_decref(record_consume);
}

static int map_counters(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    struct stat st;
    int rc = fstat(fd, &st) != 0 ? errno : 0;
    if (rc == 0 && st.st_size != COUNT_BYTES && (st.st_size != 0 || !(flags & O_CREAT)))
        rc = EINVAL; /* somebody else's file */
    if (rc == 0 && (flags & O_CREAT) && ftruncate(fd, COUNT_BYTES) != 0)
        rc = errno;
    void *p = MAP_FAILED;
    if (rc == 0) {
        int prot = (flags & O_CREAT) ? PROT_READ | PROT_WRITE : PROT_READ;
        p = mmap(NULL, COUNT_BYTES, prot, MAP_SHARED, fd, 0);
        rc = p == MAP_FAILED ? errno : 0;
    }
    close(fd);
    if (rc == 0)
        counters = p;
    return rc;
}

int count_open(const char *path)
{
    int rc = map_counters(path, O_RDWR | O_CREAT);
    if (rc != 0)
        return rc;
    uint64_t expected = 0;
    if (!__atomic_compare_exchange_n(&counters[0], &expected, COUNT_MAGIC, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST) &&
        expected != COUNT_MAGIC) {
        munmap(counters, COUNT_BYTES);
        counters = NULL;
        return EINVAL;
    }
    count_add(COUNT_PROCESSES, 1);
    return 0;
}

void count_add(enum counter c, int64_t n)
{
    if (counters)
        __atomic_fetch_add(&counters[c], (uint64_t)n, __ATOMIC_RELAXED);
}

int count_print(const char *path)
{
    static const char *const names[] = {"started",      "finished",      "interrupted", "errored",
                                        "input_tokens", "output_tokens", "processes"};
    int rc = map_counters(path, O_RDONLY);
    if (rc == 0 && counters[0] != COUNT_MAGIC)
        rc = EINVAL;
    if (rc != 0) {
        fprintf(stderr, "fake-claude: '%s': %s\n", path, strerror(rc));
        return 1;
    }
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        printf("%c\"%s\":%llu", i ? ',' : '{', names[i],
               (unsigned long long)__atomic_load_n(&counters[i + 1], __ATOMIC_RELAXED));
    printf("}\n");
    return 0;
}
