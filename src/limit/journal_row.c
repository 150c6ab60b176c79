/* journal_row.c - one table of columns drives both directions. Works on any thread. */
#include "limit/journal_row.h"

#include "core/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#define FILE_MAX ((size_t)64 << 20) /* a segment is below 1 MB; more was not written by us */

enum column_type { COL_STR, COL_INT64, COL_INT, COL_BOOL };

struct column {
    const char *name;
    enum column_type type;
    size_t offset, size;
};

#define COL(field, type_)                                                                        \
    {                                                                                            \
#field, type_, offsetof(struct usage_row, field), sizeof(((struct usage_row *)0)->field) \
    }

static const struct column columns[] = {
    COL(request_id, COL_STR),
    COL(api_key_id, COL_STR),
    COL(session_id, COL_STR),
    COL(timestamp, COL_INT64),
    COL(endpoint, COL_STR),
    COL(method, COL_STR),
    COL(model, COL_STR),
    COL(input_tokens, COL_INT64),
    COL(output_tokens, COL_INT64),
    COL(cache_creation_tokens, COL_INT64),
    COL(cache_read_tokens, COL_INT64),
    COL(estimated, COL_BOOL),
    COL(cached, COL_BOOL),
    COL(upstream_calls, COL_INT64),
    COL(retries, COL_INT64),
    COL(response_time_ms, COL_INT64),
    COL(ttft_ms, COL_INT64),
    COL(queue_ms, COL_INT64),
    COL(status_code, COL_INT),
    COL(cost_nano, COL_INT64),
    COL(error, COL_STR),
};

static void write_value(struct buf *b, const struct column *c, const char *at)
{
    switch (c->type) {
    case COL_STR:
        buf_json_str(b, str_n(at, strnlen(at, c->size)));
        break;
    case COL_INT64:
        buf_int(b, *(const int64_t *)(const void *)at);
        break;
    case COL_INT:
        buf_int(b, *(const int *)(const void *)at);
        break;
    case COL_BOOL:
        buf_adds(b, *(const bool *)(const void *)at ? "true" : "false");
        break;
    }
}

void journal_row_write(struct buf *b, const struct usage_row *row)
{
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
        buf_adds(b, i ? ",\"" : "{\"");
        buf_adds(b, columns[i].name);
        buf_adds(b, "\":");
        write_value(b, &columns[i], (const char *)row + columns[i].offset);
    }
    buf_adds(b, "}\n");
}

/* Copies what fits, without cutting a character of several bytes in two. */
static void copy_text(char *dst, size_t size, struct str s)
{
    size_t n = s.len < size ? s.len : size - 1;
    while (n < s.len && n > 0 && ((unsigned char)s.p[n] & 0xC0) == 0x80)
        n--;
    if (n)
        memcpy(dst, s.p, n);
    dst[n] = '\0';
}

static int read_value(const struct column *c, const json_t *v, char *at, struct err *err)
{
    bool fits = c->type == COL_STR    ? json_is_string(v)
                : c->type == COL_BOOL ? json_is_boolean(v)
                                      : json_is_integer(v);
    if (!fits)
        return err_set(err, ERR_INVALID, "%s: wrong type", c->name);
    switch (c->type) {
    case COL_STR:
        copy_text(at, c->size, json_str_of(v));
        break;
    case COL_INT64:
        *(int64_t *)(void *)at = json_integer_value(v);
        break;
    case COL_INT:
        *(int *)(void *)at = (int)json_integer_value(v);
        break;
    case COL_BOOL:
        *(bool *)(void *)at = json_is_true(v);
        break;
    }
    return 0;
}

int journal_row_parse(struct str line, struct usage_row *ret_row, struct err *err)
{
    struct usage_row row = {.cost_nano = -1};
    AUTO(json_unref_p) json_t *j = json_parse(line, err);
    if (!j)
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
        const json_t *v = json_object_get(j, columns[i].name);
        if (v && read_value(&columns[i], v, (char *)&row + columns[i].offset, err) != 0)
            return -1;
    }
    if (!row.request_id[0] || !row.api_key_id[0])
        return err_set(err, ERR_INVALID, "not a usage row: request_id or api_key_id is missing");
    *ret_row = row;
    return 0;
}

void journal_file_release(struct journal_file *f)
{
    free(f->rows);
    f->rows = NULL;
    f->count = 0;
    buf_release(&f->rejected);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static int slurp(const char *path, struct buf *b, struct err *err)
{
    AUTO(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open '%s': %s", path,
                       strerror(errno));
    for (;;) {
        if (!buf_reserve(b, 65536))
            return err_set(err, ERR_TOO_LARGE, "'%s' is larger than %zu bytes", path, b->max);
        ssize_t n = read(fd, b->data + b->len, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "cannot read '%s': %s", path, strerror(errno));
        if (n == 0)
            return 0;
        buf_grow_len(b, (size_t)n);
    }
}

static size_t count_lines(struct str text)
{
    size_t lines = 0;
    for (size_t i = 0; i < text.len; i++)
        lines += text.p[i] == '\n';
    return lines;
}

int journal_file_count(const char *path, size_t *ret_lines, struct err *err)
{
    AUTO(buf_release) struct buf b;
    buf_init(&b, FILE_MAX);
    if (slurp(path, &b, err) != 0)
        return -1;
    *ret_lines = count_lines(buf_str(&b));
    return 0;
}

int journal_file_read(const char *path, struct journal_file *f, struct err *err)
{
    AUTO(buf_release) struct buf b;
    *f = (struct journal_file){0};
    buf_init(&b, FILE_MAX);
    buf_init(&f->rejected, FILE_MAX);
    if (slurp(path, &b, err) != 0)
        return -1;
    struct str rest = buf_str(&b);
    f->rows = x_calloc(count_lines(rest), sizeof(*f->rows));
    while (rest.len) {
        const char *end = memchr(rest.p, '\n', rest.len);
        if (!end) {
            f->torn = true;
            break;
        }
        struct str line = str_split(&rest, '\n');
        if (journal_row_parse(line, &f->rows[f->count], NULL) == 0) {
            f->count++;
        } else {
            f->rejected_count++;
            buf_addstr(&f->rejected, line);
            buf_addc(&f->rejected, '\n');
        }
    }
    return 0;
}
