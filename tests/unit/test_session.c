/* test_session.c - conversations and their owners, on a real database: who may open what and when,
 * what a restart brings back, what the cache keeps. */
#include "core/json.h"
#include "core/log.h"
#include "db_fx.h"
#include "metrics/metrics.h"
#include "session/workspace.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define USER_ID  "11111111-1111-4111-8111-111111111111"
#define KEY_A    "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"
#define KEY_B    "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb"
#define NO_ID    "99999999-9999-4999-8999-999999999999"
#define BIG      ((int64_t)1 << 40)
#define AN_HOUR  3600
#define CACHE_OF 2000 /* sessions the cache keeps */

struct sfx {
    struct fx *fx;
    struct sessions *ss;
    struct vault *vault;
    int64_t ttl_s, max_bytes, max_messages;
    int parted, gone; /* sessions that left */
};

static struct sfx s;

static void on_part(void *ctx, const char *id, bool gone)
{
    assert_ptr_equal(ctx, &s);
    assert_int_equal(strlen(id), 36);
    s.parted++;
    s.gone += gone;
}

static struct sessions *new_sessions(void)
{
    struct sessions_opts o = {.loop = s.fx->loop,
                              .db = s.fx->db,
                              .vault = s.vault,
                              .ttl_s = s.ttl_s,
                              .max_bytes = s.max_bytes,
                              .max_messages = s.max_messages};
    struct sessions *ss = sessions_new(&o);
    sessions_on_part(ss, on_part, &s);
    return ss;
}

static void open_sessions(int64_t ttl_s, int64_t max_bytes)
{
    s.ttl_s = ttl_s;
    s.max_bytes = max_bytes;
    s.ss = new_sessions();
}

static void close_sessions(void)
{
    if (s.fx->db)
        close_db(s.fx);
    sessions_free(s.ss);
    s.ss = NULL;
}

/* A new process on the same database. */
static void restart(void)
{
    close_sessions();
    open_db(s.fx);
    open_sessions(s.ttl_s, s.max_bytes);
}

static void insert_key(const char *id, const char *public_id)
{
    sqlite3 *raw = raw_open(s.fx);
    char *sql = sqlite3_mprintf("INSERT INTO api_keys (id, public_id, secret_hash, user_id, name, "
                                "created_at, limits, permissions) VALUES (%Q, %Q, 'x', %Q, 'k', 1, "
                                "'{}', '{}')",
                                id, public_id, USER_ID);
    raw_run(raw, sql);
    sqlite3_free(sql);
    sqlite3_close(raw);
}

static void raw_sql(const char *sql)
{
    sqlite3 *raw = raw_open(s.fx);
    raw_run(raw, sql);
    sqlite3_close(raw);
}

static int64_t raw_number(const char *sql)
{
    sqlite3 *raw = raw_open(s.fx);
    int64_t v = raw_int(raw, sql);
    sqlite3_close(raw);
    return v;
}

static int set_up(void **state)
{
    void *fx = NULL;
    (void)state;
    fx_set_up(&fx);
    s = (struct sfx){.fx = fx};
    raw_sql("INSERT INTO users (id, name, role, created_at) VALUES ('" USER_ID
            "', 'u', 'owner', 1)");
    insert_key(KEY_A, "AAAAAAAAAAAA");
    insert_key(KEY_B, "BBBBBBBBBBBB");
    open_sessions(AN_HOUR, BIG);
    return 0;
}

static int tear_down(void **state)
{
    void *fx = s.fx;
    (void)state;
    close_sessions();
    vault_free(s.vault);
    fx_tear_down(&fx);
    metrics_reset();
    return 0;
}

/* --- calls and what they answered --------------------------------------------------------- */

struct answer {
    int calls;
    struct session *session;
    struct err err; /* ERR_NONE: none */
};

static void on_opened(void *ctx, struct session *session, const struct err *err)
{
    struct answer *a = ctx;
    assert_true((session == NULL) == (err != NULL));
    a->calls++;
    a->session = session;
    a->err = err ? *err : (struct err){.code = ERR_NONE};
    if (session)
        assert_true(session->busy);
}

static void on_committed(void *ctx, const struct err *err)
{
    struct answer *a = ctx;
    assert_false(submitting);
    a->calls++;
    a->err = err ? *err : (struct err){.code = ERR_NONE};
}

static void wait_answer(const struct answer *a)
{
    int64_t deadline = clock_mono_ms() + 30000;
    while (!a->calls) {
        assert_true(clock_mono_ms() < deadline);
        event_base_loop(loop_base(s.fx->loop), EVLOOP_ONCE);
    }
    assert_int_equal(a->calls, 1);
}

static struct session *open_on(struct sessions *ss, const char *id, const char *key,
                               enum err_code expected)
{
    struct answer a = {.calls = 0};
    session_open(ss, id, key, on_opened, &a);
    wait_answer(&a);
    if (a.err.code != expected)
        fail_msg("code %d: %s", (int)a.err.code, a.err.msg);
    if (expected != ERR_NONE && expected != ERR_INTERNAL && expected != ERR_UNAVAILABLE)
        assert_memory_equal(a.err.msg, "sessionId: ", 11);
    return a.session;
}

static struct session *open_as(const char *id, const char *key, enum err_code expected)
{
    return open_on(s.ss, id, key, expected);
}

static json_t *text_content(const char *text)
{
    return json_pack("[{s:s, s:s}]", "type", "text", "text", text);
}

static void commit_later(struct session *session, const char *user, const char *assistant,
                         json_t *system, struct answer *a)
{
    struct session_turn turn = {.model = "claude-sonnet-4-5",
                                .revision = session_new_revision(session),
                                .conversation_id = "cli-session-1",
                                .system = system,
                                .user = text_content(user),
                                .assistant = text_content(assistant)};
    submitting = true;
    session_commit(session, &turn, on_committed, a);
    submitting = false;
    json_decref(turn.user);
    json_decref(turn.assistant);
}

static void commit(struct session *session, const char *user, const char *assistant)
{
    struct answer a = {.calls = 0};
    commit_later(session, user, assistant, NULL, &a);
    wait_answer(&a);
    if (a.err.code != ERR_NONE)
        fail_msg("%s", a.err.msg);
}

/* A session of one turn, released; its id in out. */
static void make_session(const char *key, char out[ID_UUID_SIZE])
{
    struct session *session = session_create(s.ss, key);
    snprintf(out, ID_UUID_SIZE, "%s", session->id);
    commit(session, "hello", "hi");
    session_release(session);
}

static void stop_loop(void *loop)
{
    loop_stop(loop);
}

static void run_loop_for(int64_t ms)
{
    struct timer t;
    timer_init(&t, s.fx->loop, stop_loop, s.fx->loop);
    timer_set(&t, ms);
    loop_run(s.fx->loop);
    timer_release(&t);
}

/* --- owners and turns --------------------------------------------------------------------- */

static void test_a_session_without_a_turn_does_not_exist(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    struct session *session = session_create(s.ss, KEY_A);
    assert_true(session->busy);
    assert_string_equal(session->api_key_id, KEY_A);
    assert_string_equal(session->model, "");
    assert_int_equal(json_array_size(session->messages), 0);
    snprintf(id, sizeof(id), "%s", session->id);
    assert_int_equal(strlen(id), 36);
    open_as(id, KEY_A, ERR_SESSION_BUSY);
    session_release(session);
    assert_int_equal(sessions_cached(s.ss), 0);
    open_as(id, KEY_A, ERR_NOT_FOUND);
    assert_int_equal(raw_number("SELECT count(*) FROM sessions"), 0);
}

static void test_committed_turns_come_back(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, id);
    assert_int_equal(raw_number("SELECT count(*) FROM sessions WHERE api_key_id = '" KEY_A "'"), 1);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), 2);
    commit(session, "and?", "so");
    assert_int_equal(json_array_size(session->messages), 4);
    const json_t *m = json_array_get(session->messages, 2);
    assert_true(str_eq_c(json_get_str(m, "role"), "user"));
    const json_t *block = json_array_get(json_object_get(m, "content"), 0);
    assert_true(str_eq_c(json_get_str(block, "text"), "and?"));
    session_release(session);
    assert_int_equal(raw_number("SELECT count(*) FROM sessions"), 1);
    assert_int_equal(sessions_cached(s.ss), 1);
}

static void test_for_another_key_it_does_not_exist(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, id);
    open_as(id, KEY_B, ERR_NOT_FOUND); /* cached */
    restart();
    open_as(id, KEY_B, ERR_NOT_FOUND); /* not cached */
    assert_int_equal(sessions_cached(s.ss), 0);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    open_as(id, KEY_B, ERR_NOT_FOUND); /* busy: not even that is told */
    session_release(session);
    open_as(NO_ID, KEY_A, ERR_NOT_FOUND);
    open_as("", KEY_A, ERR_NOT_FOUND);
    open_as("not an id'; DROP TABLE sessions; --", KEY_A, ERR_NOT_FOUND);
    session_release(open_as(id, KEY_A, ERR_NONE));
}

/* Somebody who knows the id asks for it all the time: the owner must not notice. */
static void test_a_stranger_loading_does_not_hide_it_from_its_owner(void **state)
{
    char id[ID_UUID_SIZE];
    struct answer stranger = {.calls = 0}, owner = {.calls = 0};
    (void)state;
    make_session(KEY_A, id);
    restart();
    session_open(s.ss, id, KEY_B, on_opened, &stranger);
    session_open(s.ss, id, KEY_A, on_opened, &owner);
    wait_answer(&stranger);
    wait_answer(&owner);
    assert_int_equal(stranger.err.code, ERR_NOT_FOUND);
    if (!owner.session)
        fail_msg("%s", owner.err.msg);
    session_release(owner.session);
    stranger = owner = (struct answer){.calls = 0};
    restart();
    session_open(s.ss, id, KEY_A, on_opened, &owner);
    session_open(s.ss, id, KEY_B, on_opened, &stranger);
    wait_answer(&stranger);
    wait_answer(&owner);
    assert_int_equal(stranger.err.code, ERR_NOT_FOUND);
    assert_non_null(owner.session);
    session_release(owner.session);
}

static void test_one_turn_at_a_time(void **state)
{
    char id[ID_UUID_SIZE];
    struct answer first = {.calls = 0}, second = {.calls = 0};
    (void)state;
    make_session(KEY_A, id);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    session_open(s.ss, id, KEY_A, on_opened, &second);
    assert_int_equal(second.calls, 1);
    assert_int_equal(second.err.code, ERR_SESSION_BUSY);
    assert_int_equal(second.err.retry_after_s, 1);
    session_release(session);
    restart(); /* and while it is being loaded */
    second.calls = 0;
    session_open(s.ss, id, KEY_A, on_opened, &first);
    session_open(s.ss, id, KEY_A, on_opened, &second);
    wait_answer(&second);
    wait_answer(&first);
    assert_int_equal(second.err.code, ERR_SESSION_BUSY);
    assert_non_null(first.session);
    session_release(first.session);
    session_release(open_as(id, KEY_A, ERR_NONE));
}

static void test_a_failed_turn_changes_nothing(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, id);
    session_release(open_as(id, KEY_A, ERR_NONE));
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), 2);
    session_release(session);
    restart();
    session_release(open_as(id, KEY_A, ERR_NONE)); /* a loaded one as well */
    session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), 2);
    session_release(session);
}

/* --- restart ------------------------------------------------------------------------------ */

#define AWKWARD "nul \\u0000 quote \\\" \\n \xE2\x80\xA8 \xF0\x9F\x98\x80 '; --"

static void test_restart_brings_everything_back(void **state)
{
    char id[ID_UUID_SIZE];
    struct err err;
    struct answer a = {.calls = 0};
    (void)state;
    struct session *session = session_create(s.ss, KEY_A);
    snprintf(id, sizeof(id), "%s", session->id);
    json_t *user = json_parse(STR("[{\"type\":\"text\",\"text\":\"" AWKWARD "\"}]"), &err);
    json_t *answer = json_parse(STR("[{\"type\":\"thinking\",\"thinking\":\"t\",\"signature\":"
                                    "\"c2ln\"},{\"type\":\"text\",\"text\":\"" AWKWARD "\"}]"),
                                &err);
    json_t *system = json_string("be brief");
    struct session_turn turn = {.model = "claude-opus-4-8",
                                .revision = session_new_revision(session),
                                .conversation_id = "conv-1",
                                .system = system,
                                .user = user,
                                .assistant = answer};
    session_commit(session, &turn, on_committed, &a);
    wait_answer(&a);
    json_t *messages = json_deep_copy(session->messages);
    int64_t created = session->created_at;
    size_t bytes = session->bytes;
    session_release(session);
    restart();
    session = open_as(id, KEY_A, ERR_NONE);
    assert_string_equal(session->model, "claude-opus-4-8");
    assert_string_equal(session->conversation_id, "conv-1");
    assert_true(str_eq_c(json_str_of(session->system), "be brief"));
    assert_true(json_equal(session->messages, messages));
    assert_true(session->created_at == created);
    assert_int_equal(session->bytes, bytes);
    commit(session, "next", "turn"); /* without a system prompt */
    session_release(session);
    restart();
    session = open_as(id, KEY_A, ERR_NONE);
    assert_null(session->system);
    assert_int_equal(json_array_size(session->messages), 4);
    assert_true(session->created_at == created);
    session_release(session);
    json_decref(user);
    json_decref(answer);
    json_decref(system);
    json_decref(messages);
}

static void test_tag_names_the_conversation_and_its_length(void **state)
{
    char a[SESSION_TAG_SIZE], b[SESSION_TAG_SIZE];
    (void)state;
    struct session *session = session_create(s.ss, KEY_A);
    session_tag(session, 2, a);
    assert_memory_equal(a, session->id, 36);
    assert_string_equal(a + 36, ":2");
    assert_string_not_equal(a, session_tag(session, 4, b));
    session_tag(session, UINT64_MAX, b);
    assert_true(strlen(b) < SESSION_TAG_SIZE - 1);
    session_release(session);
}

/* --- limits ------------------------------------------------------------------------------- */

static void test_expired_for_the_cache_and_for_the_row(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, id);
    raw_sql("UPDATE sessions SET last_accessed_at = last_accessed_at - 3599000");
    restart();
    session_release(open_as(id, KEY_A, ERR_NONE)); /* a second is left; now it is used */
    restart();
    raw_sql("UPDATE sessions SET last_accessed_at = last_accessed_at - 3599000");
    session_release(open_as(id, KEY_A, ERR_NONE));
    restart();
    raw_sql("UPDATE sessions SET last_accessed_at = last_accessed_at - 3602000");
    open_as(id, KEY_A, ERR_NOT_FOUND);
    assert_int_equal(sessions_cached(s.ss), 0);
    close_sessions();
    open_db(s.fx);
    open_sessions(0, BIG); /* cached, and unused for longer than its time */
    make_session(KEY_A, id);
    usleep(5000);
    assert_int_equal(sessions_cached(s.ss), 1);
    open_as(id, KEY_A, ERR_NOT_FOUND);
    assert_int_equal(sessions_cached(s.ss), 0);
}

static void test_the_sweep_deletes_what_expired(void **state)
{
    char expired[ID_UUID_SIZE], fresh[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, expired);
    make_session(KEY_A, fresh);
    char *sql = sqlite3_mprintf("UPDATE sessions SET last_accessed_at = 1 WHERE id = %Q", expired);
    raw_sql(sql);
    sqlite3_free(sql);
    restart();
    run_loop_for(1200);
    assert_int_equal(raw_number("SELECT count(*) FROM sessions"), 1);
    session_release(open_as(fresh, KEY_A, ERR_NONE));
    close_sessions();
    open_db(s.fx);
    open_sessions(0, BIG); /* everything is expired, but what is in use stays */
    make_session(KEY_A, expired);
    struct session *busy = session_create(s.ss, KEY_A);
    commit(busy, "a", "b");
    run_loop_for(1200);
    assert_int_equal(sessions_cached(s.ss), 1);
    assert_int_equal(json_array_size(busy->messages), 2);
    session_release(busy);
}

static void test_a_session_may_grow_to_its_limit(void **state)
{
    char id[ID_UUID_SIZE], text[500];
    (void)state;
    close_sessions();
    open_db(s.fx);
    open_sessions(AN_HOUR, 600);
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    make_session(KEY_A, id);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    commit(session, text, "enough"); /* the turn that passes it is still kept */
    assert_true(session->bytes >= 600);
    session_release(session);
    open_as(id, KEY_A, ERR_TOO_LARGE);
    open_as(id, KEY_A, ERR_TOO_LARGE); /* and not busy from the first try */
    open_as(id, KEY_B, ERR_NOT_FOUND);
    restart();
    open_as(id, KEY_A, ERR_TOO_LARGE);
    open_as(id, KEY_A, ERR_TOO_LARGE);
}

static void test_the_cache_forgets_the_oldest_idle_ones(void **state)
{
    enum { COUNT = CACHE_OF + 50 };
    char(*ids)[ID_UUID_SIZE] = x_calloc(COUNT, sizeof(*ids));
    struct session **all = x_calloc(COUNT, sizeof(struct session *));
    struct answer a = {.calls = 0};
    (void)state;
    struct session *busy = session_create(s.ss, KEY_A); /* the oldest of all */
    commit(busy, "a", "b");
    for (int i = 0; i < COUNT; i++) {
        all[i] = session_create(s.ss, KEY_A);
        snprintf(ids[i], ID_UUID_SIZE, "%s", all[i]->id);
        commit_later(all[i], "q", "a", NULL, &a);
    }
    while (a.calls < COUNT)
        event_base_loop(loop_base(s.fx->loop), EVLOOP_ONCE);
    for (int i = 0; i < COUNT; i++)
        session_release(all[i]);
    assert_int_equal(sessions_cached(s.ss), CACHE_OF + 1);
    struct answer recent = {.calls = 0}, old = {.calls = 0};
    session_open(s.ss, ids[COUNT - 1], KEY_A, on_opened, &recent);
    assert_int_equal(sessions_cached(s.ss), CACHE_OF + 1); /* it is in memory */
    session_open(s.ss, ids[0], KEY_A, on_opened, &old);
    assert_int_equal(sessions_cached(s.ss), CACHE_OF + 2); /* it was not */
    wait_answer(&recent);
    wait_answer(&old);
    assert_int_equal(json_array_size(old.session->messages), 2);
    session_release(old.session);
    session_release(recent.session);
    session_release(busy);
    assert_true(sessions_cached(s.ss) <= CACHE_OF);
    free(all);
    free(ids);
}

static void test_the_cache_is_bounded_in_bytes(void **state)
{
    enum { COUNT = 6, SIZE = 30 << 20 };
    char *text = x_malloc(SIZE + 1);
    (void)state;
    memset(text, 'x', SIZE);
    text[SIZE] = '\0';
    json_t *user = text_content(text), *answer = text_content("ok");
    free(text);
    for (int i = 0; i < COUNT; i++) {
        struct session *session = session_create(s.ss, KEY_A);
        struct session_turn turn = {.model = "m",
                                    .revision = session_new_revision(session),
                                    .conversation_id = "",
                                    .user = user,
                                    .assistant = answer};
        struct answer a = {.calls = 0};
        session_commit(session, &turn, on_committed, &a);
        wait_answer(&a);
        session_release(session);
    }
    assert_int_equal(sessions_cached(s.ss), 4); /* 128 MiB hold four of 30 */
    json_decref(user);
    json_decref(answer);
}

/* --- the database fails ------------------------------------------------------------------- */

/* No turn is begun that could not be kept, and what could not be saved is saved first. */
static void test_a_failed_save_is_told_and_the_session_goes_on(void **state)
{
    char id[ID_UUID_SIZE];
    struct answer a = {.calls = 0};
    (void)state;
    make_session(KEY_A, id);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    raw_sql(
        "CREATE TRIGGER refuse BEFORE UPDATE ON sessions BEGIN SELECT RAISE(FAIL, 'disk'); END");
    commit_later(session, "second", "turn", NULL, &a);
    wait_answer(&a);
    assert_true(a.err.code != ERR_NONE && a.err.code != ERR_SESSION_BUSY);
    session_release(session);
    a = (struct answer){.calls = 0};
    session_open(s.ss, id, KEY_A, on_opened, &a);
    wait_answer(&a);
    assert_null(a.session);
    assert_true(a.err.code == ERR_INTERNAL || a.err.code == ERR_UNAVAILABLE);
    assert_int_equal(sessions_cached(s.ss), 1);
    raw_sql("DROP TRIGGER refuse");
    session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), 4);
    commit(session, "third", "turn");
    session_release(session);
    restart();
    session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), 6);
    session_release(session);
}

/* Nobody asks for it again: it is saved all the same. */
static void test_an_unsaved_turn_is_saved_later(void **state)
{
    char id[ID_UUID_SIZE];
    struct answer a = {.calls = 0}, b = {.calls = 0}, c = {.calls = 0};
    (void)state;
    close_sessions();
    open_db(s.fx);
    open_sessions(1, BIG);
    make_session(KEY_A, id);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    raw_sql(
        "CREATE TRIGGER refuse BEFORE UPDATE ON sessions BEGIN SELECT RAISE(FAIL, 'disk'); END");
    commit_later(session, "second", "turn", NULL, &a);
    wait_answer(&a);
    session_release(session);
    run_loop_for(300); /* tried again, in vain */
    raw_sql("DROP TRIGGER refuse");
    run_loop_for(300);
    assert_int_equal(raw_number("SELECT message_count FROM sessions"), 4);
    session_open(s.ss, id, KEY_A, on_opened, &b);
    session_open(s.ss, id, KEY_A, on_opened, &c);
    wait_answer(&b);
    wait_answer(&c);
    assert_int_equal(json_array_size(b.session->messages), 4);
    assert_int_equal(c.err.code, ERR_SESSION_BUSY);
    session_release(b.session);
}

static void test_a_failed_load_leaves_nothing_behind(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, id);
    restart();
    raw_sql("ALTER TABLE sessions RENAME TO away");
    struct answer a = {.calls = 0};
    session_open(s.ss, id, KEY_A, on_opened, &a);
    wait_answer(&a);
    assert_null(a.session);
    assert_true(a.err.code == ERR_INTERNAL || a.err.code == ERR_UNAVAILABLE);
    assert_int_equal(sessions_cached(s.ss), 0);
    raw_sql("ALTER TABLE away RENAME TO sessions");
    session_release(open_as(id, KEY_A, ERR_NONE));
}

static void test_an_unreadable_row_is_an_internal_error(void **state)
{
    static const char *const contexts[] = {"'[]'", "'{}'", "'{\"messages\":{}}'", "'null'", "NULL"};
    char id[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, id);
    for (size_t i = 0; i < ARRAY_SIZE(contexts); i++) {
        char sql[100];
        restart();
        snprintf(sql, sizeof(sql), "UPDATE sessions SET context = %s", contexts[i]);
        raw_sql(sql);
        open_as(id, KEY_A, ERR_INTERNAL);
        open_as(id, KEY_A, ERR_INTERNAL);
        assert_int_equal(sessions_cached(s.ss), 0);
    }
}

/* --- several servers on one database, without Redis --------------------------------------- */

static void test_of_two_turns_at_once_one_is_kept(void **state)
{
    char id[ID_UUID_SIZE];
    struct answer a = {.calls = 0}, b = {.calls = 0};
    (void)state;
    make_session(KEY_A, id);
    struct sessions *other = new_sessions();
    struct session *here = open_as(id, KEY_A, ERR_NONE);
    struct session *there = open_on(other, id, KEY_A, ERR_NONE);
    commit_later(there, "there", "turn", NULL, &b);
    wait_answer(&b);
    assert_int_equal(b.err.code, ERR_NONE);
    commit_later(here, "here", "turn", NULL, &a);
    wait_answer(&a);
    assert_int_equal(a.err.code, ERR_SESSION_BUSY);
    assert_memory_equal(a.err.msg, "sessionId: ", 11);
    session_release(there);
    session_release(here);
    assert_int_equal(sessions_cached(s.ss), 0);
    here = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(here->messages), 4);
    const json_t *m = json_array_get(here->messages, 2);
    assert_true(
        str_eq_c(json_get_str(json_array_get(json_object_get(m, "content"), 0), "text"), "there"));
    commit(here, "again", "here");
    session_release(here);
    there = open_on(other, id, KEY_A, ERR_NONE); /* cached, but not what the row holds any more */
    assert_int_equal(json_array_size(there->messages), 6);
    commit(there, "again", "there");
    session_release(there);
    assert_int_equal(raw_number("SELECT message_count FROM sessions"), 8);
    close_db(s.fx);
    sessions_free(other);
}

static void test_a_session_ended_elsewhere_does_not_come_back(void **state)
{
    char id[ID_UUID_SIZE];
    struct answer a = {.calls = 0};
    (void)state;
    make_session(KEY_A, id);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    raw_sql("DELETE FROM sessions");
    commit_later(session, "x", "y", NULL, &a);
    wait_answer(&a);
    assert_int_equal(a.err.code, ERR_SESSION_BUSY);
    session_release(session);
    open_as(id, KEY_A, ERR_NOT_FOUND);
    make_session(KEY_A, id);
    raw_sql("DELETE FROM sessions");
    open_as(id, KEY_A, ERR_NOT_FOUND); /* though it was cached */
    assert_int_equal(sessions_cached(s.ss), 0);
}

static void test_a_long_turn_keeps_its_row(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    close_sessions();
    open_db(s.fx);
    open_sessions(1, BIG);
    make_session(KEY_A, id);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    for (int i = 0; i < 5; i++) { /* other servers sweep all the time */
        run_loop_for(400);
        char *sql = sqlite3_mprintf("DELETE FROM sessions WHERE last_accessed_at < %lld",
                                    (long long)(clock_wall_ms() - 1000));
        raw_sql(sql);
        sqlite3_free(sql);
    }
    commit(session, "at", "last");
    session_release(session);
}

static void test_unknown_ones_asked_for_at_once(void **state)
{
    struct answer all[3] = {{.calls = 0}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        session_open(s.ss, NO_ID, KEY_A, on_opened, &all[i]);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        wait_answer(&all[i]);
        assert_int_equal(all[i].err.code, ERR_NOT_FOUND);
    }
    assert_int_equal(sessions_cached(s.ss), 0);
}

/* --- ending and reading ------------------------------------------------------------------- */

static void on_ended(void *ctx, const struct err *err)
{
    struct answer *a = ctx;
    a->calls++;
    a->err = err ? *err : (struct err){.code = ERR_NONE};
}

static void ends(const char *id, const char *key, enum err_code expected)
{
    struct answer a = {.calls = 0};
    session_end(s.ss, id, key, on_ended, &a);
    wait_answer(&a);
    if (a.err.code != expected)
        fail_msg("code %d: %s", (int)a.err.code, a.err.msg);
}

static void test_ending(void **state)
{
    char id[ID_UUID_SIZE], kept[ID_UUID_SIZE];
    struct answer a = {.calls = 0}, b = {.calls = 0};
    (void)state;
    make_session(KEY_A, id);
    make_session(KEY_A, kept);
    ends(NO_ID, KEY_A, ERR_NOT_FOUND);
    ends(id, KEY_B, ERR_NOT_FOUND);
    run_loop_for(20);
    assert_int_equal(s.parted, 0); /* a stranger ends nothing */
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    ends(id, KEY_A, ERR_SESSION_BUSY);
    session_release(session);
    session_end(s.ss, id, KEY_A, on_ended, &a);
    session_open(s.ss, id, KEY_A, on_opened, &b); /* in the middle of it */
    wait_answer(&a);
    wait_answer(&b);
    assert_int_equal(a.err.code, ERR_NONE);
    assert_int_equal(b.err.code, ERR_NOT_FOUND);
    run_loop_for(20);
    assert_int_equal(s.gone, 1);
    ends(id, KEY_A, ERR_NOT_FOUND);
    restart();
    ends(kept, KEY_B, ERR_NOT_FOUND); /* not cached */
    ends(kept, KEY_A, ERR_NONE);
    assert_int_equal(raw_number("SELECT count(*) FROM sessions"), 0);
    assert_int_equal(sessions_cached(s.ss), 0);
    session_release(session_create(s.ss, KEY_A)); /* its first turn has failed */
    run_loop_for(20);
    assert_int_equal(s.gone, 3);
}

struct reading {
    struct answer a;
    size_t messages;
    char model[64];
};

static void on_read(void *ctx, const struct session_row *row, const struct session_content *content,
                    const struct err *err)
{
    struct reading *r = ctx;
    on_ended(&r->a, err);
    assert_true((row == NULL) == (err != NULL) && (content == NULL) == (err != NULL));
    r->messages = content ? json_array_size(content->messages) : 0;
    snprintf(r->model, sizeof(r->model), "%s", content ? content->model : "");
}

static struct reading reads(const char *id, const char *key)
{
    struct reading r = {.messages = 0};
    session_read(s.ss, id, key, on_read, &r);
    wait_answer(&r.a);
    return r;
}

static void test_reading(void **state)
{
    char id[ID_UUID_SIZE];
    (void)state;
    make_session(KEY_A, id);
    assert_int_equal(reads(id, KEY_B).a.err.code, ERR_NOT_FOUND);
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    struct reading r = reads(id, KEY_A); /* while a turn runs */
    assert_int_equal(r.a.err.code, ERR_NONE);
    assert_int_equal(r.messages, 2);
    assert_string_equal(r.model, "claude-sonnet-4-5");
    session_release(session);
    raw_sql("UPDATE sessions SET last_accessed_at = 1");
    assert_int_equal(reads(id, KEY_A).a.err.code, ERR_NOT_FOUND);
}

/* --- encrypted at rest -------------------------------------------------------------------- */

#define MASTER_1 "1111111111111111111111111111111111111111111111111111111111111111"
#define MASTER_2 "2222222222222222222222222222222222222222222222222222222222222222"

static void restart_with(const char *keys)
{
    struct err err;
    close_sessions();
    vault_free(s.vault);
    s.vault = vault_new(keys, &err);
    assert_non_null(s.vault);
    open_db(s.fx);
    open_sessions(s.ttl_s, s.max_bytes);
}

static bool plain_is_in_the_file(const char *text)
{
    char *sql = sqlite3_mprintf("SELECT count(*) FROM sessions WHERE context LIKE '%%%q%%'", text);
    int64_t n = raw_number(sql);
    sqlite3_free(sql);
    return n > 0;
}

static void goes_on(const char *id, size_t messages)
{
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), messages);
    commit(session, "next secret", "turn");
    session_release(session);
}

static void does_not_open(const char *id, const char *because)
{
    struct answer a = {.calls = 0};
    session_open(s.ss, id, KEY_A, on_opened, &a);
    wait_answer(&a);
    assert_int_equal(a.err.code, ERR_INTERNAL);
    if (!strstr(a.err.msg, because))
        fail_msg("%s", a.err.msg);
    struct reading r = reads(id, KEY_A);
    assert_int_equal(r.a.err.code, ERR_INTERNAL);
    assert_int_equal(sessions_cached(s.ss), 0);
}

static void test_sealed_with_the_master_key(void **state)
{
    char id[ID_UUID_SIZE], why[64];
    (void)state;
    make_session(KEY_A, id);
    assert_true(plain_is_in_the_file("hello"));
    restart_with(MASTER_1); /* what was plain is read, and sealed by its next turn */
    goes_on(id, 2);
    assert_false(plain_is_in_the_file("hello") || plain_is_in_the_file("messages"));
    assert_int_equal(raw_number("SELECT context LIKE '\"v1:%' AND sealed_with = substr(context, 5, "
                                "8) FROM sessions"),
                     1);
    restart_with(MASTER_1);
    goes_on(id, 4);
    snprintf(why, sizeof(why), "master key %s", vault_key_id(s.vault, 0));
    int64_t version = raw_number("SELECT version FROM sessions");
    restart_with(""); /* no key, or another one: an error, and nothing is lost */
    does_not_open(id, why);
    restart_with(MASTER_2);
    does_not_open(id, why);
    assert_true(raw_number("SELECT version FROM sessions") == version);
    restart_with(MASTER_2 "," MASTER_1); /* rotation: sealed anew by its next turn */
    goes_on(id, 6);
    restart_with(MASTER_2);
    goes_on(id, 8);
}

static void test_a_sealed_row_elsewhere_does_not_open(void **state)
{
    char id[ID_UUID_SIZE], other[ID_UUID_SIZE];
    (void)state;
    restart_with(MASTER_1);
    make_session(KEY_A, id);
    make_session(KEY_A, other);
    restart_with(MASTER_1);
    char *sql = sqlite3_mprintf("UPDATE sessions SET context = (SELECT context FROM sessions WHERE "
                                "id = %Q) WHERE id = %Q",
                                other, id);
    raw_sql(sql);
    sqlite3_free(sql);
    does_not_open(id, "altered or moved");
    session_release(open_as(other, KEY_A, ERR_NONE));
    restart_with(MASTER_1);
    raw_sql("UPDATE sessions SET context = '\"plain text\"'");
    does_not_open(id, "not sealed");
}

static void test_room(void **state)
{
    char id[ID_UUID_SIZE], text[500];
    struct err err;
    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    AUTO(json_unref_p) json_t *large = text_content(text);
    AUTO(json_unref_p) json_t *small = text_content("x");
    close_sessions();
    open_db(s.fx);
    s.max_messages = 4;
    open_sessions(AN_HOUR, 600);
    struct session *session = session_create(s.ss, KEY_A);
    assert_int_equal(session_check_room(session, large, &err), 0);
    commit(session, "a", "b");
    assert_int_equal(session_check_room(session, small, &err), 0);
    assert_int_equal(session_check_room(session, large, &err), -1);
    assert_int_equal(err.code, ERR_TOO_LARGE);
    assert_non_null(strstr(err.msg, "600 bytes"));
    snprintf(id, sizeof(id), "%s", session->id);
    session_release(session);
    session = open_as(id, KEY_A, ERR_NONE);
    commit(session, "a", "b");
    session_release(session);
    struct answer a = {.calls = 0};
    session_open(s.ss, id, KEY_A, on_opened, &a);
    wait_answer(&a);
    assert_int_equal(a.err.code, ERR_TOO_LARGE);
    assert_non_null(strstr(a.err.msg, "4 messages"));
}

/* --- agents ------------------------------------------------------------------------------- */

static json_t *parsed(const char *text)
{
    struct err err;
    json_t *j = json_parse(str_c(text), &err);
    assert_non_null(j);
    return j;
}

static void test_an_agent_session_stays_one(void **state)
{
    char id[ID_UUID_SIZE];
    struct answer a = {.calls = 0};
    (void)state;
    AUTO(json_unref_p) json_t *user = text_content("do it");
    AUTO(json_unref_p)
    json_t *added = parsed(
        "[{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"t\"}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t\"}]}]");
    struct session *session = session_create(s.ss, KEY_A);
    assert_false(session->agent);
    snprintf(id, sizeof(id), "%s", session->id);
    struct session_turn turn = {.model = "m",
                                .revision = session_new_revision(session),
                                .conversation_id = "",
                                .user = user,
                                .assistant = user, /* not looked at */
                                .added = added,
                                .agent = true};
    session_commit(session, &turn, on_committed, &a);
    wait_answer(&a);
    session_release(session);
    restart();
    session = open_as(id, KEY_A, ERR_NONE);
    assert_true(session->agent);
    assert_int_equal(json_array_size(session->messages), 3);
    for (size_t i = 0; i < 2; i++)
        assert_true(json_equal(json_array_get(session->messages, i + 1), json_array_get(added, i)));
    session_release(session);
    assert_int_equal(raw_number("SELECT context LIKE '%\"profile\":\"agent\"%' FROM sessions"), 1);
    make_session(KEY_A, id);
    assert_int_equal(raw_number("SELECT count(*) FROM sessions WHERE context LIKE '%profile%'"), 1);
    session = open_as(id, KEY_A, ERR_NONE);
    assert_false(session->agent);
    session_release(session);
}

static void count_removing(void *ctx, const char *id)
{
    int *count = ctx;
    assert_int_equal(strlen(id), 36);
    ++*count;
}

static bool exists(const char *dir, const char *name)
{
    struct stat st;
    AUTO(free_charp) char *path = x_printf("%s/%s", dir, name);
    return lstat(path, &st) == 0;
}

/* What could keep a directory from being removed: depth, modes, links, names. */
static void fill(const char *path)
{
    static const char *const names[] = {".deep-0", "\n", "-rf", "a"};
    AUTO(free_charp) char *link = x_printf("%s/link", path);
    assert_int_equal(symlink("/etc", link), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        AUTO(free_charp) char *dir = x_printf("%s/%s", path, names[i]);
        assert_int_equal(mkdir(dir, 0700), 0);
        AUTO(free_charp) char *file = x_printf("%s/f", dir);
        assert_int_equal(close(open(file, O_CREAT | O_WRONLY, 0)), 0);
    }
    int fd = open(path, O_DIRECTORY | O_RDONLY);
    for (int i = 0; i < 700; i++) { /* longer than PATH_MAX */
        assert_int_equal(mkdirat(fd, "deeper", 0700), 0);
        int next = openat(fd, "deeper", O_DIRECTORY | O_RDONLY);
        assert_true(next >= 0);
        assert_int_equal(fchmod(fd, i % 7 ? 0700 : 0), 0);
        close(fd);
        fd = next;
    }
    close(fd);
}

static void test_workspaces_go_with_their_sessions(void **state)
{
    char kept[ID_UUID_SIZE];
    struct err err;
    int removing = 0;
    char *path;
    (void)state;
    AUTO(free_charp) char *dir = x_printf("%s/sub/workspaces", s.fx->dir);
    struct workspaces *ws =
        workspaces_new(s.fx->loop, s.fx->db, s.ss, dir, count_removing, &removing);
    make_session(KEY_A, kept);
    struct session *busy = session_create(s.ss, KEY_A); /* has no row yet */
    const char *const ids[] = {kept, busy->id, NO_ID};
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        assert_int_equal(workspace_make(ws, ids[i], &path, &err), 0);
        assert_true(exists(dir, ids[i]));
        free(path);
        assert_int_equal(workspace_make(ws, ids[i], &path, &err), 0); /* each turn does it */
        if (i == 2)
            fill(path);
        free(path);
    }
    AUTO(free_charp) char *strange = x_printf("%s/not-ours", dir);
    assert_int_equal(mkdir(strange, 0700), 0);
    for (int i = 0; i < 100 && exists(dir, NO_ID); i++)
        run_loop_for(300);
    assert_int_equal(removing, 1);
    assert_false(exists(dir, NO_ID));
    assert_true(exists(dir, kept) && exists(dir, busy->id) && exists(dir, "not-ours"));
    assert_true(exists("/etc", "passwd"));
    char never[ID_UUID_SIZE];
    snprintf(never, sizeof(never), "%s", busy->id);
    session_release(busy); /* its turn has failed */
    workspaces_stop(ws);
    close_db(s.fx);
    workspaces_free(ws);
    const char *const left[] = {kept, never, "not-ours"};
    for (size_t i = 0; i < ARRAY_SIZE(left); i++) {
        AUTO(free_charp) char *name = x_printf("%s/%s", dir, left[i]);
        assert_int_equal(rmdir(name), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

/* At the end some are in use and some on their way: all is freed, nothing is called. */
static void test_free_with_sessions_in_use(void **state)
{
    char id[ID_UUID_SIZE], other[ID_UUID_SIZE];
    struct answer a = {.calls = 0}, loading = {.calls = 0};
    (void)state;
    make_session(KEY_A, id);
    make_session(KEY_A, other);
    restart();
    struct session *session = open_as(id, KEY_A, ERR_NONE);
    commit_later(session, "x", "y", NULL, &a);
    session_open(s.ss, other, KEY_A, on_opened, &loading);
    session_create(s.ss, KEY_B);
    close_sessions(); /* db_close() answers what was asked */
    assert_int_equal(a.calls, 1);
    assert_int_equal(loading.calls, 1);
}

#define SESSION_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        SESSION_TEST(test_a_session_without_a_turn_does_not_exist),
        SESSION_TEST(test_committed_turns_come_back),
        SESSION_TEST(test_for_another_key_it_does_not_exist),
        SESSION_TEST(test_a_stranger_loading_does_not_hide_it_from_its_owner),
        SESSION_TEST(test_one_turn_at_a_time),
        SESSION_TEST(test_a_failed_turn_changes_nothing),
        SESSION_TEST(test_restart_brings_everything_back),
        SESSION_TEST(test_tag_names_the_conversation_and_its_length),
        SESSION_TEST(test_expired_for_the_cache_and_for_the_row),
        SESSION_TEST(test_the_sweep_deletes_what_expired),
        SESSION_TEST(test_a_session_may_grow_to_its_limit),
        SESSION_TEST(test_the_cache_forgets_the_oldest_idle_ones),
        SESSION_TEST(test_the_cache_is_bounded_in_bytes),
        SESSION_TEST(test_a_failed_save_is_told_and_the_session_goes_on),
        SESSION_TEST(test_an_unsaved_turn_is_saved_later),
        SESSION_TEST(test_a_failed_load_leaves_nothing_behind),
        SESSION_TEST(test_of_two_turns_at_once_one_is_kept),
        SESSION_TEST(test_a_session_ended_elsewhere_does_not_come_back),
        SESSION_TEST(test_a_long_turn_keeps_its_row),
        SESSION_TEST(test_unknown_ones_asked_for_at_once),
        SESSION_TEST(test_ending),
        SESSION_TEST(test_reading),
        SESSION_TEST(test_sealed_with_the_master_key),
        SESSION_TEST(test_a_sealed_row_elsewhere_does_not_open),
        SESSION_TEST(test_room),
        SESSION_TEST(test_an_unreadable_row_is_an_internal_error),
        SESSION_TEST(test_an_agent_session_stays_one),
        SESSION_TEST(test_workspaces_go_with_their_sessions),
        SESSION_TEST(test_free_with_sessions_in_use),
    };
    struct err err;
    struct log_opts quiet = {.level = LOG_ERROR, .console = false};
    if (log_open(&quiet, &err) != 0)
        return 1;
    id_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
