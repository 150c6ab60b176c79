/* protocol.h - the stream-json protocol of the claude program (2.1.197): lines out, lines in.
 *
 * Encoding rules that keep prompt text data (ARCHITECTURE.md, "Prompt text is data"):
 *   - client bytes only ever appear as JSON strings inside content blocks written here;
 *   - user content is always an array whose last block is an empty text block, because otherwise
 *     a text "/x" is run as a command and "@path" is replaced by that file's content;
 *   - the CLI dies of a malformed line, so lines are built from JSON values only. */
#ifndef CG_CLI_PROTOCOL_H
#define CG_CLI_PROTOCOL_H

#include "core/buf.h"
#include "core/json.h"

#define CLI_VERSION_PINNED "2.1.197"

/* --- towards the CLI: each appends one line with its newline ------------------------------ */
/* system: a text of ours behind the CLI's own; "" = none. */
void cli_put_initialize(struct buf *b, const char *request_id, const char *system);
void cli_put_set_model(struct buf *b, const char *request_id, const char *model);
void cli_put_thinking_budget(struct buf *b, const char *request_id, int64_t tokens);
void cli_put_interrupt(struct buf *b, const char *request_id);
/* Answers a control request of the CLI that we do not serve. */
void cli_put_control_error(struct buf *b, struct str request_id, const char *why);
/* content: array of content blocks. query false: history only, acknowledged by a result. */
void cli_put_user(struct buf *b, const json_t *content, bool query);
/* One finished assistant message of the history; no acknowledgement. */
void cli_put_assistant(struct buf *b, const json_t *content, const char *model);
/* Frees the history; answered by a result with num_turns 0. */
void cli_put_clear(struct buf *b);
/* Hides everything before it from later upstream requests; no answer. */
void cli_put_boundary(struct buf *b);

/* --- from the CLI ------------------------------------------------------------------------ */
enum cli_kind {
    CLI_INIT,             /* system/init: a turn begins */
    CLI_STREAM,           /* one upstream stream event */
    CLI_ASSISTANT_ERROR,  /* synthetic assistant line that carries an API error */
    CLI_TOOL_RESULTS,     /* the CLI ran tools of the latest message */
    CLI_RESULT,           /* the turn has ended */
    CLI_CONTROL_RESPONSE, /* to a request of ours */
    CLI_CONTROL_REQUEST,  /* the CLI asks us */
    CLI_API_RETRY,
    CLI_OTHER,   /* known to be of no interest */
    CLI_UNKNOWN, /* a type we have never heard of: counted, ignored */
    CLI_GARBAGE  /* not a JSON object with a type */
};

struct cli_msg {
    enum cli_kind kind;
    json_t *root;    /* owned by the message; NULL for kinds that need no parsing */
    json_t *event;   /* CLI_STREAM: borrowed */
    json_t *results; /* CLI_TOOL_RESULTS: content blocks, tool_result among them; borrowed */
    struct str subtype;
    /* CLI_RESULT: */
    bool is_error;
    int64_t num_turns;
    int api_error_status; /* 0 = none */
    struct str result, terminal_reason, session_id;
    /* CLI_CONTROL_*: */
    struct str request_id;
    bool success;
    struct str error; /* also CLI_ASSISTANT_ERROR: the error's kind */
};

void cli_decode(struct str line, struct cli_msg *ret_msg);
void cli_msg_release(struct cli_msg *msg);
void cli_decode_forget(void); /* at the end of the process: frees what is kept between lines */

/* --- a message put together from its stream events --------------------------------------- */
struct cli_message {
    json_t *head;    /* the message as upstream began it, with what its end added: stop_reason,
                        stop_sequence, usage, ...; NULL = none began. Its content stays empty */
    json_t *content; /* array of finished blocks */
    json_t *block;   /* the open one */
    struct buf text; /* of the open block: text, thinking or partial JSON */
    char id[80], model[100], stop_reason[40];
    int64_t input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens;
    bool any_output;
    bool too_large; /* a block was longer than max_bytes: content is not complete */
};
void cli_message_init(struct cli_message *m, size_t max_bytes);
void cli_message_release(struct cli_message *m);
/* Feeds one event; a message_start begins anew (a second upstream message of the same turn). */
void cli_message_event(struct cli_message *m, const json_t *event);
/* replay.c: the events of a finished message with a head, an array in the order of a stream: fed to
 * another cli_message they make the same one. New reference. */
json_t *cli_message_events(const struct cli_message *m);
/* The text of all text blocks, joined. */
void cli_message_text(const struct cli_message *m, struct buf *out);

#endif
