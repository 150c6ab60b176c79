/* key_print.c - see the header. */
#include "cmd/key_print.h"

#include "core/clock.h"
#include "store/key_json.h"

static const char *time_text(int64_t at, char out[CLOCK_RFC3339_SIZE])
{
    if (at)
        return clock_rfc3339(at, out);
    snprintf(out, CLOCK_RFC3339_SIZE, "never");
    return out;
}

/* --- JSON -------------------------------------------------------------------------------- */

static void put_time(struct buf *b, const char *name, int64_t at)
{
    char text[CLOCK_RFC3339_SIZE];
    if (at)
        buf_printf(b, ",\"%s\":\"%s\"", name, clock_rfc3339(at, text));
    else
        buf_printf(b, ",\"%s\":null", name);
}

static void put_secret(struct buf *b, const char *name, const char *text)
{
    if (text && *text)
        buf_printf(b, ",\"%s\":\"%s\"", name, text);
}

void key_put_json(struct buf *b, const struct api_key *k, const struct new_secrets *secrets)
{
    buf_printf(b, "{\"id\":\"%s\",\"publicId\":\"%s\"", k->id, k->public_id);
    if (secrets) {
        put_secret(b, "key", secrets->key);
        put_secret(b, "signingSecret", secrets->signing);
    }
    buf_adds(b, ",\"name\":");
    buf_json_str(b, str_c(k->name));
    buf_printf(b, ",\"status\":\"%s\",\"priority\":%d", k->status, k->priority);
    put_time(b, "createdAt", k->created_at);
    put_time(b, "expiresAt", k->expires_at);
    put_time(b, "lastUsedAt", k->last_used_at);
    put_time(b, "oldSecretUntil", k->old_secret_until);
    buf_printf(b, ",\"hasSigningSecret\":%s", k->signing_secret ? "true" : "false");
    buf_adds(b, ",\"limits\":");
    key_limits_write(b, &k->limits);
    buf_adds(b, ",\"permissions\":");
    key_permissions_write(b, &k->permissions);
    buf_printf(b, ",\"metadata\":%s}", k->metadata ? k->metadata : "null");
}

/* --- for people -------------------------------------------------------------------------- */

void key_put_line(struct buf *b, const struct api_key *k)
{
    char when[CLOCK_RFC3339_SIZE];
    buf_printf(b, "%s  %-8s  priority %-2d  last used %-24s  %s\n", k->public_id, k->status,
               k->priority, time_text(k->last_used_at, when), k->name);
}

static void put_count(struct buf *b, const char *label, int64_t v)
{
    if (v < 0)
        buf_printf(b, "%-20s unlimited\n", label);
    else
        buf_printf(b, "%-20s %lld\n", label, (long long)v);
}

static void put_money(struct buf *b, const char *label, int64_t v)
{
    buf_printf(b, "%-20s ", label);
    if (v < 0)
        buf_adds(b, "unlimited");
    else
        key_money_write(b, v);
    buf_adds(b, v < 0 ? "\n" : " USD\n");
}

static void put_when(struct buf *b, const char *label, int64_t at)
{
    char when[CLOCK_RFC3339_SIZE];
    buf_printf(b, "%-20s %s\n", label, time_text(at, when));
}

static void put_flag(struct buf *b, const char *label, bool v)
{
    buf_printf(b, "%-20s %s\n", label, v ? "yes" : "no");
}

static void put_permissions(struct buf *b, const struct key_permissions *p)
{
    buf_printf(b, "%-20s ", "models");
    for (char **m = p->models; *m; m++)
        buf_printf(b, "%s%s", m == p->models ? "" : ", ", *m);
    buf_addc(b, '\n');
    put_count(b, "max tokens", p->max_tokens);
    put_flag(b, "streaming", p->allow_streaming);
    put_flag(b, "agent turns", p->allow_agent);
    put_flag(b, "tools of its own", p->allow_tools);
    put_flag(b, "signature required", p->require_signature);
    put_flag(b, "response cache", p->response_cache);
}

void key_put_text(struct buf *b, const struct api_key *k)
{
    buf_printf(b, "%-20s %s\n", "name", k->name);
    buf_printf(b, "%-20s %s\n", "id", k->id);
    buf_printf(b, "%-20s sk-cg-%s-...\n", "key", k->public_id);
    buf_printf(b, "%-20s %s\n", "status", k->status);
    put_when(b, "created", k->created_at);
    put_when(b, "expires", k->expires_at);
    put_when(b, "last used", k->last_used_at);
    if (k->old_secret_until)
        put_when(b, "old secret until", k->old_secret_until);
    put_flag(b, "signing secret", k->signing_secret);
    buf_printf(b, "%-20s %d\n", "priority", k->priority);
    put_count(b, "requests per minute", k->limits.requests_per_minute);
    put_count(b, "requests per day", k->limits.requests_per_day);
    put_count(b, "tokens per day", k->limits.tokens_per_day);
    put_count(b, "requests at once", k->limits.max_concurrent);
    put_money(b, "cost per day", k->limits.cost_per_day);
    put_money(b, "cost per month", k->limits.cost_per_month);
    put_permissions(b, &k->permissions);
    buf_printf(b, "%-20s %s\n", "metadata", k->metadata ? k->metadata : "none");
}
