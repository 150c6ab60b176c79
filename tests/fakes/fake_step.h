/* fake_step.h - what one upstream response does; the fields are explained in fake_script.c. */
#ifndef FAKE_STEP_H
#define FAKE_STEP_H

#include "core/json.h"

#include <stdbool.h>

enum point {
    P_NONE,
    P_START,
    P_INITIALIZE,
    P_INIT,
    P_MESSAGE_START,
    P_DELTA,
    P_BEFORE_RESULT,
    P_AFTER_RESULT
};

/* A fault that waits for a line; see fake_fault.c. Strings are borrowed. */
struct later {
    struct str at, action;
    int64_t ms, code, signal;
};

struct usage {
    int64_t input, output, cache_write, cache_read;
};

/* What one upstream response does. Strings and JSON are borrowed from src. See fake_script.c. */
struct step {
    json_t *src; /* owned reference; NULL = the default reply */
    struct str text, thinking, stop_reason, stop_sequence, stderr_text, lose_control, garbage;
    struct str remember;
    json_t *tools, *error, *then, *later;
    struct usage usage;
    int64_t chunk, delay_us, start_delay_us, stall_after, cut_after, exit_after, exit_code, signal;
    int64_t huge, flood, stderr_flood, split_bytes, split_at, split_pause_us, grandchild_ms;
    enum point exit_at, garbage_at, unknown_at;
    bool has_text, stall, cut, cut_after_block, ignore_interrupt, ignore_sigterm, exit_partial;
    bool hang_after_result, no_result, echo_history, recall, reorder, grandchild_escapes, keep;
};

#endif
