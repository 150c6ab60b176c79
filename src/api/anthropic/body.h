/* body.h - the parts of a Messages request that are checked block by block. Private to this folder.
 *
 * What comes out is new JSON that holds only fields of the tables here, so that nothing a client
 * adds beside them reaches the claude program. */
#ifndef CG_API_ANTHROPIC_BODY_H
#define CG_API_ANTHROPIC_BODY_H

#include "core/err.h"
#include "core/json.h"

/* Where in the body something stands: "messages.0.content.1". Chained on the stack. */
struct place {
    const struct place *up; /* NULL = the body */
    const char *name;       /* NULL = the index instead */
    size_t index;
};
/* ERR_INVALID "messages.0.content.1.NAME: ..."; name NULL = the place itself. Returns -1. */
int place_err(const struct place *at, const char *name, struct err *err, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

#define BODY_CACHE_MARKS_MAX 4

/* What was noticed of a request's blocks so far. */
struct body_marks {
    int count;    /* of cache marks */
    bool unknown; /* a block was passed on unread: the API may know it */
};

enum block_place {
    IN_USER = 1,
    IN_ASSISTANT = 2,
    IN_RESULT = 4, /* of a tool */
    IN_SYSTEM = 8
};

/* content: a string or an array of blocks. New reference: an array. NULL + err. Blocks of a type
 * that is not known, or not in this place, are in it as they came, and noted in `marks`. */
json_t *body_content(const json_t *content, unsigned where, const struct place *at,
                     struct body_marks *marks, struct err *err);
/* One cache_control. */
MUST_USE int body_mark(const json_t *mark, const struct place *at, struct body_marks *marks,
                       struct err *err);

/* owned.c: nothing in it names what lies in the operator's upstream account. */
MUST_USE int body_check_owned(const json_t *body, struct err *err);

/* A conversation; each is an array of {role, content}, owned. */
struct body_conversation {
    json_t *given;  /* as the client gave it */
    json_t *joined; /* neighbours of one role joined, all content as blocks, and no role "system" */
    bool awkward;   /* the claude program may alter it, or choke on it: only upstream may see it */
};
void body_conversation_release(struct body_conversation *c);
/* On failure *ret needs no release. */
MUST_USE int body_messages(const json_t *messages, struct body_marks *marks,
                           struct body_conversation *ret, struct err *err);

#endif
