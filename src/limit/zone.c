/* zone.c - see the header. Inside, times are seconds and dates are days since 1970-01-01. */
#include "limit/zone.h"

#include <unistd.h>

#define ZONE_DIR "/usr/share/zoneinfo"
#define DAY_S    INT64_C(86400)
#define FIRST    INT64_C(1577836800) /* 2020-01-01 */
#define LAST     INT64_C(4102444800) /* 2100-01-01 */
#define STEP     (DAY_S / 2)         /* two changes are not nearer to each other */
#define MAX      1000                /* four a year at most */

struct change {
    int64_t at;     /* from then on ... */
    int64_t offset; /* ... local time is UTC plus this */
};

struct zone {
    struct change changes[MAX];
    size_t count; /* at least one, which is from the beginning of time */
};

/* --- asking the C library ------------------------------------------------------------------ */

static int64_t offset_now_set(int64_t at)
{
    time_t t = (time_t)at;
    struct tm tm;
    return localtime_r(&t, &tm) ? tm.tm_gmtoff : 0;
}

/* The first second that has another offset than `from`; it is in (from, to]. */
static int64_t bisect(int64_t from, int64_t to)
{
    int64_t offset = offset_now_set(from);
    while (to - from > 1) {
        int64_t middle = from + (to - from) / 2;
        if (offset_now_set(middle) == offset)
            from = middle;
        else
            to = middle;
    }
    return to;
}

static void add_change(struct zone *z, int64_t at, int64_t offset)
{
    BUG_ON(z->count == MAX);
    z->changes[z->count++] = (struct change){at, offset};
}

static void find_changes(struct zone *z)
{
    int64_t offset = offset_now_set(FIRST);
    add_change(z, INT64_MIN, offset);
    for (int64_t t = FIRST; t < LAST; t += STEP) {
        int64_t next = offset_now_set(t + STEP);
        if (next != offset)
            add_change(z, bisect(t, t + STEP), next);
        offset = next;
    }
}

static void ask(struct zone *z, const char *name)
{
    const char *before = getenv("TZ");
    AUTO(free_charp) char *copy = before ? x_strdup(before) : NULL;
    AUTO(free_charp) char *path = x_printf(":%s/%s", ZONE_DIR, name);
    BUG_ON(setenv("TZ", path, 1) != 0);
    tzset();
    find_changes(z);
    if (copy)
        setenv("TZ", copy, 1);
    else
        unsetenv("TZ");
    tzset();
}

struct zone *zone_new(const char *name, struct err *err)
{
    struct zone *z = x_calloc(1, sizeof(*z));
    AUTO(free_charp) char *path = x_printf("%s/%s", ZONE_DIR, name);
    if (strcmp(name, "UTC") == 0) {
        add_change(z, INT64_MIN, 0);
    } else if (name[0] && !strstr(name, "..") && access(path, R_OK) == 0) {
        ask(z, name);
    } else { /* the C library would take it for UTC */
        err_set(err, ERR_CONFIG, "limits.timezone: there is no time zone '%s' in " ZONE_DIR, name);
        zone_free(z);
        return NULL;
    }
    return z;
}

void zone_free(struct zone *z)
{
    free(z);
}

/* --- arithmetic ---------------------------------------------------------------------------- */

static int64_t div_down(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* The index of the change that is in force. */
static size_t in_force(const struct zone *z, int64_t at)
{
    size_t lo = 0, hi = z->count;
    while (hi - lo > 1) {
        size_t middle = lo + (hi - lo) / 2;
        if (z->changes[middle].at <= at)
            lo = middle;
        else
            hi = middle;
    }
    return lo;
}

/* The first second whose local date is `day` or later. */
static int64_t start_of(const struct zone *z, int64_t day)
{
    size_t i = in_force(z, (day - 1) * DAY_S - DAY_S / 2);
    for (;; i++) {
        const struct change *c = &z->changes[i];
        int64_t start = day * DAY_S - c->offset;
        if (start < c->at)
            start = c->at; /* midnight was skipped */
        if (i + 1 == z->count || start < z->changes[i + 1].at)
            return start;
    }
}

/* The date whose span holds `at`. After a change back over midnight that is the later one, though
 * the clock shows the earlier: each day begins once. */
static int64_t day_of(const struct zone *z, int64_t at)
{
    int64_t day = div_down(at + z->changes[in_force(z, at)].offset, DAY_S);
    while (start_of(z, day + 1) <= at)
        day++;
    while (start_of(z, day) > at)
        day--;
    return day;
}

void zone_days(const struct zone *z, int64_t at, int64_t ret_bounds[3])
{
    int64_t day = day_of(z, div_down(at, 1000));
    ret_bounds[0] = start_of(z, day) * 1000;
    for (int i = 1; i < 3; i++) { /* a date may not exist: it starts where the next does */
        do
            ret_bounds[i] = start_of(z, ++day) * 1000;
        while (ret_bounds[i] == ret_bounds[i - 1]);
    }
}

/* The date of the first of the month of `day`, or of one of the following. */
static int64_t month_of(int64_t day, int months_later)
{
    time_t t = (time_t)(day * DAY_S);
    struct tm tm = {0};
    BUG_ON(!gmtime_r(&t, &tm));
    tm.tm_mday = 1;
    tm.tm_mon += months_later;
    return div_down(timegm(&tm), DAY_S);
}

void zone_months(const struct zone *z, int64_t at, int64_t ret_bounds[3])
{
    int64_t day = day_of(z, div_down(at, 1000));
    for (int i = 0; i < 3; i++)
        ret_bounds[i] = start_of(z, month_of(day, i)) * 1000;
}
