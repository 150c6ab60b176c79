/* standin_log.c - the request log. What is known at arrival is serialised at once, the body
 * verbatim when it is JSON: so a test sees the very numbers and spellings that were sent, and the
 * memory of an entry is what its text is long. */
#include "upstream/standin_log.h"

#include "core/clock.h"
#include "core/json.h"

#include <ctype.h>
#include <event2/buffer.h>
#include <event2/keyvalq_struct.h>
#include <inttypes.h>

#define MAX_ENTRIES    20000
#define MAX_LOG_BYTES  ((size_t)256 << 20)
#define MAX_HEAD_BYTES ((size_t)512 << 20) /* a body of the largest size, escaped */

void standin_usage_write(struct buf *out, const struct standin_usage *u)
{
    buf_printf(out,
               "\"input_tokens\":%" PRId64 ",\"cache_creation_input_tokens\":%" PRId64
               ",\"cache_read_input_tokens\":%" PRId64 ",\"output_tokens\":%" PRId64,
               u->input, u->cache_creation, u->cache_read, u->output);
}

void standin_log_init(struct standin_log *log)
{
    *log = (struct standin_log){.next_seq = 1};
    list_init(&log->entries);
}

static void drop_oldest(struct standin_log *log)
{
    struct node *node = list_pop_front(&log->entries);
    BUG_ON(!node);
    struct standin_entry *e = container_of(node, struct standin_entry, node);
    if (e->owner)
        *e->owner = NULL;
    log->bytes -= e->head_len + sizeof(*e);
    free(e->head);
    free(e);
}

void standin_log_clear(struct standin_log *log)
{
    while (log->entries.len)
        drop_oldest(log);
    log->next_seq = 1;
    log->dropped = 0;
}

/* A header sent twice becomes one value, joined as RFC 9110 allows. */
static void add_header(json_t *obj, const char *name, const char *value)
{
    char lower[128];
    size_t i = 0;
    for (; name[i] && i < sizeof(lower) - 1; i++)
        lower[i] = (char)tolower((unsigned char)name[i]);
    lower[i] = '\0';
    const char *before = json_string_value(json_object_get(obj, lower));
    AUTO(free_charp) char *joined = before ? x_printf("%s, %s", before, value) : x_strdup(value);
    if (str_is_utf8(str_c(joined)))
        json_object_set_new(obj, lower, json_string(joined));
    else
        json_object_set_new(obj, lower, json_string("(not UTF-8)"));
}

static void write_headers(struct buf *out, const struct evkeyvalq *headers)
{
    AUTO(json_unref_p) json_t *obj = json_object();
    const struct evkeyval *h;
    for (h = headers->tqh_first; h; h = h->next.tqe_next)
        add_header(obj, h->key, h->value);
    json_write(out, obj);
}

static void write_body(struct buf *out, struct str body)
{
    AUTO(json_unref_p) json_t *parsed = json_parse(body, NULL);
    if (parsed)
        buf_addstr(out, body);
    else
        buf_json_str(out, body);
}

static void write_head(struct buf *out, const struct standin_arrival *a, uint64_t seq)
{
    buf_printf(out, "{\"seq\":%" PRIu64 ",\"at_ms\":%" PRId64 ",\"method\":\"%s\",\"path\":", seq,
               clock_wall_ms(), a->method);
    buf_json_str(out, str_c(a->path));
    buf_adds(out, ",\"query\":");
    buf_json_str(out, str_c(a->query));
    buf_adds(out, ",\"headers\":");
    write_headers(out, a->headers);
    buf_adds(out, ",\"body\":");
    write_body(out, a->body);
    BUG_ON(!buf_ok(out));
}

void standin_log_add(struct standin_log *log, const struct standin_arrival *a,
                     struct standin_entry **owner)
{
    AUTO(buf_release) struct buf head = {0};
    struct standin_entry *e = x_calloc(1, sizeof(*e));
    buf_init(&head, MAX_HEAD_BYTES);
    write_head(&head, a, log->next_seq++);
    e->head_len = head.len;
    e->head = buf_take(&head);
    e->owner = owner;
    *owner = e;
    list_push_back(&log->entries, &e->node);
    log->bytes += e->head_len + sizeof(*e);
    while (log->entries.len > MAX_ENTRIES || (log->bytes > MAX_LOG_BYTES && log->entries.len > 1)) {
        drop_oldest(log);
        log->dropped++;
    }
}

static const char *json_bool(bool b)
{
    return b ? "true" : "false";
}

static void write_entry(const struct standin_entry *e, struct evbuffer *out)
{
    AUTO(buf_release) struct buf tail = {0};
    buf_init(&tail, 2048);
    buf_printf(&tail,
               ",\"status\":%d,\"done\":%s,\"ended_at_ms\":%" PRId64
               ",\"aborted\":%s,\"cut\":%s,\"bytes_sent\":%zu,\"usage\":{",
               e->status, json_bool(e->ended_at_ms != 0), e->ended_at_ms, json_bool(e->aborted),
               json_bool(e->cut), e->bytes_sent);
    standin_usage_write(&tail, &e->told);
    buf_adds(&tail, "}}");
    evbuffer_add(out, e->head, e->head_len);
    evbuffer_add(out, tail.data, tail.len);
}

void standin_log_write(const struct standin_log *log, struct evbuffer *out)
{
    const char *before = "[";
    LIST_EACH(&log->entries, node)
    {
        evbuffer_add(out, before, 1);
        write_entry(container_of(node, struct standin_entry, node), out);
        before = ",";
    }
    if (log->entries.len == 0)
        evbuffer_add(out, "[", 1);
    evbuffer_add(out, "]", 1);
}
