/* targets.c - upstream.targets, the one setting that is a list of mappings: the rows of one target,
 * and what must hold for a target as a whole.
 *
 * A credential may stand in the configuration, in a file or in a variable. It is looked up here,
 * while the configuration is read, so that what is missing is reported with everything else, at its
 * line. No rule repeats what it found: a secret may stand where a name should. */
#include "conf/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define AT(member)      .offset = offsetof(struct conf_target, member)
#define CREDENTIAL_MAX  4096
#define CREDENTIAL_RULE "must hold one line of visible ASCII characters without spaces"
#define WEIGHT_MAX      1000

/* clang-format off */
const struct setting target_rows[] = {
    {.name = "name", .kind = SET_STRING, AT(name), .def = "", .may_be_empty = true,
     .check = check_target_name},
    {.name = "base_url", .kind = SET_STRING, AT(base_url), .def = "", .may_be_empty = true,
     .check = check_base_url},
    {.name = "api_key", .kind = SET_STRING, .secret = true, AT(api_key), .def = "",
     .may_be_empty = true, .check = check_token},
    {.name = "auth_token", .kind = SET_STRING, .secret = true, AT(auth_token), .def = "",
     .may_be_empty = true, .check = check_token},
    {.name = "api_key_file", .kind = SET_STRING, AT(api_key_file), .def = "", .may_be_empty = true},
    {.name = "auth_token_file", .kind = SET_STRING, AT(auth_token_file), .def = "",
     .may_be_empty = true},
    {.name = "api_key_env", .kind = SET_STRING, AT(api_key_env), .def = "", .may_be_empty = true,
     .check = check_variable},
    {.name = "auth_token_env", .kind = SET_STRING, AT(auth_token_env), .def = "",
     .may_be_empty = true, .check = check_variable},
    {.name = "weight", .kind = SET_INT, AT(weight), .min = 0, .max = WEIGHT_MAX, .def = "1"},
};
/* clang-format on */
_Static_assert(ARRAY_SIZE(target_rows) == TARGET_ROWS, "TARGET_ROWS counts the rows");

int target_row_find(struct str name)
{
    for (int i = 0; i < TARGET_ROWS; i++) {
        if (str_eq_c(name, target_rows[i].name))
            return i;
    }
    return -1;
}

struct conf_target *targets_add(struct conf_targets **list)
{
    if (!*list)
        *list = x_calloc(1, sizeof(**list));
    if ((*list)->count == CONF_MAX_TARGETS)
        return NULL;
    struct conf_target *t = &(*list)->items[(*list)->count++];
    for (size_t i = 0; i < TARGET_ROWS; i++) {
        AUTO(buf_release) struct buf rule;
        buf_init(&rule, 1024);
        int rc = setting_parse(&target_rows[i], str_c(target_rows[i].def), t, &rule);
        BUG_ON(rc != 0);
    }
    return t;
}

void targets_release(struct conf_targets **list)
{
    for (size_t i = 0; *list && i < (*list)->count; i++) {
        for (size_t k = 0; k < TARGET_ROWS; k++)
            setting_release(&target_rows[k], &(*list)->items[i]);
        setting_wipe(&(*list)->items[i].credential);
    }
    free(TAKE_PTR(*list));
}

/* --- a target as a whole ------------------------------------------------------------------ */

/* The latest target, while it is judged. */
struct judge {
    struct loader *l;
    struct conf_target *t;
    size_t index;
    int line;
    bool good;
};

static void PRINTF_LIKE(3, 4) broken(struct judge *j, const char *field, const char *fmt, ...)
{
    AUTO(free_charp)
    char *name =
        x_printf("upstream.targets[%zu]%s%s", j->index, field ? "." : "", field ? field : "");
    char rule[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rule, sizeof(rule), fmt, ap);
    va_end(ap);
    loader_error_at(j->l, j->line, name, "%s", rule);
    j->good = false;
}

static void take_credential(struct judge *j, const char *field, struct str text)
{
    if (text.len == 0 || check_token(text))
        broken(j, field, CREDENTIAL_RULE);
    else
        j->t->credential = str_dup(text);
}

static void read_credential(struct judge *j, const char *field, const char *path)
{
    char text[CREDENTIAL_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
    if (n < 0) {
        broken(j, field, "cannot read '%s': %s", path, strerror(errno));
    } else {
        struct str s = str_n(text, (size_t)n);
        while (s.len && (s.p[s.len - 1] == '\n' || s.p[s.len - 1] == '\r'))
            s.len--;
        take_credential(j, field, n == (ssize_t)sizeof(text) ? STR("") : s);
    }
    explicit_bzero(text, sizeof(text));
    if (fd >= 0)
        close(fd);
}

static void find_credential(struct judge *j)
{
    const char *field = NULL;
    int given = 0;
    for (size_t i = 0; i < TARGET_ROWS; i++) {
        const struct setting *row = &target_rows[i];
        bool is_credential = row->secret || strstr(row->name, "_file") || strstr(row->name, "_env");
        if (!is_credential || !(*setting_text(row, j->t))[0])
            continue;
        field = row->name;
        given++;
    }
    if (given > 1)
        broken(j, NULL,
               "must have one credential only: api_key or auth_token, or one of them with "
               "_file or _env behind its name");
    if (given != 1)
        return;
    j->t->bearer = field[1] == 'u'; /* auth_token... */
    const char *value = *setting_text(&target_rows[target_row_find(str_c(field))], j->t);
    if (strstr(field, "_file"))
        read_credential(j, field, value);
    else if (!strstr(field, "_env"))
        take_credential(j, field, str_c(value));
    else if (loader_env(j->l, value))
        take_credential(j, field, str_c(loader_env(j->l, value)));
    else
        broken(j, field, "the variable '%s' is not set", value);
}

bool targets_check_latest(struct loader *l, struct conf_targets *list, int line)
{
    size_t index = list->count - 1;
    struct judge j = {.l = l, .t = &list->items[index], .index = index, .line = line, .good = true};
    if (!j.t->name[0])
        broken(&j, "name", "must be given");
    for (size_t i = 0; i < index; i++) {
        if (j.t->name[0] && strcmp(list->items[i].name, j.t->name) == 0)
            broken(&j, "name", "is the name of upstream.targets[%zu] as well", i);
    }
    find_credential(&j);
    return j.good;
}

/* --- for people, and for who uses it ------------------------------------------------------ */

/* What is empty is left out. */
void targets_write(struct conf_targets *list, struct buf *out)
{
    if (!list)
        buf_adds(out, "[]");
    for (size_t i = 0; list && i < list->count; i++) {
        struct conf_target *t = &list->items[i];
        for (size_t k = 0; k < TARGET_ROWS; k++) {
            const struct setting *row = &target_rows[k];
            if (setting_is_text(row) && !(*setting_text(row, t))[0])
                continue;
            buf_printf(out, "    %s %s: ", k == 0 ? "-" : " ", row->name);
            if (row->secret)
                buf_adds(out, "(set)");
            else
                setting_write(row, t, out);
            buf_addc(out, '\n');
        }
    }
}

size_t conf_target_count(const struct conf *conf)
{
    return conf->upstream.targets ? conf->upstream.targets->count : 1;
}

struct conf_target conf_target_at(const struct conf *conf, size_t i)
{
    static char default_name[] = "default", none[] = "";
    bool bearer = conf->upstream.auth_token[0] != '\0';
    struct conf_target t = {.name = default_name,
                            .base_url = conf->upstream.base_url,
                            .weight = 1,
                            .credential =
                                bearer ? conf->upstream.auth_token : conf->upstream.api_key,
                            .bearer = bearer};
    BUG_ON(i >= conf_target_count(conf));
    if (!conf->upstream.targets)
        return t;
    t = conf->upstream.targets->items[i];
    if (!t.base_url[0])
        t.base_url = conf->upstream.base_url;
    if (!t.credential)
        t.credential = none;
    return t;
}
