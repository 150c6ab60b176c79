/* clock.c - clocks, and RFC 3339 both ways. */
#include "core/clock.h"

#include <ctype.h>

static int64_t now_us(clockid_t id)
{
    struct timespec ts;
    BUG_ON(clock_gettime(id, &ts) != 0);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
    return now_us(CLOCK_MONOTONIC);
}

int64_t clock_mono_ms(void)
{
    return now_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_wall_ms(void)
{
    return now_us(CLOCK_REALTIME) / 1000;
}

const char *clock_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE])
{
    time_t sec = (time_t)(wall_ms / 1000);
    int ms = (int)(wall_ms % 1000);
    if (ms < 0) { /* before 1970 */
        ms += 1000;
        sec--;
    }
    struct tm tm;
    gmtime_r(&sec, &tm);
    char date[24];
    if (strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
        date[0] = '\0'; /* a year of five digits */
    snprintf(out, CLOCK_RFC3339_SIZE, "%s.%03dZ", date, ms);
    return out;
}

/* Reads ".fff" and "Z" or "+HH:MM"; false when the text goes on or does not fit. */
static bool parse_tail(const char *s, int *ret_ms, int *ret_offset_min)
{
    int ms = 0, scale = 100;
    if (*s == '.') {
        if (!isdigit((unsigned char)*++s))
            return false;
        for (; isdigit((unsigned char)*s); s++, scale /= 10)
            ms += (*s - '0') * scale;
    }
    *ret_ms = ms;
    *ret_offset_min = 0;
    if (strcmp(s, "Z") == 0)
        return true;
    if ((*s != '+' && *s != '-') || strlen(s) != 6 || s[3] != ':')
        return false;
    for (int i = 1; i < 6; i++) {
        if (i != 3 && !isdigit((unsigned char)s[i]))
            return false;
    }
    int hours = (s[1] - '0') * 10 + s[2] - '0', minutes = (s[4] - '0') * 10 + s[5] - '0';
    *ret_offset_min = (*s == '-' ? -1 : 1) * (hours * 60 + minutes);
    return hours < 24 && minutes < 60;
}

/* strptime() also takes spaces and single digits: the shape is checked first. */
static bool has_shape(const char *text, const char *shape)
{
    for (; *shape; shape++, text++) {
        if (*shape == '9' ? !isdigit((unsigned char)*text) : *text != *shape)
            return false;
    }
    return true;
}

bool clock_parse_rfc3339(const char *text, int64_t *ret_wall_ms)
{
    struct tm tm = {0};
    int ms = 0, offset = 0;
    if (!has_shape(text, "9999-99-99") || (text[10] && !has_shape(text + 10, "T99:99:99")))
        return false;
    const char *rest = strptime(text, "%Y-%m-%d", &tm);
    if (!rest)
        return false;
    int mday = tm.tm_mday;
    if (*rest) {
        rest = strptime(rest + 1, "%H:%M:%S", &tm);
        if (!rest || tm.tm_sec > 60 || !parse_tail(rest, &ms, &offset))
            return false;
    }
    time_t sec = timegm(&tm);
    if (tm.tm_mday != mday) /* 2026-02-30 */
        return false;
    *ret_wall_ms = ((int64_t)sec - offset * 60) * 1000 + ms;
    return true;
}
