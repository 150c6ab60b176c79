/* probe.c - a short conversation that shows what a claude process does with what it is given.
 *
 *   step   written                                     awaited
 *   0      history: user line that is not a question   its result
 *   1      history: assistant line; first question     the answer's result; its request has all
 *   2      boundary; second question                   the answer's result; its request has no more
 *   3      -                                           of the above
 *
 * Blocks are compared by their text. What a version may add around ours (a reminder, a cache
 * mark) is none of our business; what must not happen is that ours are gone, changed or out of
 * order, that "/clear" was run, or that the mentioned file was read. */
#include "cli/probe.h"

#include "cli/protocol.h"
#include "core/id.h"
#include "core/json.h"

#include <stdarg.h>

#define COMMAND     "/clear"
#define MENTION     "@/proc/version" /* a file that there is in every process's world */
#define FILE_BEGINS "Linux version"  /* and what it says */
#define COMMAND_RAN "<command-name>" /* what a command leaves in the history */
#define MODEL       "claude-history" /* of the injected assistant message; of no consequence */
#define MARK_CHARS  18
#define REQUEST_MAX ((size_t)8 << 20)

enum { HISTORY_USER, HISTORY_ASSISTANT, QUESTION_1, QUESTION_2 };

void cli_probe_init(struct cli_probe *p)
{
    *p = (struct cli_probe){.literal = true};
    for (size_t i = 0; i < ARRAY_SIZE(p->mark); i++) {
        memcpy(p->mark[i], "mark", 4);
        id_alnum(p->mark[i] + 4, MARK_CHARS);
    }
}

/* The first failure explains the others. */
static bool PRINTF_LIKE(2, 3) failed(struct cli_probe *p, const char *fmt, ...)
{
    va_list ap;
    if (p->failure[0])
        return false;
    va_start(ap, fmt);
    vsnprintf(p->failure, sizeof(p->failure), fmt, ap);
    va_end(ap);
    return false;
}

/* --- what is asked ----------------------------------------------------------------------- */

/* Blocks of text: `first` (with the mark after it) and, if there is one, `second`. */
static json_t *content(const char *first, const char *mark, const char *second)
{
    json_t *blocks = json_pack("[{s:s,s:s++}]", "type", "text", "text", first, " ", mark);
    if (second)
        json_array_append_new(blocks, json_pack("{s:s,s:s}", "type", "text", "text", second));
    return blocks;
}

static void put_user(struct buf *out, json_t *blocks_consume, bool query)
{
    cli_put_user(out, blocks_consume, query);
    json_decref(blocks_consume);
}

static void put_history(const struct cli_probe *p, struct buf *out)
{
    put_user(out, content("Remember", p->mark[HISTORY_USER], COMMAND), false);
}

static void put_first_question(const struct cli_probe *p, struct buf *out)
{
    json_t *blocks = content("I do:", p->mark[HISTORY_ASSISTANT], NULL);
    cli_put_assistant(out, blocks, MODEL);
    json_decref(blocks);
    put_user(out, content("Is it", p->mark[QUESTION_1], MENTION), true);
}

static void put_second_question(const struct cli_probe *p, struct buf *out)
{
    cli_put_boundary(out);
    put_user(out, content("Is it", p->mark[QUESTION_2], NULL), true);
}

/* --- what came of it --------------------------------------------------------------------- */

/* The text of block i of a message's content, which may also be one string. */
static struct str text_at(const json_t *message, size_t i)
{
    const json_t *c = json_object_get(message, "content");
    if (json_is_string(c))
        return i == 0 ? json_str_of(c) : STR("");
    return json_get_str(json_array_get(c, i), "text");
}

static size_t text_count(const json_t *message)
{
    const json_t *c = json_object_get(message, "content");
    return json_is_string(c) ? 1 : json_array_size(c);
}

/* Index of the block with the mark, -1 = none. */
static int block_with(const json_t *message, const char *mark)
{
    for (size_t i = 0; i < text_count(message); i++) {
        if (str_contains(text_at(message, i), mark))
            return (int)i;
    }
    return -1;
}

/* Index of the message with the mark, -1 = none. */
static int message_with(const json_t *messages, const char *mark)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        if (block_with(json_array_get(messages, i), mark) >= 0)
            return (int)i;
    }
    return -1;
}

/* Looks for the message with mark `which`: it must have this role, come after message *after, and
 * its block must be `first` and the mark, nothing else. */
static bool in_its_place(struct cli_probe *p, const json_t *messages, int which, const char *role,
                         const char *first, int *after)
{
    static const char *const names[] = {"the user's history", "the assistant's history",
                                        "the first question", "the second question"};
    int at = message_with(messages, p->mark[which]);
    const json_t *message = json_array_get(messages, (size_t)at);
    if (at < 0)
        return failed(p, "%s did not reach the API", names[which]);
    if (!str_eq_c(json_get_str(message, "role"), role))
        return failed(p, "%s reached the API in another role", names[which]);
    if (at <= *after)
        return failed(p, "%s reached the API out of order", names[which]);
    AUTO(free_charp) char *want = x_printf("%s %s", first, p->mark[which]);
    if (!str_eq_c(text_at(message, (size_t)block_with(message, p->mark[which])), want))
        return failed(p, "the text of %s was changed", names[which]);
    *after = at;
    return true;
}

/* The block right behind the marked one is still this text, if the mark got there. */
static bool followed_by(const struct cli_probe *p, const json_t *messages, int which,
                        const char *text)
{
    int at = message_with(messages, p->mark[which]);
    const json_t *message = json_array_get(messages, (size_t)at);
    return at < 0 ||
           str_eq_c(text_at(message, (size_t)block_with(message, p->mark[which]) + 1), text);
}

static bool mentions(const json_t *request, const char *words)
{
    AUTO(buf_release) struct buf all;
    buf_init(&all, REQUEST_MAX);
    json_write(&all, request);
    return !buf_ok(&all) || str_contains(buf_str(&all), words);
}

static void check_first(struct cli_probe *p, const json_t *request)
{
    const json_t *messages = json_object_get(request, "messages");
    bool early = p->failure[0] != '\0'; /* the history itself was answered */
    int after = -1;
    if (!request) { /* it may have taken the question for a command */
        p->literal = failed(p, "the process answered a question without a request to the API");
        return;
    }
    p->injection = in_its_place(p, messages, HISTORY_USER, "user", "Remember", &after) &&
                   in_its_place(p, messages, HISTORY_ASSISTANT, "assistant", "I do:", &after) &&
                   in_its_place(p, messages, QUESTION_1, "user", "Is it", &after) && !early;
    p->literal = followed_by(p, messages, HISTORY_USER, COMMAND) &&
                 followed_by(p, messages, QUESTION_1, MENTION) &&
                 !mentions(messages, COMMAND_RAN) && !mentions(messages, FILE_BEGINS);
    if (!p->literal)
        failed(p, "a text that looks like a command or a file mention did not stay text");
}

static void check_second(struct cli_probe *p, const json_t *request)
{
    int after = -1;
    if (!request) {
        failed(p, "the process answered a question without a request to the API");
        return;
    }
    p->boundary =
        in_its_place(p, json_object_get(request, "messages"), QUESTION_2, "user", "Is it", &after);
    for (int i = HISTORY_USER; i <= QUESTION_1; i++) {
        if (mentions(request, p->mark[i]))
            p->boundary = failed(p, "a boundary did not hide what came before it");
    }
}

bool cli_probe_next(struct cli_probe *p, const json_t *request, struct buf *out)
{
    switch (p->step++) {
    case 0:
        put_history(p, out);
        return true;
    case 1:
        if (request)
            failed(p, "history was answered as if it were a question");
        put_first_question(p, out);
        return true;
    case 2:
        check_first(p, request);
        put_second_question(p, out);
        return true;
    case 3:
        check_second(p, request);
        return false;
    default:
        return false;
    }
}
