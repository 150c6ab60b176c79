/* fuzz_cli_decode.c - lines from the claude program: whatever comes, one answer per line, the same
 * for another order of its keys, and a message assembled from it that can be stored. */
#include "cli/protocol.h"

#define MESSAGE_MAX 4096
#define TEXT_MAX    ((size_t)1 << 26)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void compare(const struct cli_msg *a, const struct cli_msg *b)
{
    BUG_ON(a->kind != b->kind || a->is_error != b->is_error || a->num_turns != b->num_turns);
    BUG_ON(a->api_error_status != b->api_error_status || a->success != b->success);
    BUG_ON(!str_eq(a->result, b->result) || !str_eq(a->session_id, b->session_id));
    BUG_ON(!str_eq(a->terminal_reason, b->terminal_reason) || !str_eq(a->error, b->error));
    BUG_ON(!str_eq(a->request_id, b->request_id) || !str_eq(a->subtype, b->subtype));
    BUG_ON(a->event && !json_equal(a->event, b->event));
}

/* Only for lines that were parsed as a whole: others are known by their first bytes. */
static void check_key_order(const struct cli_msg *m)
{
    struct cli_msg sorted;
    char *text = json_dumps(m->root, JSON_COMPACT | JSON_SORT_KEYS);
    BUG_ON(!text);
    cli_decode(str_c(text), &sorted);
    compare(m, &sorted);
    cli_msg_release(&sorted);
    free(text);
}

static void run_line(struct str line, struct cli_message *message)
{
    struct cli_msg m;
    char *exact = x_malloc(line.len ? line.len : 1); /* so that a read past the end is seen */
    if (line.len)
        memcpy(exact, line.p, line.len);
    cli_decode(str_n(exact, line.len), &m);
    BUG_ON((m.kind == CLI_STREAM) != (m.event != NULL));
    BUG_ON(m.kind == CLI_GARBAGE && m.root);
    BUG_ON(m.event && !json_is_object(m.event));
    if (m.event)
        cli_message_event(message, m.event);
    if (m.root && m.root != m.event)
        check_key_order(&m);
    cli_msg_release(&m);
    free(exact);
}

static void check_message(const struct cli_message *m)
{
    struct buf text, stored;
    buf_init(&text, TEXT_MAX);
    buf_init(&stored, TEXT_MAX);
    cli_message_text(m, &text);
    json_write(&stored, m->content);
    BUG_ON(!buf_ok(&text) || !buf_ok(&stored) || !json_is_array(m->content));
    BUG_ON(!str_is_utf8(buf_str(&text)) || !str_is_utf8(buf_str(&stored)));
    BUG_ON(memchr(stored.data, '\n', stored.len));
    buf_release(&text);
    buf_release(&stored);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str rest = str_n((const char *)data, size);
    struct cli_message message;
    cli_message_init(&message, MESSAGE_MAX);
    while (rest.len)
        run_line(str_split(&rest, '\n'), &message);
    check_message(&message);
    cli_message_release(&message);
    return 0;
}
