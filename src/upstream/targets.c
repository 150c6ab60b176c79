/* targets.c - see the header.
 *
 * A target's state is what the latest trouble left: OK, or a reason and until when. It becomes OK
 * again by a success that began after the trouble. With REFUSED and FAILING the end of the
 * cool-down only lets one request through (trying); with LIMITED it lets all. */
#include "upstream/targets.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#include <curl/curl.h>
#include <math.h>
#include <sodium.h>

#define LIMITED_MS     5000
#define LIMITED_MAX_MS 3600000
#define REFUSED_MS     60000
#define FAILING_MS     1000
#define FAILING_MAX_MS 60000

struct targets {
    size_t count;
    struct target all[UPSTREAM_MAX_TARGETS];
};

static struct metric cooling_seconds = {
    .name = "claudegate_upstream_target_cooling_seconds",
    .help = "For how long an upstream target will still be left alone; 0 = it is used.",
    .type = METRIC_GAUGE,
    .labels = {"target"},
};

/* --- what a target is --------------------------------------------------------------------- */

bool host_is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (strncmp(host, "127.", 4) == 0 && host[strspn(host, "0123456789.")] == '\0');
}

static char *url_part(CURLU *url, CURLUPart part)
{
    char *text = NULL;
    return curl_url_get(url, part, &text, 0) == CURLUE_OK ? text : NULL;
}

static int check_parts(struct target *t, CURLU *url, struct err *err)
{
    char *scheme = url_part(url, CURLUPART_SCHEME), *host = url_part(url, CURLUPART_HOST);
    char *user = url_part(url, CURLUPART_USER), *query = url_part(url, CURLUPART_QUERY);
    char *fragment = url_part(url, CURLUPART_FRAGMENT);
    int rc = 0;
    bool http = scheme && strcmp(scheme, "http") == 0;
    if (!host || (!http && (!scheme || strcmp(scheme, "https") != 0)))
        rc = err_set(err, ERR_CONFIG, "upstream base URL must begin with http:// or https://");
    else if (user || query || fragment)
        rc = err_set(err, ERR_CONFIG,
                     "upstream base URL must have no user, no query and no fragment");
    else
        t->loopback = host_is_loopback(host);
    if (rc == 0 && http && !t->loopback && t->credential)
        log_warn("the upstream credential travels unencrypted: the base URL is plain http",
                 LF_S("target", t->name), LF_S("host", host));
    curl_free(scheme);
    curl_free(host);
    curl_free(user);
    curl_free(query);
    curl_free(fragment);
    return rc;
}

static int set_base_url(struct target *t, const char *text, struct err *err)
{
    CURLU *url = curl_url();
    BUG_ON(!url);
    CURLUcode rc = curl_url_set(url, CURLUPART_URL, text ? text : "", 0);
    int result = rc == CURLUE_OK
                     ? check_parts(t, url, err)
                     : err_set(err, ERR_CONFIG, "upstream base URL: %s", curl_url_strerror(rc));
    curl_url_cleanup(url);
    if (result != 0)
        return -1;
    t->base_url = x_strdup(text);
    for (size_t n = strlen(t->base_url); n > 0 && t->base_url[n - 1] == '/'; n--)
        t->base_url[n - 1] = '\0';
    return 0;
}

static bool is_header_value(const char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    }
    return true;
}

static int set_credential(struct target *t, const struct upstream_target *o, struct err *err)
{
    bool key = o->api_key && o->api_key[0], token = o->auth_token && o->auth_token[0];
    if (!key && !token)
        return 0;
    if (!is_header_value(key ? o->api_key : o->auth_token))
        return err_set(err, ERR_CONFIG, "the upstream credential holds a control character");
    t->credential = key ? x_printf("x-api-key: %s", o->api_key)
                        : x_printf("authorization: Bearer %s", o->auth_token);
    return 0;
}

static void collect_cooling(void *ctx)
{
    const struct targets *ts = ctx;
    int64_t now = clock_mono_ms();
    for (size_t i = 0; i < ts->count; i++)
        metric_set(&cooling_seconds, (double)target_cooling_ms(&ts->all[i], now) / 1000,
                   ts->all[i].name);
}

struct targets *targets_new(const struct upstream_target *list, size_t count, struct err *err)
{
    struct targets *ts = x_calloc(1, sizeof(*ts));
    BUG_ON(count == 0 || count > UPSTREAM_MAX_TARGETS);
    for (size_t i = 0; i < count; i++) {
        struct target *t = &ts->all[ts->count++];
        *t = (struct target){.home = ts, .weight = list[i].weight};
        t->name = x_strdup(list[i].name ? list[i].name : "default");
        if (set_credential(t, &list[i], err) != 0 || set_base_url(t, list[i].base_url, err) != 0) {
            if (count > 1)
                err_prefix(err, "upstream target '%s'", t->name);
            targets_free(ts);
            return NULL;
        }
    }
    metric_register(&cooling_seconds);
    metrics_add_collector(collect_cooling, ts);
    return ts;
}

void targets_free(struct targets *ts)
{
    if (!ts)
        return;
    metrics_remove_collector(collect_cooling, ts);
    for (size_t i = 0; i < ts->count; i++) {
        struct target *t = &ts->all[i];
        if (t->credential)
            sodium_memzero(t->credential, strlen(t->credential));
        free(t->credential);
        free(t->name);
        free(t->base_url);
    }
    free(ts);
}

size_t targets_count(const struct targets *ts)
{
    return ts->count;
}

const struct target *targets_at(const struct targets *ts, size_t i)
{
    BUG_ON(i >= ts->count);
    return &ts->all[i];
}

const char *target_state_name(enum target_state state)
{
    static const char *const names[] = {[TARGET_OK] = "ok",
                                        [TARGET_LIMITED] = "limited",
                                        [TARGET_REFUSED] = "credential refused",
                                        [TARGET_FAILING] = "failing"};
    return names[state];
}

/* --- choice ------------------------------------------------------------------------------- */

int64_t target_cooling_ms(const struct target *t, int64_t now_ms)
{
    return t->free_at > now_ms ? t->free_at - now_ms : 0;
}

static bool needs_trial(const struct target *t)
{
    return t->state == TARGET_REFUSED || t->state == TARGET_FAILING;
}

static bool is_usable(const struct target *t, int64_t now_ms)
{
    return t->free_at <= now_ms && !(needs_trial(t) && t->trying);
}

/* The name hashed with the number, as u in (0, 1); -w / ln(u) is an exponential variable's inverse:
 * the chance to be the highest is w / the sum of all. SipHash with a fixed key: servers agree. */
static double score(const struct target *t, uint64_t affinity)
{
    static const unsigned char key[crypto_shorthash_KEYBYTES] = "claudegate.pick.";
    unsigned char in[sizeof(affinity) + 64];
    uint64_t h;
    size_t n = strnlen(t->name, sizeof(in) - sizeof(affinity));
    for (size_t i = 0; i < sizeof(affinity); i++)
        in[i] = (unsigned char)(affinity >> (8 * i));
    memcpy(in + sizeof(affinity), t->name, n);
    crypto_shorthash((unsigned char *)&h, in, sizeof(affinity) + n, key);
    double u = ((double)(h >> 11) + 0.5) / 9007199254740992.0; /* 2^53 */
    return -(t->weight ? t->weight : 1) / log(u);
}

static struct target *best(struct targets *ts, const struct target_walk *walk, bool backups,
                           int64_t now_ms)
{
    struct target *found = NULL;
    double highest = 0;
    for (size_t i = 0; i < ts->count; i++) {
        struct target *t = &ts->all[i];
        if (walk->tried & (1U << i) || (t->weight == 0) != backups || !is_usable(t, now_ms))
            continue;
        double s = score(t, walk->affinity);
        if (!found || s > highest) {
            found = t;
            highest = s;
        }
    }
    return found;
}

/* A refused credential is the worst choice: it answers, but never well. */
static struct target *soonest(struct targets *ts)
{
    struct target *found = &ts->all[0];
    for (size_t i = 1; i < ts->count; i++) {
        struct target *t = &ts->all[i];
        bool refused = t->state == TARGET_REFUSED, was = found->state == TARGET_REFUSED;
        if (refused != was ? was : t->free_at < found->free_at)
            found = t;
    }
    return found;
}

struct target *targets_next(struct targets *ts, struct target_walk *walk, int64_t now_ms)
{
    struct target *t = best(ts, walk, false, now_ms);
    if (!t)
        t = best(ts, walk, true, now_ms);
    if (t)
        walk->tried |= 1U << (t - ts->all);
    return t;
}

struct target *targets_first(struct targets *ts, struct target_walk *walk, int64_t now_ms)
{
    walk->tried = 0;
    while (walk->affinity == 0)
        randombytes_buf(&walk->affinity, sizeof(walk->affinity));
    struct target *t = targets_next(ts, walk, now_ms);
    if (!t) {
        t = soonest(ts);
        walk->tried |= 1U << (t - ts->all);
    }
    return t;
}

int64_t targets_wait_ms(const struct targets *ts, int64_t now_ms)
{
    int64_t least = INT64_MAX;
    for (size_t i = 0; i < ts->count; i++) {
        int64_t wait = ts->all[i].told_until - now_ms;
        if (ts->all[i].state != TARGET_REFUSED && wait < least)
            least = wait;
    }
    return least == INT64_MAX || least < 0 ? 0 : least;
}

/* --- what became of a request ------------------------------------------------------------- */

void attempt_begin(struct attempt *a, struct target *target, int64_t now_ms)
{
    *a = (struct attempt){.target = target, .begun_ms = now_ms};
    a->is_trial = needs_trial(target) && !target->trying;
    target->trying |= a->is_trial;
}

void attempt_over(struct attempt *a)
{
    if (a->is_trial)
        a->target->trying = false;
    a->is_trial = false;
}

static bool is_stale(const struct attempt *a)
{
    return a->target->state != TARGET_OK && a->begun_ms <= a->target->since_ms;
}

/* A refused credential is the operator's to mend, so it is told even of an only target; that one
 * is never left alone, whatever its state says. */
static void log_trouble(const struct target *t, enum target_state state, int64_t wait_ms)
{
    if (t->state == state)
        return;
    if (state == TARGET_REFUSED)
        log_error("the upstream API refuses the credential of a target", LF_S("target", t->name));
    else if (t->home->count > 1)
        log_warn("an upstream target is left alone for a while", LF_S("target", t->name),
                 LF_S("why", target_state_name(state)), LF_I("ms", wait_ms));
}

static void set_trouble(struct target *t, enum target_state state, int64_t wait_ms, int64_t now_ms)
{
    log_trouble(t, state, wait_ms);
    t->state = state;
    t->since_ms = now_ms;
    if (t->free_at < now_ms + wait_ms)
        t->free_at = now_ms + wait_ms;
}

static void on_failure(struct attempt *a, int64_t now_ms)
{
    struct target *t = a->target;
    if (is_stale(a)) /* one incident, seen by several requests */
        return;
    int64_t wait_ms = (int64_t)FAILING_MS << (t->failures < 10 ? t->failures : 10);
    t->failures++;
    set_trouble(t, TARGET_FAILING, wait_ms < FAILING_MAX_MS ? wait_ms : FAILING_MAX_MS, now_ms);
}

static void on_limit(struct attempt *a, int retry_after_s, int64_t now_ms)
{
    int64_t wait_ms = (int64_t)retry_after_s * 1000;
    wait_ms = wait_ms > LIMITED_MAX_MS ? LIMITED_MAX_MS : wait_ms ? wait_ms : LIMITED_MS;
    if (retry_after_s && a->target->told_until < now_ms + wait_ms)
        a->target->told_until = now_ms + wait_ms;
    set_trouble(a->target, TARGET_LIMITED, wait_ms, now_ms);
}

static void on_success(struct attempt *a)
{
    struct target *t = a->target;
    if (t->state == TARGET_OK || is_stale(a))
        return;
    if (t->home->count > 1 || t->state == TARGET_REFUSED)
        log_info("an upstream target works again", LF_S("target", t->name));
    t->state = TARGET_OK;
    t->failures = 0;
    t->free_at = t->told_until = 0;
}

void attempt_answered(struct attempt *a, int status, int retry_after_s, int64_t now_ms)
{
    bool refused = status == 401 || status == 402 || status == 403;
    attempt_over(a);
    if (refused)
        set_trouble(a->target, TARGET_REFUSED, REFUSED_MS, now_ms);
    else if (status == 429 || status == 529 || (status >= 500 && retry_after_s))
        on_limit(a, retry_after_s, now_ms);
    else if (status >= 500)
        on_failure(a, now_ms);
    else
        on_success(a);
}

void attempt_failed(struct attempt *a, int64_t now_ms)
{
    attempt_over(a);
    on_failure(a, now_ms);
}
