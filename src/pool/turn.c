/* turn.c - books what happens during one turn and, at its end, says truthfully how it went.
 *
 * The CLI reports API errors as subtype "success" with is_error true, and drops the HTTP status
 * of some; the relay saw the real response. So the relay's word counts first, then the CLI's. */
#include "pool/turn.h"

#include "core/clock.h"

#define TURN_TAG         TAG4('T', 'U', 'R', 'N')
#define MESSAGE_MAX      ((size_t)64 << 20)
#define STATUS_TOO_LARGE 413

struct turn *turn_new(struct pool *pool, const struct turn_request *req, const struct turn_ops *ops,
                      void *ctx)
{
    struct turn *t = x_calloc(1, sizeof(*t));
    t->tag = TURN_TAG;
    t->pool = pool;
    t->ops = ops;
    t->ctx = ctx;
    t->class_id = x_strdup(req->class_id);
    t->model = x_strdup(req->model);
    t->request_id = x_strdup(req->request_id);
    t->holds = x_strdup(req->holds ? req->holds : "");
    t->will_hold = x_strdup(req->will_hold ? req->will_hold : "");
    t->history = json_incref(req->history);
    t->content = json_incref(req->content);
    t->relay.params = json_incref(req->params);
    t->relay.system = json_incref(req->system);
    t->relay.request_id = t->request_id;
    t->queued_at_us = t->waiting_since_us = clock_mono_us();
    cli_message_init(&t->message, MESSAGE_MAX);
    return t;
}

void turn_free(struct turn *t)
{
    if (!t)
        return;
    BUG_ON(node_linked(&t->node) || t->worker);
    cli_message_release(&t->message);
    json_decref(t->history);
    json_decref(t->content);
    json_decref(t->relay.params);
    json_decref(t->relay.system);
    free(t->class_id);
    free(t->model);
    free(t->request_id);
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

void turn_event(struct turn *t, const json_t *event)
{
    if (str_eq_c(json_get_str(event, "type"), "message_start")) {
        fold_message(t);
        t->seen_messages++;
    }
    cli_message_event(&t->message, event);
    if (t->cancelled)
        return;
    t->any_event = true;
    t->ops->event(t->ctx, event);
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
    err->status = our_credential ? 502 : status;
    err->retry_after_s = r->retry_after_s;
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

static int api_error(const struct turn *t, const struct cli_msg *msg, struct err *err)
{
    const struct relay_turn *r = &t->relay;
    if (r->failure == RELAY_TIMED_OUT)
        return err_set(err, ERR_TIMEOUT, "The upstream API did not answer in time");
    if (r->failure == RELAY_UNREACHABLE && r->status)
        return err_set(err, ERR_UPSTREAM, "The upstream API broke off in the middle of its answer");
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

/* Upstream finished a message, and all of it was handed out. */
static bool answer_is_whole(const struct turn *t)
{
    return t->relay.answered && t->seen_messages > 0 && t->message.stop_reason[0];
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
    if (answer_is_whole(t))
        return 0;
    if (!msg) {
        *err = *why;
        return -1;
    }
    if (msg->is_error && strcmp(stop_reason, "refusal") != 0)
        return api_error(t, msg, err);
    if (t->seen_messages == 0)
        return err_set(err, ERR_WORKER, "the turn ended without an answer");
    if (!t->message.stop_reason[0])
        return err_set(err, ERR_UPSTREAM, "The upstream API broke off in the middle of its answer");
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
    ret->ok = judge(t, msg, why, ret->stop_reason, &ret->err) == 0;
}
