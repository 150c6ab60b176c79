/* fake_input.c - lines from stdin and the user queue.
 *
 * Control, assistant and boundary lines work at once, in order. User lines only queue a command,
 * which runs after everything readable was read: so a control line written right behind a user
 * line works before that turn. A user line that finds the program idle becomes a turn of its
 * own; query lines that come while a turn runs are merged into one following turn. */
#include "fake.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define ATTACHMENT_MAX 65536

enum cmd_kind { CMD_QUERY, CMD_ACK, CMD_SLASH };
struct cmd {
    struct node node;
    enum cmd_kind kind;
    json_t *content;
};

static void cmd_free(struct cmd *c)
{
    json_decref(c->content);
    free(c);
}

/* ---- parsing, as forgiving as JSON.parse behind a UTF-8 decoder ---- */

static size_t good_utf8(const char *p, size_t left)
{
    for (size_t n = 1; n <= 4 && n <= left; n++) {
        if (str_is_utf8(str_n(p, n)))
            return n;
    }
    return 0;
}

static long surrogate_at(const char *p, size_t left)
{
    char hex[5] = {0};
    if (left < 6 || p[0] != '\\' || p[1] != 'u')
        return 0;
    memcpy(hex, p + 2, 4);
    long v = strtol(hex, NULL, 16);
    return v >= 0xD800 && v <= 0xDFFF ? v : 0;
}

/* Copies one escape sequence; a lone surrogate becomes U+FFFD. Returns what was taken. */
static size_t copy_escape(struct buf *out, const char *p, size_t left)
{
    long high = surrogate_at(p, left);
    if (!high) {
        buf_add(out, p, left < 2 ? left : 2);
        return left < 2 ? left : 2;
    }
    if (high < 0xDC00 && surrogate_at(p + 6, left - 6) >= 0xDC00) {
        buf_add(out, p, 12);
        return 12;
    }
    buf_adds(out, "\\ufffd");
    return 6;
}

static json_t *parse_mended(const char *p, size_t n, size_t flags, json_error_t *je)
{
    struct buf out;
    buf_init(&out, FAKE_MAX_BYTES);
    for (size_t i = 0; i < n;) {
        size_t good = good_utf8(p + i, n - i);
        if (p[i] == '\\') {
            i += copy_escape(&out, p + i, n - i);
            continue;
        }
        buf_add(&out, good ? p + i : "\xEF\xBF\xBD", good ? good : 3);
        i += good ? good : 1;
    }
    json_t *j = json_loadb(buf_cstr(&out), out.len, flags, je);
    buf_release(&out);
    return j;
}

static json_t *parse_line(const char *p, size_t n, json_error_t *je)
{
    json_t *j = json_loadb(p, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, je);
    if (j)
        return j;
    return parse_mended(p, n, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, je);
}

static noreturn void fatal_line(struct fake *f, struct str line, const char *why)
{
    fake_die(f, "Error parsing streaming input line: %.*s: %s",
             (int)(line.len < 2000 ? line.len : 2000), line.p, why);
}

/* ---- "@path" ---- */

static void attach(struct fake *f, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char data[ATTACHMENT_MAX];
    ssize_t n =
        fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read(fd, data, sizeof(data)) : -1;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return;
    struct buf note;
    buf_init(&note, FAKE_MAX_BYTES);
    buf_printf(&note,
               "<system-reminder>\nCalled the Read tool with the following input: "
               "{\"file_path\":\"%s\"}\n</system-reminder>",
               path);
    hist_note(f, buf_cstr(&note));
    buf_clear(&note);
    buf_adds(&note, "<system-reminder>\nResult of calling the Read tool:\n");
    struct str rest = str_n(data, (size_t)n);
    for (int line = 1; rest.len; line++) {
        struct str text = str_split(&rest, '\n');
        buf_printf(&note, "%d\t%.*s\n", line, (int)text.len, text.p);
    }
    buf_adds(&note, "</system-reminder>");
    hist_note(f, str_is_utf8(buf_str(&note)) ? buf_cstr(&note) : "(binary file)");
    buf_release(&note);
}

static void expand_paths(struct fake *f, struct str text)
{
    for (size_t i = 0; i + 1 < text.len; i++) {
        if (text.p[i] != '@' || (i > 0 && !isspace((unsigned char)text.p[i - 1])))
            continue;
        size_t n = 0;
        while (i + 1 + n < text.len && !isspace((unsigned char)text.p[i + 1 + n]))
            n++;
        char *path = x_strndup(text.p + i + 1, n);
        if (n && n < 4096)
            attach(f, path);
        free(path);
    }
}

/* The text in which commands and "@path" work: a string, or the last block of an array. */
static struct str live_text(const json_t *content)
{
    size_t n = json_array_size(content);
    return json_is_string(content)
               ? json_str_of(content)
               : json_get_str(n ? json_array_get(content, n - 1) : NULL, "text");
}

static void add_to_history(struct fake *f, json_t *content)
{
    if (!fake_env(f, "CLAUDE_CODE_DISABLE_ATTACHMENTS"))
        expand_paths(f, live_text(content));
    hist_user(f, content);
}

/* ---- slash commands ---- */

#define CAVEAT                                                                                   \
    "<local-command-caveat>Caveat: The messages below were generated by the user while running " \
    "local commands. DO NOT respond to these messages or otherwise consider them in your "       \
    "response unless the user explicitly asks you to.</local-command-caveat>"

void input_breadcrumbs(struct fake *f, const char *name, struct str args, const char *output)
{
    struct buf b;
    buf_init(&b, FAKE_MAX_BYTES);
    hist_note(f, CAVEAT);
    buf_printf(&b,
               "<command-name>/%s</command-name>\n            <command-message>%s"
               "</command-message>\n            <command-args>%.*s</command-args>",
               name, name, (int)args.len, args.p ? args.p : "");
    hist_note(f, buf_cstr(&b));
    buf_clear(&b);
    buf_printf(&b, "<local-command-stdout>%s</local-command-stdout>", output);
    hist_note(f, buf_cstr(&b));
    buf_release(&b);
}

static void clear_conversation(struct fake *f)
{
    hist_clear(f);
    id_uuid(f->session_id);
    f->init_stale = true;
    out_init(f);
    out_synthetic(f, STR("(no content)"), NULL, NULL);
    result_local(f, STR(""));
    input_breadcrumbs(f, "clear", STR(""), "");
}

static void run_slash(struct fake *f, json_t *content)
{
    struct str rest = live_text(content), name;
    struct buf out;
    name = str_split(&rest, ' ');
    if (str_eq_c(name, "/clear")) {
        clear_conversation(f);
        return;
    }
    buf_init(&out, FAKE_MAX_BYTES);
    if (str_eq_c(name, "/cost") || str_eq_c(name, "/usage")) {
        totals_text(f, &out);
        input_breadcrumbs(f, "usage", rest, buf_cstr(&out));
    } else {
        char *typed = str_dup(live_text(content));
        buf_printf(&out, "Unknown command: %.*s", (int)name.len, name.p);
        char *shown = x_printf("<local-command-stdout>%s</local-command-stdout>", buf_cstr(&out));
        hist_note(f, typed);
        hist_note(f, shown);
        free(shown);
        free(typed);
    }
    out_init(f);
    out_synthetic(f, buf_str(&out), NULL, NULL);
    result_local(f, buf_str(&out));
    buf_release(&out);
}

/* ---- the queue ---- */

static struct cmd *take_next(struct fake *f)
{
    if (f->captured)
        return TAKE_PTR(f->captured);
    struct node *n = list_pop_front(&f->queue);
    return n ? container_of(n, struct cmd, node) : NULL;
}

static void run_query(struct fake *f, struct cmd *c, bool merge)
{
    json_t *live = json_array();
    json_array_append(live, c->content);
    add_to_history(f, c->content);
    while (merge && f->queue.len) {
        struct cmd *next = container_of(list_first(&f->queue), struct cmd, node);
        if (next->kind != CMD_QUERY)
            break;
        list_remove(&f->queue, &next->node);
        json_array_append(live, next->content);
        add_to_history(f, next->content);
        cmd_free(next);
    }
    turn_begin(f, live);
    json_decref(live);
}

bool queue_run(struct fake *f)
{
    if (turn_busy(f) || !(f->captured || f->queue.len) || !mcp_ready(f) || f->hung)
        return false;
    bool merge = !f->captured;
    struct cmd *c = take_next(f);
    BUG_ON(!c);
    switch (c->kind) {
    case CMD_QUERY:
        run_query(f, c, merge);
        break;
    case CMD_ACK:
        if (!f->no_injection)
            add_to_history(f, c->content);
        out_init(f);
        result_local(f, STR(""));
        break;
    case CMD_SLASH:
        run_slash(f, c->content);
        break;
    }
    cmd_free(c);
    return true;
}

/* ---- lines ---- */

static bool seen_before(struct fake *f, struct str uuid)
{
    if (uuid.len == 0)
        return false;
    char *key = str_dup(uuid);
    bool seen = json_object_get(f->seen_uuids, key) != NULL;
    json_object_set_new(f->seen_uuids, key, json_true());
    free(key);
    return seen;
}

static void line_user(struct fake *f, json_t *line, struct str text)
{
    const json_t *message = json_object_get(line, "message");
    json_t *content = json_object_get(message, "content");
    struct str role = json_get_str(message, "role");
    if (!json_is_object(message))
        fatal_line(f, text, "TypeError: undefined is not an object (evaluating 't.message.role')");
    if (!str_eq_c(role, "user"))
        fake_die(f, "Error: Expected message role 'user', got '%.*s'", (int)role.len,
                 role.p ? role.p : "undefined");
    if (!json_is_string(content) && !json_is_array(content)) {
        result_no_content(f);
        fake_exit(f, 1);
    }
    f->saw_user = true;
    if (seen_before(f, json_get_str(line, "uuid")))
        return;
    struct cmd *c = x_calloc(1, sizeof(*c));
    c->content = json_incref(content);
    c->kind = json_get_bool(line, "shouldQuery", true) ? CMD_QUERY : CMD_ACK;
    if (str_starts(live_text(content), "/"))
        c->kind = CMD_SLASH;
    if (!f->captured && !f->queue.len && !turn_busy(f))
        f->captured = c;
    else
        list_push_back(&f->queue, &c->node);
}

static void line_assistant(struct fake *f, const json_t *line)
{
    const json_t *message = json_object_get(line, "message");
    json_t *content = json_object_get(message, "content");
    if ((json_is_array(content) || json_is_string(content)) && !f->no_injection)
        hist_assistant(f, json_string_value(json_object_get(message, "id")), content);
}

static void line_bash(struct fake *f, const json_t *line)
{
    struct str command = json_get_str(line, "command");
    struct buf b;
    if (command.len == 0) {
        out_user_replay(f, STR("<bash-stderr>Command failed: missing command</bash-stderr>"));
        return;
    }
    buf_init(&b, FAKE_MAX_BYTES);
    buf_printf(&b, "<bash-input>%.*s</bash-input>", (int)command.len, command.p);
    out_user_replay(f, buf_str(&b));
    out_user_replay(f, STR("<bash-stdout></bash-stdout><bash-stderr></bash-stderr>"
                           "<bash-exit-code>0</bash-exit-code>"));
    buf_release(&b);
    record_write(f, json_pack("{s:s,s:O}", "event", "bash_command", "command",
                              json_object_get(line, "command")));
}

static void dispatch(struct fake *f, json_t *line, struct str text)
{
    struct str type = json_get_str(line, "type");
    if (fault_strikes(f, line))
        return;
    if (str_eq_c(type, "user"))
        line_user(f, line, text);
    else if (str_eq_c(type, "control_request")) {
        if (!json_is_object(json_object_get(line, "request")))
            fatal_line(f, text,
                       "TypeError: undefined is not an object (evaluating 'e.request.subtype')");
        control_request(f, line);
    } else if (str_eq_c(type, "control_response"))
        control_response(f, line);
    else if (str_eq_c(type, "assistant"))
        line_assistant(f, line);
    else if (str_eq_c(type, "system")) {
        if (str_eq_c(json_get_str(line, "subtype"), "compact_boundary") && !f->no_boundary)
            hist_clear(f);
    } else if (str_eq_c(type, "update_environment_variables"))
        control_environment(f, line);
    else if (str_eq_c(type, "bash_command"))
        line_bash(f, line);
}

static void one_line(struct fake *f, char *p, size_t n)
{
    json_error_t je;
    if (n && p[n - 1] == '\r')
        n--;
    if (n == 0)
        return;
    json_t *line = parse_line(p, n, &je);
    if (!line) {
        char *why = x_printf("SyntaxError: JSON Parse error: %s", je.text);
        fatal_line(f, str_n(p, n), why);
    }
    if (json_is_null(line))
        fatal_line(f, str_n(p, n), "TypeError: null is not an object (evaluating 't.type')");
    if (json_is_object(line))
        dispatch(f, line, str_n(p, n));
    json_decref(line);
}

void input_lines(struct fake *f)
{
    size_t start = 0;
    char *end;
    while (!f->hung && f->in.len > f->in_scanned &&
           (end = memchr(f->in.data + f->in_scanned, '\n', f->in.len - f->in_scanned))) {
        one_line(f, f->in.data + start, (size_t)(end - f->in.data) - start);
        start = f->in_scanned = (size_t)(end - f->in.data) + 1;
    }
    buf_consume(&f->in, start);
    f->in_scanned = f->in.len;
}

void input_last(struct fake *f)
{
    if (f->in.len && !f->hung)
        one_line(f, f->in.data, f->in.len);
    buf_clear(&f->in);
    f->in_scanned = 0;
}
