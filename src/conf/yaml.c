/* yaml.c - walks the events of libyaml, which carry the line of everything.
 *
 * The form is small: a mapping of sections, each a mapping of names to single values. What is not
 * of that form is reported where it stands and stepped over, so that one run finds all errors;
 * only text that is not YAML at all ends the walk. Events are never composed into a document, and
 * anchors, aliases and tags are refused: nothing can be expanded, so memory stays in proportion to
 * the text. */
#include "conf/settings.h"

#include <yaml.h>

#define NAME_MAX_SHOWN 100

struct walk {
    struct loader *l;
    struct str text;
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    bool has_event;
    bool failed;       /* not YAML: nothing more can be read */
    int *section_line; /* per row: where the section it begins was opened; 0 = not yet */
};

static int line_of(const yaml_event_t *e)
{
    return (int)e->start_mark.line + 1;
}

static struct str scalar(const yaml_event_t *e)
{
    return str_n((const char *)e->data.scalar.value, e->data.scalar.length);
}

/* A reader error (bad UTF-8, control character) has an offset but no line. */
static int line_of_problem(const struct walk *w)
{
    int line = 1;
    if (w->parser.error != YAML_READER_ERROR)
        return (int)w->parser.problem_mark.line + 1;
    for (size_t i = 0; i < w->parser.problem_offset && i < w->text.len; i++)
        line += w->text.p[i] == '\n';
    return line;
}

static void drop_event(struct walk *w)
{
    if (w->has_event && w->event.type == YAML_SCALAR_EVENT) /* it may have been a secret */
        explicit_bzero(w->event.data.scalar.value, w->event.data.scalar.length);
    if (w->has_event)
        yaml_event_delete(&w->event);
    w->has_event = false;
}

/* Moves to the next event; false at a syntax error and for ever after. */
static bool next(struct walk *w)
{
    drop_event(w);
    if (w->failed)
        return false;
    if (!yaml_parser_parse(&w->parser, &w->event)) {
        w->failed = true;
        loader_error_at(w->l, line_of_problem(w), NULL, "invalid YAML: %s",
                        w->parser.problem ? w->parser.problem : "out of memory");
        return false;
    }
    w->has_event = true;
    return true;
}

static bool opens(const yaml_event_t *e)
{
    return e->type == YAML_MAPPING_START_EVENT || e->type == YAML_SEQUENCE_START_EVENT;
}

static bool closes(const yaml_event_t *e)
{
    return e->type == YAML_MAPPING_END_EVENT || e->type == YAML_SEQUENCE_END_EVENT;
}

/* Steps over the rest of the current node: afterwards its last event is the current one. */
static void skip_node(struct walk *w)
{
    size_t depth = opens(&w->event) ? 1 : 0;
    while (depth && next(w)) {
        if (opens(&w->event))
            depth++;
        else if (closes(&w->event))
            depth--;
    }
}

/* What may not stand on any node; NULL = nothing. */
static const char *decoration(const yaml_event_t *e)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT)
        return "aliases (*name) are not allowed";
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    }
    if (anchor)
        return "anchors (&name) are not allowed";
    return tag ? "tags (!name) are not allowed" : NULL;
}

static bool is_null(const yaml_event_t *e)
{
    if (e->type != YAML_SCALAR_EVENT || e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    struct str s = scalar(e);
    return s.len == 0 || str_eq_c(s, "~") || str_ieq_c(s, "null");
}

/* Does the scalar have the YAML type of the row? Numbers with a unit are texts to YAML: quoted or
 * not. A bare number is a fine text (a token may consist of digits), a bare true is not. */
static bool type_fits(const struct setting *s, const yaml_event_t *e)
{
    bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    struct str v = scalar(e);
    if (s->kind == SET_BOOL || s->kind == SET_INT)
        return plain;
    if (s->kind == SET_STRING)
        return !plain || !(str_ieq_c(v, "true") || str_ieq_c(v, "false"));
    return true;
}

static void bad_value(struct walk *w, const struct setting *s, int line)
{
    AUTO(buf_release) struct buf rule;
    buf_init(&rule, 1024);
    setting_rule(s, &rule);
    loader_error_at(w->l, line, s->name, "%s", buf_cstr(&rule));
    w->l->conf->origins[s - settings].broken = true;
}

/* The current event begins the value of row `index`. */
static void read_value(struct walk *w, int index)
{
    const struct setting *s = &settings[index];
    struct conf_origin *o = &w->l->conf->origins[index];
    int line = line_of(&w->event);
    const char *refused = decoration(&w->event);
    if (o->file_line) {
        loader_error_at(w->l, line, s->name, "is given twice, first on line %d", o->file_line);
    } else if (refused) {
        loader_error_at(w->l, line, s->name, "%s", refused);
        o->broken = true;
    } else if (is_null(&w->event)) {
        loader_error_at(w->l, line, s->name, "has no value%s",
                        setting_is_text(s) ? "; an empty text is written \"\"" : "");
        o->broken = true;
    } else if (w->event.type != YAML_SCALAR_EVENT || !type_fits(s, &w->event)) {
        bad_value(w, s, line);
    } else {
        loader_set_from_file(w->l, index, scalar(&w->event), line);
    }
    if (!o->file_line)
        o->file_line = line;
    skip_node(w);
}

static void unknown_name(struct walk *w, struct str name, int line)
{
    AUTO(buf_release) struct buf near;
    buf_init(&near, 1024);
    int index = setting_find(name);
    size_t section = index < 0 ? 0 : setting_section_len(&settings[index]);
    char shown[NAME_MAX_SHOWN + 1];
    snprintf(shown, sizeof(shown), "%.*s", (int)(name.len < 1000 ? name.len : 1000), name.p);
    if (section)
        buf_printf(&near, "; write '%.*s:' and below it, indented, '%s: ...'", (int)section,
                   settings[index].name, setting_leaf(&settings[index]));
    else
        setting_suggest(&near, name);
    loader_error_at(w->l, line, shown, "unknown setting%s%s", section ? "" : " ", buf_cstr(&near));
}

/* Reads the name of the next entry into full ("section.name"). False at the end of the mapping. */
static bool next_name(struct walk *w, struct str section, struct buf *full, int *ret_line)
{
    while (next(w) && w->event.type != YAML_MAPPING_END_EVENT) {
        const char *refused = decoration(&w->event);
        int line = line_of(&w->event);
        if (w->event.type == YAML_SCALAR_EVENT && !refused) {
            buf_clear(full);
            if (section.len)
                buf_printf(full, "%.*s.", (int)section.len, section.p);
            buf_addstr(full, scalar(&w->event));
            *ret_line = line;
            return buf_ok(full) && next(w);
        }
        loader_error_at(w->l, line, section.len ? section.p : NULL, "%s",
                        refused ? refused : "a name must be a single word");
        skip_node(w); /* the name */
        if (next(w))
            skip_node(w); /* its value */
    }
    return false;
}

static void read_section(struct walk *w, struct str name)
{
    AUTO(buf_release) struct buf full;
    AUTO(free_charp) char *section = str_dup(name);
    int line;
    buf_init(&full, w->text.len + 256);
    while (next_name(w, str_c(section), &full, &line)) {
        int index = setting_find(buf_str(&full));
        if (index >= 0) {
            read_value(w, index);
        } else {
            unknown_name(w, buf_str(&full), line);
            skip_node(w);
        }
    }
}

/* The row whose index stands for the section. */
static int first_of_section(struct str name)
{
    for (size_t i = 0; i < settings_count; i++) {
        if (str_eq(name, str_n(settings[i].name, setting_section_len(&settings[i]))))
            return (int)i;
    }
    BUG_ON(true);
    return -1;
}

static void enter_section(struct walk *w, struct str name, int line)
{
    int *opened = &w->section_line[first_of_section(name)];
    const char *refused = decoration(&w->event);
    if (*opened)
        loader_error_at(w->l, line, name.p, "is given twice, first on line %d", *opened);
    else
        *opened = line;
    if (refused)
        loader_error_at(w->l, line, name.p, "%s", refused);
    if (w->event.type == YAML_MAPPING_START_EVENT) {
        read_section(w, name);
    } else if (!is_null(&w->event) && !refused) { /* empty: all its lines are comments */
        loader_error_at(w->l, line, name.p, "must be a section, its settings indented below it");
        skip_node(w);
    } else {
        skip_node(w);
    }
}

static void read_root(struct walk *w)
{
    AUTO(buf_release) struct buf name;
    int line;
    buf_init(&name, w->text.len + 256);
    while (next_name(w, STR(""), &name, &line)) {
        int index = setting_find(buf_str(&name));
        if (index >= 0 && !setting_section_len(&settings[index])) {
            read_value(w, index);
        } else if (setting_is_section(buf_str(&name))) {
            enter_section(w, buf_str(&name), line);
        } else {
            unknown_name(w, buf_str(&name), line);
            skip_node(w);
        }
    }
}

/* The content of the document whose start is the current event. */
static void read_document(struct walk *w)
{
    if (!next(w))
        return;
    const char *refused = decoration(&w->event);
    if (refused)
        loader_error_at(w->l, line_of(&w->event), NULL, "%s", refused);
    if (w->event.type == YAML_MAPPING_START_EVENT) {
        read_root(w);
    } else if (!is_null(&w->event) && !refused) {
        loader_error_at(w->l, line_of(&w->event), NULL, "must be a mapping of sections");
        skip_node(w);
    } else {
        skip_node(w);
    }
}

static void read_stream(struct walk *w)
{
    int documents = 0;
    while (next(w) && w->event.type != YAML_STREAM_END_EVENT) {
        if (w->event.type != YAML_DOCUMENT_START_EVENT)
            continue; /* start of stream, end of document */
        if (documents++ > 0) {
            loader_error_at(w->l, line_of(&w->event), NULL, "must hold one document only");
            return;
        }
        read_document(w);
    }
}

void loader_read_yaml(struct loader *l, struct str text)
{
    struct walk w = {.l = l, .text = text};
    if (!yaml_parser_initialize(&w.parser)) {
        loader_error_at(l, 1, NULL, "out of memory");
        return;
    }
    w.section_line = x_calloc(settings_count, sizeof(int));
    yaml_parser_set_encoding(&w.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&w.parser, (const unsigned char *)(text.p ? text.p : ""),
                                 text.len);
    read_stream(&w);
    drop_event(&w);
    yaml_parser_delete(&w.parser);
    free(w.section_line);
}
