/* first_start.c - see the header. The name "admin" is unique: who inserts it first goes on. */
#include "setup/first_start.h"

#include "auth/auth.h"
#include "core/clock.h"
#include "setup/make_key.h"
#include "setup/setup.h"

#define ADMIN_COST 12

struct counted {
    struct setup_wait wait;
    int64_t count;
};

static void on_count(void *ctx, int64_t count, const struct err *err)
{
    struct counted *c = ctx;
    c->count = count;
    setup_answered(&c->wait, err);
}

struct admin {
    struct setup_wait wait;
    bool taken; /* another server on this database was first */
};

static void on_admin(void *ctx, const struct user *user, const struct err *err)
{
    struct admin *admin = ctx;
    (void)user;
    admin->taken = err && err->code == ERR_CONFLICT;
    setup_answered(&admin->wait, admin->taken ? NULL : err);
}

/* The password stays "" when another server was first. */
static int make_admin(struct loop *loop, struct db *db, char password[32])
{
    struct admin admin = {.wait.loop = loop};
    id_alnum(password, 20);
    struct user u = {.name = x_strdup("admin"),
                     .role = x_strdup("owner"),
                     .password_hash = auth_bcrypt(password, ADMIN_COST),
                     .created_at = clock_wall_ms()};
    id_uuid(u.id);
    user_insert(db, &u, on_admin, &admin);
    int rc = setup_wait(&admin.wait);
    if (admin.taken)
        password[0] = '\0';
    free(u.name);
    free(u.role);
    free(u.password_hash);
    return rc;
}

int setup_first_start(const struct conf *conf, struct loop *loop, struct db *db,
                      struct first_start *ret_first)
{
    struct counted c = {.wait.loop = loop};
    user_count(db, on_count, &c);
    if (setup_wait(&c.wait) != 0)
        return -1;
    if (c.count > 0)
        return 0;
    if (make_admin(loop, db, ret_first->admin_password) != 0)
        return -1;
    if (!ret_first->admin_password[0])
        return 0;
    struct api_key key;
    struct new_key what = {.name = "first key", .user = "admin"};
    new_key_first(conf, &key);
    int rc = new_key_insert(loop, db, &what, &key, ret_first->key);
    api_key_release(&key);
    return rc;
}
