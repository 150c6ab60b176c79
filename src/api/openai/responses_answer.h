/* responses_answer.h - answers of the Messages API as a Response object and its stream of events.
 * Pure: events are handed to a function of the caller's.
 *
 * Each block of the message becomes an item of the output: text a message, tool_use a
 * function_call, thinking a reasoning item. */
#ifndef CG_API_OPENAI_RESPONSES_ANSWER_H
#define CG_API_OPENAI_RESPONSES_ANSWER_H

#include "api/openai/responses_request.h"

typedef void response_event_fn(void *ctx, const char *name, const struct buf *data);

struct response {
    char id[RESPONSE_ID_SIZE];
    int64_t created;
    json_t *echo; /* of the request; owned */
    bool summary, encrypted;
    char model[100];
    /* of the stream */
    response_event_fn *emit;
    void *ctx;
    int64_t sequence;
    size_t index; /* of the item at hand */
    json_t *item; /* as it was begun; NULL = no item is open */
    json_t *block;
    struct buf text; /* what came of the item */
    struct buf signature;
    size_t thinking_bytes;
};
void response_init(struct response *r);
void response_release(struct response *r);

/* The whole object. status: "in_progress" (content and head may be NULL), or NULL: what
 * stop_reason says, with the output and usage. New reference. */
json_t *response_object(const struct response *r, const char *status, const json_t *head,
                        const json_t *content, const char *stop_reason);

/* Tells what this event means. */
void response_event(struct response *r, const json_t *event);
/* The last event, with the whole object. */
void response_finish(struct response *r, const json_t *object);
/* Instead of it: the answer broke off. error: {message,type,param,code}. */
void response_error(struct response *r, const json_t *error);

#endif
