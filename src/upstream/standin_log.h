/* standin_log.h - what the stand-in saw: one entry per /v1/ request, for tests to assert on.
 *
 * Bounded: the oldest entries go first. An entry of a request still being served knows where its
 * owner keeps the pointer, and clears that pointer when it is dropped. */
#ifndef CG_UPSTREAM_STANDIN_LOG_H
#define CG_UPSTREAM_STANDIN_LOG_H

#include "core/buf.h"
#include "core/list.h"

struct evbuffer;
struct evkeyvalq;

struct standin_usage {
    int64_t input, output, cache_creation, cache_read;
};

struct standin_entry {
    struct node node;
    struct standin_entry **owner;
    char *head; /* the JSON object up to what is known at arrival, without its closing brace */
    size_t head_len;
    int64_t ended_at_ms; /* 0: still being served */
    int status;          /* 0: no response yet */
    bool aborted;        /* the client left before the response was complete */
    bool cut;            /* we broke the connection, as the script said */
    size_t bytes_sent;   /* of the response's body */
    struct standin_usage told;
};

struct standin_log {
    struct list entries;
    size_t bytes;
    uint64_t next_seq, dropped;
};

struct standin_arrival {
    const char *method, *path, *query; /* query may be NULL */
    const struct evkeyvalq *headers;
    struct str body;
};

void standin_log_init(struct standin_log *log);
void standin_log_clear(struct standin_log *log); /* frees the entries; seq starts at 1 again */
void standin_log_add(struct standin_log *log, const struct standin_arrival *a,
                     struct standin_entry **owner);
/* All entries as one JSON array, oldest first. */
void standin_log_write(const struct standin_log *log, struct evbuffer *out);

/* "input_tokens":1,"cache_creation_input_tokens":0,... without braces. */
void standin_usage_write(struct buf *out, const struct standin_usage *u);

#endif
