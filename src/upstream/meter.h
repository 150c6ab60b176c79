/* meter.h - what one upstream response says about itself: usage, stop reason, error.
 *
 * Fed with the events of a stream or with the body of a response that is not one. */
#ifndef CG_UPSTREAM_METER_H
#define CG_UPSTREAM_METER_H

#include "core/buf.h"

#define METER_ERROR_MAX 4096

/* Zeroed to begin with. */
struct meter {
    int64_t input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens;
    uint64_t text_bytes; /* of text, thinking and tool input seen so far */
    bool final;          /* the final usage was seen */
    bool stopped;        /* message_stop was seen: nothing of interest follows */
    int open_blocks;     /* begun and not ended */
    char stop_reason[40];
    char error_type[48];
    char error_message[300];
    char *error_json; /* owned, see meter_reset(): the whole object; NULL = none, or longer than
                         METER_ERROR_MAX */
};

void meter_reset(struct meter *m); /* frees what it holds; it may be fed anew */
/* One event of a stream. True: `ret_data` must replace its data, because it told a stop reason
 * after which the CLI would go on by itself. */
bool meter_event(struct meter *m, struct str name, struct str data, struct buf *ret_data);
/* A whole message (a response that is not a stream). The same rule for the result. */
bool meter_message(struct meter *m, struct str body, struct buf *ret_body);
/* An error body, {"type":"error","error":{...}}; anything else is ignored. */
void meter_error(struct meter *m, struct str body);
/* Output tokens: as reported, or, without a final report, at least one per 4 bytes of text. */
int64_t meter_output(const struct meter *m);

#endif
