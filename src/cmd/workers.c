/* workers.c - `claudegate workers`: asks the running server, over the socket in its data
 * directory, for its worker processes, or tells it to retire them.
 *
 * The socket is reached through a descriptor of the data directory: a unix socket's path may have
 * 107 bytes, a data directory's any number. What came from worker processes is printed without
 * control characters, because the reader is a terminal. */
#include "api/control/control.h"
#include "cmd/cmd.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define ANSWER_MAX ((size_t)16 << 20)
#define TIMEOUT_MS 10000L
#define COLUMNS    10

static void usage(FILE *out)
{
    fputs("Usage: claudegate workers [--json] [--config FILE]\n"
          "       claudegate workers drain ID|--all [--json] [--config FILE]\n\n"
          "Shows the worker processes of the server that runs from the configured data_dir.\n\n"
          "  drain          the worker (or all) takes no further turn and ends after the one it\n"
          "                 has; others are started in its place when they are needed\n"
          "  --all          all workers\n"
          "  --json         print the server's answer\n"
          "  --config FILE  the YAML file (default: the variable CLAUDEGATE_CONFIG, or none)\n",
          out);
}

struct options {
    const char *config;
    bool json, all;
};

/* --- asking the server -------------------------------------------------------------------- */

static size_t on_data(char *p, size_t size, size_t n, void *ctx)
{
    struct buf *b = ctx;
    buf_add(b, p, size * n);
    return buf_ok(b) ? size * n : 0;
}

static int explain(const char *data_dir, int os_error, const char *why)
{
    if (os_error == EACCES || os_error == EPERM)
        fprintf(stderr,
                "claudegate: access to the server of data_dir '%s' is refused: ask as the user it "
                "runs as\n",
                data_dir);
    else if (os_error == ENOENT || os_error == ECONNREFUSED || os_error == ENOTDIR)
        fprintf(stderr, "claudegate: no server runs from data_dir '%s'\n", data_dir);
    else
        fprintf(stderr, "claudegate: the server of data_dir '%s' does not answer: %s\n", data_dir,
                why);
    return -1;
}

static void set_options(CURL *curl, const char *socket, const char *path, bool post,
                        struct buf *ret_body)
{
    AUTO(free_charp) char *url = x_printf("http://localhost%s", path);
    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, ret_body);
    if (post) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
    }
}

/* The HTTP status, or -1 after having said why there is none. */
static int exchange(const char *data_dir, const char *path, bool post, struct buf *ret_body)
{
    int dir = open(data_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return explain(data_dir, errno, strerror(errno));
    AUTO(free_charp) char *socket = x_printf("/proc/self/fd/%d/%s", dir, CONTROL_SOCKET);
    long status = -1, os_error = 0;
    CURL *curl = curl_easy_init();
    BUG_ON(!curl);
    set_options(curl, socket, path, post, ret_body);
    CURLcode rc = curl_easy_perform(curl);
    if (rc == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    else if (rc == CURLE_COULDNT_CONNECT)
        curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_error);
    curl_easy_cleanup(curl);
    close(dir);
    return rc == CURLE_OK ? (int)status : explain(data_dir, (int)os_error, curl_easy_strerror(rc));
}

/* --- printing ----------------------------------------------------------------------------- */

/* Without control characters, neither the ASCII ones nor U+0080 to U+009F. */
static void put_visible(struct buf *b, struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.p[i];
        unsigned char next = i + 1 < s.len ? (unsigned char)s.p[i + 1] : 0;
        if (c == 0xC2 && next >= 0x80 && next < 0xA0)
            i++;
        else
            buf_addc(b, c < 0x20 || c == 0x7F ? ' ' : s.p[i]);
    }
}

static char *visible(struct str s)
{
    struct buf b;
    buf_init(&b, s.len + 1);
    buf_adds(&b, "");
    put_visible(&b, s);
    return buf_take(&b);
}

static char *duration(double seconds)
{
    int64_t s = (int64_t)seconds;
    if (s < 60)
        return x_printf("%.1fs", seconds);
    if (s < 3600)
        return x_printf("%dm%02ds", (int)(s / 60), (int)(s % 60));
    if (s < 86400)
        return x_printf("%dh%02dm", (int)(s / 3600), (int)(s % 3600 / 60));
    return x_printf("%lldd%02dh", (long long)(s / 86400), (int)(s % 86400 / 3600));
}

static char *text_or_dash(const json_t *obj, const char *key)
{
    struct str s = json_get_str(obj, key);
    return s.len ? visible(s) : x_strdup("-");
}

static char *state_of(const json_t *w)
{
    AUTO(free_charp) char *state = visible(json_get_str(w, "state"));
    bool more = json_get_bool(w, "draining", false) && strcmp(state, "ending") != 0;
    return x_printf("%s%s", state, more ? ", draining" : "");
}

static double seconds_of(const json_t *obj, const char *key)
{
    return json_number_value(json_object_get(obj, key));
}

static const struct {
    const char *title;
    bool right;
} columns[COLUMNS] = {{"ID", true},   {"PID", true},     {"STATE", false}, {"PROFILE", false},
                      {"KEY", false}, {"AGE", true},     {"TURNS", true},  {"RSS", true},
                      {"CPU", true},  {"REQUEST", false}};

static void fill_row(const json_t *w, char *cells[COLUMNS])
{
    cells[0] = x_printf("%lld", (long long)json_get_int(w, "id", 0));
    cells[1] = x_printf("%lld", (long long)json_get_int(w, "pid", 0));
    cells[2] = state_of(w);
    cells[3] = text_or_dash(w, "profile");
    cells[4] = text_or_dash(w, "keyId");
    cells[5] = duration(seconds_of(w, "ageSeconds"));
    cells[6] = x_printf("%lld", (long long)json_get_int(w, "turns", 0));
    cells[7] = x_printf("%lld MiB", (long long)(json_get_int(w, "rssBytes", 0) >> 20));
    cells[8] = duration(seconds_of(w, "cpuSeconds"));
    cells[9] = text_or_dash(w, "requestId");
}

static void print_row(char *const cells[COLUMNS], const int widths[COLUMNS])
{
    struct buf b AUTO(buf_release);
    buf_init(&b, 65536);
    for (size_t i = 0; i < COLUMNS; i++)
        buf_printf(&b, columns[i].right ? "%s%*s" : "%s%-*s", i ? "  " : "", widths[i], cells[i]);
    while (b.len && b.data[b.len - 1] == ' ')
        b.len--;
    printf("%.*s\n", (int)b.len, b.data);
}

/* Why it ends is often the last thing that it said. */
static void print_last_words(const json_t *w)
{
    struct str all = json_get_str(w, "stderr"), last = {0};
    if (!str_eq_c(json_get_str(w, "state"), "ending"))
        return;
    while (all.len) {
        struct str line = str_trim(str_split(&all, '\n'));
        last = line.len ? line : last;
    }
    AUTO(free_charp) char *text = visible(last);
    if (text[0])
        printf("    stderr: %s\n", text);
}

static void print_table(const json_t *workers)
{
    size_t n = json_array_size(workers);
    char *(*rows)[COLUMNS] = x_calloc(n + 1, sizeof(*rows));
    int widths[COLUMNS] = {0};
    for (size_t i = 0; i < COLUMNS; i++)
        rows[0][i] = x_strdup(columns[i].title);
    for (size_t r = 0; r <= n; r++) {
        if (r > 0)
            fill_row(json_array_get(workers, r - 1), rows[r]);
        for (size_t i = 0; i < COLUMNS; i++) {
            int len = (int)strlen(rows[r][i]);
            widths[i] = len > widths[i] ? len : widths[i];
        }
    }
    for (size_t r = 0; r <= n; r++) {
        print_row(rows[r], widths);
        if (r > 0)
            print_last_words(json_array_get(workers, r - 1));
        for (size_t i = 0; i < COLUMNS; i++)
            free(rows[r][i]);
    }
    free(rows);
}

static void print_summary(const json_t *answer)
{
    static const char *const states[] = {"starting", "spare", "idle", "busy", "ending"};
    const json_t *pool = json_object_get(answer, "pool");
    struct buf b AUTO(buf_release);
    int64_t failures = json_get_int(pool, "startFailuresInRow", 0);
    buf_init(&b, 65536);
    size_t count = json_array_size(json_object_get(answer, "workers"));
    buf_printf(&b, "%zu worker%s:", count, count == 1 ? "" : "s");
    for (size_t i = 0; i < ARRAY_SIZE(states); i++)
        buf_printf(&b, "%s %lld %s", i ? "," : "", (long long)json_get_int(pool, states[i], 0),
                   states[i]);
    buf_printf(&b, "; %lld turns waiting; %lld started so far; history: ",
               (long long)json_get_int(json_object_get(answer, "queue"), "length", 0),
               (long long)json_get_int(pool, "starts", 0));
    put_visible(&b, json_get_str(pool, "history"));
    if (failures > 0) {
        buf_printf(&b, "; %lld starts failed in a row, next in %.1fs: ", (long long)failures,
                   seconds_of(pool, "breakerOpenSeconds"));
        put_visible(&b, str_trim(json_get_str(pool, "lastStartError")));
    }
    puts(buf_cstr(&b));
}

/* --- the command -------------------------------------------------------------------------- */

static int print_list(const json_t *answer)
{
    print_table(json_object_get(answer, "workers"));
    print_summary(answer);
    return 0;
}

static int print_draining(const json_t *answer, const char *id)
{
    long long n = json_get_int(answer, "draining", 0);
    if (id)
        printf("Worker %s takes no further turn and ends after the one it has.\n", id);
    else if (n == 1)
        puts("1 worker takes no further turn and ends after the one it has.");
    else
        printf("%lld workers take no further turn and end after the one they have.\n", n);
    return 0;
}

static int print_failure(int status, const json_t *answer, const char *id)
{
    if (status == 404 && id) {
        fprintf(stderr, "claudegate: there is no worker %s\n", id);
    } else if (!answer) {
        fprintf(stderr, "claudegate: the server answered %d, and not with JSON\n", status);
    } else {
        AUTO(free_charp) char *text = visible(json_get_str(answer, "error"));
        fprintf(stderr, "claudegate: the server answered %d: %s\n", status, text);
    }
    return 1;
}

/* drain: this worker, or all when id is NULL. */
static int ask(const struct options *o, bool drain, const char *id)
{
    struct buf body AUTO(buf_release);
    struct err err;
    struct conf *conf = cmd_load_conf(o->config);
    if (!conf)
        return 1;
    AUTO(free_charp)
    char *path =
        x_printf("/control/workers%s%s%s", id ? "/" : "", id ? id : "", drain ? "/drain" : "");
    buf_init(&body, ANSWER_MAX);
    int status = exchange(conf->data_dir, path, drain, &body);
    conf_free(conf);
    if (status < 0)
        return 1;
    AUTO(json_unref_p) json_t *answer = json_parse(buf_str(&body), &err);
    if (status != 200 || !answer)
        return print_failure(status, answer, id);
    if (o->json) {
        puts(buf_cstr(&body));
        return 0;
    }
    return drain ? print_draining(answer, id) : print_list(answer);
}

static bool is_worker_id(const char *text)
{
    uint64_t id;
    return strlen(text) <= 10 && str_to_u64(str_c(text), &id);
}

int cmd_workers(int argc, char **argv)
{
    struct options o = {0};
    const struct cmd_option options[] = {{"json", 'j', NULL, &o.json},
                                         {"all", 'a', NULL, &o.all},
                                         {"config", 'c', &o.config, NULL},
                                         {0}};
    int rc = cmd_options(argc, argv, options, 0, 2, usage);
    if (rc != CMD_GO_ON)
        return rc;
    int operands = argc - optind;
    bool drain = operands > 0 && strcmp(argv[optind], "drain") == 0;
    const char *id = operands == 2 ? argv[optind + 1] : NULL;
    bool good = drain ? (id ? !o.all && is_worker_id(id) : o.all) : operands == 0 && !o.all;
    if (!good) {
        usage(stderr);
        return 2;
    }
    return ask(&o, drain, id);
}
