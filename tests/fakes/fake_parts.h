/* fake_parts.h - the functions the parts of the fake offer each other; included by fake.h. */
#ifndef FAKE_PARTS_H
#define FAKE_PARTS_H

/* fake_out.c: lines. out_end() finishes the line that began at `from`. */
size_t out_begin(const struct fake *f);
void out_end(struct fake *f, size_t from);
void out_adds(struct fake *f, const char *s);
void out_str(struct fake *f, struct str s);
void add_num(struct buf *b, const char *before, int64_t n); /* the text, then n; no printf */
void out_json_str(struct fake *f, struct str s);
void out_uuid(struct fake *f);
void out_init(struct fake *f);
void out_requesting(struct fake *f);
void out_permission_mode(struct fake *f);
void out_thinking_tokens(struct fake *f, size_t bytes_before, size_t bytes);
void out_stream(struct fake *f, struct str event, int64_t ttft_ms); /* ttft < 0: none */
void out_stream_open(struct fake *f);
void out_stream_close(struct fake *f, int64_t ttft_ms);
void out_assistant(struct fake *f, struct str block, json_t *tool_meta);
void out_synthetic(struct fake *f, struct str text, const char *error, const char *request_id);
void out_refusal(struct fake *f, struct str text);
void out_user_text(struct fake *f, const char *text, bool synthetic);
void out_user_replay(struct fake *f, struct str text);
void out_tool_result(struct fake *f, json_t *block, json_t *shown);
void out_reply(struct fake *f, json_t *request_id, json_t *response_consume);
void out_reply_error(struct fake *f, json_t *request_id, const char *text);
void out_request(struct fake *f, const char *request_id, json_t *request_consume);
bool out_pending(const struct fake *f);
/* Writes what can be written now (or all of it, waiting up to 5 s). */
void out_flush(struct fake *f, bool all);

/* fake_result.c */
void result_success(struct fake *f, struct str text, bool is_error, int api_status,
                    const char *terminal_reason);
void result_local(struct fake *f, struct str text); /* num_turns 0 */
void result_aborted(struct fake *f, const char *terminal_reason);
void result_no_content(struct fake *f); /* a user line without content */
void totals_add(struct fake *f, const struct usage *u);
void totals_text(struct fake *f, struct buf *out); /* what /cost says */
json_t *totals_json(struct fake *f);
void usage_add(struct usage *sum, const struct usage *u);

/* fake_log.c */
enum counter {
    COUNT_STARTED = 1,
    COUNT_FINISHED,
    COUNT_INTERRUPTED,
    COUNT_ERRORED,
    COUNT_INPUT,
    COUNT_OUTPUT,
    COUNT_PROCESSES
};
void record_open(struct fake *f);
bool record_wanted(const struct fake *f);
void record_write(struct fake *f, json_t *record_consume);
int count_open(const char *path); /* 0, or an errno */
void count_add(enum counter c, int64_t n);
int count_print(const char *path);

/* fake_ledger.c: who was asked what */
void ledger_turn(struct fake *f, const json_t *live);

/* fake_history.c */
void hist_clear(struct fake *f);
void hist_user(struct fake *f, json_t *content);
void hist_note(struct fake *f, const char *text);         /* a message the program itself puts in */
void hist_passing_note(struct fake *f, const char *text); /* one that the turn's end takes out */
void hist_forget_passing(struct fake *f);
void hist_assistant(struct fake *f, const char *id, json_t *content);
void hist_assistant_block(struct fake *f, const char *id, struct str block_json);
json_t *hist_messages(struct fake *f, bool for_upstream); /* with reminder, cache marks */
void hist_echo(struct fake *f, struct buf *out);
json_t *request_body(struct fake *f);
json_t *request_headers(struct fake *f); /* the custom ones */

/* fake_resume.c */
void resume_load(struct fake *f, const char *id);

/* fake_script.c */
void script_open(struct fake *f, const char *path);
/* The step of a new turn: the directive in `live` (array of content), the script, the default. */
void script_first(struct fake *f, json_t *live);
enum next_why { NEXT_TOOLS, NEXT_AGAIN };
void script_next(struct fake *f, enum next_why why);
const struct step *script_peek(struct fake *f); /* first step, for faults at start; may be NULL */
void step_clear(struct step *s);

/* fake_input.c */
void input_lines(struct fake *f); /* takes the complete lines out of f->in */
void input_last(struct fake *f);  /* EOF: a last line without newline */
/* The three messages a local command leaves in the conversation. */
void input_breadcrumbs(struct fake *f, const char *name, struct str args, const char *output);
bool queue_run(struct fake *f); /* starts the next command; false = nothing to do */

/* fake_control.c */
void control_request(struct fake *f, json_t *line);
void control_response(struct fake *f, json_t *line);
void control_environment(struct fake *f, json_t *line);
bool mcp_ready(const struct fake *f);
void mcp_connect(struct fake *f, const char *server);
void mcp_send(struct fake *f, const char *server, const char *request_id, json_t *message_consume);
void tools_forget(struct fake *f);
const struct tool *tool_find(struct fake *f, const char *visible);
char *tool_visible(struct fake *f, const struct tool *t);

/* fake_turn.c */
void turn_begin(struct fake *f, json_t *live); /* live: what the queue put into the history */
void turn_run(struct fake *f);                 /* goes on as far as it can */
int64_t turn_wake(const struct fake *f);       /* 0 = now, -1 = not by time */
bool turn_busy(const struct fake *f);
/* False when there was nothing to interrupt. reply: answer the control request `reply_id`. */
void turn_refused(struct fake *f); /* what comes before a refusal's message_delta */
bool turn_interrupt(struct fake *f, bool reply, json_t *reply_id);
void turn_stall(struct fake *f);               /* nothing more comes, until the idle limit */
void turn_point(struct fake *f, enum point p); /* what the step wants at this point */
void turn_fail(struct fake *f, const char *text, const char *error, int status, bool with_request,
               const char *terminal_reason);
void turn_http_error(struct fake *f, int status, struct str message, struct str kind);
const char *error_kind(int status);
void turn_retry_line(struct fake *f, int max, double delay_ms, int status);
void turn_stream_cut(struct fake *f); /* the upstream connection broke */
void turn_message_done(struct fake *f);

/* fake_fault.c */
MUST_USE int later_read(const json_t *src, struct later *ret, struct err *err);
void fault_arm(struct fake *f, json_t *src);
bool fault_strikes(struct fake *f, const json_t *line); /* true = the line is not read any more */

/* fake_stream.c: a response made by a step */
void stream_stage(struct fake *f); /* the next stage of the turn */

/* fake_msg.c: one upstream response, block by block */
void msg_reset(struct fake *f);
void msg_open(struct fake *f, enum block_kind kind, int index, const char *id, const char *name);
void msg_close(struct fake *f);   /* the assistant line, history, tools/call */
void msg_partial(struct fake *f); /* interrupted: the assistant line of an open text block */
void msg_done(struct fake *f);    /* usage and stop reason of the response count now */

/* fake_tools.c */
void call_add(struct fake *f, const char *id, const char *name, json_t *input);
void call_answer(struct fake *f, struct call *c, json_t *response);
struct call *call_by_request(struct fake *f, const char *request_id);
bool calls_pump(struct fake *f); /* true once every call is answered and told */
void calls_cancel(struct fake *f);
void calls_reject(struct fake *f);
void calls_stream_closed(struct fake *f);
void calls_clear(struct fake *f);

/* fake_upstream.c */
void upstream_preheat(struct fake *f); /* HEAD /, as the real program does at start */
void upstream_start(struct fake *f);
void upstream_stop(struct fake *f); /* closes the connection */
int upstream_polls(const struct fake *f, struct pollfd p[2]);
void upstream_ready(struct fake *f, const struct pollfd *p, int n); /* also when time passed */
int64_t upstream_wake(const struct fake *f);

#endif
