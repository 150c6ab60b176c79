/* content.c - see the header. */
#include "session/content.h"

#define PROFILE_AGENT "agent" /* without the member it is a chat */
#define CONTEXT_SIZE  64

void session_content_release(struct session_content *c)
{
    free(c->model);
    json_decref(c->system);
    json_decref(c->messages);
    *c = (struct session_content){0};
}

static const char *context_of(const char *id, char out[CONTEXT_SIZE])
{
    snprintf(out, CONTEXT_SIZE, "session %s", id);
    return out;
}

void session_content_buf(struct buf *out, size_t plain_bytes)
{
    buf_init(out, plain_bytes / 3 * 4 + 1024); /* base64, with nonce, tag and name of the key */
}

/* A sealed text has no character that JSON would escape. */
static bool is_string(struct str stored)
{
    return stored.len >= 2 && stored.p[0] == '"' && stored.p[stored.len - 1] == '"';
}

int session_content_open(const struct vault *v, const char *id, struct str stored, struct buf *out,
                         struct err *err)
{
    char context[CONTEXT_SIZE];
    if (is_string(stored))
        return vault_open(v, context_of(id, context), str_n(stored.p + 1, stored.len - 2), true,
                          out, err);
    buf_addstr(out, stored);
    return 0;
}

void session_content_seal(const struct vault *v, const char *id, struct str plain, struct buf *out)
{
    char context[CONTEXT_SIZE];
    if (!vault_has_key(v)) {
        buf_addstr(out, plain);
        return;
    }
    buf_addc(out, '"');
    vault_seal(v, context_of(id, context), plain, out);
    buf_addc(out, '"');
}

static int read_plain(const char *id, struct str plain, struct session_content *ret,
                      struct err *err)
{
    struct err why;
    AUTO(json_unref_p) json_t *j = json_parse(plain, &why);
    json_t *messages = json_object_get(j, "messages");
    json_t *system = json_object_get(j, "system");
    if (!json_is_array(messages))
        return err_set(err, ERR_INTERNAL, "session %s has an unreadable context", id);
    *ret = (struct session_content){
        .model = str_dup(json_get_str(j, "model")),
        .messages = json_incref(messages),
        .system = json_is_string(system) ? json_incref(system) : NULL,
        .agent = str_eq_c(json_get_str(j, "profile"), PROFILE_AGENT),
    };
    return 0;
}

int session_content_read(const struct vault *v, const char *id, struct str stored,
                         struct session_content *ret, size_t *ret_bytes, struct err *err)
{
    struct buf plain;
    session_content_buf(&plain, stored.len);
    int rc = session_content_open(v, id, stored, &plain, err);
    BUG_ON(!buf_ok(&plain));
    if (rc == 0)
        rc = read_plain(id, buf_str(&plain), ret, err);
    *ret_bytes = plain.len;
    buf_release(&plain);
    return rc;
}

char *session_content_write(const struct session_content *c)
{
    AUTO(json_unref_p)
    json_t *j = json_pack("{s:s, s:O?, s:O}", "model", c->model, "system", c->system, "messages",
                          c->messages);
    BUG_ON(!j);
    if (c->agent)
        json_object_set_new(j, "profile", json_string(PROFILE_AGENT));
    char *text = json_dumps(j, JSON_COMPACT);
    BUG_ON(!text);
    return text;
}
