/* fake_script.c - steps: what one upstream response does.
 *
 * A step comes from, in this order: the last `fake:{...}` in the texts of the live user message;
 * the next element of the array in the file FAKE_SCRIPT; the default reply (text "ok", input 10,
 * output 5 tokens). An unknown field or a wrong type in FAKE_SCRIPT ends the program with 2, in a
 * directive it becomes the reply's text, so that a misspelt test cannot pass.
 *
 * A later response of the same turn (after tool results, or the program's own continuation) uses
 * the step's `then`; without one, after tool results the next of the script or the default, else
 * the same step again. Every field is optional:
 *
 *   text, chunk, delay_ms   the text; bytes per delta (default all; never inside a character);
 *                           pause after each delta. "text":"" = a response without any block
 *   thinking                a thinking block before the text (same chunk and delay)
 *   tools                   [{id, name, input}]: tool_use blocks; stop_reason becomes tool_use
 *   stop_reason, stop_sequence, usage {input_tokens, output_tokens,
 *                           cache_creation_input_tokens, cache_read_input_tokens}
 *   start_delay_ms          before message_start
 *   error                   {status, message, kind, retries, retry_delay_ms, recover}: api_retry
 *                           lines, then the error (or with recover the reply). No status = the
 *                           network failed. kind replaces the assistant line's `error`
 *   cut                     true: the upstream connection breaks; after `cut_after` deltas
 *                           (default 1), or with cut_after_block after the first finished block
 *   stall, stall_after      nothing more comes, before message_start or after n deltas
 *   ignore_interrupt, ignore_sigterm     ignore_sigterm lasts for the rest of the process
 *   exit_at, exit_code, signal, exit_after, exit_partial
 *                           leave at a point: start initialize init message_start delta
 *                           before_result after_result ("delta": after exit_after, default 1);
 *                           signal: kill itself with it; exit_partial: half a line comes first
 *   garbage_at, garbage     a line that is not JSON at a point
 *   unknown_event_at        a line of an unknown type at a point
 *   huge                    a text of that many bytes in one delta
 *   flood                   that many deltas as fast as they are read
 *   split                   {bytes, at, pause_us}: stdout in pieces of that size (default: all),
 *                           the first one of `at` bytes
 *   hang_after_result       after the result the process ignores everything but signals
 *   no_result               everything but the result; the turn never ends
 *   later                   {at, do, ms, code, signal}: when the next line of that kind comes in:
 *                           "exit" (code, signal), "hang" for ever, "delay" for ms,
 *                           "mute" (its reply gets lost). at: initialize
 *                           set_max_thinking_tokens set_model interrupt apply_flag_settings
 *                           boundary assistant history question clear
 *   lose_control            the next control request of that subtype ("*" any) gets no reply
 *   grandchild_ms, grandchild_escapes   a child keeps stdout and stderr open that long after this
 *                           process is gone; escapes: in a session of its own
 *   stderr, stderr_flood    text written there; that many bytes of complaints
 *   echo_history            the text is a JSON array [{role, text}] of the visible conversation
 *   remember, recall        a text the process keeps in its memory and environment for as long as
 * it lives; the text is {"memory":"all it keeps","history":as above} key_order "reversed": all
 * lines of the turn have the keys the other way round once                    a path: the step
 * works only if this file could be created, else its `then` or the default is used (fail once, then
 * work) keep                    FAKE_SCRIPT: the step is not used up */
#include "fake.h"

#include <fcntl.h>
#include <unistd.h>

#define DIRECTIVE "fake:{"

static const struct {
    const char *name;
    enum point point;
} points[] = {
    {"start", P_START},
    {"initialize", P_INITIALIZE},
    {"init", P_INIT},
    {"message_start", P_MESSAGE_START},
    {"delta", P_DELTA},
    {"before_result", P_BEFORE_RESULT},
    {"after_result", P_AFTER_RESULT},
};

struct raw_step {
    char tag;
    struct step s;
    struct str exit_at, garbage_at, unknown_at, key_order, once;
    int64_t delay_ms, start_delay_ms;
    json_t *usage, *split;
};

#define ROW(n, t, m)                                                 \
    {                                                                \
        .name = n, .type = t, .offset = offsetof(struct raw_step, m) \
    }
#define ROWS(n, m)    ROW(n, JF_STRING, m)
#define ROWB(n, m)    ROW(n, JF_BOOL, m)
#define ROWJ(n, t, m) ROW(n, t, m)
#define ROWI(n, m)                                                                              \
    {                                                                                           \
        .name = n, .type = JF_INT, .offset = offsetof(struct raw_step, m), .min = 0, .max = 1e9 \
    }

static const struct json_field step_fields[] = {
    {.name = "text",
     .type = JF_STRING,
     .offset = offsetof(struct raw_step, s.text),
     .has_offset = offsetof(struct raw_step, s.has_text)},
    ROWS("thinking", s.thinking),
    ROWS("stop_reason", s.stop_reason),
    ROWS("stop_sequence", s.stop_sequence),
    ROWS("stderr", s.stderr_text),
    ROWS("lose_control", s.lose_control),
    ROWS("garbage", s.garbage),
    ROWS("exit_at", exit_at),
    ROWS("garbage_at", garbage_at),
    ROWS("unknown_event_at", unknown_at),
    ROWS("key_order", key_order),
    ROWS("once", once),
    ROWI("chunk", s.chunk),
    ROWI("delay_ms", delay_ms),
    ROWI("start_delay_ms", start_delay_ms),
    ROWI("stall_after", s.stall_after),
    ROWI("cut_after", s.cut_after),
    ROWI("exit_after", s.exit_after),
    ROWI("exit_code", s.exit_code),
    ROWI("signal", s.signal),
    ROWI("huge", s.huge),
    ROWI("flood", s.flood),
    ROWI("stderr_flood", s.stderr_flood),
    ROWI("grandchild_ms", s.grandchild_ms),
    ROWB("stall", s.stall),
    ROWB("cut", s.cut),
    ROWB("cut_after_block", s.cut_after_block),
    ROWB("ignore_interrupt", s.ignore_interrupt),
    ROWB("ignore_sigterm", s.ignore_sigterm),
    ROWB("exit_partial", s.exit_partial),
    ROWB("hang_after_result", s.hang_after_result),
    ROWB("no_result", s.no_result),
    ROWB("echo_history", s.echo_history),
    ROWB("recall", s.recall),
    ROWS("remember", s.remember),
    ROWB("grandchild_escapes", s.grandchild_escapes),
    ROWB("keep", s.keep),
    ROWJ("tools", JF_ARRAY, s.tools),
    ROWJ("error", JF_OBJECT, s.error),
    ROWJ("then", JF_OBJECT, s.then),
    ROWJ("later", JF_OBJECT, s.later),
    ROWJ("usage", JF_OBJECT, usage),
    ROWJ("split", JF_OBJECT, split),
};

#define UROW(n, m)                                                                            \
    {                                                                                         \
        .name = n, .type = JF_INT, .offset = offsetof(struct usage, m), .min = 0, .max = 1e12 \
    }
static const struct json_field usage_fields[] = {
    UROW("input_tokens", input),
    UROW("output_tokens", output),
    UROW("cache_creation_input_tokens", cache_write),
    UROW("cache_read_input_tokens", cache_read),
};
#define SROW(n, m)                                                                          \
    {                                                                                       \
        .name = n, .type = JF_INT, .offset = offsetof(struct step, m), .min = 0, .max = 1e9 \
    }
static const struct json_field split_fields[] = {
    SROW("bytes", split_bytes),
    SROW("at", split_at),
    SROW("pause_us", split_pause_us),
};

static int read_point(struct str name, enum point *ret, struct err *err)
{
    *ret = P_NONE;
    if (name.len == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(points); i++) {
        if (str_eq_c(name, points[i].name)) {
            *ret = points[i].point;
            return 0;
        }
    }
    return err_set(err, ERR_INVALID, "no such point: '%.*s'", (int)name.len, name.p);
}

static int check_tools(const json_t *tools, struct err *err)
{
    size_t i;
    json_t *t;
    if (json_array_size(tools) > FAKE_MAX_CALLS)
        return err_field(err, "tools", "at most %d", FAKE_MAX_CALLS);
    json_array_foreach((json_t *)(uintptr_t)tools, i, t)
    {
        if (json_get_str(t, "id").len == 0 || json_get_str(t, "name").len == 0 ||
            !json_object_get(t, "input"))
            return err_field(err, "tools", "needs id, name and input in each");
    }
    return 0;
}

static int read_points(const struct raw_step *raw, struct step *s, struct err *err)
{
    if (read_point(raw->exit_at, &s->exit_at, err) != 0 ||
        read_point(raw->garbage_at, &s->garbage_at, err) != 0 ||
        read_point(raw->unknown_at, &s->unknown_at, err) != 0)
        return -1;
    s->reorder = str_eq_c(raw->key_order, "reversed");
    if (raw->key_order.len && !s->reorder)
        return err_field(err, "key_order", "must be \"reversed\"");
    return check_tools(s->tools, err);
}

static struct step default_step(void)
{
    return (struct step){.text = STR("ok"),
                         .has_text = true,
                         .stop_reason = STR("end_turn"),
                         .usage = {.input = 10, .output = 5}};
}

static int read_parts(struct raw_step *raw, struct err *err)
{
    struct step *s = &raw->s;
    if (read_points(raw, s, err) != 0)
        return -1;
    if (raw->usage &&
        json_read_fields(raw->usage, usage_fields, ARRAY_SIZE(usage_fields), &s->usage, err) != 0)
        return -1;
    if (raw->split &&
        json_read_fields(raw->split, split_fields, ARRAY_SIZE(split_fields), s, err) != 0)
        return -1;
    if (s->split_at && !s->split_bytes)
        s->split_bytes = FAKE_MAX_BYTES;
    return s->later ? later_read(s->later, &(struct later){0}, err) : 0;
}

/* Fills a step; *ret_once is borrowed from src. */
static int step_read(json_t *src, struct step *ret, struct str *ret_once, struct err *err)
{
    struct raw_step raw = {.s = default_step()};
    raw.s.has_text = false;
    raw.s.stop_reason = STR("");
    raw.s.exit_after = raw.s.cut_after = 1;
    raw.s.stall_after = -1;
    raw.s.garbage = STR("this is not JSON");
    if (json_read_fields(src, step_fields, ARRAY_SIZE(step_fields), &raw, err) != 0)
        return -1;
    if (read_parts(&raw, err) != 0)
        return -1;
    raw.s.delay_us = raw.delay_ms * 1000;
    raw.s.start_delay_us = raw.start_delay_ms * 1000;
    if (!raw.s.has_text && (raw.s.tools || raw.s.thinking.len))
        raw.s.text = STR("");
    if (raw.s.stop_reason.len == 0)
        raw.s.stop_reason = json_array_size(raw.s.tools) ? STR("tool_use") : STR("end_turn");
    raw.s.src = json_incref(src);
    *ret = raw.s;
    *ret_once = raw.once;
    return 0;
}

void step_clear(struct step *s)
{
    json_decref(s->src);
    *s = (struct step){0};
}

static bool created(struct str path)
{
    char *name = str_dup(path);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    free(name);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void use_default(struct step *s)
{
    step_clear(s);
    *s = default_step();
    s->stall_after = -1;
}

/* Makes src the step of the turn. A mistake in it is told as the reply's text. */
static void use(struct fake *f, json_t *src)
{
    struct step *s = &f->turn.step, fresh;
    struct str once;
    struct err err = {0};
    if (step_read(src, &fresh, &once, &err) != 0) {
        use_default(s);
        s->src = json_pack("{s:o}", "text", json_sprintf("fake: bad step: %s", err.msg));
        s->text = json_get_str(s->src, "text");
        return;
    }
    if (once.len && !created(once)) {
        json_t *then = json_incref(fresh.then);
        step_clear(&fresh);
        use_default(s);
        if (then)
            use(f, then);
        json_decref(then);
        return;
    }
    step_clear(s);
    *s = fresh;
}

void script_open(struct fake *f, const char *path)
{
    json_error_t je;
    json_t *item;
    size_t i;
    f->script = json_load_file(path, JSON_ALLOW_NUL, &je);
    if (!json_is_array(f->script)) {
        fprintf(stderr, "fake-claude: FAKE_SCRIPT '%s': %s\n", path,
                f->script ? "not an array" : je.text);
        exit(2);
    }
    json_array_foreach(f->script, i, item)
    {
        struct step s;
        struct str once;
        struct err err = {0};
        if (step_read(item, &s, &once, &err) != 0) {
            fprintf(stderr, "fake-claude: FAKE_SCRIPT step %zu: %s\n", i, err.msg);
            exit(2);
        }
        step_clear(&s);
    }
}

const struct step *script_peek(struct fake *f)
{
    static struct step first; /* borrowed by the caller until the next call */
    struct str once;
    json_t *src = json_array_get(f->script, f->script_at);
    step_clear(&first);
    return src && step_read(src, &first, &once, NULL) == 0 ? &first : NULL;
}

static void use_script_or_default(struct fake *f)
{
    json_t *src = json_array_get(f->script, f->script_at);
    f->turn.from_script = src != NULL;
    if (!src) {
        use_default(&f->turn.step);
        return;
    }
    use(f, src);
    if (!f->turn.step.keep)
        f->script_at++;
}

/* The last "fake:{" in s, NULL = none. */
static const char *last_directive(struct str s)
{
    const char *hit = NULL;
    while (s.len) {
        const char *p = memmem(s.p, s.len, DIRECTIVE, sizeof(DIRECTIVE) - 1);
        if (!p)
            break;
        hit = p;
        s.len -= (size_t)(p + 1 - s.p);
        s.p = p + 1;
    }
    return hit;
}

static bool use_directive(struct fake *f, struct str s)
{
    const char *p = last_directive(s);
    if (!p)
        return false;
    p += sizeof(DIRECTIVE) - 2;
    json_error_t je;
    json_t *src =
        json_loadb(p, (size_t)(s.p + s.len - p), JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &je);
    if (!src)
        src = json_pack("{s:o}", "text", json_sprintf("fake: bad directive: %s", je.text));
    use(f, src);
    json_decref(src);
    return true;
}

void script_first(struct fake *f, json_t *live)
{
    f->turn.from_script = false;
    for (size_t i = json_array_size(live); i-- > 0;) {
        const json_t *content = json_array_get(live, i);
        if (json_is_string(content) && use_directive(f, json_str_of(content)))
            return;
        for (size_t k = json_array_size(content); k-- > 0;) {
            if (use_directive(f, json_get_str(json_array_get(content, k), "text")))
                return;
        }
    }
    use_script_or_default(f);
}

void script_next(struct fake *f, enum next_why why)
{
    struct turn *t = &f->turn;
    if (t->step.then) {
        json_t *then = json_incref(t->step.then);
        use(f, then);
        json_decref(then);
    } else if (why == NEXT_TOOLS) {
        if (t->from_script)
            use_script_or_default(f);
        else
            use_default(&t->step);
    }
}
