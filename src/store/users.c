/* users.c - the table users. */
#include "store/row.h"
#include "store/store.h"

#define COLUMNS "id, name, role, password_hash, created_at"

static const char sql_insert[] = "INSERT INTO users (" COLUMNS ") VALUES ($1, $2, $3, $4, $5) "
                                 "RETURNING " COLUMNS;
static const char sql_find_by_name[] = "SELECT " COLUMNS " FROM users WHERE name = $1";
static const char sql_count[] = "SELECT count(*) FROM users";

#define USER_CALL_TAG TAG4('u', 's', 'r', 'c')
struct user_call {
    uint32_t tag;
    user_done_fn *done;
    void *ctx;
};

static struct user_call *user_call_new(user_done_fn *done, void *ctx)
{
    struct user_call *call = x_calloc(1, sizeof(*call));
    *call = (struct user_call){.tag = USER_CALL_TAG, .done = done, .ctx = ctx};
    return call;
}

static void give_user(const struct user_call *call, const struct db_result *r)
{
    struct user user = {.created_at = db_int(r, 0, 4)};
    ROW_FIXED(user.id, r, 0, 0);
    user.name = row_text(r, 0, 1);
    user.role = row_text(r, 0, 2);
    user.password_hash = row_text(r, 0, 3);
    call->done(call->ctx, &user, NULL);
    free(user.name);
    free(user.role);
    free(user.password_hash);
}

static void user_rows(void *ctx, const struct db_result *r, const struct err *err)
{
    struct user_call *call = OBJ(ctx, struct user_call, USER_CALL_TAG);
    struct err conflict;
    if (err && err->code == ERR_CONFLICT) {
        err_set(&conflict, ERR_CONFLICT, "a user with this name already exists");
        err = &conflict;
    }
    if (err || db_rows(r) == 0)
        call->done(call->ctx, NULL, err);
    else
        give_user(call, r);
    free(call);
}

void user_insert(struct db *db, const struct user *user, user_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(user->id), DBP_S(user->name), DBP_S(user->role),
                                      DBP_S(user->password_hash), DBP_I(user->created_at)};
    db_query(db, sql_insert, params, ARRAY_SIZE(params), user_rows, user_call_new(done, ctx));
}

void user_find_by_name(struct db *db, const char *name, user_done_fn *done, void *ctx)
{
    const struct db_param params[] = {DBP_S(name)};
    db_query(db, sql_find_by_name, params, ARRAY_SIZE(params), user_rows, user_call_new(done, ctx));
}

#define USER_COUNT_TAG TAG4('u', 's', 'r', 'n')
struct count_call {
    uint32_t tag;
    count_done_fn *done;
    void *ctx;
};

static void count_row(void *ctx, const struct db_result *r, const struct err *err)
{
    struct count_call *call = OBJ(ctx, struct count_call, USER_COUNT_TAG);
    call->done(call->ctx, err ? 0 : db_int(r, 0, 0), err);
    free(call);
}

void user_count(struct db *db, count_done_fn *done, void *ctx)
{
    struct count_call *call = x_calloc(1, sizeof(*call));
    *call = (struct count_call){.tag = USER_COUNT_TAG, .done = done, .ctx = ctx};
    db_query(db, sql_count, NULL, 0, count_row, call);
}
