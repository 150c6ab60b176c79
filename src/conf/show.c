/* show.c - the rows for people: effective settings as YAML, and the reference page. */
#include "conf/settings.h"

/* A path may hold anything; a comment must stay one line. */
static void add_comment(struct buf *out, const char *text)
{
    for (; *text; text++)
        buf_addc(out, (unsigned char)*text < 0x20 || *text == 0x7F ? '?' : *text);
}

static void show_origin(const struct conf_origin *o, struct buf *out)
{
    buf_adds(out, "  # ");
    if (!o || !o->where)
        buf_adds(out, "default");
    else if (o->kind == ORIGIN_ENV)
        buf_printf(out, "environment %s", o->where);
    else
        add_comment(out, o->where);
    if (o && o->also)
        buf_printf(out, ", port from environment %s", o->also);
    buf_addc(out, '\n');
}

static void show_value(const struct setting *s, const struct conf *conf, struct buf *out)
{
    const char *text;
    if (!s->secret) {
        setting_write(s, conf, out);
        return;
    }
    memcpy(&text, (const char *)conf + s->offset, sizeof(text));
    buf_adds(out, text && text[0] ? "(set)" : "(not set)");
}

/* Rows of one section stand together in the table. */
static bool same_section(const struct setting *a, const struct setting *b)
{
    size_t n = setting_section_len(a);
    return n == setting_section_len(b) && memcmp(a->name, b->name, n) == 0;
}

void conf_show(const struct conf *conf, struct buf *out)
{
    for (size_t i = 0; i < settings_count; i++) {
        const struct setting *s = &settings[i];
        size_t section = setting_section_len(s);
        if (section && (i == 0 || !same_section(s, s - 1)))
            buf_printf(out, "%.*s:\n", (int)section, s->name);
        buf_printf(out, "%s%s:", section ? "  " : "", setting_leaf(s));
        bool lines = s->kind == SET_TARGETS && conf->upstream.targets;
        if (!lines) {
            buf_addc(out, ' ');
            show_value(s, conf, out);
        }
        show_origin(conf->origins ? &conf->origins[i] : NULL, out);
        if (lines)
            show_value(s, conf, out);
    }
}

static const char reference_head[] =
    "# Configuration\n"
    "\n"
    "<!-- Written by `claudegate config reference`; edit src/conf/settings.c instead. -->\n"
    "\n"
    "Settings come from a YAML file (`--config FILE` or the variable `CLAUDEGATE_CONFIG`) and "
    "from\n"
    "the environment. The environment wins over the file, the file over the default.\n"
    "`deploy/claudegate.yaml` is a complete example. `claudegate config check` reports every "
    "error\n"
    "at once, with its line; `claudegate config show` prints what is in effect and where each "
    "value\n"
    "came from, without secrets.\n"
    "\n"
    "- In the file, the part before the dot is a section: `pool.max_workers` is written as\n"
    "  `max_workers` under `pool:`. Unknown and repeated names are refused, as are anchors, "
    "aliases\n"
    "  and tags. The file may have up to 1 MiB.\n"
    "- Every setting has the variable `CLAUDEGATE_<SECTION>_<NAME>`. Where two are listed, the "
    "first\n"
    "  wins. An empty variable counts as unset; an unknown one that begins with `CLAUDEGATE_` is "
    "an\n"
    "  error. `PORT` replaces the port of `server.listen`.\n"
    "- Durations and sizes are plain numbers in the unit of the range, or carry a suffix: "
    "`500ms`,\n"
    "  `30s`, `5m`, `1h`, `2d`; `512B`, `64KiB`, `32MiB`, `1GiB`.\n"
    "- `upstream.targets` is a list: each target has a `name`, one credential (`api_key` or\n"
    "  `auth_token`, or with `_file` or `_env` behind it where it stands), and may have a "
    "`base_url`\n"
    "  (else `upstream.base_url`) and a `weight`. It takes the place of the single credential; "
    "both\n"
    "  at once are refused.\n"
    "- `upstream.api_key` and `upstream.auth_token` cannot both be set, nor `vault.master_key` "
    "and\n"
    "  `vault.master_key_file`; `pool.min_spare` is at "
    "most\n"
    "  `pool.max_workers`; `pool.silence_timeout_ms` is less than `pool.turn_timeout_ms`.\n"
    "\n"
    "| Setting | Variable | Type | Default | Meaning |\n"
    "|---|---|---|---|---|\n";

/* A table cell: no bars, and a * is not emphasis. */
static void add_cell(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|' || *text == '*')
            buf_addc(out, '\\');
        buf_addc(out, *text);
    }
}

static void write_row(const struct setting *s, struct buf *out)
{
    char mechanical[SETTING_ENV_SIZE];
    setting_env_name(s, mechanical);
    buf_printf(out, "| `%s` | ", s->name);
    if (s->env && strcmp(s->env, mechanical) != 0)
        buf_printf(out, "`%s`, ", s->env);
    buf_printf(out, "`%s` | ", mechanical);
    setting_describe_type(s, out);
    if (s->def[0])
        buf_printf(out, " | `%s` | ", s->def);
    else
        buf_adds(out, " | empty | ");
    add_cell(out, s->help);
    buf_adds(out, " |\n");
}

void conf_write_reference(struct buf *out)
{
    buf_adds(out, reference_head);
    for (size_t i = 0; i < settings_count; i++)
        write_row(&settings[i], out);
}
