/* chat_request.h - the request every dialect is parsed into, for gateway_submit(). */
#ifndef CG_GATEWAY_CHAT_REQUEST_H
#define CG_GATEWAY_CHAT_REQUEST_H

#include "core/id.h"

#include <jansson.h>

enum chat_profile {
    PROFILE_ANY, /* the session's; of a new one: chat */
    PROFILE_CHAT,
    PROFILE_AGENT /* with tools, in a workspace of the session */
};

struct chat_request {
    char *model;     /* NULL: the session's, or the configured default */
    json_t *history; /* array of {"role","content"}; NULL with a session */
    json_t *content; /* the live user message: array of blocks */
    /* Array: the conversation as upstream shall see it, where the claude program cannot be told it;
     * it then gets history and content, which say nothing. NULL = they are the conversation, as
     * they must be with a session. */
    json_t *messages;
    json_t *params;     /* keys for the upstream request */
    json_t *system;     /* string or array of blocks; NULL = none (with a session: keep its own) */
    int64_t max_tokens; /* 0 = not given: the key's limit */
    bool stream;
    bool exact; /* cache marks reach upstream as the request has them; without: the program's */
    const char *version; /* for the header anthropic-version; static; NULL = the program's */
    char *betas;         /* comma-separated, for the header anthropic-beta; NULL = none */
    char *ignored;       /* comma-separated parameters that were ignored; NULL = none */
    enum chat_profile profile;
    bool with_session;             /* an agent needs one */
    char session_id[ID_UUID_SIZE]; /* "" = a new one */
    char kept_as[ID_UUID_SIZE];    /* without: the session in which the dialect itself will store
                                      the answer, for the usage row; "" = none */
    void *extra;                   /* the dialect's own; freed with the request */
    void (*extra_free)(void *extra);
};
void chat_request_free(struct chat_request *r);
/* About how many tokens the question has, without what a session would add. */
int64_t chat_request_tokens(const struct chat_request *r);

#endif
