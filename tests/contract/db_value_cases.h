/* db_value_cases.h - part of test_db_contract.c: what goes in comes out. */
#ifndef CG_TESTS_CONTRACT_DB_VALUE_CASES_H
#define CG_TESTS_CONTRACT_DB_VALUE_CASES_H

static void query_ok(struct fx *fx, const char *sql, const struct db_param *params, size_t count,
                     db_done_fn *check)
{
    bool seen = false;
    struct err err;
    if (db_query_wait(fx->db, sql, params, count, check, &seen, &err) != 0)
        fail_msg("%s: %s", sql, err.msg);
    assert_true(seen);
}

static void check_values(void *ctx, const struct db_result *r, const struct err *err)
{
    assert_null(err);
    *(bool *)ctx = true;
    assert_int_equal(db_rows(r), 1);
    assert_true(db_is_null(r, 0, 0));
    assert_int_equal(db_text(r, 0, 0).len, 0);
    assert_int_equal(db_int(r, 0, 0), 0);
    assert_true(db_real(r, 0, 0) == 0.0);
    assert_true(db_int(r, 0, 1) == INT64_MIN);
    assert_true(db_int(r, 0, 2) == INT64_MAX);
    assert_true(db_real(r, 0, 2) == (double)INT64_MAX);
    assert_int_equal(db_text(r, 0, 2).len, 0);
    assert_true(db_real(r, 0, 3) == 0.1);
    assert_int_equal(db_int(r, 0, 3), 0);
    assert_string_equal(db_text(r, 0, 4).p, "Grüße, 世界 🙂"); /* NUL-terminated too */
    assert_false(db_is_null(r, 0, 5));
    assert_int_equal(db_text(r, 0, 5).len, 0);
    assert_true(db_int(r, 0, 6) == INT64_MIN); /* $2 once more */
    assert_int_equal(db_int(r, 0, 7), 1);      /* a truth value */
    assert_int_equal(db_int(r, 0, 8), 0);
    assert_true(db_is_null(r, 0, 9)); /* a NaN is no number */
}

static void test_values(void **state)
{
    struct fx *fx = *state;
    const struct db_param params[] = {
        DBP_S((const char *)NULL),     DBP_I(INT64_MIN),        DBP_I(INT64_MAX),  DBP_D(0.1),
        DBP_S("Grüße, 世界 🙂"), DBP_STR(str_n(NULL, 0)), DBP_D((double)NAN)};
    query_ok(fx, "SELECT $1, $2, $3, $4, $5, $6, $2, $3 > $2, $3 < $2, $7", params, 7,
             check_values);
}

static const double reals[] = {0.0,
                               -1.5,
                               1.0 / 3,
                               DBL_MAX,
                               DBL_MIN,
                               1e-310,
                               -0.0,
                               123456789012345680.0,
                               (double)INFINITY,
                               -(double)INFINITY};
static const int64_t ints[] = {0,         1,         -1,        255,       65536,
                               INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, 1700000000000};

static void check_reals(void *ctx, const struct db_result *r, const struct err *err)
{
    assert_null(err);
    *(bool *)ctx = true;
    assert_int_equal(db_rows(r), ARRAY_SIZE(reals));
    for (size_t i = 0; i < ARRAY_SIZE(reals); i++) {
        assert_true(db_real(r, i, 1) == reals[i]);
        assert_true(db_int(r, i, 2) == ints[i]);
        assert_int_equal(db_text(r, i, 3).len, i);
        assert_true(db_is_null(r, i, 4) == (i % 2 == 0));
    }
}

/* And sums: what a column's sum is, is an integer again, however the engine counts. */
static void check_sums(void *ctx, const struct db_result *r, const struct err *err)
{
    assert_null(err);
    *(bool *)ctx = true;
    assert_int_equal(db_int(r, 0, 0), 45);
    assert_int_equal(db_int(r, 0, 1), (int64_t)ARRAY_SIZE(ints));
    assert_true(db_is_null(r, 0, 2)); /* of no rows */
    assert_true(db_real(r, 0, 3) == 4.5);
}

static void test_columns(void **state)
{
    struct fx *fx = *state;
    run(fx, "CREATE TABLE v (n BIGINT, d DOUBLE PRECISION, i BIGINT, s TEXT, o TEXT)");
    for (size_t i = 0; i < ARRAY_SIZE(reals); i++) {
        struct probe p = {0};
        const struct db_param params[] = {DBP_I(i), DBP_D(reals[i]), DBP_I(ints[i]),
                                          DBP_STR(str_n("xxxxxxxxxxxx", i)),
                                          i % 2 ? DBP_S("set") : DBP_NULL};
        query(fx, "INSERT INTO v (n, d, i, s, o) VALUES ($1, $2, $3, $4, $5)", params, 5, &p);
        wait_for(fx, &p);
        if (p.failed)
            fail_msg("%s", p.err.msg);
    }
    query_ok(fx, "SELECT n, d, i, s, o FROM v ORDER BY n", NULL, 0, check_reals);
    query_ok(fx,
             "SELECT sum(n), count(*), (SELECT sum(n) FROM v WHERE n > 100), avg(n * 1.0) FROM v",
             NULL, 0, check_sums);
}

/* One statement, now with a number, now with none. */
static void test_types_may_vary(void **state)
{
    struct fx *fx = *state;
    const struct db_param k = DBP_S("a");
    const struct db_param values[] = {DBP_NULL, DBP_I(7), DBP_NULL, DBP_I(-7)};
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
            const struct db_param params[] = {k, values[i]};
            struct probe p = {0};
            query(fx,
                  "INSERT INTO t (k, v) VALUES ($1, $2) ON CONFLICT (k) DO UPDATE "
                  "SET v = excluded.v RETURNING coalesce(v, 99)",
                  params, 2, &p);
            wait_for(fx, &p);
            assert_false(p.failed);
            assert_int_equal(p.first, values[i].type == DB_NULL ? 99 : values[i].i);
        }
    }
}

static void check_large(void *ctx, const struct db_result *r, const struct err *err)
{
    struct str text;
    assert_null(err);
    *(bool *)ctx = true;
    assert_int_equal(db_rows(r), 3);
    for (size_t row = 0; row < 3; row++) {
        text = db_text(r, row, 0);
        assert_int_equal(text.len, 1u << 20);
        for (size_t i = 0; i < text.len; i++) {
            if (text.p[i] != (char)('a' + (i * 7 + row) % 26))
                fail_msg("byte %zu of row %zu", i, row);
        }
    }
}

static void test_large_texts(void **state)
{
    struct fx *fx = *state;
    size_t size = 1u << 20;
    char *text = x_malloc(size);
    run(fx, "CREATE TABLE big (n BIGINT, s TEXT)");
    for (size_t row = 0; row < 3; row++) {
        struct probe p = {0};
        for (size_t i = 0; i < size; i++)
            text[i] = (char)('a' + (i * 7 + row) % 26);
        const struct db_param params[] = {DBP_I(row), DBP_STR(str_n(text, size))};
        query(fx, "INSERT INTO big VALUES ($1, $2)", params, 2, &p);
        wait_for(fx, &p);
        assert_false(p.failed);
    }
    free(text);
    query_ok(fx, "SELECT s FROM big ORDER BY n", NULL, 0, check_large);
}

/* NULs and what is not UTF-8: kept by SQLite as they are, refused by PostgreSQL, never cut. */
static void test_texts_that_are_none(void **state)
{
    static const char invalid[] = "\xff\xfe", surrogate[] = "\xed\xa0\x80", nul[] = "a\0b";
    const struct str texts[] = {STR(invalid), STR(surrogate), STR(nul)};
    struct fx *fx = *state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct probe p = {0}, beside = {0};
        char k[16];
        snprintf(k, sizeof(k), "beside%zu", i);
        const struct db_param params[] = {DBP_STR(texts[i]), DBP_I(1)};
        query(fx, INSERT_T, params, 2, &p);
        insert(fx, k, 1, &beside);
        wait_for(fx, &p);
        wait_for(fx, &beside);
        assert_true(p.failed == fx->postgres);
        if (p.failed)
            assert_int_equal(p.err.code, ERR_INTERNAL);
        assert_false(beside.failed);
    }
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), fx->postgres ? 3 : 6);
}

static void sum_rows(void *ctx, const struct db_result *r, const struct err *err)
{
    int64_t sum = 0;
    assert_null(err);
    *(bool *)ctx = true;
    for (size_t i = 0; i < db_rows(r); i++) {
        char want[32];
        snprintf(want, sizeof(want), "row-%lld", (long long)db_int(r, i, 1));
        assert_string_equal(db_text(r, i, 0).p, want);
        sum += db_int(r, i, 1);
    }
    assert_int_equal(sum, 50000LL * 50001 / 2);
}

static void test_many_rows(void **state)
{
    struct fx *fx = *state;
    run(fx, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) "
            "INSERT INTO t SELECT 'row-' || i, i FROM n");
    query_ok(fx, "SELECT k, v FROM t", NULL, 0, sum_rows);
}

static void test_result_has_a_limit(void **state)
{
    struct fx *fx = *state;
    struct probe p = {0}, beside = {0};
    query(fx,
          fx->postgres
              ? "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
                "SELECT repeat('x', 1048576) FROM n"
              : "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
                "SELECT zeroblob(1048576) FROM n",
          NULL, 0, &p);
    insert(fx, "beside", 1, &beside);
    wait_for(fx, &p);
    wait_for(fx, &beside);
    assert_true(p.failed);
    assert_int_equal(p.err.code, ERR_TOO_LARGE);
    assert_false(beside.failed);
    assert_int_equal(run(fx, "SELECT count(*) FROM t"), 1);
}

#endif
