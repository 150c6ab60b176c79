/* make_key.c - see the header. */
#include "setup/make_key.h"

#include "auth/auth.h"
#include "core/clock.h"
#include "setup/setup.h"

#define MODELS_MAX 64

void new_key_set_models(struct api_key *key, char *const *models)
{
    size_t n = 0;
    char **old = key->permissions.models;
    while (models[n])
        n++;
    key->permissions.models = x_calloc(n + 1, sizeof(*models));
    for (size_t i = 0; i < n; i++)
        key->permissions.models[i] = x_strdup(models[i]);
    for (size_t i = 0; old && old[i]; i++)
        free(old[i]);
    free(old);
}

void new_key_defaults(const struct conf *conf, struct api_key *key)
{
    char *models[MODELS_MAX + 1] = {0};
    struct str rest = str_c(conf->keys.models);
    *key = (struct api_key){.priority = 1,
                            .limits = {.requests_per_minute = conf->keys.requests_per_minute,
                                       .requests_per_day = conf->keys.requests_per_day,
                                       .tokens_per_day = conf->keys.tokens_per_day,
                                       .max_concurrent = -1,
                                       .cost_per_day = -1,
                                       .cost_per_month = -1},
                            .permissions = {.max_tokens = conf->keys.max_tokens,
                                            .allow_streaming = true,
                                            .allow_tools = true}};
    for (size_t n = 0; rest.len && n < MODELS_MAX; n++)
        models[n] = str_dup(str_trim(str_split(&rest, ',')));
    new_key_set_models(key, models);
    for (size_t i = 0; models[i]; i++)
        free(models[i]);
}

void new_key_first(const struct conf *conf, struct api_key *key)
{
    new_key_defaults(conf, key);
    key->permissions.max_tokens = -1;
}

struct lookup {
    struct setup_wait wait;
    char id[ID_UUID_SIZE];
};

static void on_user(void *ctx, const struct user *user, const struct err *err)
{
    struct lookup *l = ctx;
    if (user)
        memcpy(l->id, user->id, sizeof(l->id));
    setup_answered(&l->wait, err);
}

static void on_user_made(void *ctx, const struct user *user, const struct err *err)
{
    (void)user;
    setup_answered(ctx, err);
}

static int find_or_make_user(struct loop *loop, struct db *db, const char *name,
                             char ret_id[ID_UUID_SIZE])
{
    struct lookup l = {.wait.loop = loop};
    user_find_by_name(db, name, on_user, &l);
    if (setup_wait(&l.wait) != 0)
        return -1;
    memcpy(ret_id, l.id, ID_UUID_SIZE);
    if (l.id[0])
        return 0;
    struct user u = {
        .name = x_strdup(name), .role = x_strdup("owner"), .created_at = clock_wall_ms()};
    memcpy(ret_id, id_uuid(u.id), ID_UUID_SIZE);
    struct setup_wait made = {.loop = loop};
    user_insert(db, &u, on_user_made, &made);
    int rc = setup_wait(&made);
    free(u.name);
    free(u.role);
    return rc;
}

static void on_key(void *ctx, const struct api_key *key, const struct err *err)
{
    (void)key;
    setup_answered(ctx, err);
}

int new_key_insert(struct loop *loop, struct db *db, const struct new_key *what,
                   struct api_key *key, char ret_text[KEY_TEXT_SIZE])
{
    struct setup_wait wait = {.loop = loop};
    if (find_or_make_user(loop, db, what->user, key->user_id) != 0)
        return -1;
    x_replace(&key->name, what->name);
    x_replace(&key->status, "active");
    auth_key_generate(key, ret_text);
    struct err err;
    if (what->signing_text &&
        auth_signing_generate(key, what->vault, what->signing_text, &err) != 0) {
        fprintf(stderr, "claudegate: %s\n", err.msg);
        return -1;
    }
    api_key_insert(db, key, on_key, &wait);
    return setup_wait(&wait);
}
