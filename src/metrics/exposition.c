/* exposition.c - Prometheus text format 0.0.4:
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 *
 * Families stand in order of registration, series in order of appearance, so that two pages can
 * be compared line by line. A series needs no lookup here: its label text is ready. */
#include "metrics/registry.h"

#include <inttypes.h>
#include <math.h>

#define EXACT_MAX 9007199254740992.0 /* 2^53: every whole number up to here is exact */

void metrics_write_number(struct buf *out, double v)
{
    char text[40];
    if (isnan(v)) {
        buf_adds(out, "NaN");
        return;
    }
    if (isinf(v)) {
        buf_adds(out, v > 0 ? "+Inf" : "-Inf");
        return;
    }
    if (v >= -EXACT_MAX && v <= EXACT_MAX && (double)(int64_t)v == v) {
        buf_printf(out, "%" PRId64, (int64_t)v);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    buf_adds(out, text);
}

static void add_escaped(struct buf *out, const char *s, bool quotes)
{
    for (; *s; s++) {
        if (*s == '\\')
            buf_adds(out, "\\\\");
        else if (*s == '\n')
            buf_adds(out, "\\n");
        else if (*s == '"' && quotes)
            buf_adds(out, "\\\"");
        else
            buf_addc(out, *s);
    }
}

void metrics_write_escaped(struct buf *out, const char *value)
{
    add_escaped(out, value, true);
}

static void write_head(const struct metric *m, struct buf *out)
{
    static const char *const types[] = {
        [METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram"};
    buf_printf(out, "# HELP %s ", m->name);
    add_escaped(out, m->help, false);
    buf_printf(out, "\n# TYPE %s %s\n", m->name, types[m->type]);
}

/* name[suffix]{labels} */
static void write_name(const struct metric *m, const char *suffix, const struct series *s,
                       struct buf *out)
{
    buf_adds(out, m->name);
    buf_adds(out, suffix);
    if (s->labels[0]) {
        buf_addc(out, '{');
        buf_adds(out, s->labels);
        buf_addc(out, '}');
    }
    buf_addc(out, ' ');
}

static void write_bucket(const struct metric *m, const struct series *s, double bound,
                         uint64_t count, struct buf *out)
{
    buf_adds(out, m->name);
    buf_adds(out, "_bucket{");
    buf_adds(out, s->labels);
    buf_adds(out, s->labels[0] ? ",le=\"" : "le=\"");
    metrics_write_number(out, bound);
    buf_printf(out, "\"} %" PRIu64 "\n", count);
}

static void write_histogram(const struct metric *m, const struct series *s, struct buf *out)
{
    uint64_t count = 0;
    for (size_t i = 0; i <= m->bucket_count; i++) {
        count += s->buckets[i];
        write_bucket(m, s, i < m->bucket_count ? m->buckets[i] : HUGE_VAL, count, out);
    }
    write_name(m, "_sum", s, out);
    metrics_write_number(out, s->value);
    buf_addc(out, '\n');
    write_name(m, "_count", s, out);
    buf_printf(out, "%" PRIu64 "\n", count);
}

static void write_metric(const struct metric *m, struct buf *out)
{
    write_head(m, out);
    for (size_t i = 0; i < m->series->count && buf_ok(out); i++) {
        const struct series *s = m->series->items[i];
        if (m->type == METRIC_HISTOGRAM) {
            write_histogram(m, s, out);
            continue;
        }
        write_name(m, "", s, out);
        metrics_write_number(out, s->value);
        buf_addc(out, '\n');
    }
}

void metrics_write(struct buf *out)
{
    metrics_run_collectors();
    for (const struct metric *m = metrics_first(); m; m = m->next)
        write_metric(m, out);
}
