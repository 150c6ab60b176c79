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

static void bad_value(struct walk *w, const struct setting *s, const char *name, int line)
{
    AUTO(buf_release) struct buf rule;
    buf_init(&rule, 1024);
    setting_rule(s, &rule);
    loader_error_at(w->l, line, name, "%s", buf_cstr(&rule));
}

/* Is the current event a single value of the row's YAML type? name: of the row, for people. */
static bool value_fits(struct walk *w, const struct setting *s, const char *name, int line)
{
    const char *refused = decoration(&w->event);
    if (refused)
        loader_error_at(w->l, line, name, "%s", refused);
    else if (is_null(&w->event))
        loader_error_at(w->l, line, name, "has no value%s",
                        setting_is_text(s) ? "; an empty text is written \"\"" : "");
    else if (w->event.type != YAML_SCALAR_EVENT || !type_fits(s, &w->event))
        bad_value(w, s, name, line);
    else
        return true;
    return false;
}

static bool next_name(struct walk *w, struct str section, struct buf *full, int *ret_line);

/* The current event begins the value of a field of a target. False: it was broken. */
static bool read_target_value(struct walk *w, const struct setting *row, struct conf_target *t,
                              const char *name)
{
    AUTO(buf_release) struct buf rule;
    int line = line_of(&w->event);
    buf_init(&rule, 1024);
    if (!value_fits(w, row, name, line))
        return false;
    if (setting_parse(row, scalar(&w->event), t, &rule) == 0)
        return true;
    loader_error_at(w->l, line, name, "%s", buf_cstr(&rule));
    return false;
}

/* The fields of a target; false: one was broken. */
static bool read_target_fields(struct walk *w, struct conf_target *t, size_t index)
{
    AUTO(buf_release) struct buf field;
    int line, seen[TARGET_ROWS] = {0};
    bool good = true;
    buf_init(&field, w->text.len + 256);
    while (next_name(w, STR(""), &field, &line)) {
        int row = target_row_find(buf_str(&field));
        AUTO(free_charp)
        char *name = x_printf("upstream.targets[%zu].%.100s", index, buf_cstr(&field));
        if (row < 0)
            loader_error_at(w->l, line, name,
                            "unknown; a target has name, base_url, weight and one "
                            "of api_key, auth_token, or these with _file or _env");
        else if (seen[row])
            loader_error_at(w->l, line, name, "is given twice, first on line %d", seen[row]);
        bool fresh = row >= 0 && !seen[row];
        good = fresh && read_target_value(w, &target_rows[row], t, name) && good;
        if (fresh)
            seen[row] = line;
        skip_node(w);
    }
    return good;
}

/* The current event begins the list of row `index`, or what stands there instead. */
static bool read_targets(struct walk *w, int index)
{
    const struct setting *s = &settings[index];
    struct conf_targets **list = (struct conf_targets **)(void *)((char *)w->l->conf + s->offset);
    const char *refused = decoration(&w->event);
    int line = line_of(&w->event);
    bool good = true;
    targets_release(list); /* the file's, when the environment has another */
    if (refused || w->event.type != YAML_SEQUENCE_START_EVENT) {
        if (refused)
            loader_error_at(w->l, line, s->name, "%s", refused);
        else
            bad_value(w, s, s->name, line);
        skip_node(w);
        return false;
    }
    while (next(w) && w->event.type != YAML_SEQUENCE_END_EVENT) {
        struct conf_target *t = NULL;
        line = line_of(&w->event);
        if (w->event.type == YAML_MAPPING_START_EVENT && !decoration(&w->event))
            t = targets_add(list);
        if (t) {
            good = read_target_fields(w, t, (*list)->count - 1) && good;
            good = !w->failed && targets_check_latest(w->l, *list, line) && good;
        } else {
            bad_value(w, s, s->name, line);
            skip_node(w);
            good = false;
        }
    }
    return good && !w->failed;
}

/* The current event begins the value of row `index`. */
static void read_value(struct walk *w, int index)
{
    const struct setting *s = &settings[index];
    struct conf_origin *o = &w->l->conf->origins[index];
    int line = line_of(&w->event);
    if (o->file_line) {
        loader_error_at(w->l, line, s->name, "is given twice, first on line %d", o->file_line);
        skip_node(w);
        return;
    }
    o->file_line = line;
    if (s->kind == SET_TARGETS) {
        loader_note_file(w->l, index, line);
        o->broken = !read_targets(w, index);
        return;
    }
    if (value_fits(w, s, s->name, line))
        loader_set_from_file(w->l, index, scalar(&w->event), line);
    else
        o->broken = true;
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

static void walk_open(struct walk *w, struct loader *l, struct str text)
{
    *w = (struct walk){.l = l, .text = text};
    BUG_ON(!yaml_parser_initialize(&w->parser)); /* out of memory */
    w->section_line = x_calloc(settings_count, sizeof(int));
    yaml_parser_set_encoding(&w->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&w->parser, (const unsigned char *)(text.p ? text.p : ""),
                                 text.len);
}

static void walk_close(struct walk *w)
{
    drop_event(w);
    yaml_parser_delete(&w->parser);
    free(w->section_line);
}

void loader_read_yaml(struct loader *l, struct str text)
{
    struct walk w;
    walk_open(&w, l, text);
    read_stream(&w);
    walk_close(&w);
}

void loader_read_yaml_list(struct loader *l, int index, struct str text)
{
    struct walk w;
    bool good = false;
    walk_open(&w, l, text);
    while (next(&w) && w.event.type != YAML_DOCUMENT_START_EVENT &&
           w.event.type != YAML_STREAM_END_EVENT)
        continue;
    bool document = w.has_event && w.event.type == YAML_DOCUMENT_START_EVENT;
    if (document && next(&w))
        good = read_targets(&w, index);
    else if (!w.failed)
        bad_value(&w, &settings[index], settings[index].name, 1);
    while (document && next(&w) && w.event.type != YAML_STREAM_END_EVENT) {
        if (w.event.type != YAML_DOCUMENT_START_EVENT)
            continue;
        loader_error_at(l, 1, NULL, "must hold one list only");
        good = false;
        break;
    }
    l->conf->origins[index].broken = !good || w.failed;
    walk_close(&w);
}
