/* worker.c - the state machine of one claude process.
 *
 *   STARTING --initialised--> [PROBING --asked--> CLEARING] --> IDLE
 *   IDLE --worker_run--> PREPARING --question written--> RUNNING
 *   RUNNING --result--> IDLE            RUNNING --cancel or a timer--> CANCELLING --result--> IDLE
 *   IDLE --worker_clear--> CLEARING --result--> IDLE      any --process gone--> ended()
 *
 * Preparing: set_model (only when another model is asked; it leaves breadcrumbs, so it comes
 * before the boundary), the boundary that hides what the process holds, then the history: user
 * messages are acknowledged one by one, because the CLI reorders what is pipelined behind them.
 * A process that holds exactly this conversation's beginning skips all of it, and so does one that
 * was started on its transcript.
 *
 * One deadline timer serves every state. In RUNNING it fires at the silence limit and looks at
 * the time of the last line, so that a line costs no timer call. */
#include "pool/worker.h"

#include "cli/probe.h"
#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"
#include "pool/process.h"

#include <inttypes.h>

#define WORKER_TAG    TAG4('W', 'O', 'R', 'K')
#define STOP_GRACE_MS 1000

/* Ids of our control requests; one of each can be outstanding. */
#define REQ_INIT      "cg-init"
#define REQ_THINKING  "cg-thinking"
#define REQ_MODEL     "cg-model"
#define REQ_INTERRUPT "cg-interrupt"

struct worker_private {
    struct loop *loop;
    const struct pool_opts *opts;
    const struct worker_ops *ops;
    void *ctx;
    struct process process;
    struct timer deadline;
    struct turn *turn;
    bool probe;                                          /* to be tried out before it is ready */
    bool starting;                                       /* not ready yet */
    enum { RELAY_CLOSED, RELAY_TURN, RELAY_TRIAL } open; /* what the relay is open for */
    struct cli_probe trial;
    struct relay_trial asked; /* what the CLI sends while it is tried out */
    struct buf out;
    size_t history_at; /* next message of the turn's history to write */
    bool model_asked;
    const char *work; /* what preparing took: label of prepare_seconds */
    bool heard;       /* a line came since the question was written */
    int64_t turn_started_ms, last_line_ms;
    struct err end_err; /* why it ends, when we decided so */
};

static struct metric unknown_lines = {
    .name = "claudegate_cli_lines_unknown_total",
    .help = "Lines from claude processes that were not understood, by kind.",
    .type = METRIC_COUNTER,
    .labels = {"kind"},
};

static const double step_buckets[] = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
                                      0.1,    0.2,   0.5,   1,     2,    5,    10};
static struct metric prepare_seconds = {
    .name = "claudegate_worker_prepare_seconds",
    .help = "Worker claimed to question written, by what had to be done: nothing (it held the "
            "conversation or was new), boundary, history, model, start.",
    .type = METRIC_HISTOGRAM,
    .labels = {"work"},
    .buckets = step_buckets,
    .bucket_count = ARRAY_SIZE(step_buckets)};
static struct metric clear_seconds = {.name = "claudegate_worker_clear_seconds",
                                      .help = "Time a worker took to forget its history.",
                                      .type = METRIC_HISTOGRAM,
                                      .buckets = step_buckets,
                                      .bucket_count = ARRAY_SIZE(step_buckets)};

static const char *const state_names[] = {"starting", "probing",    "idle",     "preparing",
                                          "running",  "cancelling", "clearing", "ending"};

const char *worker_state_name(enum worker_state s)
{
    BUG_ON((unsigned)s >= ARRAY_SIZE(state_names));
    return state_names[s];
}

static void set_state(struct worker *w, enum worker_state s)
{
    if (log_enabled(LOG_DEBUG))
        log_debug("worker state", LF_I("worker", w->id), LF_S("from", state_names[w->state]),
                  LF_S("to", state_names[s]));
    w->state = s;
    w->state_since_ms = clock_mono_ms();
}

/* Sends what was put into priv->out. */
static void flush_out(struct worker *w)
{
    struct worker_private *p = w->priv;
    struct err err;
    if (!buf_ok(&p->out) || child_write(p->process.child, buf_str(&p->out), &err) != 0) {
        err_set(&p->end_err, ERR_TOO_LARGE, "the conversation is larger than a worker can take");
        worker_end(w, "input_too_large");
    }
    buf_clear(&p->out);
}

/* --- the end of a turn ------------------------------------------------------------------- */

static void close_relay(struct worker *w)
{
    struct worker_private *p = w->priv;
    if (p->open == RELAY_TURN)
        relay_end_turn(p->process.relay);
    if (p->open == RELAY_TRIAL)
        relay_end_trial(p->process.relay);
    p->open = RELAY_CLOSED;
    json_decref(TAKE_PTR(p->asked.request));
}

static void forget_history(struct worker *w)
{
    x_replace(&w->holds, "");
    w->dirty = true;
}

static void conclude(struct worker *w, const struct cli_msg *msg, const struct err *why)
{
    struct worker_private *p = w->priv;
    struct turn *t = TAKE_PTR(p->turn);
    struct turn_result result;
    timer_stop(&p->deadline);
    close_relay(w);
    t->worker = NULL;
    if (msg)
        snprintf(t->cli_session_id, sizeof(t->cli_session_id), "%.*s", (int)msg->session_id.len,
                 msg->session_id.p);
    turn_conclude(t, msg, why, &result);
    forget_history(w);
    /* After a refusal or an error the CLI may have changed its model by itself. */
    bool stopped = strcmp(result.stop_reason, "tool_use") == 0; /* by us: see stop_for_tools() */
    if ((msg && msg->is_error && !stopped) || strcmp(result.stop_reason, "refusal") == 0)
        x_replace(&w->model, "");
    /* One message and a good end, or it has words in its memory that the session does not know. */
    bool one =
        (t->seen_messages == 1 && !t->extra) || t->relay.many; /* a loop of tools it may remember */
    if (result.ok && msg && !msg->is_error && one && t->will_hold[0])
        x_replace(&w->holds, t->will_hold);
    w->turns++;
    w->turns_since_clear++;
    if (w->state != WORKER_ENDING)
        set_state(w, WORKER_IDLE);
    p->ops->released(p->ctx, w, t, &result);
}

/* --- preparing --------------------------------------------------------------------------- */

/* A living process announces a turn within milliseconds, long before upstream says anything. */
static int64_t first_line_limit(const struct worker_private *p)
{
    int64_t prepare = p->opts->prepare_timeout_ms, silence = p->opts->silence_timeout_ms;
    return prepare < silence ? prepare : silence;
}

static void write_question(struct worker *w)
{
    struct worker_private *p = w->priv;
    struct turn *t = p->turn;
    cli_put_user(&p->out, t->content, true);
    set_state(w, WORKER_RUNNING);
    p->turn_started_ms = p->last_line_ms = clock_mono_ms();
    p->heard = false;
    metric_observe(&prepare_seconds, (double)(clock_mono_us() - t->claimed_at_us) / 1e6, p->work);
    /* Before it can be read: whoever notes what is under way has done so, should we be killed. */
    t->ops->started(t->ctx);
    flush_out(w);
    if (w->state == WORKER_RUNNING)
        timer_set(&p->deadline, first_line_limit(p));
}

/* Writes history up to and including the next user message, or the question. */
static void prepare_next(struct worker *w)
{
    struct worker_private *p = w->priv;
    struct turn *t = p->turn;
    if (t->cancelled) { /* nothing was asked yet: the process is fine, its history is not */
        flush_out(w);
        conclude(w, NULL, &t->cancel_err);
        return;
    }
    while (p->history_at < json_array_size(t->history)) {
        const json_t *m = json_array_get(t->history, p->history_at++);
        const json_t *content = json_object_get(m, "content");
        if (str_eq_c(json_get_str(m, "role"), "assistant")) {
            cli_put_assistant(&p->out, content, t->model);
            continue;
        }
        p->work = "history";
        cli_put_user(&p->out, content, false);
        timer_set(&p->deadline, p->opts->prepare_timeout_ms); /* for each step, not for all */
        flush_out(w);
        return; /* its acknowledgement calls us again */
    }
    write_question(w);
}

static void after_model(struct worker *w)
{
    struct worker_private *p = w->priv;
    if (w->dirty || p->model_asked)
        cli_put_boundary(&p->out);
    p->history_at = w->resumes ? json_array_size(p->turn->history) : 0;
    prepare_next(w);
}

/* The turn is the worker's from here on, whatever state it is in. */
static void take_turn(struct worker *w, struct turn *t)
{
    BUG_ON(w->priv->turn);
    w->priv->turn = t;
    t->worker = w;
    t->attempts++;
    t->claimed_at_us = clock_mono_us();
}

static void begin_turn(struct worker *w, const char *work)
{
    struct worker_private *p = w->priv;
    struct turn *t = p->turn;
    relay_begin_turn(p->process.relay, &t->relay);
    p->open = RELAY_TURN;
    set_state(w, WORKER_PREPARING);
    timer_set(&p->deadline, p->opts->prepare_timeout_ms);
    p->model_asked = false;
    p->work = work;
    bool same_model = strcmp(w->model, t->model) == 0;
    if (same_model && t->holds[0] && strcmp(w->holds, t->holds) == 0) {
        write_question(w);
        return;
    }
    x_replace(&w->holds, "");
    if (w->dirty)
        p->work = "boundary";
    if (same_model) {
        after_model(w);
        return;
    }
    /* Its breadcrumbs in the history need a boundary, which would hide a transcript too: there the
     * program was started with the model. */
    p->model_asked = true;
    p->work = "model";
    cli_put_set_model(&p->out, REQ_MODEL, t->model);
    flush_out(w);
}

void worker_run(struct worker *w, struct turn *t)
{
    BUG_ON(w->state != WORKER_IDLE);
    take_turn(w, t);
    begin_turn(w, "nothing");
}

void worker_cancel(struct worker *w)
{
    struct worker_private *p = w->priv;
    if (w->state == WORKER_STARTING) /* for this turn alone */
        worker_end(w, "cancelled");
    if (w->state == WORKER_PREPARING) /* prepare_next() looks, at the next answer; if it comes */
        timer_set(&p->deadline, p->opts->interrupt_timeout_ms);
    if (w->state != WORKER_RUNNING)
        return; /* ending: ended() follows */
    set_state(w, WORKER_CANCELLING);
    timer_set(&p->deadline, p->opts->interrupt_timeout_ms);
    relay_no_more_calls(
        p->process.relay); /* an interrupt right behind the question may come too early */
    cli_put_interrupt(&p->out, REQ_INTERRUPT);
    flush_out(w);
}

void worker_clear(struct worker *w)
{
    struct worker_private *p = w->priv;
    BUG_ON(w->state != WORKER_IDLE);
    set_state(w, WORKER_CLEARING);
    timer_set(&p->deadline, p->opts->prepare_timeout_ms);
    x_replace(&w->holds, "");
    cli_put_clear(&p->out);
    flush_out(w);
}

/* --- starting up ------------------------------------------------------------------------- */

static void be_ready(struct worker *w)
{
    struct worker_private *p = w->priv;
    timer_stop(&p->deadline);
    if (w->profile) {
        worker_sample(w, true);
        w->own_processes = w->usage.processes;
    }
    set_state(w, WORKER_IDLE);
    p->starting = false;
    w->served = true;
    p->ops->started(p->ctx, w);
    if (p->turn)
        begin_turn(w, "start");
    else
        p->ops->ready(p->ctx, w);
}

static void probe_step(struct worker *w)
{
    struct worker_private *p = w->priv;
    json_t *request = TAKE_PTR(p->asked.request);
    bool more = cli_probe_next(&p->trial, request, &p->out);
    json_decref(request);
    if (more) {
        flush_out(w);
        return;
    }
    close_relay(w);
    w->unsafe = !p->trial.literal;
    if (p->trial.failure[0]) {
        err_set(&p->end_err, ERR_WORKER, "%s", p->trial.failure);
        worker_end(w, "probe_failed");
        return;
    }
    set_state(w, WORKER_IDLE);
    worker_clear(w);
}

static void initialised(struct worker *w)
{
    struct worker_private *p = w->priv;
    if (!p->probe) {
        be_ready(w);
        return;
    }
    w->probed = true;
    set_state(w, WORKER_PROBING);
    timer_set(&p->deadline, p->opts->start_timeout_ms);
    p->asked = (struct relay_trial){.answer = "ready"};
    cli_probe_init(&p->trial);
    relay_begin_trial(p->process.relay, &p->asked);
    p->open = RELAY_TRIAL;
    probe_step(w);
}

/* After worker_clear(), or at the end of the trial. */
static void cleared(struct worker *w)
{
    struct worker_private *p = w->priv;
    timer_stop(&p->deadline);
    cli_put_boundary(&p->out);
    flush_out(w);
    if (w->state != WORKER_CLEARING)
        return;
    metric_observe(&clear_seconds, (double)(clock_mono_ms() - w->state_since_ms) / 1000);
    w->dirty = false;
    w->turns_since_clear = 0;
    set_state(w, WORKER_IDLE);
    if (p->starting)
        be_ready(w);
    else
        p->ops->cleared(p->ctx, w);
}

/* The message calls tools, and they are the client's: the program knows none of them. It would ask
 * the model again what that was for, which the relay refuses; an interrupt spares it the way. */
static void stop_for_tools(struct worker *w)
{
    struct worker_private *p = w->priv;
    const struct turn *t = p->turn;
    if (w->state != WORKER_RUNNING || !t->message_over || t->relay.many || t->cancelled ||
        strcmp(t->message.stop_reason, "tool_use") != 0)
        return;
    set_state(w, WORKER_CANCELLING);
    timer_set(&p->deadline, p->opts->interrupt_timeout_ms);
    cli_put_interrupt(&p->out, REQ_INTERRUPT);
    flush_out(w);
}

/* --- lines ------------------------------------------------------------------------------- */

static void on_result(struct worker *w, const struct cli_msg *msg)
{
    switch (w->state) {
    case WORKER_PREPARING: /* one history message is in */
        prepare_next(w);
        break;
    case WORKER_RUNNING:
    case WORKER_CANCELLING:
        conclude(w, msg, NULL);
        break;
    case WORKER_CLEARING:
        cleared(w);
        break;
    case WORKER_PROBING:
        probe_step(w);
        break;
    case WORKER_STARTING:
    case WORKER_IDLE:
    case WORKER_ENDING:
    case WORKER_STATE_COUNT:
        break;
    }
}

/* The turn must not run on another model than the one that was asked for and allowed. */
static void refuse_model(struct worker *w, const struct cli_msg *msg)
{
    struct turn *t = w->priv->turn;
    x_replace(&w->model, ""); /* whatever it is now, the next turn says again what it wants */
    if (t->cancelled)
        return;
    t->cancelled = true;
    err_set(&t->cancel_err, ERR_INVALID, "model: the claude program refuses '%s': %.*s", t->model,
            (int)(msg->error.len < 200 ? msg->error.len : 200), msg->error.p);
    snprintf(t->cancel_err.field, sizeof(t->cancel_err.field), "model");
}

static void on_control_response(struct worker *w, const struct cli_msg *msg)
{
    struct worker_private *p = w->priv;
    if (!msg->success)
        log_warn("claude refused a control request", LF_I("worker", w->id),
                 LF_STR("request", msg->request_id), LF_STR("error", msg->error));
    if (str_eq_c(msg->request_id, REQ_MODEL) && w->state == WORKER_PREPARING) {
        if (msg->success)
            x_replace(&w->model, p->turn->model);
        else
            refuse_model(w, msg);
        after_model(w);
    } else if (str_eq_c(msg->request_id, REQ_THINKING) && w->state == WORKER_STARTING) {
        initialised(w);
    }
}

static void on_control_request(struct worker *w, const struct cli_msg *msg)
{
    cli_put_control_error(&w->priv->out, msg->request_id, "not supported by this server");
    flush_out(w);
}

static void on_line(void *ctx, struct str line)
{
    struct worker *w = OBJ(ctx, struct worker, WORKER_TAG);
    struct worker_private *p = w->priv;
    struct cli_msg msg;
    p->last_line_ms = clock_mono_ms();
    p->heard = true;
    cli_decode(line, &msg);
    switch (msg.kind) {
    case CLI_STREAM:
        if (p->turn && (w->state == WORKER_RUNNING || w->state == WORKER_CANCELLING))
            turn_event(p->turn, msg.event);
        if (p->turn)
            stop_for_tools(w);
        break;
    case CLI_TOOL_RESULTS:
        if (p->turn && w->state == WORKER_RUNNING)
            turn_tool_results(p->turn, msg.results, line.len);
        break;
    case CLI_RESULT:
        on_result(w, &msg);
        break;
    case CLI_CONTROL_RESPONSE:
        on_control_response(w, &msg);
        break;
    case CLI_CONTROL_REQUEST:
        on_control_request(w, &msg);
        break;
    case CLI_ASSISTANT_ERROR:
        log_debug("claude reported an API error", LF_I("worker", w->id), LF_STR("kind", msg.error));
        break;
    case CLI_UNKNOWN:
        metric_add(&unknown_lines, 1, "unknown_type");
        break;
    case CLI_GARBAGE:
        metric_add(&unknown_lines, 1, "not_json");
        break;
    case CLI_INIT:
    case CLI_API_RETRY:
    case CLI_OTHER:
        break;
    }
    cli_msg_release(&msg);
}

static void on_overflow(void *ctx)
{
    struct worker *w = OBJ(ctx, struct worker, WORKER_TAG);
    err_set(&w->priv->end_err, ERR_WORKER, "it wrote a line of over %zu bytes", PROCESS_LINE_MAX);
    worker_end(w, "line_too_long");
}

/* --- time -------------------------------------------------------------------------------- */

static void interrupt_for_time(struct worker *w, const char *what, int64_t after_ms)
{
    struct turn *t = w->priv->turn;
    if (!t->cancelled) {
        t->cancelled = true;
        err_set(&t->cancel_err, ERR_TIMEOUT, "The turn was stopped: %s for %" PRId64 " ms", what,
                after_ms);
    }
    worker_cancel(w);
}

static void running_deadline(struct worker *w)
{
    struct worker_private *p = w->priv;
    int64_t now = clock_mono_ms();
    int64_t quiet = now - p->last_line_ms, total = now - p->turn_started_ms;
    if (!p->heard) { /* nothing was begun: the turn can be tried elsewhere */
        err_set(&p->end_err, ERR_WORKER, "it did not react to a question");
        worker_end(w, "question_timeout");
        return;
    }
    if (total >= p->opts->turn_timeout_ms) {
        interrupt_for_time(w, "it ran", total);
        return;
    }
    if (quiet >= p->opts->silence_timeout_ms) {
        interrupt_for_time(w, "no output came", quiet);
        return;
    }
    int64_t next = p->opts->silence_timeout_ms - quiet;
    int64_t left = p->opts->turn_timeout_ms - total;
    timer_set(&p->deadline, next < left ? next : left);
}

static void on_deadline(void *obj)
{
    struct worker *w = OBJ(obj, struct worker, WORKER_TAG);
    switch (w->state) {
    case WORKER_RUNNING:
        running_deadline(w);
        return;
    case WORKER_STARTING:
        err_set(&w->priv->end_err, ERR_WORKER, "it did not answer initialize in time");
        worker_end(w, "start_timeout");
        return;
    case WORKER_PROBING:
        err_set(&w->priv->end_err, ERR_WORKER,
                "it did not acknowledge a history or answer a question in time");
        worker_end(w, "start_timeout");
        return;
    case WORKER_CANCELLING:
        err_set(&w->priv->end_err, ERR_WORKER, "it did not react to an interrupt");
        worker_end(w, "interrupt_timeout");
        return;
    case WORKER_PREPARING:
    case WORKER_CLEARING:
        err_set(&w->priv->end_err, ERR_WORKER, "it did not take a reset or history in time");
        worker_end(w, "prepare_timeout");
        return;
    case WORKER_IDLE:
    case WORKER_ENDING:
    case WORKER_STATE_COUNT:
        return;
    }
}

/* --- start and end ----------------------------------------------------------------------- */

static void on_ended(void *ctx, const struct child_exit *how)
{
    struct worker *w = OBJ(ctx, struct worker, WORKER_TAG);
    struct worker_private *p = w->priv;
    struct turn *t = TAKE_PTR(p->turn);
    struct err why = p->end_err;
    bool wanted = w->end_reason != NULL;
    if (why.code == ERR_NONE)
        err_set(&why, ERR_WORKER, "claude ended by itself (%s %d): %.*s",
                how->signaled ? "signal" : "status", how->code, (int)how->stderr_tail.len,
                how->stderr_tail.p);
    set_state(w, WORKER_ENDING);
    timer_stop(&p->deadline);
    log_write(wanted ? LOG_INFO : LOG_WARN, "worker ended", LF_I("worker", w->id),
              LF_I("pid", child_pid(p->process.child)),
              LF_S("reason", wanted ? w->end_reason : "exit"),
              LF_S("how", how->signaled ? "signal" : "status"), LF_I("code", how->code),
              LF_I("turns", w->turns), LF_STR("stderr", how->stderr_tail), LF_END);
    close_relay(w);
    if (t)
        t->worker = NULL;
    p->ops->ended(p->ctx, w, t, &why);
}

static const struct child_ops child_callbacks = {
    .line = on_line, .overflow = on_overflow, .ended = on_ended};

static void destroy(struct worker *w)
{
    struct worker_private *p = w->priv;
    timer_release(&p->deadline);
    process_release(&p->process);
    buf_release(&p->out);
    free(w->class_id);
    free(w->key_id);
    free(w->model);
    free(w->holds);
    free(p);
    w->tag = 0;
    free(w);
}

struct worker *worker_start(struct loop *loop, const struct pool_opts *opts, unsigned id,
                            const struct worker_spec *spec, const struct worker_ops *ops, void *ctx,
                            struct err *err)
{
    struct worker *w = x_calloc(1, sizeof(*w));
    struct worker_private *p = x_calloc(1, sizeof(*p));
    *p = (struct worker_private){.loop = loop, .opts = opts, .ops = ops, .ctx = ctx};
    *w = (struct worker){.tag = WORKER_TAG, .id = id, .state = WORKER_STARTING, .priv = p};
    w->class_id = x_strdup("");
    w->key_id = x_strdup("");
    w->model = x_strdup(spec->own ? spec->own->model : opts->model);
    w->holds = x_strdup("");
    w->profile = spec->own ? spec->own->profile : NULL;
    w->resumes = spec->resume;
    w->started_ms = w->state_since_ms = clock_mono_ms();
    w->for_turn = spec->own != NULL;
    p->probe = spec->probe;
    p->starting = true;
    buf_init(&p->out, PROCESS_STDIN_MAX);
    timer_init(&p->deadline, loop, on_deadline, w);
    p->process.dir.all = spec->dirs;
    if (process_start(&p->process, loop, opts, id, spec->own, spec->resume, &child_callbacks, w,
                      err) != 0) {
        destroy(w);
        return NULL;
    }
    if (spec->own)
        take_turn(w, spec->own);
    log_info("worker started", LF_I("worker", id), LF_I("pid", child_pid(p->process.child)));
    /* No thinking unless a request asks for it; the CLI's default is a large budget. */
    cli_put_initialize(&p->out, REQ_INIT, p->process.system);
    cli_put_thinking_budget(&p->out, REQ_THINKING, 0);
    timer_set(&p->deadline, opts->start_timeout_ms);
    flush_out(w);
    return w;
}

void worker_end(struct worker *w, const char *reason)
{
    if (w->state == WORKER_ENDING)
        return;
    w->end_reason = reason;
    set_state(w, WORKER_ENDING);
    timer_stop(&w->priv->deadline);
    child_stop(w->priv->process.child, STOP_GRACE_MS);
}

static void destroy_later(void *obj)
{
    destroy(OBJ(obj, struct worker, WORKER_TAG));
}

void worker_free(struct worker *w)
{
    loop_defer(w->priv->loop, destroy_later, w);
}

int worker_pid(const struct worker *w)
{
    return (int)child_pid(w->priv->process.child);
}

bool worker_alive(const struct worker *w)
{
    return child_alive(w->priv->process.child);
}

void worker_sample(struct worker *w, bool fresh)
{
    const struct child *c = w->priv->process.child;
    struct child_usage u;
    if (!(fresh ? child_usage_fresh(c, &u) : child_usage(c, &u)))
        return;
    if (u.cpu_ms < w->usage.cpu_ms) /* what a process used is gone when nobody waits for it */
        u.cpu_ms = w->usage.cpu_ms;
    if (w->own_processes && u.processes < w->own_processes)
        w->own_processes = u.processes;
    w->usage = u;
}

bool worker_left_processes(const struct worker *w)
{
    return w->profile && w->usage.processes > w->own_processes;
}

const struct turn *worker_turn(const struct worker *w)
{
    return w->priv->turn;
}

struct str worker_stderr(const struct worker *w)
{
    return child_stderr_tail(w->priv->process.child);
}
