/* client.c - see the header.
 *
 * libcurl asks for descriptors and one timer to be watched (socket_cb, timer_cb); what happens
 * there goes back in through curl_multi_socket_action(), after which finished transfers are
 * collected. libcurl's own callbacks never remove a transfer: it forbids that.
 *
 * Each exchange has one deadline timer for the phase it is in: sending (re-armed by progress),
 * waiting for the response's head, receiving (re-armed by bytes, stopped while paused). Only the
 * connection phase is timed by libcurl. Timers and handles die at once when an exchange ends, its
 * memory on the next turn of the loop. */
#include "upstream/client.h"

#include "core/clock.h"
#include "core/list.h"
#include "core/log.h"
#include "upstream/policy.h"

#include <curl/curl.h>
#include <event2/event.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/socket.h>

#define UPSTREAM_TAG TAG4('u', 'p', 's', 't')
#define EXCHANGE_TAG TAG4('x', 'c', 'h', 'g')

#define MAX_IDLE_CONNECTIONS 256L
#define UPLOAD_BUFFER        (512L << 10)
#define READ_BUFFER          2048L /* events are short, and each stream has one */
#define LET_GO_MS            1000
#define RETRY_BASE_MS        500

struct upstream {
    uint32_t tag;
    struct loop *loop;
    CURLM *multi;
    CURLSH *share; /* TLS sessions */
    struct timer timer;
    struct list exchanges;
    struct targets *targets;
    char *ca_file, *proxy; /* proxy: secret */
    bool proxy_is_near;    /* on this machine */
    bool http2;
    int64_t connect_ms, first_byte_ms, idle_ms, retry_base_ms, request_ms;
    int max_retries;
};

enum phase { PHASE_CONNECTING, PHASE_SENDING, PHASE_WAITING, PHASE_RECEIVING };

struct exchange {
    uint32_t tag;
    struct node node;
    struct upstream *up;
    CURL *easy;
    const struct exchange_ops *ops; /* NULL: nobody is told any more */
    void *ctx;
    struct curl_slist *headers;
    struct attempt attempt;
    int retry_after_s;
    struct timer deadline;
    enum phase phase;
    curl_off_t uploaded, upload_size;
    int64_t idle_ms;
    bool paused;
    bool head_told;
    bool given;    /* to a connection: once only */
    bool hurried;  /* how it ends says nothing about the target */
    bool by_proxy; /* the answer is the proxy's own */
    char error[CURL_ERROR_SIZE];
};

/* --- libcurl's multi interface on the loop ------------------------------------------------- */

static void exchange_finish(struct exchange *ex, const struct exchange_end *end);

/* 502 and its kin say that the proxy could not get through: like no connection. */
static bool is_proxys_answer(const struct exchange *ex)
{
    long status = 0;
    curl_easy_getinfo(ex->easy, CURLINFO_HTTP_CONNECTCODE, &status);
    return ex->by_proxy || (status >= 400 && status < 500);
}

static void collect(struct upstream *up)
{
    CURLMsg *msg;
    int left;
    while ((msg = curl_multi_info_read(up->multi, &left))) {
        struct exchange *ex;
        if (msg->msg != CURLMSG_DONE)
            continue;
        BUG_ON(curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&ex) != CURLE_OK);
        CURLcode rc = msg->data.result;
        struct exchange_end end = {
            .result = rc == CURLE_OK              ? EXCHANGE_DONE
                      : ex->head_told             ? EXCHANGE_CUT
                      : rc == CURLE_URL_MALFORMAT ? EXCHANGE_BAD
                                                  : EXCHANGE_NO_ANSWER,
            .timed_out = rc == CURLE_OPERATION_TIMEDOUT,
            .connected = ex->phase > PHASE_CONNECTING,
            .untrusted = rc == CURLE_PEER_FAILED_VERIFICATION,
            .by_proxy = rc != CURLE_OK && is_proxys_answer(ex),
            .why = ex->by_proxy   ? "the proxy refused: HTTP 407"
                   : ex->error[0] ? ex->error
                                  : curl_easy_strerror(rc),
        };
        exchange_finish(ex, &end);
    }
}

static void drive(struct upstream *up, curl_socket_t fd, int mask)
{
    int running;
    curl_multi_socket_action(up->multi, fd, mask, &running);
    collect(up);
}

static void on_socket(evutil_socket_t fd, short what, void *ctx)
{
    /* Not through the watch: libcurl may drop it meanwhile. */
    struct upstream *up = OBJ(ctx, struct upstream, UPSTREAM_TAG);
    drive(up, fd,
          (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static void on_timer(void *ctx)
{
    drive(OBJ(ctx, struct upstream, UPSTREAM_TAG), CURL_SOCKET_TIMEOUT, 0);
}

static int socket_cb(CURL *easy, curl_socket_t fd, int what, void *ctx, void *old)
{
    struct upstream *up = OBJ(ctx, struct upstream, UPSTREAM_TAG);
    struct event *ev = old;
    (void)easy;
    if (ev)
        event_free(ev); /* the descriptor may be closed next: it must be out of the loop now */
    if (what == CURL_POLL_REMOVE)
        return 0;
    short flags = (short)((what & CURL_POLL_IN ? EV_READ : 0) |
                          (what & CURL_POLL_OUT ? EV_WRITE : 0) | EV_PERSIST);
    ev = event_new(loop_base(up->loop), fd, flags, on_socket, up);
    BUG_ON(!ev || event_add(ev, NULL) != 0);
    curl_multi_assign(up->multi, fd, ev);
    return 0;
}

static int timer_cb(CURLM *multi, long ms, void *ctx)
{
    struct upstream *up = OBJ(ctx, struct upstream, UPSTREAM_TAG);
    (void)multi;
    if (ms < 0)
        timer_stop(&up->timer);
    else
        timer_set(&up->timer, ms);
    return 0;
}

static curl_socket_t open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *a)
{
    (void)ctx;
    (void)purpose;
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* --- the shared part ----------------------------------------------------------------------- */

static void free_secret(char *s)
{
    if (s)
        sodium_memzero(s, strlen(s));
    free(s);
}

static void open_multi(struct upstream *up)
{
    BUG_ON(curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK);
    up->multi = curl_multi_init();
    up->share = curl_share_init();
    BUG_ON(!up->multi || !up->share);
    curl_share_setopt(up->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    curl_multi_setopt(up->multi, CURLMOPT_SOCKETFUNCTION, socket_cb);
    curl_multi_setopt(up->multi, CURLMOPT_SOCKETDATA, up);
    curl_multi_setopt(up->multi, CURLMOPT_TIMERFUNCTION, timer_cb);
    curl_multi_setopt(up->multi, CURLMOPT_TIMERDATA, up);
    curl_multi_setopt(up->multi, CURLMOPT_MAXCONNECTS, MAX_IDLE_CONNECTIONS);
    /* One request at a time on a connection, with HTTP/2 as well: see exchange_drop(). */
    curl_multi_setopt(up->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
}

static int set_proxy(struct upstream *up, const char *text, struct err *err)
{
    char *host = NULL;
    CURLU *url = curl_url();
    if (!text || !text[0]) {
        curl_url_cleanup(url);
        return 0;
    }
    int rc = 0;
    up->proxy = x_strdup(text);
    if (curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK ||
        curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK)
        rc = err_set(err, ERR_CONFIG, "the proxy is not given as a URL");
    else
        up->proxy_is_near = host_is_loopback(host);
    curl_free(host);
    curl_url_cleanup(url);
    return rc;
}

static int check_http2(const struct upstream *up, struct err *err)
{
    if (!up->http2 || curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_HTTP2)
        return 0;
    return err_set(err, ERR_CONFIG, "this libcurl does not know HTTP/2");
}

struct upstream *upstream_new(struct loop *loop, const struct upstream_opts *opts, struct err *err)
{
    struct upstream *up = x_calloc(1, sizeof(*up));
    up->tag = UPSTREAM_TAG;
    up->loop = loop;
    list_init(&up->exchanges);
    timer_init(&up->timer, loop, on_timer, up);
    up->connect_ms = opts->connect_timeout_ms;
    up->first_byte_ms = opts->first_byte_timeout_ms;
    up->idle_ms = opts->idle_timeout_ms;
    up->max_retries = opts->max_retries;
    up->request_ms = opts->request_timeout_ms;
    up->retry_base_ms = opts->retry_base_ms ? opts->retry_base_ms : RETRY_BASE_MS;
    up->http2 = opts->http2;
    if (opts->ca_file && opts->ca_file[0])
        up->ca_file = x_strdup(opts->ca_file);
    open_multi(up);
    if (set_proxy(up, opts->proxy, err) != 0 || check_http2(up, err) != 0 ||
        !(up->targets = targets_new(opts->targets, opts->target_count, err))) {
        upstream_free(up);
        return NULL;
    }
    return up;
}

void upstream_free(struct upstream *up)
{
    if (!up)
        return;
    LIST_EACH(&up->exchanges, n)
    {
        struct exchange *ex = container_of(n, struct exchange, node);
        BUG_ON(ex->ops); /* a relay still lives */
        exchange_abort(ex);
    }
    curl_multi_cleanup(up->multi);
    curl_share_cleanup(up->share);
    curl_global_cleanup();
    timer_release(&up->timer);
    targets_free(up->targets);
    free_secret(up->proxy);
    free(up->ca_file);
    free(up);
}

struct targets *upstream_targets(const struct upstream *up)
{
    return up->targets;
}

struct loop *upstream_loop(const struct upstream *up)
{
    return up->loop;
}

int upstream_max_retries(const struct upstream *up)
{
    return up->max_retries;
}

int64_t upstream_request_timeout_ms(const struct upstream *up)
{
    return up->request_ms;
}

int64_t upstream_retry_base_ms(const struct upstream *up)
{
    return up->retry_base_ms;
}

/* --- one exchange -------------------------------------------------------------------------- */

static void free_exchange(void *ctx)
{
    free(OBJ(ctx, struct exchange, EXCHANGE_TAG));
}

/* A transfer that is not over takes its connection with it. Without that, HTTP/2 would keep it, and
 * libcurl 7.88 sends the RST_STREAM only with the next request there: until then the model would go
 * on writing. */
static void exchange_drop(struct exchange *ex)
{
    attempt_over(&ex->attempt);
    curl_easy_setopt(ex->easy, CURLOPT_FORBID_REUSE, 1L);
    curl_multi_remove_handle(ex->up->multi, ex->easy);
    curl_easy_cleanup(ex->easy);
    for (struct curl_slist *h = ex->headers; h; h = h->next)
        sodium_memzero(h->data, strlen(h->data));
    curl_slist_free_all(ex->headers);
    timer_release(&ex->deadline);
    list_remove(&ex->up->exchanges, &ex->node);
    ex->ops = NULL;
    loop_defer(ex->up->loop, free_exchange, ex);
}

static void exchange_finish(struct exchange *ex, const struct exchange_end *end)
{
    const struct exchange_ops *ops = ex->ops;
    bool broke = end->result == EXCHANGE_NO_ANSWER || end->result == EXCHANGE_CUT;
    if (broke && ops && !ex->hurried && !end->by_proxy)
        attempt_failed(&ex->attempt, clock_mono_ms());
    exchange_drop(ex); /* end->why stays valid: the memory goes on the next turn of the loop */
    if (ops)
        ops->end(ex->ctx, end);
}

void exchange_abort(struct exchange *ex)
{
    exchange_drop(OBJ(ex, struct exchange, EXCHANGE_TAG));
}

static void enter(struct exchange *ex, enum phase phase)
{
    int64_t ms = phase == PHASE_WAITING ? ex->up->first_byte_ms : ex->idle_ms;
    ex->phase = phase;
    timer_set(&ex->deadline, ms);
}

static void on_deadline(void *ctx)
{
    struct exchange *ex = OBJ(ctx, struct exchange, EXCHANGE_TAG);
    struct exchange_end end = {
        .result = ex->head_told ? EXCHANGE_CUT : EXCHANGE_NO_ANSWER,
        .timed_out = true,
        .connected = ex->phase > PHASE_CONNECTING,
        .why = ex->phase == PHASE_CONNECTING ? "no connection in time"
               : ex->phase == PHASE_SENDING  ? "the request was not taken in time"
               : ex->phase == PHASE_WAITING  ? "no response in time"
                                             : "the response fell silent",
    };
    exchange_finish(ex, &end);
}

/* A connection has been found. libcurl would give the request to a second one, behind our back,
 * when a kept connection breaks before the first byte of an answer; but the first may have been
 * heard. */
static int on_connection(void *ctx, char *peer, char *local, int peer_port, int local_port)
{
    struct exchange *ex = OBJ(ctx, struct exchange, EXCHANGE_TAG);
    (void)peer;
    (void)local;
    (void)peer_port;
    (void)local_port;
    if (ex->given) {
        snprintf(ex->error, sizeof(ex->error), "the connection broke before an answer");
        return CURL_PREREQFUNC_ABORT;
    }
    ex->given = true;
    return CURL_PREREQFUNC_OK;
}

static int on_progress(void *ctx, curl_off_t dl_total, curl_off_t dl, curl_off_t ul_total,
                       curl_off_t ul)
{
    struct exchange *ex = OBJ(ctx, struct exchange, EXCHANGE_TAG);
    (void)dl_total;
    (void)dl;
    (void)ul_total;
    if (ul == ex->uploaded)
        return 0;
    ex->uploaded = ul;
    if (ex->phase <= PHASE_SENDING)
        enter(ex, ul >= ex->upload_size ? PHASE_WAITING : PHASE_SENDING);
    return 0;
}

void exchange_judge(struct exchange *ex, int status)
{
    attempt_answered(&ex->attempt, status, ex->retry_after_s, clock_mono_ms());
}

static void note_header(struct exchange *ex, struct str name, struct str value)
{
    if (!str_ieq_c(name, "retry-after"))
        return;
    AUTO(free_charp) char *text = str_dup(value);
    ex->retry_after_s = policy_retry_after(text);
}

static void on_head_end(struct exchange *ex)
{
    long status = 0;
    curl_easy_getinfo(ex->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200)
        return;          /* an interim response: the real one follows */
    if (status == 407) { /* never the API's */
        ex->by_proxy = true;
        return;
    }
    exchange_judge(ex, (int)status);
    ex->head_told = true;
    if (ex->ops)
        ex->ops->head(ex->ctx, (int)status);
}

static size_t on_header(char *p, size_t size, size_t count, void *ctx)
{
    struct exchange *ex = OBJ(ctx, struct exchange, EXCHANGE_TAG);
    struct str line = str_n(p, size * count);
    while (line.len && (line.p[line.len - 1] == '\n' || line.p[line.len - 1] == '\r'))
        line.len--;
    if (ex->head_told)
        return size * count; /* a trailer */
    enter(ex, PHASE_RECEIVING);
    if (line.len == 0) {
        on_head_end(ex);
    } else if (memchr(line.p, ':', line.len)) {
        struct str name = str_split(&line, ':');
        note_header(ex, name, str_trim(line));
        if (ex->ops)
            ex->ops->header(ex->ctx, name, str_trim(line));
    }
    return ex->by_proxy ? 0 : size * count; /* 0 ends the transfer */
}

static size_t on_body(char *p, size_t size, size_t count, void *ctx)
{
    struct exchange *ex = OBJ(ctx, struct exchange, EXCHANGE_TAG);
    if (!ex->ops)
        return size * count; /* let go: the timer set then stays */
    if (!ex->ops->body(ex->ctx, str_n(p, size * count))) {
        ex->paused = true;
        timer_stop(&ex->deadline);
        return CURL_WRITEFUNC_PAUSE;
    }
    enter(ex, PHASE_RECEIVING);
    return size * count;
}

void exchange_resume(struct exchange *ex)
{
    if (!ex->paused)
        return;
    ex->paused = false;
    enter(ex, PHASE_RECEIVING);
    curl_easy_pause(ex->easy, CURLPAUSE_CONT); /* may call on_body() at once */
}

void exchange_hurry(struct exchange *ex, int64_t ms)
{
    ex->hurried = true;
    if (ms < ex->idle_ms)
        ex->idle_ms = ms;
    if (!ex->paused)
        timer_set(&ex->deadline, ex->idle_ms);
}

bool exchange_is_sent(const struct exchange *ex)
{
    return ex->phase > PHASE_CONNECTING;
}

void exchange_let_go(struct exchange *ex)
{
    if (ex->uploaded < ex->upload_size) { /* the body is the caller's, and still needed */
        exchange_abort(ex);
        return;
    }
    ex->ops = NULL;
    exchange_resume(ex);
    timer_set(&ex->deadline, LET_GO_MS);
}

static void add_header(struct exchange *ex, const char *line)
{
    struct curl_slist *more = curl_slist_append(ex->headers, line);
    BUG_ON(!more);
    ex->headers = more;
}

static void set_headers(struct exchange *ex, const struct exchange_req *req)
{
    for (size_t i = 0; i < req->header_count; i++) {
        const struct str *h = req->headers[i];
        AUTO(free_charp)
        char *line = x_printf("%.*s: %.*s", (int)h[0].len, h[0].p, (int)h[1].len, h[1].p);
        add_header(ex, line);
    }
    /* The events must be readable here. No 100-continue: it costs a round trip. */
    add_header(ex, "accept-encoding: identity");
    add_header(ex, "accept: application/json");
    add_header(ex, "expect:");
    if (ex->attempt.target->credential)
        add_header(ex, ex->attempt.target->credential);
    curl_easy_setopt(ex->easy, CURLOPT_HTTPHEADER, ex->headers);
    curl_easy_setopt(ex->easy, CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE); /* not to the proxy */
}

static void use_proxy(struct exchange *ex)
{
    const struct upstream *up = ex->up;
    bool near = ex->attempt.target->loopback;
    curl_easy_setopt(ex->easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    if (near && !(up->proxy && up->proxy_is_near)) {
        curl_easy_setopt(ex->easy, CURLOPT_NOPROXY, "*");
    } else if (up->proxy) {
        curl_easy_setopt(ex->easy, CURLOPT_PROXY, up->proxy);
        curl_easy_setopt(ex->easy, CURLOPT_NOPROXY, ""); /* not the variable's */
    }
}

static void set_connection(struct exchange *ex)
{
    const struct upstream *up = ex->up;
    CURL *easy = ex->easy;
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_SHARE, up->share);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                     (long)(up->http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)up->connect_ms);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, READ_BUFFER);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    if (up->ca_file) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, up->ca_file);
        curl_easy_setopt(easy, CURLOPT_PROXY_CAINFO, up->ca_file);
    }
    use_proxy(ex);
}

static void set_callbacks(struct exchange *ex)
{
    CURL *easy = ex->easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, ex);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, ex->error);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, ex);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, ex);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, ex);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connection);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, ex);
}

struct exchange *exchange_start(struct upstream *up, const struct exchange_req *req,
                                const struct exchange_ops *ops, void *ctx)
{
    struct exchange *ex = x_calloc(1, sizeof(*ex));
    AUTO(free_charp) char *url = x_printf("%s%s", req->target->base_url, req->path);
    *ex = (struct exchange){.tag = EXCHANGE_TAG, .up = up, .ops = ops, .ctx = ctx};
    attempt_begin(&ex->attempt, req->target, clock_mono_ms());
    ex->idle_ms = up->idle_ms;
    ex->upload_size = (curl_off_t)req->body.len;
    ex->easy = curl_easy_init();
    BUG_ON(!ex->easy);
    timer_init(&ex->deadline, up->loop, on_deadline, ex);
    /* A safety net only: libcurl times the connection phase. */
    timer_set(&ex->deadline, up->connect_ms + up->first_byte_ms);
    list_push_back(&up->exchanges, &ex->node);
    set_connection(ex);
    set_callbacks(ex);
    set_headers(ex, req);
    curl_easy_setopt(ex->easy, CURLOPT_URL, url);
    curl_easy_setopt(ex->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(ex->easy, CURLOPT_POSTFIELDSIZE_LARGE, ex->upload_size);
    if (ex->upload_size > UPLOAD_BUFFER / 8) /* fewer rounds for bodies with images in them */
        curl_easy_setopt(ex->easy, CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BUFFER);
    curl_easy_setopt(ex->easy, CURLOPT_POSTFIELDS, req->body.p ? req->body.p : "");
    if (req->get)
        curl_easy_setopt(ex->easy, CURLOPT_HTTPGET, 1L);
    BUG_ON(curl_multi_add_handle(up->multi, ex->easy) != CURLM_OK);
    return ex;
}
