/* turn.c - books what happens during one turn and, at its end, says truthfully how it went.
 *
 * The CLI reports API errors as subtype "success" with is_error true, and drops the HTTP status
 * of some; the relay saw the real response. So the relay's word counts first, then the CLI's. */
#include "pool/turn.h"

#include "core/clock.h"

#define TURN_TAG         TAG4('T', 'U', 'R', 'N')
#define MESSAGE_MAX      ((size_t)64 << 20)
#define ADDED_MAX        ((size_t)64 << 20) /* of tools' results in one turn */
#define CALLS_PER_ROUND  2 /* one, and one for what the program asks by itself: a count, a nudge */
#define STATUS_TOO_LARGE 413

/* Borrowed from the content, which the turn keeps. */
static json_t *last_mark(const json_t *content)
{
    size_t n = json_array_size(content);
    return n ? json_object_get(json_array_get(content, n - 1), "cache_control") : NULL;
}

struct turn *turn_new(struct pool *pool, const struct turn_request *req, const char *class_id,
                      const struct turn_ops *ops, void *ctx)
{
    struct turn *t = x_calloc(1, sizeof(*t));
    t->tag = TURN_TAG;
    t->pool = pool;
    t->ops = ops;
    t->ctx = ctx;
    t->key_id = x_strdup(req->key_id);
    t->class_id = x_strdup(class_id);
    t->priority = req->priority ? req->priority : 1;
    t->profile = req->profile;
    t->workspace = req->workspace ? x_strdup(req->workspace) : NULL;
    if (req->profile) {
        t->added = json_array();
        t->relay.many = true;
        t->relay.max_calls = (int)(req->profile->max_turns * CALLS_PER_ROUND);
    }
    t->model = x_strdup(req->model);
    t->request_id = x_strdup(req->request_id);
    t->holds = x_strdup(req->holds ? req->holds : "");
    t->will_hold = x_strdup(req->will_hold ? req->will_hold : "");
    t->history = json_incref(req->history);
    t->content = json_incref(req->content);
    t->relay.params = json_incref(req->params);
    t->relay.system = json_incref(req->system);
    t->relay.messages = json_incref(req->messages);
    t->relay.exact = req->exact;
    t->relay.version = req->version;
    t->relay.last_mark = last_mark(req->content);
    t->betas = req->betas ? x_strdup(req->betas) : NULL;
    t->relay.betas = t->betas;
    t->relay.request_id = t->request_id;
    t->relay.affinity = req->affinity;
    t->queued_at_us = clock_mono_us();
    cli_message_init(&t->message, MESSAGE_MAX);
    return t;
}

void turn_free(struct turn *t)
{
    if (!t)
        return;
    BUG_ON(node_linked(&t->queued.node) || t->worker);
    cli_message_release(&t->message);
    json_decref(t->history);
    json_decref(t->content);
    json_decref(t->added);
    json_decref(t->results);
    json_decref(t->relay.params);
    json_decref(t->relay.system);
    json_decref(t->relay.messages);
    free(t->relay.error_json);
    free(t->key_id);
    free(t->class_id);
    free(t->workspace);
    free(t->model);
    free(t->request_id);
    free(t->betas);
    free(t->holds);
    free(t->will_hold);
    t->tag = 0;
    free(t);
}

/* Adds the message that is about to be replaced, or the last one, to the totals. */
static void fold_message(struct turn *t)
{
    struct cli_message *m = &t->message;
    t->seen_input += m->input_tokens;
    t->seen_output += m->output_tokens;
    t->seen_cache_creation += m->cache_creation_tokens;
    t->seen_cache_read += m->cache_read_tokens;
    m->input_tokens = m->output_tokens = m->cache_creation_tokens = m->cache_read_tokens = 0;
}

static bool is_block(const json_t *block, const char *type)
{
    return str_eq_c(json_get_str(block, "type"), type);
}

static void tell_tool_use(struct turn *t)
{
    const json_t *content = t->message.content;
    size_t n = json_array_size(content);
    const json_t *last = n ? json_array_get(content, n - 1) : NULL;
    if (is_block(last, "tool_use"))
        t->ops->tool(t->ctx, last);
}

/* A call that the CLI refuses by itself has its result before its block has ended: the use is told
 * first all the same. */
static void tell_results(struct turn *t)
{
    while (!t->message.block && !t->cancelled && t->results_told < json_array_size(t->results))
        t->ops->tool(t->ctx, json_array_get(t->results, t->results_told++));
}

static void add_message(struct turn *t, const char *role, json_t *content_take)
{
    json_array_append_new(t->added, json_pack("{s:s, s:o}", "role", role, "content", content_take));
}

/* The latest message is complete, and so are the results of its tools. */
static void add_round(struct turn *t)
{
    if (!t->results)
        return;
    tell_results(t);
    add_message(t, "assistant", json_copy(t->message.content));
    add_message(t, "user", TAKE_PTR(t->results));
    t->results_told = 0;
}

/* One question, one message; only a loop of tools has several, and a CLI whose calls the relay does
 * not see. */
static bool belongs_to_answer(struct turn *t, struct str type)
{
    bool again = str_eq_c(type, "message_start") && (t->relay.many || t->relay.calls == 0);
    if (t->message_over && !again) {
        t->extra = true;
        return false;
    }
    t->message_over = str_eq_c(type, "message_stop");
    return true;
}

/* The relay shows the CLI another stop reason where the true one would make it go on by itself. New
 * reference; events are shared, so it is a copy. NULL = nothing is to be changed. */
static json_t *true_delta(const struct turn *t, const json_t *event)
{
    const json_t *delta = json_object_get(event, "delta");
    const char *said = t->relay.stop_reason;
    if (!said[0] || !str_eq_c(json_get_str(delta, "stop_reason"), "end_turn") ||
        strcmp(said, "end_turn") == 0)
        return NULL;
    json_t *copy = json_deep_copy(event);
    json_object_set_new(json_object_get(copy, "delta"), "stop_reason", json_string(said));
    return copy;
}

void turn_event(struct turn *t, const json_t *event)
{
    struct str type = json_get_str(event, "type");
    if (!belongs_to_answer(t, type))
        return;
    if (str_eq_c(type, "message_start")) {
        fold_message(t);
        t->seen_messages++;
        add_round(t);
    }
    AUTO(json_unref_p) json_t *changed = true_delta(t, event);
    if (changed)
        event = changed;
    cli_message_event(&t->message, event);
    if (t->cancelled)
        return;
    t->any_event = true;
    t->ops->event(t->ctx, event);
    if (t->added && str_eq_c(type, "content_block_stop")) {
        tell_tool_use(t);
        tell_results(t);
    }
}

/* Only the fields that the API knows. */
static json_t *plain_result(const json_t *block)
{
    static const char *const keys[] = {"type", "tool_use_id", "content", "is_error"};
    json_t *plain = json_object();
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        json_t *value = json_object_get(block, keys[i]);
        if (value)
            json_object_set(plain, keys[i], value);
    }
    return plain;
}

void turn_tool_results(struct turn *t, const json_t *blocks, size_t bytes)
{
    if (!t->added)
        return;
    if (!t->results)
        t->results = json_array();
    for (size_t i = 0; i < json_array_size(blocks); i++) {
        const json_t *block = json_array_get(blocks, i);
        if (is_block(block, "tool_result"))
            json_array_append_new(t->results, plain_result(block));
    }
    tell_results(t);
    t->added_bytes += bytes;
    t->message.too_large |= t->added_bytes > ADDED_MAX;
}

/* The last message. A tool it called and that did not run must not stay: the API refuses a
 * conversation in which a call has no result. */
static void add_answer(struct turn *t)
{
    if (t->results) {
        add_round(t);
        return;
    }
    json_t *content = json_array();
    for (size_t i = 0; i < json_array_size(t->message.content); i++) {
        json_t *block = json_array_get(t->message.content, i);
        if (!is_block(block, "tool_use"))
            json_array_append(content, block);
    }
    if (json_array_size(content))
        add_message(t, "assistant", content);
    else
        json_decref(content);
}

static int upstream_status_error(const struct turn *t, int status, struct err *err)
{
    const struct relay_turn *r = &t->relay;
    bool our_credential = status == 401 || status == 402 || status == 403;
    if (our_credential)
        err_set(err, ERR_UPSTREAM, "The upstream API refused this server's credential (%d)",
                status);
    else
        err_set(err, status == STATUS_TOO_LARGE ? ERR_TOO_LARGE : ERR_UPSTREAM,
                "Upstream answered %d%s%s%s%s", status, r->error_type[0] ? " " : "", r->error_type,
                r->error_message[0] ? ": " : "", r->error_message);
    if (!our_credential && r->error_type[0] && r->error_message[0]) {
        snprintf(err->upstream_type, sizeof(err->upstream_type), "%.39s", r->error_type);
        err->upstream_at = strlen("Upstream answered 000 : ") + strlen(r->error_type);
        err->upstream_error = r->error_json;
    }
    err->status = our_credential ? 502 : status;
    err->retry_after_s = r->retry_after_s;
    err->should_retry = our_credential ? 0 : r->should_retry;
    return -1;
}

/* An `event: error` inside a stream of status 200: its type is all there is. */
static int status_of_error_type(const char *type)
{
    static const struct {
        const char *type;
        int status;
    } known[] = {
        {"invalid_request_error", 400}, {"authentication_error", 401},
        {"billing_error", 402},         {"permission_error", 403},
        {"not_found_error", 404},       {"request_too_large", 413},
        {"rate_limit_error", 429},      {"api_error", 500},
        {"timeout_error", 504},         {"overloaded_error", 529},
    };
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (strcmp(known[i].type, type) == 0)
            return known[i].status;
    }
    return 502;
}

static int broken_off(struct err *err)
{
    return err_set(err, ERR_UPSTREAM, "The upstream API broke off in the middle of its answer");
}

static int api_error(const struct turn *t, const struct cli_msg *msg, struct err *err)
{
    const struct relay_turn *r = &t->relay;
    if (r->failure == RELAY_TIMED_OUT)
        return err_set(err, ERR_TIMEOUT, "The upstream API did not answer in time");
    if (r->failure == RELAY_UNREACHABLE && r->status)
        return broken_off(err);
    if (r->status / 100 == 3)
        return err_set(err, ERR_UPSTREAM, "Upstream answered %d, a redirect", r->status);
    if (r->failure == RELAY_UNREACHABLE)
        return err_set(err, ERR_UPSTREAM_UNREACHABLE, "The upstream API could not be reached");
    if (r->status >= 400)
        return upstream_status_error(t, r->status, err);
    if (r->error_type[0])
        return upstream_status_error(t, status_of_error_type(r->error_type), err);
    if (msg->api_error_status >= 400)
        return upstream_status_error(t, msg->api_error_status, err);
    int n = (int)(msg->result.len < 300 ? msg->result.len : 300);
    return err_set(err, ERR_UPSTREAM, "%.*s", n ? n : 28,
                   n ? msg->result.p : "The turn ended with an error");
}

/* What upstream says is believed, but never below nothing. */
static int64_t tokens(bool relayed, int64_t relay, int64_t seen)
{
    int64_t n = relayed ? relay : seen;
    return n > 0 ? n : 0;
}

static void add_usage(struct turn *t, struct turn_result *ret)
{
    const struct relay_turn *r = &t->relay;
    fold_message(t);
    bool relayed = r->calls > 0;
    ret->input_tokens = tokens(relayed, r->input_tokens, t->seen_input);
    ret->output_tokens = tokens(relayed, r->output_tokens, t->seen_output);
    ret->cache_creation_tokens = tokens(relayed, r->cache_creation_tokens, t->seen_cache_creation);
    ret->cache_read_tokens = tokens(relayed, r->cache_read_tokens, t->seen_cache_read);
    ret->estimated = r->estimated;
    ret->upstream_calls = relayed ? r->calls : t->seen_messages;
    ret->retries = r->retries + (t->attempts > 1 ? t->attempts - 1 : 0);
}

/* Upstream finished a message, and all of it was handed out. In a loop of tools there may be more
 * to come: only the CLI knows. */
static bool answer_is_whole(const struct turn *t)
{
    return !t->relay.many && t->relay.answered && t->seen_messages > 0 &&
           t->message.stop_reason[0] && !t->message.block;
}

/* An end like that at max_tokens: what was done so far is done, and the next turn can go on. */
static bool ended_at_max_turns(const struct cli_msg *msg)
{
    return msg && str_eq_c(msg->subtype, "error_max_turns");
}

/* 0 when the answer is good, whatever the CLI made of it and even if it died afterwards. */
static int judge(const struct turn *t, const struct cli_msg *msg, const struct err *why,
                 const char *stop_reason, struct err *err)
{
    if (t->cancelled) {
        *err = t->cancel_err;
        return -1;
    }
    if (t->message.too_large)
        return err_set(err, ERR_TOO_LARGE, "The answer is larger than this server handles");
    if (t->relay
            .half) /* whatever the CLI made of it: it asks again, and tells that call's status */
        return broken_off(err);
    if (answer_is_whole(t))
        return 0;
    if (!msg) {
        *err = *why;
        return -1;
    }
    if (ended_at_max_turns(msg) && t->seen_messages > 0)
        return 0;
    if (msg->is_error && strcmp(stop_reason, "refusal") != 0)
        return api_error(t, msg, err);
    if (t->seen_messages == 0)
        return err_set(err, ERR_WORKER, "the turn ended without an answer");
    if (!t->message.stop_reason[0] || t->message.block) /* or a block without its end */
        return broken_off(err);
    return 0;
}

void turn_conclude(struct turn *t, const struct cli_msg *msg, const struct err *why,
                   struct turn_result *ret)
{
    *ret = (struct turn_result){.message = &t->message};
    add_usage(t, ret);
    ret->queue_ms = t->claimed_at_us ? (t->claimed_at_us - t->queued_at_us) / 1000 : -1;
    snprintf(ret->stop_reason, sizeof(ret->stop_reason), "%s",
             t->relay.stop_reason[0] ? t->relay.stop_reason : t->message.stop_reason);
    snprintf(ret->cli_session_id, sizeof(ret->cli_session_id), "%s", t->cli_session_id);
    if (ended_at_max_turns(msg))
        snprintf(ret->stop_reason, sizeof(ret->stop_reason), "max_turns");
    ret->ok = judge(t, msg, why, ret->stop_reason, &ret->err) == 0;
    if (t->added && ret->ok)
        add_answer(t);
    ret->added = t->added;
}
