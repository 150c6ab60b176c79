/* limits_zone_cases.h - days of time zones, compared with what the C library says. */
#ifndef CG_TESTS_LIMITS_ZONE_CASES_H
#define CG_TESTS_LIMITS_ZONE_CASES_H

#include "limits_rig.h"

static const char *const zones[] = {"UTC",
                                    "Europe/Berlin",
                                    "America/New_York",
                                    "Asia/Kolkata",
                                    "Australia/Lord_Howe",
                                    "Africa/Cairo",
                                    "America/Havana",
                                    "Asia/Beirut",
                                    "Pacific/Apia",
                                    "Pacific/Kiritimati",
                                    "Africa/Casablanca",
                                    "America/St_Johns",
                                    "Antarctica/Troll"};

/* Year, month and day as one number. */
static int local_date(int64_t at)
{
    time_t t = (time_t)at;
    struct tm tm;
    assert_non_null(localtime_r(&t, &tm));
    return tm.tm_year * 10000 + tm.tm_mon * 100 + tm.tm_mday;
}

static void set_tz(const char *name)
{
    if (name)
        setenv("TZ", name, 1);
    else
        unsetenv("TZ");
    tzset();
}

/* A day starts at the first second of its date. */
static void check_bound(int64_t start_ms)
{
    int64_t start = start_ms / 1000;
    assert_int_equal(start_ms % 1000, 0);
    assert_true(local_date(start - 1) < local_date(start));
    for (int64_t before = 60; before < 86400 / 2; before += 900)
        assert_true(local_date(start - before) < local_date(start));
}

static void check_zone(const char *name)
{
    struct err err;
    struct zone *z = zone_new(name, &err);
    assert_non_null(z);
    assert_null(getenv("TZ")); /* put back */
    set_tz(name);
    srandom(7);
    int64_t end = parse_time("2032-01-01"), last_end = 0;
    for (int64_t at = parse_time("2025-01-01"); at < end; at += random() % (9 * HOUR)) {
        int64_t b[3], m[3];
        zone_days(z, at, b);
        zone_months(z, at, m);
        assert_true(b[0] <= at && at < b[1] && b[1] < b[2]);
        assert_true(m[0] <= b[0] && b[1] <= m[1] && m[1] < m[2]);
        assert_in_range(b[1] - b[0], 23 * HOUR - HOUR, 26 * HOUR);
        if (b[1] != last_end) {
            check_bound(b[1]);
            check_bound(m[1]);
            assert_int_equal(local_date(m[1] / 1000) % 100, 1);
        }
        last_end = b[1];
    }
    set_tz(NULL);
    zone_free(z);
}

static void test_zones(void **state)
{
    (void)state;
    set_tz(NULL);
    for (size_t i = 0; i < ARRAY_SIZE(zones); i++)
        check_zone(zones[i]);
    setenv("TZ", "Asia/Tokyo", 1);
    struct err err;
    struct zone *z = zone_new("Europe/Berlin", &err);
    assert_non_null(z);
    assert_string_equal(getenv("TZ"), "Asia/Tokyo");
    zone_free(z);
    set_tz(NULL);
    static const char *const bad[] = {"", "No/Where", "../zoneinfo/UTC", "Europe/Berlin/"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_null(zone_new(bad[i], &err));
        assert_int_equal(err.code, ERR_CONFIG);
    }
}

/* One row per day: when it begins and ends in UTC. */
static void test_zone_days_known(void **state)
{
    (void)state;
    static const struct {
        const char *zone, *at, *start, *end;
    } days[] = {
        {"Europe/Berlin", "2026-11-23T22:59:59Z", "2026-11-22T23:00:00Z", "2026-11-23T23:00:00Z"},
        {"Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
        {"Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
        /* 00:00 does not exist: the day begins at 01:00 */
        {"Africa/Cairo", "2024-04-26T12:00:00Z", "2024-04-25T22:00:00Z", "2024-04-26T21:00:00Z"},
        /* from 00:00 back to 23:00: the day before lasts on */
        {"Asia/Beirut", "2024-10-26T21:30:00Z", "2024-10-25T21:00:00Z", "2024-10-26T22:00:00Z"},
        /* from 01:00 back to 00:00: the day begins once */
        {"America/Havana", "2024-11-03T05:30:00Z", "2024-11-03T04:00:00Z", "2024-11-04T05:00:00Z"},
        {"Europe/Berlin", "2098-07-01T00:00:00Z", "2098-06-30T22:00:00Z", "2098-07-01T22:00:00Z"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(days); i++) {
        struct err err;
        int64_t b[3];
        struct zone *z = zone_new(days[i].zone, &err);
        zone_days(z, parse_time(days[i].at), b);
        assert_int_equal(b[0], parse_time(days[i].start));
        assert_int_equal(b[1], parse_time(days[i].end));
        zone_free(z);
    }
}

/* Exactly the limit in each day, whatever its length; the reset is the next midnight. */
static void test_days_of_a_zone(void **state)
{
    (void)state;
    static const char *const starts[] = {/* of days of 24, 23 and 25 hours */
                                         "2026-11-22T23:00:00Z", "2026-03-28T23:00:00Z",
                                         "2026-10-24T22:00:00Z"};
    static const int64_t hours[] = {24, 23, 25};
    struct api_key key = make_key(-1, 50, -1);
    for (size_t i = 0; i < ARRAY_SIZE(starts); i++) {
        struct mem m = mem_open("Europe/Berlin");
        int64_t start = parse_time(starts[i]), end = start + hours[i] * HOUR;
        int admitted[3] = {0};
        assert_int_equal(look_at(m.l, &key, start)->day_requests.reset_s, hours[i] * 3600);
        for (int64_t at = start - HOUR; at < end + HOUR; at += 60000) {
            struct limit_ticket t;
            if (try_acquire(m.l, &key, 0, at, &t) == ERR_NONE)
                admitted[at < start ? 0 : at < end ? 1 : 2]++;
        }
        assert_int_equal(admitted[0], 50);
        assert_int_equal(admitted[1], 50);
        assert_int_equal(admitted[2], 50);
        mem_close(&m);
    }
}

static void test_cost(void **state)
{
    (void)state;
    struct mem m = mem_open("Europe/Berlin");
    struct api_key key = make_key(-1, -1, -1);
    struct limit_ticket a, b;
    int64_t at = parse_time("2026-11-29T12:00:00Z");
    key.limits.cost_per_day = 2 * USD;
    key.limits.cost_per_month = 5 * USD;
    assert_int_equal(acquire(m.l, &key, 0, USD / 2, at, &a), ERR_NONE);
    assert_int_equal(acquire(m.l, &key, 0, 2 * USD, at, &b), ERR_QUOTA);
    assert_non_null(strstr(last.err.msg, "may need 2 USD, but 1.5 of the limit of 2 USD per day "
                                         "remain (0.5 more are reserved"));
    limit_settle(m.l, &a, 0, 2 * USD);
    assert_int_equal(acquire(m.l, &key, 0, 0, at, &b), ERR_QUOTA);
    assert_non_null(strstr(last.err.msg, "The limit of 2 USD per day is reached; it resets at "
                                         "2026-11-29T23:00:00.000Z."));
    at += DAY;
    assert_int_equal(acquire(m.l, &key, 0, USD, at, &a), ERR_NONE);
    assert_int_equal(last.views.month_cost.remaining, 2 * USD);
    limit_settle(m.l, &a, 0, USD + USD / 2);
    assert_int_equal(acquire(m.l, &key, 0, USD, at, &b), ERR_QUOTA); /* the day's */
    limit_restore(m.l, KEY_ID, &(struct limit_spent){.month_cost = 5 * USD});
    assert_int_equal(acquire(m.l, &key, 0, 0, at, &b), ERR_QUOTA);
    assert_non_null(
        strstr(last.err.msg, "5 USD per month is reached; it resets at 2026-11-30T23:"));
    at = parse_time("2026-11-30T23:00:00Z");
    assert_int_equal(acquire(m.l, &key, 0, 0, at, &b), ERR_NONE);
    assert_int_equal(last.views.month_cost.limit, 5 * USD);
    assert_int_equal(last.views.month_cost.remaining, 5 * USD);
    mem_close(&m);
}

#endif
