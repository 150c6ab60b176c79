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
    int64_t ttl_s, max_bytes;
};

static struct sfx s;

static void open_sessions(int64_t ttl_s, int64_t max_bytes)
{
    s.ttl_s = ttl_s;
    s.max_bytes = max_bytes;
    s.ss = sessions_new(s.fx->loop, s.fx->db, ttl_s, max_bytes);
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

static struct session *open_as(const char *id, const char *key, enum err_code expected)
{
    struct answer a = {.calls = 0};
    session_open(s.ss, id, key, on_opened, &a);
    wait_answer(&a);
    if (a.err.code != expected)
        fail_msg("code %d: %s", (int)a.err.code, a.err.msg);
    if (expected != ERR_NONE && expected != ERR_INTERNAL && expected != ERR_UNAVAILABLE)
        assert_memory_equal(a.err.msg, "sessionId: ", 11);
    return a.session;
}

static json_t *text_content(const char *text)
{
    return json_pack("[{s:s, s:s}]", "type", "text", "text", text);
}

static void commit_later(struct session *session, const char *user, const char *assistant,
                         json_t *system, struct answer *a)
{
    struct session_turn turn = {.model = "claude-sonnet-4-5",
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
    session_release(open_as(id, KEY_A, ERR_NONE)); /* a second is left */
    restart();
    raw_sql("UPDATE sessions SET last_accessed_at = last_accessed_at - 2000");
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
    assert_int_equal(recent.calls, 1); /* at once: it is in memory */
    session_open(s.ss, ids[0], KEY_A, on_opened, &old);
    assert_int_equal(old.calls, 0); /* asked from the database */
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
        struct session_turn turn = {
            .model = "m", .conversation_id = "", .user = user, .assistant = answer};
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
    assert_int_not_equal(a.err.code, ERR_NONE);
    session_release(session);
    session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), 4);
    raw_sql("DROP TRIGGER refuse");
    commit(session, "third", "turn");
    session_release(session);
    restart();
    session = open_as(id, KEY_A, ERR_NONE);
    assert_int_equal(json_array_size(session->messages), 6);
    session_release(session);
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
        SESSION_TEST(test_a_failed_load_leaves_nothing_behind),
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
