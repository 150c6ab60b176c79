/* job.c - one request from accepted to settled.
 *
 *   NEW -> ADMITTING (its limits) -> LOOKING (in the cache) -> LOADING (its session)
 *       -> QUEUED -> RUNNING -> SAVING (its session) -> SETTLED
 *
 * Every exit - success, refused, client gone, worker crash, time-out, shutdown - passes through
 * settle() exactly once: limits trued up, the usage row in the journal, metrics, one log line,
 * the session free. The row is in the journal before the reply ends. A job whose client has left
 * goes on until its turn has said what it used; nobody is answered then. (A request that is
 * recorded outlives its client: for the job it has not left.) One that is not admitted has no row
 * and nothing to settle. */
#include "gateway/cache.h"
#include "gateway/replay.h"

#include "core/clock.h"
#include "core/log.h"
#include "metrics/metrics.h"

#define JOB_TAG TAG4('J', 'O', 'B', '_')

/* What a slow reader may leave unread before its turn is stopped: the CLI has no brake. */
#define STREAM_BACKLOG_MAX ((size_t)8 << 20)
#define KEEPALIVE_LOOKS    10 /* per interval */

enum job_state {
    JOB_NEW,
    JOB_ADMITTING,
    JOB_LOOKING,
    JOB_LOADING,
    JOB_QUEUED,
    JOB_RUNNING,
    JOB_SAVING,
    JOB_SETTLED
};

struct job {
    uint32_t tag;
    struct node node;
    struct gateway *g;
    struct http_req *http; /* NULL once the client has left or was answered */
    struct auth_key *key;
    struct chat_request *req;
    const struct dialect *dialect;
    enum job_state state;
    bool open;  /* the stream's headers are out */
    bool began; /* and so is the dialect's beginning */
    struct limit_ticket ticket;
    int64_t input_estimate;    /* tokens of what is asked, before upstream says how many */
    int64_t cost_estimate;     /* nano-USD of that and of the longest answer; 0 = unknown */
    struct cache_entry *cache; /* NULL: the answer is not one that is kept */
    struct session *session;
    uint64_t revision; /* the session's, once this turn is in it */
    struct turn *turn;
    struct turn_result result; /* while SAVING */
    json_t *answer;            /* content of the finished message, kept over SAVING */
    json_t *added;             /* an agent's: all messages of the turn; else NULL */
    struct cli_message message;
    struct usage_row usage;
    size_t slot;                           /* of the running turns' file */
    char answered[100];                    /* the model that answered, as upstream said */
    int64_t text_bytes;                    /* of the answer so far */
    bool measured;                         /* upstream has said how large the input was */
    int64_t start_us, first_us, last_us;   /* last: of the latest event or keep-alive */
    char peer[64], client_request_id[132]; /* for the log line */
};

static struct metric turns_total = {.name = "claudegate_turns_total",
                                    .help = "Turns settled, by dialect, model and outcome.",
                                    .type = METRIC_COUNTER,
                                    .labels = {"dialect", "model", "outcome"}};
static struct metric tokens_total = {.name = "claudegate_tokens_total",
                                     .help = "Tokens used, by kind and model.",
                                     .type = METRIC_COUNTER,
                                     .labels = {"kind", "model"}};
static struct metric ttft_seconds = {.name = "claudegate_time_to_first_token_seconds",
                                     .help = "Request accepted to first upstream event.",
                                     .type = METRIC_HISTOGRAM};
static struct metric turn_seconds = {.name = "claudegate_turn_seconds",
                                     .help = "Request accepted to settled.",
                                     .type = METRIC_HISTOGRAM};
static const double dispatch_buckets[] = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02,
                                          0.05,   0.1,    0.25,   0.5,   1,     2.5,   10,   60};
static struct metric dispatch_seconds = {
    .name = "claudegate_dispatch_seconds",
    .help = "Request accepted to its question on the way to a worker.",
    .type = METRIC_HISTOGRAM,
    .buckets = dispatch_buckets,
    .bucket_count = ARRAY_SIZE(dispatch_buckets)};
static struct metric limited_total = {.name = "claudegate_limited_total",
                                      .help = "Requests refused by a limit of their key.",
                                      .type = METRIC_COUNTER,
                                      .labels = {"code"}};

static const char *const state_names[] = {"new",    "admitting", "looking", "loading",
                                          "queued", "running",   "saving",  "settled"};

static void set_state(struct job *j, enum job_state s)
{
    if (log_enabled(LOG_DEBUG))
        log_debug("job state", LF_S("request_id", j->usage.request_id),
                  LF_S("from", state_names[j->state]), LF_S("to", state_names[s]));
    j->state = s;
}

struct http_req *job_http(const struct job *job)
{
    return job->http;
}

const struct chat_request *job_request(const struct job *job)
{
    return job->req;
}

struct gateway *job_gateway(const struct job *job)
{
    return job->g;
}

const char *job_session_id(const struct job *job)
{
    return job->usage.session_id;
}

/* --- settling ---------------------------------------------------------------------------- */

static void destroy(void *obj)
{
    struct job *j = OBJ(obj, struct job, JOB_TAG);
    chat_request_free(j->req);
    json_decref(j->answer);
    json_decref(j->added);
    json_decref(j->message.head);
    cache_close(j->cache);
    auth_key_unref(j->key);
    j->tag = 0;
    free(j);
}

static void count_usage(const struct job *j, const char *outcome)
{
    const struct usage_row *u = &j->usage;
    metric_add(&turns_total, 1, j->dialect->name, u->model, outcome);
    metric_add(&tokens_total, (double)u->input_tokens, "input", u->model);
    metric_add(&tokens_total, (double)u->output_tokens, "output", u->model);
    metric_add(&tokens_total, (double)u->cache_creation_tokens, "cache_creation", u->model);
    metric_add(&tokens_total, (double)u->cache_read_tokens, "cache_read", u->model);
    metric_observe(&turn_seconds, (double)u->response_time_ms / 1000);
    if (u->ttft_ms >= 0)
        metric_observe(&ttft_seconds, (double)(j->first_us - j->start_us) / 1e6);
}

static void log_settled(const struct job *j, const struct err *err)
{
    const struct usage_row *u = &j->usage;
    enum log_level level = err && err_info(err->code)->is_fault ? LOG_ERROR : LOG_INFO;
    log_write(level, "request", LF_S("request_id", u->request_id), LF_S("method", u->method),
              LF_S("path", u->endpoint), LF_I("status", u->status_code), LF_S("peer", j->peer),
              LF_S("client_request_id", j->client_request_id), LF_S("key", j->key->key.public_id),
              LF_S("model", u->model), LF_S("outcome", err ? err_info(err->code)->name : "ok"),
              LF_I("input_tokens", u->input_tokens), LF_I("output_tokens", u->output_tokens),
              LF_I("cache_read_tokens", u->cache_read_tokens), LF_I("ttft_ms", u->ttft_ms),
              LF_I("queue_ms", u->queue_ms), LF_I("duration_ms", u->response_time_ms),
              LF_I("upstream_calls", u->upstream_calls), LF_I("retries", u->retries),
              LF_B("cached", u->cached), LF_S("session_id", u->session_id),
              LF_S("error", err ? err->msg : ""), LF_END);
}

/* What a killed server would leave of this turn: written before anything of it is answered, kept
 * up to date for nothing (it is memory), and thrown away once the true row is in the journal. */
static void note_progress(struct job *j, const json_t *event)
{
    struct usage_row *u = &j->usage;
    const json_t *delta = json_object_get(event, "delta");
    const json_t *usage = json_object_get(json_object_get(event, "message"), "usage");
    if (delta) {
        j->text_bytes +=
            (int64_t)(json_get_str(delta, "text").len + json_get_str(delta, "thinking").len +
                      json_get_str(delta, "partial_json").len);
    } else if (usage) {
        if (!j->measured) /* what stood there was an estimate */
            u->input_tokens = u->cache_creation_tokens = u->cache_read_tokens = 0;
        j->measured = true;
        struct str model = json_get_str(json_object_get(event, "message"), "model");
        snprintf(j->answered, sizeof(j->answered), "%.*s", (int)model.len, model.p ? model.p : "");
        u->input_tokens += json_get_int(usage, "input_tokens", 0);
        u->cache_creation_tokens += json_get_int(usage, "cache_creation_input_tokens", 0);
        u->cache_read_tokens += json_get_int(usage, "cache_read_input_tokens", 0);
    }
    u->output_tokens = (j->text_bytes + 3) / 4;
    inflight_update(j->g->inflight, j->slot, u->input_tokens, u->output_tokens,
                    u->cache_creation_tokens, u->cache_read_tokens);
}

/* Off the list; freed when the callbacks that led here are over. */
static void leave(struct job *j)
{
    struct gateway *g = j->g;
    list_remove(&g->jobs, &j->node);
    loop_defer(g->loop, destroy, j);
    if (g->draining && g->jobs.len == 0 && g->idle)
        loop_defer(g->loop, g->idle, g->idle_ctx);
}

/* err NULL: success. Afterwards only the reply is left to be written. */
static void settle(struct job *j, const struct err *err)
{
    struct usage_row *u = &j->usage;
    struct gateway *g = j->g;
    BUG_ON(j->state == JOB_SETTLED);
    set_state(j, JOB_SETTLED);
    u->response_time_ms = (clock_mono_us() - j->start_us) / 1000;
    u->ttft_ms = j->first_us ? (j->first_us - j->start_us) / 1000 : -1;
    if (err && j->req->kept_as[0])
        u->session_id[0] = '\0'; /* nothing will be stored there */
    gateway_price(g, u, j->answered);
    int64_t cost = u->cost_nano < 0 ? 0 : u->cost_nano;
    limit_settle(g->limits, &j->ticket, usage_counted_tokens(u), cost);
    if (j->http)
        http_req_set_logged(j->http);
    gateway_end_row(g, u, err);
    inflight_end(g->inflight, j->slot);
    count_usage(j, err ? err_info(err->code)->name : "ok");
    log_settled(j, err);
    if (j->session)
        session_release(TAKE_PTR(j->session));
    leave(j);
}

/* The end of a job that was admitted, other than success. */
static void fail(struct job *j, const struct err *err)
{
    struct http_req *http = j->http;
    settle(j, err);
    if (!http)
        return;
    http_req_on_gone(http, NULL, NULL);
    http_req_set_failed(http);
    if (j->open)
        j->dialect->fail(j, err);
    else
        http_reply_error(http, err);
    j->http = NULL;
}

/* --- the turn ---------------------------------------------------------------------------- */

static void take_result(struct job *j, const struct turn_result *r)
{
    struct usage_row *u = &j->usage;
    j->turn = NULL;
    u->input_tokens = r->input_tokens;
    u->output_tokens = r->output_tokens;
    u->cache_creation_tokens = r->cache_creation_tokens;
    u->cache_read_tokens = r->cache_read_tokens;
    u->estimated = r->estimated;
    u->upstream_calls = r->upstream_calls;
    u->retries = r->retries;
    if (r->message && !j->answered[0])
        snprintf(j->answered, sizeof(j->answered), "%s", r->message->model);
    bool unknown_input = u->input_tokens + u->cache_creation_tokens + u->cache_read_tokens == 0;
    if (r->estimated && r->upstream_calls > 0 && unknown_input) /* cut before upstream told */
        u->input_tokens = j->input_estimate;
    u->queue_ms = r->queue_ms < 0 ? (clock_mono_us() - j->start_us) / 1000 : r->queue_ms;
}

static void succeed(struct job *j)
{
    struct http_req *http = j->http;
    settle(j, NULL);
    if (!http)
        return;
    http_req_on_gone(http, NULL, NULL);
    j->dialect->finish(j, &j->result);
    j->http = NULL;
}

/* The message is kept until the job is gone: it may have to wait for its session. */
static void keep_result(struct job *j, const struct turn_result *r)
{
    j->result = *r;
    j->answer = json_incref(r->message->content);
    j->added = json_incref(r->added);
    j->message = *r->message;
    j->message.content = j->answer;
    j->message.head = json_incref(r->message->head);
    j->message.block = NULL;
    j->message.text = (struct buf){.max = 1};
    j->result.message = &j->message;
}

static void on_saved(void *ctx, const struct err *err)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    if (err && err->code == ERR_SESSION_BUSY) /* the session does not have this turn */
        fail(j, err);
    else /* another one is logged by the session module, which goes on trying */
        succeed(j);
}

static void save_session(struct job *j)
{
    struct chat_request *r = j->req;
    struct session_turn st = {.model = r->model,
                              .conversation_id = j->result.cli_session_id,
                              .revision = j->revision,
                              .system = r->system,
                              .user = r->content,
                              .assistant = j->answer,
                              .added = j->added,
                              .agent = r->profile == PROFILE_AGENT};
    set_state(j, JOB_SAVING);
    session_commit(j->session, &st, on_saved, j);
}

static void on_turn_done(void *ctx, const struct turn_result *r)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    take_result(j, r);
    if (!r->ok) {
        fail(j, &r->err);
        return;
    }
    keep_result(j, r);
    if (j->session)
        save_session(j);
    else
        succeed(j);
    if (j->cache) /* after the reply: nobody waits for it */
        cache_store(j->cache, &j->result);
}

static void stop_slow_reader(struct job *j)
{
    struct err err;
    err_set(&err, ERR_CLIENT_GONE, "the client left %zu bytes of its stream unread",
            STREAM_BACKLOG_MAX);
    turn_cancel(j->turn, &err);
}

static void open_stream(struct job *j)
{
    if (!j->open)
        http_sse_begin(j->http);
    j->open = true;
}

static void tell(struct job *j, void (*how)(struct job *job, const json_t *what),
                 const json_t *what)
{
    if (!j->req->stream || !j->http)
        return;
    if (!j->began) {
        j->began = true;
        open_stream(j);
        j->dialect->begin(j);
    }
    how(j, what);
    if (j->turn && http_stream_backlog(j->http) > STREAM_BACKLOG_MAX)
        stop_slow_reader(j);
}

static void on_turn_event(void *ctx, const json_t *event)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    j->last_us = clock_mono_us();
    if (!j->first_us)
        j->first_us = j->last_us;
    note_progress(j, event);
    tell(j, j->dialect->event, event);
}

static void on_turn_tool(void *ctx, const json_t *block)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    j->last_us = clock_mono_us();
    if (j->dialect->tool)
        tell(j, j->dialect->tool, block);
}

static void on_turn_started(void *ctx)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    if (j->state == JOB_QUEUED)
        set_state(j, JOB_RUNNING);
    if (j->slot == INFLIGHT_NONE)
        metric_observe(&dispatch_seconds, (double)(clock_mono_us() - j->start_us) / 1e6);
    if (j->slot != INFLIGHT_NONE)
        return; /* a second attempt */
    j->usage.input_tokens = j->input_estimate;
    j->slot = inflight_begin(j->g->inflight, &j->usage);
}

static const struct turn_ops turn_callbacks = {
    .started = on_turn_started, .event = on_turn_event, .tool = on_turn_tool, .done = on_turn_done};

static json_t *system_blocks(const json_t *system)
{
    if (json_is_string(system) && json_string_length(system) > 0)
        return json_pack("[{s:s, s:O}]", "type", "text", "text", system);
    return json_is_array(system) ? json_incref((json_t *)(uintptr_t)system) : NULL;
}

static void start_turn(struct job *j)
{
    struct chat_request *r = j->req;
    struct session *s = j->session;
    char holds[SESSION_TAG_SIZE] = "", will_hold[SESSION_TAG_SIZE] = "";
    struct err err;
    size_t have = s ? json_array_size(s->messages) : 0;
    if (s) {
        j->revision = session_new_revision(s);
        session_tag(s, s->revision, holds);
        session_tag(s, j->revision, will_hold);
    }
    AUTO(json_unref_p) json_t *system = system_blocks(r->system);
    struct turn_request tr = {.key_id = j->key->key.id,
                              .priority = j->key->key.priority,
                              .model = r->model,
                              .request_id = j->usage.request_id,
                              .history = s ? s->messages : r->history,
                              .content = r->content,
                              .params = r->params,
                              .system = system,
                              .messages = r->messages,
                              .exact = r->exact,
                              .betas = r->betas,
                              .version = r->version,
                              .affinity = gateway_affinity(j->key->key.id, r,
                                                           s             ? s->messages
                                                           : r->messages ? r->messages
                                                                         : r->history),
                              .holds = have ? holds : NULL,
                              .will_hold = will_hold};
    AUTO(free_charp) char *workspace = NULL;
    if (r->profile == PROFILE_AGENT) {
        if (workspace_make(j->g->workspaces, s->id, &workspace, &err) != 0) {
            fail(j, &err);
            return;
        }
        tr.profile = j->g->agent;
        tr.workspace = workspace;
        tr.workspace_id = s->id;
    }
    set_state(j, JOB_QUEUED);
    j->turn = pool_run(j->g->pool, &tr, &turn_callbacks, j, &err);
    if (!j->turn)
        fail(j, &err);
}

/* A comment in each stream that has been silent, so that no proxy takes it for dead. One that still
 * waits for a worker learns its place; from then on errors come inside the stream. */
static void keep_alive(struct job *j, int64_t now)
{
    char text[64] = "keep-alive";
    size_t position = j->turn ? turn_position(j->turn) : 0;
    if (position)
        snprintf(text, sizeof(text), "queued, position %zu", position);
    j->last_us = now;
    open_stream(j);
    if (position || !j->dialect->ping)
        http_sse_comment(j->http, text);
    if (j->dialect->ping)
        j->dialect->ping(j);
}

static void on_keepalive(void *obj)
{
    struct gateway *g = OBJ(obj, struct gateway, GATEWAY_TAG);
    int64_t now = clock_mono_us(), interval_ms = g->conf->server.keepalive_ms;
    LIST_EACH(&g->jobs, n)
    {
        struct job *j = container_of(n, struct job, node);
        if (j->http && j->req->stream && j->turn && now - j->last_us >= interval_ms * 1000)
            keep_alive(j, now);
    }
    timer_set(&g->keepalive, interval_ms / KEEPALIVE_LOOKS);
}

void gateway_start(struct gateway *g)
{
    timer_init(&g->keepalive, g->loop, on_keepalive, g);
    timer_set(&g->keepalive, g->conf->server.keepalive_ms / KEEPALIVE_LOOKS);
    gateway_watch_shared(g);
    gateway_watch_sessions(g);
}

void gateway_stop(struct gateway *g)
{
    json_decref(TAKE_PTR(g->models));
    gateway_unwatch_shared(g);
    replays_stop(g->replays);
    timer_release(&g->keepalive);
}

/* --- admission --------------------------------------------------------------------------- */

static void set_model(struct job *j, const char *model)
{
    x_replace(&j->req->model, model);
    snprintf(j->usage.model, sizeof(j->usage.model), "%s", model);
}

/* A session stays what its first turn made it. */
static int adopt_profile(struct job *j, struct err *err)
{
    struct chat_request *r = j->req;
    enum chat_profile first = j->session->agent ? PROFILE_AGENT : PROFILE_CHAT;
    if (json_array_size(j->session->messages) == 0)
        return 0;
    if (r->profile != PROFILE_ANY && r->profile != first)
        return err_field(err, "profile", "must be \"%s\", or absent: so this session began",
                         j->session->agent ? "agent" : "chat");
    r->profile = first;
    return first == PROFILE_AGENT ? gateway_check_agent(j->g, &j->key->key, err) : 0;
}

/* What the session knows and the request does not say. */
static int adopt_session(struct job *j, struct err *err)
{
    struct session *s = j->session;
    snprintf(j->usage.session_id, sizeof(j->usage.session_id), "%s", s->id);
    if (adopt_profile(j, err) != 0 || session_check_room(s, j->req->content, err) != 0)
        return -1;
    if (!j->req->system)
        j->req->system = json_incref(s->system);
    if (j->req->model)
        return 0;
    set_model(j, s->model);
    int64_t unused; /* a limit of cost refuses a model without a price here as well */
    return gateway_check_model(&j->key->key, s->model, err) != 0
               ? -1
               : gateway_estimate_cost(j->g, &j->key->key, s->model, 0, 0, &unused, err);
}

static void on_session(void *ctx, struct session *session, const struct err *err)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    struct err why;
    j->session = session;
    if (err)
        fail(j, err);
    else if (adopt_session(j, &why) != 0)
        fail(j, &why);
    else if (j->http && !j->g->aborted)
        start_turn(j);
    else {
        if (j->http)
            err_set(&why, ERR_SHUTTING_DOWN, "The server is shutting down");
        else
            err_set(&why, ERR_CLIENT_GONE, "the client left before the turn began");
        fail(j, &why);
    }
}

static void find_session(struct job *j)
{
    struct chat_request *r = j->req;
    if (!r->with_session) {
        start_turn(j);
    } else if (!r->session_id[0]) {
        on_session(j, session_create(j->g->sessions, j->key->key.id), NULL);
    } else {
        set_state(j, JOB_LOADING);
        session_open(j->g->sessions, r->session_id, j->key->key.id, on_session, j);
    }
}

/* --- the cache --------------------------------------------------------------------------- */

/* As if the model had just given it; upstream knows nothing of it, and nothing is used. */
static void answer_again(struct job *j, const struct turn_result *kept)
{
    size_t i;
    json_t *event;
    AUTO(json_unref_p) json_t *events = cli_message_events(kept->message);
    set_state(j, JOB_RUNNING); /* who leaves now leaves an answer that is settled below */
    j->usage.cached = true;
    keep_result(j, kept);
    json_array_foreach(events, i, event) tell(j, j->dialect->event, event);
    succeed(j);
}

static void on_looked_up(void *ctx, const struct turn_result *kept)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    if (kept)
        answer_again(j, kept);
    else
        find_session(j);
}

static void look_up(struct job *j)
{
    j->cache = cache_open(j->g, j->http, &j->key->key, j->req);
    if (!j->cache) {
        find_session(j);
        return;
    }
    set_state(j, JOB_LOOKING);
    cache_look_up(j->cache, on_looked_up, j);
}

/* Nobody waits for a cache that hangs. */
static void stop_looking(struct job *j, const struct err *err)
{
    cache_cancel(j->cache);
    fail(j, err);
}

/* --- what was asked ---------------------------------------------------------------------- */

/* What can be said without asking anybody. */
static int check_request(struct job *j, struct err *err)
{
    struct chat_request *r = j->req;
    if (j->g->draining)
        return err_set(err, ERR_SHUTTING_DOWN, "The server is shutting down");
    if (gateway_check_journal(j->g, err) != 0)
        return -1;
    if (!r->model && !r->session_id[0])
        set_model(j, j->g->conf->claude.model);
    if (gateway_check_permissions(&j->key->key, r, err) != 0 ||
        (r->profile == PROFILE_AGENT && gateway_check_agent(j->g, &j->key->key, err) != 0))
        return -1;
    json_object_set_new(r->params, "max_tokens", json_integer(r->max_tokens));
    j->input_estimate = chat_request_tokens(r);
    return gateway_estimate_cost(j->g, &j->key->key, r->model, j->input_estimate, r->max_tokens,
                                 &j->cost_estimate, err);
}

static void turn_away(struct job *j, const struct err *err)
{
    struct http_req *http = TAKE_PTR(j->http);
    metric_add(&limited_total, 1, err_info(err->code)->name);
    http_req_on_gone(http, NULL, NULL);
    http_reply_error(http, err);
    leave(j);
}

static void on_limits(void *ctx, const struct limit_views *views, const struct err *err)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    struct err why;
    gateway_limit_headers(j->http, views);
    if (err) {
        turn_away(j, err);
        return;
    }
    auth_touch(j->g->auth, j->key);
    http_req_drop_body(j->http);
    if (!j->g->aborted) {
        look_up(j);
        return;
    }
    err_set(&why, ERR_SHUTTING_DOWN, "The server is shutting down");
    fail(j, &why);
}

/* Whoever keeps the limits may hang; nobody waits for that at the end. */
static void stop_admitting(struct job *j, const struct err *err)
{
    struct http_req *http = TAKE_PTR(j->http);
    limit_cancel(j->g->limits, &j->ticket);
    http_req_on_gone(http, NULL, NULL);
    http_reply_error(http, err);
    leave(j);
}

static void on_client_gone(void *ctx)
{
    struct job *j = OBJ(ctx, struct job, JOB_TAG);
    struct err err;
    if (j->state == JOB_ADMITTING) {
        j->http = NULL;
        limit_cancel(j->g->limits, &j->ticket);
        leave(j);
        return;
    }
    http_req_set_logged(j->http); /* settle() writes the line */
    j->http = NULL;
    err_set(&err, ERR_CLIENT_GONE, "the client left");
    if (j->turn)
        turn_cancel(j->turn, &err);
    else if (j->state == JOB_LOOKING)
        stop_looking(j, &err);
    /* LOADING and SAVING: the database's answer goes on from here */
}

static struct job *new_job(struct gateway *g, struct http_req *http, struct chat_request *req,
                           const struct dialect *dialect)
{
    struct job *j = x_calloc(1, sizeof(*j));
    struct usage_row *u = &j->usage;
    j->tag = JOB_TAG;
    j->g = g;
    j->http = http;
    j->key = gateway_key(http);
    auth_key_ref(j->key);
    j->req = req;
    j->dialect = dialect;
    j->slot = INFLIGHT_NONE;
    j->start_us = http_req_start_us(http);
    j->last_us = clock_mono_us();
    gateway_begin_row(u, http, j->key, req->model ? req->model : "");
    memcpy(u->session_id, req->kept_as, sizeof(req->kept_as));
    const char *client_id = http_req_client_id(http);
    snprintf(j->peer, sizeof(j->peer), "%s", http_req_peer(http));
    snprintf(j->client_request_id, sizeof(j->client_request_id), "%s", client_id ? client_id : "");
    return j;
}

void gateway_submit(struct gateway *g, struct http_req *http, struct chat_request *req_take,
                    const struct dialect *dialect)
{
    struct job *j = new_job(g, http, req_take, dialect);
    struct err err;
    if (check_request(j, &err) != 0) {
        http_reply_error(http, &err);
        j->http = NULL;
        destroy(j);
        return;
    }
    struct limit_need need = {.tokens = j->input_estimate + j->req->max_tokens,
                              .cost = j->cost_estimate};
    list_push_back(&g->jobs, &j->node);
    http_req_on_gone(http, on_client_gone, j);
    set_state(j, JOB_ADMITTING);
    limit_acquire(g->limits, &j->key->key, &need, &j->ticket, on_limits, j);
}

void gateway_drain(struct gateway *g, void (*idle)(void *ctx), void *ctx)
{
    g->draining = true;
    g->idle = idle;
    g->idle_ctx = ctx;
    replays_drain(g->replays);
    if (g->jobs.len == 0)
        loop_defer(g->loop, idle, ctx);
}

void gateway_abort(struct gateway *g)
{
    struct err err;
    g->aborted = true;
    err_set(&err, ERR_SHUTTING_DOWN, "The server is shutting down");
    LIST_EACH(&g->jobs, n)
    {
        struct job *j = container_of(n, struct job, node);
        if (j->state == JOB_ADMITTING)
            stop_admitting(j, &err);
        else if (j->state == JOB_LOOKING)
            stop_looking(j, &err);
        else if (j->turn)
            turn_cancel(j->turn, &err);
    }
}
