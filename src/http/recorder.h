/* recorder.h - how the files that write a reply tell its record. rec is req->record, not NULL.
 * Internal to src/http. */
#ifndef CG_HTTP_RECORDER_H
#define CG_HTTP_RECORDER_H

#include "http/internal.h"
#include "http/record.h"

void record_head(struct http_record *rec, int status, const struct evkeyvalq *headers);
void record_whole(struct http_record *rec, struct str body); /* of a plain reply */
void record_stream(struct http_record *rec, struct str bytes);
void record_comment(struct http_record *rec, struct str bytes); /* for who listens now */
uint64_t record_next_event(struct http_record *rec);            /* the number of the next event */
/* The reply is complete, or (complete false) will never be: req->record is dead afterwards. */
void record_end(struct http_req *req, bool complete);
/* The client has left: true, the request goes on without it. */
bool record_detaches(struct http_record *rec);

#endif
