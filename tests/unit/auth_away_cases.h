/* auth_away_cases.h - a database that fails, and one that hangs. */

static void test_database_fails(void **state)
{
    struct world *w = *state;
    struct auth_times times = quick;
    char unknown[KEY_TEXT_SIZE];
    times.fresh = 100;
    times.stale = 4000;
    auth_set_times(w->auth, &times);
    EXPECT(LATER, w->text, "");
    int64_t start = clock_mono_ms();
    exec_elsewhere(w, "ALTER TABLE api_keys RENAME TO away");
    while (clock_mono_ms() - start < 2000) {
        EXPECT(EITHER, w->text, "");
        assert_int_equal(code_of(w, unknown_key(1, unknown)), ERR_UNAVAILABLE); /* never 401 */
        spin(w, NULL, 0, 40);
    }
    spin(w, NULL, 0, 2200);
    assert_int_equal(code_of(w, w->text), ERR_UNAVAILABLE);
    exec_elsewhere(w, "ALTER TABLE away RENAME TO api_keys");
    EXPECT(LATER, w->text, "");
    EXPECT(LATER, unknown, "Invalid API key");
}

static void write_done(void *ctx, const struct db_result *r, const struct err *err)
{
    (void)r;
    (void)err;
    (*(int *)ctx)++;
}

/* A stranger's lock that everything has to wait for. */
struct lock {
    sqlite3 *raw;
    PGconn *pq;
};

static struct lock lock_all(struct world *w)
{
    struct lock lock = {0};
    if (w->fx->postgres) {
        lock.pq = pg_raw(w->fx->url);
        pg_run(lock.pq, "BEGIN");
        pg_run(lock.pq, "LOCK TABLE users, api_keys IN ACCESS EXCLUSIVE MODE");
    } else {
        lock.raw = raw_open(w->fx);
        raw_run(lock.raw, "BEGIN IMMEDIATE");
    }
    return lock;
}

static void unlock_all(struct lock *lock)
{
    if (lock->pq) {
        pg_run(lock->pq, "COMMIT");
        PQfinish(lock->pq);
    } else {
        raw_run(lock->raw, "COMMIT");
        sqlite3_close(lock->raw);
    }
}

static void test_database_hangs(void **state)
{
    struct world *w = *state;
    char unknown[KEY_TEXT_SIZE];
    int written = 0;
    EXPECT(LATER, w->text, "");
    struct lock lock = lock_all(w);
    db_query(w->fx->db, "UPDATE users SET name = 'v'", NULL, 0, write_done, &written);
    auth_keys_changed(w->auth); /* so the key has to be read again */
    int64_t start = clock_mono_ms();
    EXPECT(LATER, w->text, "");
    print_message("# a hanging database held a cached key up for %d ms, once\n",
                  (int)(clock_mono_ms() - start));
    EXPECT(AT_ONCE, w->text, "");
    assert_int_equal(written, 0); /* it still hangs */
    struct result r = {0};
    assert_non_null(auth_verify(w->auth, str_c(unknown_key(1, unknown)), on_done, &r));
    unlock_all(&lock);
    spin(w, &r.count, 1, 20000);
    assert_int_equal(r.err.code, ERR_UNAUTHENTICATED);
    spin(w, &written, 1, 20000);
    assert_int_equal(written, 1);
}
