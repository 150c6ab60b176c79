/* standin.h - a local server for the Anthropic Messages API: demo mode's upstream, and the
 * upstream of the tests (tests/fakes/standin_main.c gives it a process of its own).
 *
 * Without a script it answers every POST /v1/messages with a short text that says it is the demo
 * and repeats the last user text, streamed word by word with the real event order. With a script
 * (tests) each request takes the next step: standin_script.h says what a step may hold. A reader
 * of the log or the statistics finds both at GET /_standin/requests and /_standin/stats.
 *
 * Nothing is logged unless it is scriptable. id_init() must have been called. */
#ifndef CG_UPSTREAM_STANDIN_H
#define CG_UPSTREAM_STANDIN_H

#include "core/err.h"
#include "core/loop.h"

struct standin;

struct standin_opts {
    const char *listen; /* "127.0.0.1:0"; only loopback addresses are taken */
    bool scriptable;    /* serve /_standin/... for tests; never in demo mode */
    int word_delay_ms;  /* between text deltas of unscripted answers */
};
struct standin *standin_new(struct loop *loop, const struct standin_opts *opts, struct err *err);
const char *standin_url(const struct standin *s); /* "http://127.0.0.1:PORT" */
void standin_free(struct standin *s);

#endif
