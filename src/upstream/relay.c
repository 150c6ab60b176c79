/* relay.c - one worker's socket: who may call what, and the turn that pays for it.
 *
 * Everything of a worker hangs off its struct relay: its listener, its connections (door.c), its
 * calls and the one turn, or the one trial, that may be open. So no call can ever be counted for
 * another worker's turn. */
#include "upstream/relay.h"

#include "core/log.h"
#include "metrics/metrics.h"
#include "upstream/call.h"
#include "upstream/client.h"
#include "upstream/door.h"
#include "upstream/trial.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define RELAY_TAG TAG4('r', 'l', 'a', 'y')

#define MAX_HEADER     (64 << 10)
#define MAX_CALLS      16
#define IDLE_TIMEOUT_S 86400 /* evhttp's own is 50 s and would cut a silent stream; see door.h */
#define LISTEN_BACKLOG 32

struct relay {
    uint32_t tag;
    struct call_home home;
    struct door door;
    struct evhttp *http;
    struct relay_turn *turn;
    struct relay_trial *trial;
    char *path;
};

static struct metric refused_total = {
    .name = "claudegate_relay_refused_total",
    .help = "Requests of workers that the relay refused because no turn was open.",
    .type = METRIC_COUNTER,
};

static struct metric extra_total = {
    .name = "claudegate_relay_extra_calls_total",
    .help = "Calls refused because their turn had its answer already: one question, one answer.",
    .type = METRIC_COUNTER,
};

static void refuse(struct evhttp_request *req, const char *path)
{
    metric_add(&refused_total, 1);
    log_info("relay refused a worker's request: no turn is open",
             LF_STR("path", str_n(path, strnlen(path, 100))));
    call_refuse(req, 403, "permission_error", "no turn is open");
}

/* The CLI asks again by itself: after a 404, after an empty answer. Nobody ordered that call, and
 * it would be billed. */
static void refuse_extra(struct evhttp_request *req, const char *path)
{
    metric_add(&extra_total, 1);
    log_debug("relay refused a hidden extra call", LF_STR("path", str_n(path, strnlen(path, 100))));
    call_refuse(req, 400, "invalid_request_error", "this turn has had its answer");
}

static void serve_messages(struct relay *r, struct evhttp_request *req, const char *path)
{
    bool count_tokens = strcmp(path, "/v1/messages/count_tokens") == 0;
    if (!count_tokens && strcmp(path, "/v1/messages") != 0)
        call_refuse(req, 404, "not_found_error", "the relay serves /v1/messages only");
    else if (r->trial && !count_tokens)
        trial_serve(r->trial, req);
    else if (!r->turn)
        refuse(req, path);
    else if (r->turn->many ? r->turn->max_calls && r->turn->calls >= r->turn->max_calls
                           : r->home.settled)
        refuse_extra(req, path);
    else if (r->home.calls.len >= MAX_CALLS)
        call_refuse(req, 429, "rate_limit_error", "too many calls at once in this turn");
    else
        call_start(&r->home, r->turn, req, count_tokens);
}

static void on_request(struct evhttp_request *req, void *ctx)
{
    struct relay *r = OBJ(ctx, struct relay, RELAY_TAG);
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(req));
    enum evhttp_cmd_type method = evhttp_request_get_command(req);
    if (!path)
        path = "";
    door_request(&r->door, req);
    if (method == EVHTTP_REQ_POST)
        serve_messages(r, req, path);
    else if ((method == EVHTTP_REQ_HEAD || method == EVHTTP_REQ_GET) && strcmp(path, "/") == 0)
        evhttp_send_reply(req, HTTP_OK, "OK", NULL);
    else
        call_refuse(req, 404, "not_found_error", "the relay serves /v1/messages only");
}

static int bind_socket(const char *path, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr.sun_path))
        return err_set(err, ERR_CONFIG, "socket path is longer than %zu bytes: %s",
                       sizeof(addr.sun_path) - 1, path);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot make a socket: %s", strerror(errno));
    unlink(path); /* of a server that died */
    /* The file takes over the descriptor's mode: there is no moment in which others may connect. */
    if (fchmod(fd, 0600) != 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
        err_set(err, ERR_IO, "cannot bind '%s': %s", path, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

static void open_http(struct relay *r, int fd)
{
    struct event_base *base = loop_base(upstream_loop(r->home.up));
    struct evconnlistener *listener = evconnlistener_new(
        base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, LISTEN_BACKLOG, fd);
    r->http = evhttp_new(base);
    BUG_ON(!listener || !r->http || !evhttp_bind_listener(r->http, listener));
    evhttp_set_max_headers_size(r->http, MAX_HEADER);
    evhttp_set_timeout(r->http, IDLE_TIMEOUT_S);
    evhttp_set_gencb(r->http, on_request, r);
    door_init(&r->door, upstream_loop(r->home.up), r->http, listener,
              upstream_request_timeout_ms(r->home.up));
}

struct relay *relay_new(struct upstream *up, const char *socket_path, struct err *err)
{
    int fd = bind_socket(socket_path, err);
    if (fd < 0)
        return NULL;
    struct relay *r = x_calloc(1, sizeof(*r));
    r->tag = RELAY_TAG;
    r->path = x_strdup(socket_path);
    call_home_init(&r->home, up, &r->door);
    metric_register(&refused_total);
    metric_register(&extra_total);
    open_http(r, fd);
    return r;
}

/* A turn may be tried again on another worker: how the first try ended is not how it ends. */
static void forget_last_call(struct relay_turn *turn)
{
    turn->answered = turn->half = false;
    turn->status = turn->retry_after_s = turn->should_retry = 0;
    turn->failure = RELAY_OK;
    turn->stop_reason[0] = turn->upstream_request_id[0] = '\0';
    turn->error_type[0] = turn->error_message[0] = '\0';
    x_replace(&turn->error_json, NULL);
}

void relay_begin_turn(struct relay *r, struct relay_turn *turn)
{
    BUG_ON(r->turn || r->trial || r->home.calls.len);
    r->turn = turn;
    r->home.settled = false;
    forget_last_call(turn);
    if (turn->only_model && turn->only_model[0])
        snprintf(turn->model, sizeof(turn->model), "%s", turn->only_model);
    door_set_open(&r->door, true);
}

void relay_no_more_calls(struct relay *r)
{
    r->home.settled = true;
    if (r->turn)
        r->turn->many = false;
}

void relay_end_turn(struct relay *r)
{
    while (r->home.calls.len)
        call_cut_first(&r->home);
    r->turn = NULL;
    door_set_open(&r->door, r->trial != NULL);
}

void relay_begin_trial(struct relay *r, struct relay_trial *trial)
{
    BUG_ON(r->turn || r->trial || r->home.calls.len || !trial->answer);
    r->trial = trial;
    door_set_open(&r->door, true);
}

void relay_end_trial(struct relay *r)
{
    r->trial = NULL;
    door_set_open(&r->door, r->turn != NULL);
}

void relay_free(struct relay *r)
{
    if (!r)
        return;
    relay_end_turn(r);
    door_close(&r->door);
    evhttp_free(r->http);
    door_release(&r->door);
    unlink(r->path);
    free(r->path);
    free(r);
}
