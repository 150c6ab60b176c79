/* value.c - one value: from text by the kind of its row, and back.
 *
 * Numbers with a unit are stored in the row's unit; a suffix is turned into it exactly or refused
 * ("500ms" is not a whole number of seconds). The same text means the same in the file and in
 * the environment. Rules never repeat the value: it may be a secret in the wrong place. */
#include "conf/settings.h"

struct unit {
    const char *suffix;
    int64_t factor; /* in the base: milliseconds or bytes */
};

static const struct unit durations[] = {{"ms", 1},      {"s", 1000},     {"m", 60000},
                                        {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
static const struct unit sizes[] = {
    {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {NULL, 0}};

/* kind -> words, unit of a bare number, suffixes */
static const struct kind_info {
    const char *noun;
    const char *unit_name;
    int64_t unit;
    const struct unit *suffixes;
    const char *examples;
} kinds[] = {
    [SET_STRING] = {"text", "", 0, NULL, NULL},
    [SET_CHOICE] = {"one of", "", 0, NULL, NULL},
    [SET_INDEX] = {"one of", "", 0, NULL, NULL},
    [SET_BOOL] = {"true or false", "", 0, NULL, NULL},
    [SET_INT] = {"whole number", "", 1, NULL, NULL},
    [SET_SECONDS] = {"duration", " seconds", 1000, durations, "30s, 5m or 1h"},
    [SET_MILLIS] = {"duration", " milliseconds", 1, durations, "500ms, 30s or 5m"},
    [SET_BYTES] = {"size", " bytes", 1, sizes, "64KiB or 32MiB"},
    [SET_MEBIBYTES] = {"size", " MiB", 1 << 20, sizes, "512MiB or 1GiB"},
    [SET_TARGETS] = {"list of targets", "", 0, NULL, NULL},
};

static void add_choices(const struct setting *s, struct buf *out)
{
    for (size_t i = 0; s->choices[i]; i++)
        buf_printf(out, "%s%s", i ? ", " : "", s->choices[i]);
}

void setting_rule(const struct setting *s, struct buf *out)
{
    const struct kind_info *k = &kinds[s->kind];
    long long min = s->min, max = s->max;
    if (s->choices) {
        buf_adds(out, "must be one of ");
        add_choices(s, out);
    } else if (s->kind == SET_TARGETS) {
        buf_printf(out, "must be a list of at most %d mappings, each with a name",
                   CONF_MAX_TARGETS);
    } else if (s->kind == SET_BOOL) {
        buf_adds(out, "must be true or false, without quotes");
    } else if (s->kind == SET_STRING) {
        buf_adds(out, s->may_be_empty ? "must be a text" : "must be a text that is not empty");
    } else if (s->kind == SET_INT) {
        buf_printf(out, "must be a whole number from %lld to %lld, without quotes", min, max);
    } else {
        buf_printf(out, "must be a %s from %lld to %lld%s, as a plain number or like %s", k->noun,
                   min, max, k->unit_name, k->examples);
    }
}

void setting_describe_type(const struct setting *s, struct buf *out)
{
    const struct kind_info *k = &kinds[s->kind];
    buf_adds(out, k->noun);
    if (s->choices) {
        buf_addc(out, ' ');
        add_choices(s, out);
    } else if (s->min < s->max) {
        buf_printf(out, ", %lld to %lld%s", (long long)s->min, (long long)s->max, k->unit_name);
    }
    if (s->secret)
        buf_adds(out, ", secret");
}

/* Printable UTF-8: a NUL would cut the text, a line break could add a header line upstream. */
static bool is_plain_text(struct str text)
{
    for (size_t i = 0; i < text.len; i++) {
        if ((unsigned char)text.p[i] < 0x20 || text.p[i] == 0x7F)
            return false;
    }
    return str_is_utf8(text);
}

/* From the unit of the suffix to the row's: exactly, or not at all. */
static bool convert_unit(const struct kind_info *k, struct str suffix, int64_t *v)
{
    for (const struct unit *u = k->suffixes; u && u->suffix; u++) {
        if (!str_eq_c(suffix, u->suffix))
            continue;
        if (__builtin_mul_overflow(*v, u->factor, v) || *v % k->unit != 0)
            return false;
        *v /= k->unit;
        return true;
    }
    return false;
}

/* [-]digits[suffix] into the row's unit. */
static bool parse_number(const struct setting *s, struct str text, int64_t *ret_value)
{
    bool negative = str_starts(text, "-");
    size_t digits = 0;
    uint64_t n;
    if (negative)
        text = str_n(text.p + 1, text.len - 1);
    while (digits < text.len && text.p[digits] >= '0' && text.p[digits] <= '9')
        digits++;
    struct str suffix = str_n(text.p + digits, text.len - digits);
    if (!str_to_u64(str_n(text.p, digits), &n) || n > INT64_MAX)
        return false;
    int64_t v = negative ? -(int64_t)n : (int64_t)n;
    if (suffix.len && !convert_unit(&kinds[s->kind], suffix, &v))
        return false;
    if (v < s->min || v > s->max)
        return false;
    *ret_value = v;
    return true;
}

static int find_choice(const struct setting *s, struct str text)
{
    for (int i = 0; s->choices[i]; i++) {
        if (str_eq_c(text, s->choices[i]))
            return i;
    }
    return -1;
}

void setting_wipe(char **slot)
{
    if (*slot)
        explicit_bzero(*slot, strlen(*slot));
    free(*slot);
    *slot = NULL;
}

static int parse_text(const struct setting *s, struct str text, void *base, struct buf *rule)
{
    const char *broken = NULL;
    if (!is_plain_text(text))
        broken = "must be UTF-8 text without control characters";
    else if (text.len == 0 && !s->may_be_empty)
        broken = "must not be empty";
    else if (text.len && s->check)
        broken = s->check(text);
    if (broken) {
        buf_adds(rule, broken);
        return -1;
    }
    if (s->choices && find_choice(s, text) < 0) {
        setting_rule(s, rule);
        return -1;
    }
    char **slot = setting_text(s, base);
    setting_wipe(slot);
    *slot = str_dup(text);
    return 0;
}

static bool parse_plain(const struct setting *s, struct str text, void *base)
{
    void *slot = (char *)base + s->offset;
    if (s->kind == SET_INDEX) {
        int choice = find_choice(s, text);
        if (choice < 0)
            return false;
        memcpy(slot, &choice, sizeof(choice));
        return true;
    }
    if (s->kind == SET_BOOL) {
        bool yes = str_eq_c(text, "true");
        if (!yes && !str_eq_c(text, "false"))
            return false;
        *(bool *)slot = yes;
        return true;
    }
    return parse_number(s, text, slot);
}

int setting_parse(const struct setting *s, struct str text, void *base, struct buf *rule)
{
    if (setting_is_text(s))
        return parse_text(s, text, base, rule);
    if (s->kind == SET_TARGETS) /* only the empty list is a single text */
        return 0;
    if (parse_plain(s, text, base))
        return 0;
    setting_rule(s, rule);
    return -1;
}

void setting_write(const struct setting *s, const void *base, struct buf *out)
{
    const void *slot = (const char *)base + s->offset;
    BUG_ON(s->secret);
    if (setting_is_text(s))
        buf_json_str(out, str_c(*(char *const *)slot));
    else if (s->kind == SET_INDEX)
        buf_json_str(out, str_c(s->choices[*(const unsigned *)slot]));
    else if (s->kind == SET_TARGETS)
        targets_write(*(struct conf_targets *const *)slot, out);
    else if (s->kind == SET_BOOL)
        buf_adds(out, *(const bool *)slot ? "true" : "false");
    else
        buf_printf(out, "%lld", (long long)*(const int64_t *)slot);
}

void setting_release(const struct setting *s, void *base)
{
    if (setting_is_text(s))
        setting_wipe(setting_text(s, base));
    else if (s->kind == SET_TARGETS)
        targets_release((struct conf_targets **)(void *)((char *)base + s->offset));
}
