/* responses_request.h - the body of POST /v1/responses, as a request of the Messages API. */
#ifndef CG_API_OPENAI_RESPONSES_REQUEST_H
#define CG_API_OPENAI_RESPONSES_REQUEST_H

#include "api/openai/parts.h"

#define RESPONSE_ID_SIZE 40 /* "resp_" + 32 hex digits */

struct responses_request {
    struct openai_request base;
    json_t *echo;        /* what the answer repeats of the request */
    struct str previous; /* previous_response_id; borrowed from the body */
    json_t *wanted;      /* ids of the stored responses that the body refers to */
    json_t *stored;      /* id -> messages: those of them that there are; for the caller to fill */
    /* What is stored of the conversation, but for the answer: the messages, and before them, with
     * the role "system", what system and developer messages said so far. `instructions` are not
     * among it: they are of one request. */
    json_t *kept;
    bool store;     /* keep the answer */
    bool summary;   /* show the thoughts */
    bool encrypted; /* give them for the client to send back */
};
void responses_request_init(struct responses_request *r);
void responses_request_release(struct responses_request *r);

/* The fields around the conversation: enough to know what to load. The body must outlive r. */
MUST_USE int responses_read(const json_t *body, struct responses_request *r, struct err *err);
/* After responses_read(), and with r->stored filled. */
MUST_USE int responses_translate(const json_t *body, const struct openai_env *env,
                                 struct responses_request *r, struct err *err);

/* The items of `input` (an array): appended. */
MUST_USE int responses_items(const json_t *items, struct responses_request *r, struct err *err);
/* "msg_<32 hex digits>_<n>": an item of which response? False when it is no id of ours. */
bool responses_item_owner(struct str item_id, char id[RESPONSE_ID_SIZE], size_t *ret_index);
/* The thoughts of a block as a text to be sent back, and the block again; owned. NULL = not ours.
 */
char *responses_seal(const json_t *block);
json_t *responses_unseal(struct str text);

/* "resp_..." to UUID and back. False when it is not one of ours. */
bool responses_id_to_uuid(struct str id, char uuid[37]);
void responses_uuid_to_id(const char *uuid, char id[RESPONSE_ID_SIZE]);

#endif
