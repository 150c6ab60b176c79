/* auth_rotate_cases.h - keys with two secrets, disabled keys, and changes that are announced. */

static void set_secrets(struct world *w, const struct api_key *key, bool elsewhere)
{
    AUTO(free_charp)
    char *old = key->old_secret_hash ? x_printf("'%s'", key->old_secret_hash) : x_strdup("NULL");
    AUTO(free_charp)
    char *sql = x_printf("UPDATE api_keys SET secret_hash = '%s', old_secret_hash = %s, "
                         "old_secret_until = %lld",
                         key->secret_hash, old, (long long)key->old_secret_until);
    if (elsewhere)
        exec_elsewhere(w, sql);
    else
        exec_here(w, sql);
    auth_keys_changed(w->auth);
}

static void release_secrets(struct api_key *key)
{
    free(key->secret_hash);
    free(key->old_secret_hash);
}

static struct api_key same_key(const struct world *w)
{
    struct api_key key = {.secret_hash = x_strdup(w->key.secret_hash)};
    memcpy(key.public_id, w->key.public_id, sizeof(key.public_id));
    return key;
}

static void test_rotation(void **state)
{
    struct world *w = *state;
    struct api_key key = same_key(w);
    char second[KEY_TEXT_SIZE], third[KEY_TEXT_SIZE], wrong[KEY_TEXT_SIZE];
    EXPECT(LATER, w->text, "");
    auth_key_rotate(&key, 3000, second);
    set_secrets(w, &key, true);
    int64_t start = clock_mono_us();
    EXPECT(LATER, w->text, ""); /* read again; its hash has moved, which costs no bcrypt */
    int64_t moved_us = clock_mono_us() - start;
    EXPECT(LATER, other_secret(w->text, 1, wrong), "Invalid API key"); /* may be the new one */
    EXPECT(AT_ONCE, wrong, "Invalid API key");
    EXPECT(LATER, second, "");
    EXPECT(AT_ONCE, second, "");
    EXPECT(AT_ONCE, w->text, "");
    EXPECT(AT_ONCE, other_secret(w->text, 2, wrong), "Invalid API key"); /* both are known */
    int64_t left = key.old_secret_until - clock_wall_ms();
    spin(w, NULL, 0, left > 0 ? left + 20 : 0);
    EXPECT(AT_ONCE, w->text, "Invalid API key"); /* nobody had to say so */
    EXPECT(AT_ONCE, second, "");
    auth_key_rotate(&key, 60000, third);
    set_secrets(w, &key, true);
    EXPECT(LATER, second, "");
    EXPECT(LATER, third, "");
    EXPECT(AT_ONCE, w->text, "Invalid API key"); /* two rotations ago */
    auth_key_rotate(&key, 0, second);
    set_secrets(w, &key, true);
    EXPECT(LATER, third, "Invalid API key");
    EXPECT(LATER, second, "");
    print_message("# after a rotation the old secret is read again in %d us\n", (int)moved_us);
    release_secrets(&key);
}

static void test_rotation_not_cached(void **state)
{
    struct world *w = *state;
    struct api_key key = same_key(w);
    char second[KEY_TEXT_SIZE], wrong[KEY_TEXT_SIZE];
    auth_key_rotate(&key, 60000, second);
    set_secrets(w, &key, false);
    EXPECT(LATER, w->text, ""); /* the old one first: its entry knows only half */
    EXPECT(LATER, second, "");
    EXPECT(AT_ONCE, w->text, "");
    auth_free(w->auth);
    w->auth = auth_new(w->fx->loop, w->fx->db);
    EXPECT(LATER, other_secret(w->text, 1, wrong), "Invalid API key");
    EXPECT(LATER, second, "");
    EXPECT(LATER, w->text, "");
    release_secrets(&key);
}

static void test_disabled(void **state)
{
    struct world *w = *state;
    EXPECT(LATER, w->text, "");
    exec_here(w, "UPDATE api_keys SET status = 'disabled'");
    auth_keys_changed(w->auth);
    EXPECT(LATER, w->text, "API key disabled");
    exec_here(w, "UPDATE api_keys SET status = 'active'");
    auth_keys_changed(w->auth);
    EXPECT(LATER, w->text, "");
}

static void test_remembers(void **state)
{
    struct world *w = *state;
    char wrong[KEY_TEXT_SIZE];
    assert_false(auth_remembers(w->auth, str_c(w->text)));
    EXPECT(LATER, w->text, "");
    assert_true(auth_remembers(w->auth, str_c(w->text)));
    assert_false(auth_remembers(w->auth, str_c(other_secret(w->text, 1, wrong))));
    assert_false(auth_remembers(w->auth, str_c("x")));
    assert_false(auth_remembers(w->auth, STR("")));
    auth_keys_changed(w->auth); /* to be read again, but no guess */
    assert_true(auth_remembers(w->auth, str_c(w->text)));
    exec_here(w, "UPDATE api_keys SET status = 'revoked'");
    auth_keys_changed(w->auth);
    EXPECT(LATER, w->text, "API key revoked");
    assert_true(auth_remembers(w->auth, str_c(w->text)));
}

static void count_done(void *ctx, const struct err *err)
{
    assert_null(err);
    (*(int *)ctx)++;
}

static void test_told_of_changes(void **state)
{
    struct world *w = *state;
    struct auth_times times = quick;
    struct err err;
    int told = 0;
    struct shared_opts o = {.url = "", .prefix = "t:", .timeout_ms = 1000};
    struct shared *shared = shared_open(w->fx->loop, &o, &err);
    assert_non_null(shared);
    times.poll = 60000; /* not by looking */
    auth_set_times(w->auth, &times);
    auth_share(w->auth, shared);
    EXPECT(LATER, w->text, "");
    exec_here(w, "UPDATE api_keys SET status = 'revoked'");
    EXPECT(AT_ONCE, w->text, "");
    auth_announce(shared, count_done, &told);
    spin(w, &told, 1, 5000);
    spin(w, NULL, 0, 50);
    EXPECT(LATER, w->text, "API key revoked");
    auth_free(w->auth); /* it no longer listens */
    w->auth = NULL;
    auth_announce(shared, count_done, &told);
    spin(w, &told, 2, 5000);
    spin(w, NULL, 0, 50);
    shared_close(shared);
}
