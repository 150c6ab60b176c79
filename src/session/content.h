/* content.h - what a session's row keeps of the conversation, and its seal.
 *
 * Plain it is JSON: {"model","system","messages":[{"role","content"}],"profile"?}. With a master
 * key this text is sealed for "session <id>" and stored as a JSON string. Rows that are plain
 * because they were written without a key stay readable with one. */
#ifndef CG_SESSION_CONTENT_H
#define CG_SESSION_CONTENT_H

#include "core/json.h"
#include "vault/vault.h"

struct session_content {
    char *model;
    json_t *system;   /* string, or NULL */
    json_t *messages; /* array */
    bool agent;
};
void session_content_release(struct session_content *c);

/* bytes: of the plain text. ERR_INTERNAL when it does not open or is none. */
MUST_USE int session_content_read(const struct vault *v, const char *id, struct str stored,
                                  struct session_content *ret, size_t *ret_bytes, struct err *err);
/* The plain text. It is freed, and was never kept, by the caller. */
char *session_content_write(const struct session_content *c);

/* Between the stored form and the plain text; out: a buffer without a limit of its own is made by
 * session_content_buf(). */
void session_content_buf(struct buf *out, size_t plain_bytes);
MUST_USE int session_content_open(const struct vault *v, const char *id, struct str stored,
                                  struct buf *out, struct err *err);
void session_content_seal(const struct vault *v, const char *id, struct str plain, struct buf *out);

#endif
