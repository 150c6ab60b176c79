/* chat_request.c - the body of POST /api/chat, checked field by field.
 *
 * Content blocks are rebuilt from the fields we know rather than passed on, so nothing a client
 * adds beside them can reach the claude program. */
#include "api/native/native.h"

#include <ctype.h>

#define BODY_MAX       ((size_t)10 << 20) /* the CLI's reading is quadratic in a line's length */
#define MESSAGE_MAX    (8.0 * 1024 * 1024)
#define SYSTEM_MAX     (1.0 * 1024 * 1024)
#define MAX_TOKENS_MAX 200000
#define BLOCKS_MAX     100
#define MODEL_MAX      100

struct body {
    char tag; /* so that no has_ flag stands at offset 0 */
    bool has_temperature, has_max_tokens, has_model, has_profile;
    json_t *message, *system;
    struct str model, session_id, profile;
    bool stream;
    double temperature;
    int64_t max_tokens;
};

static const struct json_field fields[] = {
    {.name = "message", .type = JF_ANY, .offset = offsetof(struct body, message), .required = true},
    {.name = "model",
     .type = JF_STRING,
     .offset = offsetof(struct body, model),
     .has_offset = offsetof(struct body, has_model),
     .min = 1,
     .max = MODEL_MAX},
    {.name = "stream", .type = JF_BOOL, .offset = offsetof(struct body, stream)},
    {.name = "sessionId",
     .type = JF_STRING,
     .offset = offsetof(struct body, session_id),
     .min = 1,
     .max = ID_UUID_SIZE - 1},
    {.name = "profile",
     .type = JF_STRING,
     .offset = offsetof(struct body, profile),
     .has_offset = offsetof(struct body, has_profile)},
    {.name = "temperature",
     .type = JF_REAL,
     .offset = offsetof(struct body, temperature),
     .has_offset = offsetof(struct body, has_temperature),
     .min = 0,
     .max = 1},
    {.name = "maxTokens",
     .type = JF_INT,
     .offset = offsetof(struct body, max_tokens),
     .has_offset = offsetof(struct body, has_max_tokens),
     .min = 1,
     .max = MAX_TOKENS_MAX},
    {.name = "system", .type = JF_ANY, .offset = offsetof(struct body, system)},
};

static json_t *text_block(struct str text)
{
    return json_pack("{s:s, s:s%}", "type", "text", "text", text.p, text.len);
}

/* The API refuses such a text, and the claude program drops it in silence. */
static bool is_blank(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!isspace((unsigned char)s.p[i]))
            return false;
    }
    return true;
}

struct block {
    struct str type, text;
    json_t *source;
};

static const struct json_field block_fields[] = {
    {.name = "type", .type = JF_STRING, .offset = offsetof(struct block, type), .required = true},
    {.name = "text", .type = JF_STRING, .offset = offsetof(struct block, text)},
    {.name = "source", .type = JF_OBJECT, .offset = offsetof(struct block, source)},
};

struct source {
    struct str type, media_type, data, url;
};

static const struct json_field source_fields[] = {
    {.name = "type", .type = JF_STRING, .offset = offsetof(struct source, type), .required = true},
    {.name = "media_type", .type = JF_STRING, .offset = offsetof(struct source, media_type)},
    {.name = "data", .type = JF_STRING, .offset = offsetof(struct source, data)},
    {.name = "url", .type = JF_STRING, .offset = offsetof(struct source, url)},
};

static bool is_base64(struct str s)
{
    while (s.len && s.p[s.len - 1] == '=')
        s.len--;
    for (size_t i = 0; i < s.len; i++) {
        if (!isalnum((unsigned char)s.p[i]) && s.p[i] != '+' && s.p[i] != '/')
            return false;
    }
    return s.len > 0;
}

static json_t *base64_source(const struct source *s, struct err *err)
{
    static const char *const types[] = {"image/jpeg", "image/png", "image/gif", "image/webp"};
    bool known = false;
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        known |= str_eq_c(s->media_type, types[i]);
    if (!known) {
        err_field(err, "media_type", "must be image/jpeg, image/png, image/gif or image/webp");
        return NULL;
    }
    if (!is_base64(s->data)) {
        err_field(err, "data", "must be base64");
        return NULL;
    }
    return json_pack("{s:s, s:s%, s:s%}", "type", "base64", "media_type", s->media_type.p,
                     s->media_type.len, "data", s->data.p, s->data.len);
}

static json_t *read_source(const json_t *j, struct err *err)
{
    struct source s = {0};
    if (json_read_fields(j, source_fields, ARRAY_SIZE(source_fields), &s, err) != 0)
        return NULL;
    bool base64 = str_eq_c(s.type, "base64");
    if (!base64 && !str_eq_c(s.type, "url")) {
        err_field(err, "type", "must be \"base64\" or \"url\"");
        return NULL;
    }
    const char *extra = base64           ? (s.url.p ? "url" : NULL)
                        : s.data.p       ? "data"
                        : s.media_type.p ? "media_type"
                                         : NULL;
    if (extra) {
        err_field(err, extra, "does not go with this type of source");
        return NULL;
    }
    if (base64)
        return base64_source(&s, err);
    if (!str_starts(s.url, "https://")) {
        err_field(err, "url", "must be an https URL");
        return NULL;
    }
    return json_pack("{s:s, s:s%}", "type", "url", "url", s.url.p, s.url.len);
}

static json_t *read_image(const json_t *j, struct err *err)
{
    if (!j) {
        err_field(err, "source", "is required");
        return NULL;
    }
    json_t *source = read_source(j, err);
    if (source)
        return json_pack("{s:s, s:o}", "type", "image", "source", source);
    char field[sizeof(err->field)], msg[sizeof(err->msg)];
    snprintf(field, sizeof(field), "source.%.50s", err->field);
    snprintf(msg, sizeof(msg), "source.%s", err->msg);
    memcpy(err->field, field, sizeof(field));
    memcpy(err->msg, msg, sizeof(msg));
    return NULL;
}

static json_t *read_block(const json_t *j, struct err *err)
{
    struct block b = {0};
    if (json_read_fields(j, block_fields, ARRAY_SIZE(block_fields), &b, err) != 0)
        return NULL;
    bool text = str_eq_c(b.type, "text"), image = str_eq_c(b.type, "image");
    if ((text && b.source) || (image && b.text.p)) {
        err_field(err, text ? "source" : "text", "does not go with this type of block");
        return NULL;
    }
    if (text) {
        if (is_blank(b.text)) {
            err_field(err, "text", "must not be %s", b.text.len ? "only white space" : "empty");
            return NULL;
        }
        return text_block(b.text);
    }
    if (image)
        return read_image(b.source, err);
    err_field(err, "type", "must be \"text\" or \"image\"");
    return NULL;
}

/* "message[2].source.url": where in the array the fault is. */
static void place_error(struct err *err, size_t index)
{
    char field[sizeof(err->field)];
    snprintf(field, sizeof(field), "message[%zu]%s%.40s", index, err->field[0] ? "." : "",
             err->field);
    char msg[sizeof(err->msg)];
    snprintf(msg, sizeof(msg), "message[%zu]%s%s", index, err->field[0] ? "." : ": ", err->msg);
    memcpy(err->field, field, sizeof(field));
    memcpy(err->msg, msg, sizeof(msg));
}

static json_t *read_blocks(const json_t *array, struct err *err)
{
    size_t n = json_array_size(array);
    if (n == 0 || n > BLOCKS_MAX) {
        err_field(err, "message", "must hold 1 to %d content blocks", BLOCKS_MAX);
        return NULL;
    }
    json_t *content = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *block = read_block(json_array_get(array, i), err);
        if (!block) {
            place_error(err, i);
            json_decref(content);
            return NULL;
        }
        json_array_append_new(content, block);
    }
    return content;
}

static json_t *read_message(const json_t *j, struct err *err)
{
    struct str text = json_str_of(j);
    if (json_is_array(j))
        return read_blocks(j, err);
    if (!json_is_string(j)) {
        err_field(err, "message", "must be a string or an array of content blocks");
        return NULL;
    }
    if (is_blank(text)) {
        err_field(err, "message", "must not be %s", text.len ? "only white space" : "empty");
        return NULL;
    }
    if ((double)text.len > MESSAGE_MAX) {
        err_field(err, "message", "must be at most %.0f bytes long", MESSAGE_MAX);
        return NULL;
    }
    return json_pack("[o]", text_block(text));
}

static int check_model(struct str model, struct err *err)
{
    for (size_t i = 0; i < model.len; i++) {
        if (!isalnum((unsigned char)model.p[i]) && !memchr("-._:@/[]", model.p[i], 8))
            return err_field(err, "model", "may hold letters, digits and -._:@/[] only");
    }
    if (str_ieq_c(model, "default"))
        return err_field(err, "model", "must name a model");
    return 0;
}

static int check_session_id(struct str id, struct err *err)
{
    bool ok = id.len == ID_UUID_SIZE - 1;
    for (size_t i = 0; ok && i < id.len; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        ok = dash ? id.p[i] == '-' : isxdigit((unsigned char)id.p[i]) != 0;
    }
    return ok ? 0 : err_field(err, "sessionId", "must be a UUID that an earlier answer returned");
}

static int check_system(const json_t *j, struct err *err)
{
    if (!j || json_is_null(j))
        return 0;
    if (!json_is_string(j))
        return err_field(err, "system", "must be a string");
    if ((double)json_string_length(j) > SYSTEM_MAX)
        return err_field(err, "system", "must be at most %.0f bytes long", SYSTEM_MAX);
    return 0;
}

static int check_profile(const struct body *b, struct err *err)
{
    if (b->has_profile && !str_eq_c(b->profile, "chat") && !str_eq_c(b->profile, "agent"))
        return err_field(err, "profile", "must be \"chat\" or \"agent\"");
    return 0;
}

static struct chat_request *build(const struct body *b, json_t *content)
{
    struct chat_request *r = x_calloc(1, sizeof(*r));
    r->model = b->has_model ? str_dup(b->model) : NULL;
    r->content = content;
    r->params = json_object();
    r->system = json_is_string(b->system) ? json_incref(b->system) : NULL;
    r->max_tokens = b->max_tokens;
    r->stream = b->stream;
    r->with_session = true;
    if (b->has_profile)
        r->profile = str_eq_c(b->profile, "agent") ? PROFILE_AGENT : PROFILE_CHAT;
    snprintf(r->session_id, sizeof(r->session_id), "%.*s", (int)b->session_id.len,
             b->session_id.len ? b->session_id.p : "");
    for (char *c = r->session_id; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    if (b->has_temperature)
        json_object_set_new(r->params, "temperature", json_real(b->temperature));
    return r;
}

struct chat_request *native_parse_chat(struct str body, struct err *err)
{
    struct body b = {0};
    if (body.len > BODY_MAX) {
        err_set(err, ERR_TOO_LARGE, "The request body is larger than %zu bytes", BODY_MAX);
        return NULL;
    }
    AUTO(json_unref_p) json_t *root = json_parse_foreign(body, err);
    if (!root || json_read_fields(root, fields, ARRAY_SIZE(fields), &b, err) != 0 ||
        check_model(b.model, err) != 0 || check_system(b.system, err) != 0 ||
        check_profile(&b, err) != 0 ||
        (b.session_id.len && check_session_id(b.session_id, err) != 0))
        return NULL;
    json_t *content = read_message(b.message, err);
    return content ? build(&b, content) : NULL;
}
