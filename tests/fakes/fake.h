/* fake.h - what the parts of the fake claude program share.
 *
 * fake_claude.c   arguments, start-up, the poll loop, signals, exit
 * fake_input.c    stdin lines, the user queue, slash commands, "@path"
 * fake_control.c  control requests, the MCP handshake
 * fake_turn.c     one query turn: its life, interrupt, errors
 * fake_stream.c   a response made by a step; fake_msg.c gathers the blocks of any response
 * fake_fault.c    faults that wait for a line
 * fake_tools.c    tools/call and what becomes of the answers
 * fake_upstream.c FAKE_UPSTREAM=1: the turn is really asked for over HTTP; fake_sse.c
 * fake_history.c  the conversation and the upstream request made of it
 * fake_resume.c   --resume: the conversation read from a transcript
 * fake_script.c   steps: what a turn is told to do
 * fake_out.c      stdout lines; fake_result.c result lines and totals; fake_log.c FAKE_LOG and
 *                 FAKE_COUNT; fake_ledger.c FAKE_TURNS
 *
 * The key order and the order of lines are the real program's (version 2.1.197), as recorded. */
#ifndef FAKE_H
#define FAKE_H

#include "core/buf.h"
#include "core/clock.h"
#include "core/id.h"
#include "core/json.h"
#include "core/list.h"
#include "fake_step.h"

#include <poll.h>
#include <stdbool.h>

#define FAKE_VERSION   "2.1.197"
#define FAKE_TICK_US   1000000
#define FAKE_STALL_US  (300 * FAKE_TICK_US) /* the real program's idle limit on a stream */
#define FAKE_BACKLOG   (256u << 10)         /* generated ahead of the reader */
#define FAKE_MAX_BYTES (1024u << 20)
#define FAKE_MAX_CALLS 128
#define FAKE_MEMORY    "FAKE_MEMORY" /* variable of its own environment: what it was told to keep */

enum block_kind { B_TEXT, B_THINKING, B_TOOL, B_OTHER };

/* One upstream response while it is streamed. */
struct msg {
    char id[64], model[128], request_id[64];
    struct buf usage;     /* message_start's usage, JSON text */
    struct usage counted; /* message_start's, then message_delta's */
    char stop_reason[48];
    int blocks_done;
    bool ended, whole; /* whole: came in one piece, by the non-streaming fallback */
    /* the open block */
    bool open;
    enum block_kind kind;
    int index;
    struct buf text, signature, input;
    char *tool_id, *tool_name;
    json_t *other; /* B_OTHER: the block as content_block_start had it */
};

enum call_state { CALL_WAITING, CALL_SENT, CALL_DONE };
struct call {
    char *id, *name, *visible; /* name as the driver registered it, visible as the model used it */
    json_t *input;
    bool read_only, told; /* told: the user line is out */
    enum call_state state;
    char request_id[ID_UUID_SIZE];
    int64_t rpc_id;
    json_t *block, *shown; /* tool_result and tool_use_result, once done */
};

enum phase {
    PH_IDLE,
    PH_RUN,      /* the scripted stream makes the next thing when `wake` is past */
    PH_STALL,    /* nothing more comes, until the idle limit */
    PH_UPSTREAM, /* bytes come from a socket */
    PH_TOOLS,    /* waits for tools/call answers */
    PH_MUTE      /* no_result: the turn never ends */
};

enum stage { SG_REQUEST, SG_RETRY, SG_START, SG_BLOCK, SG_DELTA, SG_CLOSE, SG_END };

struct turn {
    enum phase phase;
    enum stage stage;
    int64_t wake, started, requested; /* microseconds; wake 0 = now */
    int64_t first_request;
    struct step step;
    bool from_script, nudged;
    int continues, attempt, requests, user_lines;
    struct usage used;    /* of completed responses */
    char stop_reason[48]; /* of the last completed response, "" = none */
    struct buf answer;    /* text of the last finished text block */
    struct msg msg;
    /* scripted cursor */
    size_t part, offset; /* part: 0 thinking, 1 text, 2.. tools */
    int64_t deltas;
    struct buf made; /* generated text (huge, echo_history) or tool input being sent */
    struct str sending;
    struct call calls[FAKE_MAX_CALLS];
    int ncalls;
    int64_t stream_us, content_us; /* first upstream byte, first finished block; 0 = none yet */
};

struct tool {
    char *name; /* as the driver gave it */
    json_t *def;
    bool read_only;
};

/* One MCP client instance talking to one sdk server of the driver. */
struct mcp {
    char server[64];
    int step; /* 0 initialize sent, 1 initialized sent, 2 tools/list sent, 3 connected, -1 failed */
    int64_t next_id;
    char request_id[ID_UUID_SIZE];
};

struct model_use {
    char name[128];
    struct usage used;
    int64_t nano_usd;
};

struct hist;
struct cmd;
struct upstream;

struct fake {
    int64_t now; /* clock_mono_us() of this round */
    /* output */
    struct buf out;
    size_t out_sent;
    bool out_broken;
    int64_t out_wake; /* split: not before */
    int64_t split_bytes, split_at, split_pause_us;
    bool reorder;
    struct buf tmp;
    struct buf init_head; /* cached init line up to its uuid */
    bool init_stale;
    /* input */
    struct buf in;
    size_t in_scanned;
    bool eof, hung; /* hung: stdin is no longer read at all */
    bool stdin_nonblock;
    int input_rounds;
    int64_t read_after;
    struct list queue;
    struct cmd *captured;
    json_t *seen_uuids;
    /* conversation and settings */
    struct list history;
    char session_id[ID_UUID_SIZE];
    char model[128], default_model[128], mode[32], cwd[512];
    json_t *settings, *env; /* env: what apply_flag_settings set, "" = unset */
    bool initialised, saw_user, may_bypass;
    char *system_prompt, *append_prompt;
    int64_t thinking; /* -1 default, 0 off, n budget */
    struct tool *tools;
    size_t ntools;
    struct mcp clients[16];
    int nclients;
    char *servers[16]; /* configured sdk server names */
    int nservers;
    bool no_prefix, mcp_twice;
    struct turn turn;
    struct upstream *upstream;
    /* totals */
    struct model_use models[32];
    int nmodels;
    int64_t api_us, turns;
    bool last_is_error;
    /* script and faults */
    json_t *script;
    size_t script_at;
    char *lose_control; /* subtype whose next reply is dropped, "*" = any */
    bool drop_reply;    /* the reply to the request being handled is dropped */
    bool ignore_sigterm, no_injection, no_boundary;
    json_t *later_src; /* owns what later borrows; NULL = not armed */
    struct later later;
    int64_t hung_until; /* end of life of a hung process */
    int log_fd;
    bool use_upstream;
};

/* fake_claude.c */
noreturn void fake_exit(struct fake *f, int code); /* writes what is buffered first */
noreturn void fake_die(struct fake *f, const char *fmt, ...) PRINTF_LIKE(2, 3); /* stderr, 1 */
noreturn void fake_leave(struct fake *f, int64_t sig, int64_t code); /* as a crash would */
void fake_nap(struct fake *f, int64_t ms);              /* only a signal gets through */
const char *fake_env(struct fake *f, const char *name); /* live value, NULL = unset or "" */

#include "fake_parts.h"

#endif
