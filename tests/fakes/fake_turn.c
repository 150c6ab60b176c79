/* fake_turn.c - one query turn.
 *
 * A turn is a row of upstream responses and one result. A response made by a step passes the
 * stages request, (retry), start, block, delta, close, end; turn_run() goes from stage to stage
 * until it must wait: for a moment (`wake`), for the reader (a backlog of output), for tools. An
 * interrupt can therefore come between any two lines, as it can in the real program. */
#include "fake.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTINUE_NOTE                                                                             \
    "Output token limit hit. Resume directly \xE2\x80\x94 no apology, no recap of what you were " \
    "doing. Pick up mid-thought if that is where the cut happened. Break remaining work into "    \
    "smaller pieces."
#define NUDGE                                                                                    \
    "[Your previous response had no visible output. Please continue and produce a user-visible " \
    "response.]"
#define SERVER_ADVICE                                                                             \
    ". This is a server-side issue, usually temporary \xE2\x80\x94 try again in a moment. If it " \
    "persists, check your inference gateway (relay.invalid)."
#define MAX_CONTINUES 3
#define STDERR_PIECE  65536

/* ---- faults ---- */

noreturn void fake_leave(struct fake *f, int64_t sig, int64_t code)
{
    f->split_bytes = f->split_at = 0;
    out_flush(f, true);
    if (sig) {
        sigset_t none;
        sigemptyset(&none);
        signal((int)sig, SIG_DFL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        raise((int)sig);
    }
    _exit((int)code);
}

static noreturn void leave(struct fake *f)
{
    const struct step *s = &f->turn.step;
    if (s->exit_partial)
        out_adds(f, "{\"type\":\"stream_event\",\"event\":{\"type\":\"content_bl");
    fake_leave(f, s->signal, s->exit_code);
}

static void unknown_line(struct fake *f)
{
    size_t from = out_begin(f);
    buf_printf(
        &f->out,
        "{\"type\":\"galactic_event\",\"subtype\":\"unheard_of\",\"payload\":{\"n\":[1,null]}"
        ",\"session_id\":\"%s\",\"uuid\":\"",
        f->session_id);
    out_uuid(f);
    out_adds(f, "\"}");
    out_end(f, from);
}

void turn_point(struct fake *f, enum point p)
{
    const struct turn *t = &f->turn;
    const struct step *s = &t->step;
    if (s->garbage_at == p && (p != P_DELTA || t->deltas == 1)) {
        out_str(f, s->garbage);
        out_adds(f, "\n");
    }
    if (s->unknown_at == p && (p != P_DELTA || t->deltas == 1))
        unknown_line(f);
    if (s->exit_at == p && (p != P_DELTA || t->deltas >= s->exit_after))
        leave(f);
}

/* Keeps stdout and stderr open until `ms` after its parent is gone. Bounded: 10 minutes. */
static noreturn void grandchild(pid_t parent, int64_t ms, bool escapes)
{
    if (escapes)
        setsid();
    close(STDIN_FILENO);
    signal(SIGTERM, SIG_IGN);
    for (int i = 0; i < 60000 && getppid() == parent; i++)
        usleep(10000);
    usleep((useconds_t)(ms * 1000));
    _exit(0);
}

/* In large pieces: a test wants many bytes, not many system calls. */
static void flood_stderr(int64_t bytes)
{
    struct buf b;
    buf_init(&b, 2 * STDERR_PIECE);
    while (b.len < STDERR_PIECE)
        buf_adds(&b, "The program complains of something that nobody can do anything about.\n");
    for (ssize_t n = 1; bytes > 0 && n > 0; bytes -= n)
        n = write(STDERR_FILENO, b.data, b.len);
    buf_release(&b);
}

static void remember(struct str text)
{
    const char *before = getenv(FAKE_MEMORY);
    char *all = x_printf("%s%.*s;", before ? before : "", (int)text.len, text.p);
    if (setenv(FAKE_MEMORY, all, 1) != 0)
        abort();
    free(all);
}

static void step_effects(struct fake *f)
{
    const struct step *s = &f->turn.step;
    if (!s->src)
        return;
    f->reorder = s->reorder;
    f->split_bytes = s->split_bytes;
    f->split_at = s->split_at;
    f->split_pause_us = s->split_pause_us;
    f->ignore_sigterm = f->ignore_sigterm || s->ignore_sigterm;
    if (s->lose_control.len) {
        free(f->lose_control);
        f->lose_control = str_dup(s->lose_control);
    }
    if (s->stderr_text.len && write(STDERR_FILENO, s->stderr_text.p, s->stderr_text.len) < 0)
        return;
    flood_stderr(s->stderr_flood);
    if (s->remember.len)
        remember(s->remember);
    if (s->later)
        fault_arm(f, s->later);
    pid_t parent = getpid();
    if (s->grandchild_ms && fork() == 0)
        grandchild(parent, s->grandchild_ms, s->grandchild_escapes);
}

/* ---- the life of a turn ---- */

bool turn_busy(const struct fake *f)
{
    return f->turn.phase != PH_IDLE;
}

static void turn_reset(struct turn *t)
{
    t->stage = SG_REQUEST;
    t->wake = t->requested = t->first_request = t->stream_us = t->content_us = 0;
    t->nudged = false;
    t->continues = t->attempt = t->requests = t->user_lines = 0;
    t->used = (struct usage){0};
    t->stop_reason[0] = '\0';
    t->deltas = 0;
    buf_clear(&t->answer);
    buf_clear(&t->made);
}

void turn_begin(struct fake *f, json_t *live)
{
    struct turn *t = &f->turn;
    turn_reset(t);
    t->phase = PH_RUN;
    t->started = f->now;
    f->turns++;
    count_add(COUNT_STARTED, 1);
    ledger_turn(f, live);
    script_first(f, live);
    step_effects(f);
    out_init(f);
    turn_point(f, P_INIT);
}

static void turn_end(struct fake *f)
{
    struct turn *t = &f->turn;
    turn_point(f, P_AFTER_RESULT);
    upstream_stop(f);
    calls_clear(f);
    msg_reset(f);
    if (t->continues)
        hist_forget_passing(f);
    f->hung = f->hung || t->step.hang_after_result;
    f->reorder = false;
    step_clear(&t->step);
    t->phase = PH_IDLE;
}

/* False when the step wants no result: the turn then stays open for ever. */
static bool result_due(struct fake *f)
{
    turn_point(f, P_BEFORE_RESULT);
    if (!f->turn.step.no_result)
        return true;
    f->turn.phase = PH_MUTE;
    return false;
}

static void turn_success(struct fake *f)
{
    if (!result_due(f))
        return;
    result_success(f, buf_str(&f->turn.answer), false, 0, "completed");
    count_add(COUNT_FINISHED, 1);
    turn_end(f);
}

static void fail_with(struct fake *f, const char *text, int status, const char *terminal_reason)
{
    if (!result_due(f))
        return;
    result_success(f, str_c(text), true, status, terminal_reason);
    count_add(COUNT_ERRORED, 1);
    turn_end(f);
}

void turn_fail(struct fake *f, const char *text, const char *error, int status, bool with_request,
               const char *terminal_reason)
{
    const char *request = f->turn.msg.request_id;
    out_synthetic(f, str_c(text), error, with_request && request[0] ? request : NULL);
    fail_with(f, text, status, terminal_reason);
}

const char *error_kind(int status)
{
    switch (status) {
    case 401:
    case 403:
        return "authentication_failed";
    case 404:
        return "model_not_found";
    case 413:
        return "invalid_request";
    case 429:
        return "rate_limit";
    default:
        return status == 0 || status >= 500 ? "server_error" : "unknown";
    }
}

static char *error_text(const struct fake *f, int status, struct str message)
{
    int n = (int)message.len;
    switch (status) {
    case 0:
        return message.len ? x_printf("API Error: %.*s", n, message.p)
                           : x_strdup("API Error: Unable to connect to API (ECONNRESET)");
    case 401:
        return x_strdup("Invalid API key \xC2\xB7 Fix external API key");
    case 403:
        return x_printf("Failed to authenticate. API Error: 403 %.*s", n, message.p);
    case 404:
        return x_printf(
            "There's an issue with the selected model (%s). It may not exist or you may "
            "not have access to it. Run --model to pick a different model.",
            f->model);
    case 413:
        return x_strdup("Request too large (max 32MB). Try with a smaller file.");
    case 429:
        return x_printf("API Error: Request rejected (429) \xC2\xB7 %.*s", n, message.p);
    default:
        return x_printf("API Error: %d %.*s%s", status, n, message.p,
                        status >= 500 ? SERVER_ADVICE : "");
    }
}

void turn_http_error(struct fake *f, int status, struct str message, struct str kind)
{
    bool too_long = status == 400 && str_starts(message, "prompt is too long");
    char *text = too_long ? x_strdup("Prompt is too long") : error_text(f, status, message);
    char *own_kind = kind.len ? str_dup(kind) : NULL;
    const char *error = own_kind ? own_kind : too_long ? "invalid_request" : error_kind(status);
    const char *reason = too_long ? "prompt_too_long" : status == 413 ? "image_error" : "completed";
    turn_fail(f, text, error, status, status != 0, reason);
    free(own_kind);
    free(text);
}

/* The next upstream request of the same turn. */
static void request_again(struct fake *f, enum next_why why)
{
    struct turn *t = &f->turn;
    calls_clear(f);
    script_next(f, why);
    step_effects(f);
    t->phase = PH_RUN;
    t->stage = SG_REQUEST;
    t->deltas = 0;
}

static void limit_reached(struct fake *f)
{
    const char *limit = fake_env(f, "CLAUDE_CODE_MAX_OUTPUT_TOKENS");
    char *text =
        strcmp(f->turn.stop_reason, "max_tokens") == 0
            ? x_printf("API Error: Claude's response exceeded the %s output token maximum. "
                       "To configure this behavior, set the CLAUDE_CODE_MAX_OUTPUT_TOKENS "
                       "environment variable.",
                       limit ? limit : "32000")
            : x_strdup("API Error: The model has reached its context window limit.");
    turn_fail(f, text, "max_output_tokens", 0, false, "completed");
    free(text);
}

static char *refusal_text(const struct fake *f)
{
    return x_printf(
        "API Error: Claude Code is unable to respond to this request, which appears to "
        "violate our Usage Policy (https://www.anthropic.com/legal/aup). Try rephrasing "
        "the request in a new session or change your model.\n\nRequest ID: %s",
        f->turn.msg.request_id);
}

void turn_refused(struct fake *f)
{
    const struct msg *m = &f->turn.msg;
    char id[ID_UUID_SIZE];
    size_t from = out_begin(f);
    buf_printf(&f->out,
               "{\"type\":\"system\",\"subtype\":\"model_refusal_no_fallback\",\"original_model\":"
               "\"%s\",\"request_id\":\"%s\",\"api_refusal_category\":null,"
               "\"api_refusal_explanation\":null,\"refused_user_message_uuid\":\"%s\","
               "\"content\":\"\",\"session_id\":\"%s\",\"uuid\":\"",
               m->model, m->request_id, id_uuid(id), f->session_id);
    out_uuid(f);
    out_adds(f, "\"}");
    out_end(f, from);
    char *text = refusal_text(f);
    out_refusal(f, str_c(text));
    free(text);
}

static void refused(struct fake *f)
{
    char *text = refusal_text(f);
    fail_with(f, text, 0, "completed");
    free(text);
}

void turn_message_done(struct fake *f)
{
    struct turn *t = &f->turn;
    const char *stop = t->stop_reason;
    if (t->ncalls) {
        t->phase = PH_TOOLS;
        return;
    }
    if (strcmp(stop, "max_tokens") == 0 || strcmp(stop, "model_context_window_exceeded") == 0) {
        if (t->continues++ == MAX_CONTINUES) {
            limit_reached(f);
            return;
        }
        hist_passing_note(f, CONTINUE_NOTE);
        request_again(f, NEXT_AGAIN);
    } else if (strcmp(stop, "refusal") == 0) {
        refused(f);
    } else if (t->msg.blocks_done == 0 && !t->nudged) {
        t->nudged = true;
        out_user_text(f, NUDGE, true);
        hist_note(f, NUDGE);
        request_again(f, NEXT_AGAIN);
    } else {
        turn_success(f);
    }
}

/* ---- interrupt ---- */

static void abort_turn(struct fake *f, const char *note, const char *reason)
{
    out_user_text(f, note, false);
    hist_note(f, note);
    if (!result_due(f))
        return;
    result_aborted(f, reason);
    count_add(COUNT_INTERRUPTED, 1);
    turn_end(f);
}

bool turn_interrupt(struct fake *f, bool reply, json_t *reply_id)
{
    struct turn *t = &f->turn;
    if (!turn_busy(f))
        return false;
    bool quiet = t->phase == PH_MUTE || t->step.ignore_interrupt, tools = t->ncalls > 0;
    if (!quiet) {
        upstream_stop(f);
        calls_cancel(f);
    }
    if (reply)
        out_reply(f, reply_id, NULL);
    if (quiet)
        return true;
    msg_partial(f);
    calls_reject(f);
    abort_turn(
        f, tools ? "[Request interrupted by user for tool use]" : "[Request interrupted by user]",
        tools && t->msg.ended ? "aborted_tools" : "aborted_streaming");
    return true;
}

void turn_retry_line(struct fake *f, int max, double delay_ms, int status)
{
    size_t from = out_begin(f);
    buf_printf(&f->out,
               "{\"type\":\"system\",\"subtype\":\"api_retry\",\"attempt\":%d,\"max_retries\":%d,"
               "\"retry_delay_ms\":%.6f,\"error_status\":",
               f->turn.attempt, max, delay_ms);
    if (status)
        buf_printf(&f->out, "%d", status);
    else
        out_adds(f, "null");
    buf_printf(&f->out, ",\"error\":\"%s\",\"session_id\":\"%s\",\"uuid\":\"",
               status == 529 ? "overloaded" : error_kind(status), f->session_id);
    out_uuid(f);
    out_adds(f, "\"}");
    out_end(f, from);
}

void turn_stall(struct fake *f)
{
    f->turn.phase = PH_STALL;
    f->turn.wake = f->now + FAKE_STALL_US;
}

/* Before the first finished block the real program asks again without streaming, unless told
 * not to; the pieces already shown are then followed by one whole assistant line. */
static void fallback(struct fake *f)
{
    struct turn *t = &f->turn;
    t->msg.whole = true;
    t->msg.counted = t->step.usage;
    buf_clear(&t->msg.text);
    buf_addstr(&t->msg.text, t->step.text);
    t->msg.kind = B_TEXT;
    msg_close(f);
    totals_add(f, &t->msg.counted);
    snprintf(t->stop_reason, sizeof(t->stop_reason), "end_turn");
    turn_success(f);
}

void turn_stream_cut(struct fake *f)
{
    struct turn *t = &f->turn;
    if (t->msg.blocks_done) {
        totals_add(f, &t->msg.counted);
        turn_fail(
            f, "API Error: Connection closed mid-response. The response above may be incomplete.",
            "server_error", 0, false, "completed");
    } else if (f->use_upstream || fake_env(f, "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK")) {
        turn_fail(
            f,
            "API Error: Connection to the API was lost (ECONNRESET). This is usually temporary "
            "\xE2\x80\x94 try again.",
            "server_error", 0, true, "completed");
    } else {
        fallback(f);
    }
}

/* ---- going on ---- */

static void tools_phase(struct fake *f)
{
    if (f->eof)
        calls_stream_closed(f);
    if (calls_pump(f))
        request_again(f, NEXT_TOOLS);
}

static bool reader_behind(const struct fake *f)
{
    return f->out.len - f->out_sent > FAKE_BACKLOG;
}

void turn_run(struct fake *f)
{
    struct turn *t = &f->turn;
    while (turn_busy(f)) {
        if (t->phase == PH_TOOLS)
            tools_phase(f);
        if (t->phase == PH_STALL && t->wake <= f->now)
            turn_fail(f, "API Error: The operation timed out.", "unknown", 0, false, "completed");
        if (t->phase != PH_RUN || t->wake > f->now || reader_behind(f))
            return;
        f->turn.wake = 0;
        stream_stage(f);
    }
}

int64_t turn_wake(const struct fake *f)
{
    switch (f->turn.phase) {
    case PH_RUN:
        return reader_behind(f) ? -1 : f->turn.wake;
    case PH_STALL:
        return f->turn.wake;
    case PH_UPSTREAM:
        return upstream_wake(f);
    case PH_IDLE:
    case PH_TOOLS:
    case PH_MUTE:
        break;
    }
    return -1;
}
