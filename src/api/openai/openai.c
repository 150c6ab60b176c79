/* openai.c - what the two OpenAI APIs share where they meet the gateway. */
#include "api/openai/openai.h"

#include "api/anthropic/messages.h"
#include "core/clock.h"

#include <sodium.h>

#define FALLBACK_MAX_TOKENS 4096

struct openai_env openai_env_of(const struct gateway *g, const struct http_req *req)
{
    int64_t max = gateway_key(req)->key.permissions.max_tokens;
    return (struct openai_env){.aliases = g->conf->models.aliases,
                               .max_tokens = max > 0 ? max : FALLBACK_MAX_TOKENS};
}

struct chat_request *openai_parse(const struct http_req *req, const struct openai_request *t,
                                  bool responses, const char *max_tokens_name, struct err *err)
{
    struct chat_request *r = messages_parse(t->body, err);
    if (!r || gateway_check_permissions(&gateway_key(req)->key, r, err) != 0) {
        openai_rename_field(err, responses, max_tokens_name);
        chat_request_free(r);
        return NULL;
    }
    r->exact = false; /* this API caches by itself */
    for (size_t i = 0; i < t->ignored_count; i++)
        messages_ignore(r, t->ignored[i]);
    return r;
}

void openai_make_id(const struct http_req *req, const char *prefix, char *out, size_t size)
{
    const char *id = http_req_id(req);
    snprintf(out, size, "%s%s", prefix, strncmp(id, "req_", 4) == 0 ? id + 4 : id);
}

void openai_fingerprint(const struct gateway *g, const char *model, char out[24])
{
    unsigned char hash[crypto_generichash_BYTES];
    char text[256], hex[11];
    snprintf(text, sizeof(text), "%s %s", g->cli_version ? g->cli_version : "", model);
    crypto_generichash(hash, sizeof(hash), (const unsigned char *)text, strlen(text), NULL, 0);
    sodium_bin2hex(hex, sizeof(hex), hash, 5);
    snprintf(out, 24, "fp_%s", hex);
}

void openai_keep_alive(struct openai_quiet *q, const struct job *job, bool tells)
{
    int64_t now = clock_mono_us(), limit = job_gateway(job)->conf->server.keepalive_ms * 1000;
    if (!tells && q->told_us && now - q->told_us < limit)
        return;
    if (!tells && q->told_us)
        http_sse_comment(job_http(job), "thinking");
    q->told_us = now;
}
