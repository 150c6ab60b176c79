/* transcript.c - what is known of the program's transcripts (2.1.197, found by reading the files it
 * writes and by resuming ones written by hand):
 *
 * - Place: $HOME/.claude/projects/<slug>/<session id>.jsonl, mode 0600. The slug is the working
 *   directory, links resolved, with every UTF-16 unit but [A-Za-z0-9] replaced by '-'; over 200
 *   units it is cut and gets a hash, which is not done here: such a directory is refused.
 *   Elsewhere the file is not found: "No conversation found with session ID", exit 1. So it is for
 *   a file without a message, or an id that is no UUID. A HOME that holds nothing else is fine.
 * - One JSON object per line: type user or assistant, the API's message, uuid, and parentUuid, the
 *   uuid of the line before (null in the first): the chain counts, not the order in the file.
 *   A user message is kept as it came in, with the empty text block that ends it; with that, text
 *   is neither run as a command nor searched for "@path", and reaches the API byte by byte. An
 *   assistant message may be written whole, in one line, under an id that no other has.
 * - --resume goes together with --no-session-persistence (the file is then only read), with
 *   --model, and with all we send over stdin; the session keeps its id. Nothing is on stdout before
 *   the first answer to us, and the start takes no longer. set_model and history lines work on it;
 *   a boundary hides it like any other history.
 * - A conversation that ends with a user message counts as interrupted: "No response requested."
 *   is put behind it as an assistant's message, and "Continue from where you left off." before
 *   that if it held tool results. Neither is done when a line of a failed API call follows, which
 *   itself is never sent; and, for tool results, when their line is marked as not typed (isMeta).
 * - Tool calls without a result at the end are dropped. A result that stands in the transcript and
 *   again in the next question is sent once. An assistant message of white space or of thinking
 *   alone is dropped. */
#include "cli/transcript.h"

#include "cli/protocol.h"
#include "core/clock.h"
#include "core/id.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_SIZE ((size_t)96 << 20)
#define SLUG_MAX      200

struct writer {
    int fd;
    const char *cwd, *session_id, *model;
    char parent[ID_UUID_SIZE]; /* of the next line; "" = none */
    int64_t time_ms;           /* of the next line */
    struct buf line;
};

/* --- lines ------------------------------------------------------------------------------- */

static void begin_line(struct writer *w)
{
    buf_clear(&w->line);
    buf_adds(&w->line, "{\"parentUuid\":");
    if (w->parent[0])
        buf_json_str(&w->line, str_c(w->parent));
    else
        buf_adds(&w->line, "null");
    buf_adds(&w->line, ",\"isSidechain\":false,\"message\":");
}

/* flags: further members, as JSON text with a comma after each. */
static int end_line(struct writer *w, const char *type, const char *flags, struct err *err)
{
    char when[CLOCK_RFC3339_SIZE];
    struct buf *b = &w->line;
    buf_printf(b, ",\"type\":\"%s\",%s\"uuid\":\"%s\",\"timestamp\":\"%s\"", type, flags,
               id_uuid(w->parent), clock_rfc3339(w->time_ms++, when));
    buf_adds(b, ",\"userType\":\"external\",\"entrypoint\":\"sdk-cli\",\"cwd\":");
    buf_json_str(b, str_c(w->cwd));
    buf_printf(b, ",\"sessionId\":\"%s\",\"version\":\"" CLI_VERSION_PINNED "\"}\n", w->session_id);
    if (!buf_ok(b))
        return err_set(err, ERR_TOO_LARGE, "a message is larger than a transcript can take");
    for (size_t done = 0; done < b->len;) {
        ssize_t n = write(w->fd, b->data + done, b->len - done);
        if (n < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "cannot write a transcript: %s", strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int write_user(struct writer *w, const json_t *content, const char *flags, struct err *err)
{
    begin_line(w);
    buf_adds(&w->line, "{\"role\":\"user\",\"content\":[");
    for (size_t i = 0; i < json_array_size(content); i++) {
        json_write(&w->line, json_array_get(content, i));
        buf_addc(&w->line, ',');
    }
    buf_adds(&w->line, "{\"type\":\"text\",\"text\":\"\"}]}");
    return end_line(w, "user", flags, err);
}

static int write_assistant(struct writer *w, const char *model, const json_t *content,
                           const char *flags, struct err *err)
{
    char id[ID_UUID_SIZE];
    begin_line(w);
    buf_printf(&w->line,
               "{\"id\":\"msg_h_%s\",\"type\":\"message\",\"role\":\"assistant\","
               "\"model\":",
               id_uuid(id));
    buf_json_str(&w->line, str_c(model));
    buf_adds(&w->line, ",\"content\":");
    json_write(&w->line, content);
    buf_adds(&w->line, ",\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":0,"
                       "\"output_tokens\":0}}");
    return end_line(w, "assistant", flags, err);
}

/* What the program writes when a call to the API failed, and never sends. */
static int write_failed_call(struct writer *w, struct err *err)
{
    json_t *content = json_pack("[{s:s,s:s}]", "type", "text", "text", "API Error");
    int rc = write_assistant(w, "<synthetic>", content, "\"isApiErrorMessage\":true,", err);
    json_decref(content);
    return rc;
}

/* --- the conversation -------------------------------------------------------------------- */

static bool is_role(const json_t *message, const char *role)
{
    return str_eq_c(json_get_str(message, "role"), role);
}

static json_t *blocks_of_type(const json_t *content, const char *type)
{
    json_t *found = json_array();
    for (size_t i = 0; i < json_array_size(content); i++) {
        json_t *block = json_array_get(content, i);
        if (str_eq_c(json_get_str(block, "type"), type))
            json_array_append(found, block);
    }
    return found;
}

static int write_message(struct writer *w, const json_t *message, bool last, struct err *err)
{
    const json_t *content = json_object_get(message, "content");
    if (!json_is_array(content))
        return err_set(err, ERR_INVALID, "a message of the history has no array of blocks");
    if (is_role(message, "assistant"))
        return write_assistant(w, w->model, content, "", err);
    AUTO(json_unref_p) json_t *results = blocks_of_type(content, "tool_result");
    return write_user(w, content, last && json_array_size(results) ? "\"isMeta\":true," : "", err);
}

/* What has to follow the last message so that it stays the last one. */
static int write_end(struct writer *w, const json_t *last, const json_t *next, struct err *err)
{
    AUTO(json_unref_p) json_t *calls = blocks_of_type(json_object_get(last, "content"), "tool_use");
    AUTO(json_unref_p) json_t *results = blocks_of_type(next, "tool_result");
    if (is_role(last, "assistant")) {
        if (json_array_size(calls) == 0)
            return 0;
        if (json_array_size(results) == 0)
            return err_set(err, ERR_INVALID,
                           "the history ends with tool calls that have no "
                           "results");
        if (write_user(w, results, "\"isMeta\":true,", err) != 0)
            return -1;
    }
    return write_failed_call(w, err);
}

static int write_all(struct writer *w, const json_t *history, const json_t *next, struct err *err)
{
    size_t n = json_array_size(history);
    for (size_t i = 0; i < n; i++) {
        if (write_message(w, json_array_get(history, i), i + 1 == n, err) != 0)
            return -1;
    }
    return write_end(w, json_array_get(history, n - 1), next, err);
}

/* --- the file ---------------------------------------------------------------------------- */

/* NULL when it would be too long. Owned by the caller. */
static char *slug_of(const char *cwd)
{
    char *slug = x_malloc(SLUG_MAX + 1);
    size_t n = 0;
    for (const char *p = cwd; *p; p++) {
        unsigned char c = (unsigned char)*p;
        bool keep = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        size_t units = (c & 0xC0) == 0x80 ? 0 : c >= 0xF0 ? 2 : 1; /* UTF-16 counts */
        for (; units > 0; units--) {
            if (n == SLUG_MAX) {
                free(slug);
                return NULL;
            }
            slug[n++] = keep ? (char)c : '-';
        }
    }
    slug[n] = '\0';
    return slug;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* Makes and opens directory `name` in *fd, which it replaces. Links are not followed. */
static int descend(int *fd, const char *name, struct err *err)
{
    if (mkdirat(*fd, name, 0700) != 0 && errno != EEXIST)
        return err_set(err, ERR_IO, "cannot make directory '%s': %s", name, strerror(errno));
    int below = openat(*fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (below < 0)
        return err_set(err, ERR_IO, "cannot open directory '%s': %s", name, strerror(errno));
    close(*fd);
    *fd = below;
    return 0;
}

static int open_file(const char *home, const char *slug, const char *session_id, struct err *err)
{
    AUTO(close_fd) int dir = open(home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AUTO(free_charp) char *name = x_printf("%s.jsonl", session_id);
    if (dir < 0)
        return err_set(err, ERR_IO, "cannot open '%s': %s", home, strerror(errno));
    if (descend(&dir, ".claude", err) != 0 || descend(&dir, "projects", err) != 0 ||
        descend(&dir, slug, err) != 0)
        return -1;
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot make '%s': %s", name, strerror(errno));
    return fd;
}

static bool is_uuid(struct str id)
{
    for (size_t i = 0; i < id.len; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        bool hex = (id.p[i] >= '0' && id.p[i] <= '9') || (id.p[i] >= 'a' && id.p[i] <= 'f');
        if (dash ? id.p[i] != '-' : !hex)
            return false;
    }
    return id.len == ID_UUID_SIZE - 1;
}

int cli_write_transcript(const char *home, const char *cwd, const char *session_id,
                         const char *model, const json_t *history, const json_t *next,
                         struct err *err)
{
    if (!is_uuid(str_c(session_id)) || json_array_size(history) == 0)
        return err_set(err, ERR_INVALID, "a transcript needs a UUID and a message");
    AUTO(free_charp) char *slug = slug_of(cwd);
    if (!slug)
        return err_set(err, ERR_CONFIG, "the path of the working directory is too long: %s", cwd);
    AUTO(close_fd) int fd = open_file(home, slug, session_id, err);
    if (fd < 0)
        return -1;
    size_t n = json_array_size(history);
    struct writer w = {.fd = fd,
                       .cwd = cwd,
                       .session_id = session_id,
                       .model = model,
                       .time_ms = clock_wall_ms() - (int64_t)n - 1};
    buf_init(&w.line, LINE_MAX_SIZE);
    int rc = write_all(&w, history, next, err);
    buf_release(&w.line);
    return rc;
}
