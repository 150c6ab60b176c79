/* replay_request.h - what a request says about being run once and about being resumed. Private to
 * replay.c. */
#ifndef CG_GATEWAY_REPLAY_REQUEST_H
#define CG_GATEWAY_REPLAY_REQUEST_H

#include "gateway/gateway.h"

#define IDEMPOTENCY_KEY "Idempotency-Key"
#define LAST_EVENT_ID   "Last-Event-ID"
#define RESUMABLE       "X-Claudegate-Resumable"

#define REPLAY_KEY_SIZE 256

struct replay_wish {
    char key[REPLAY_KEY_SIZE]; /* "" = none */
    bool resumable;
    char resumes[ID_REQUEST_SIZE]; /* the request whose stream is to be resumed, "" = none */
    uint64_t after;                /* behind this event */
};

/* ERR_INVALID names the header. */
MUST_USE int replay_read(const struct http_req *req, struct replay_wish *ret, struct err *err);
/* What the row is called: a hash of API key and Idempotency-Key. */
void replay_id(const char *api_key_id, struct str key, char out[REPLY_ID_SIZE]);
/* Of the request; the Idempotency-Key, which is stored nowhere, is its secret. */
void replay_fingerprint(struct http_req *req, struct str key, char out[REPLY_FINGERPRINT_SIZE]);

#endif
