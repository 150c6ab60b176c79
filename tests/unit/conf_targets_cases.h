/* conf_targets_cases.h - upstream.targets, the list of credentials, and the proxy in front of it.
 */

#define TARGETS "upstream:\n  targets:\n"

static void assert_target(size_t i, const char *name, const char *url, const char *credential,
                          bool bearer, int64_t weight)
{
    struct conf_target t = conf_target_at(conf, i);
    assert_string_equal(t.name, name);
    assert_string_equal(t.base_url, url);
    assert_string_equal(t.credential, credential);
    assert_int_equal(t.bearer, bearer);
    assert_int_equal(t.weight, weight);
}

static void test_targets(void **state)
{
    (void)state;
    assert_loads(NULL, ENV("ANTHROPIC_AUTH_TOKEN=t1"));
    assert_int_equal(conf_target_count(conf), 1);
    assert_target(0, "default", "https://api.anthropic.com", "t1", true, 1);
    assert_shown("  targets: []  # default\n");

    assert_loads("upstream:\n  base_url: https://one.example\n  targets:\n"
                 "    - {name: a, api_key: " SECRET "}\n"
                 "    - name: b.2_c-d\n      base_url: http://127.0.0.1:8/p\n      weight: 0\n"
                 "    - {weight: 7, auth_token: tok, name: c}\n",
                 no_env);
    assert_int_equal(conf_target_count(conf), 3);
    assert_target(0, "a", "https://one.example", SECRET, false, 1);
    assert_target(1, "b.2_c-d", "http://127.0.0.1:8/p", "", false, 0);
    assert_target(2, "c", "https://one.example", "tok", true, 7);
    AUTO(free_charp) char *head = x_printf("  targets:  # %s:4\n    - name: \"a\"\n", file);
    assert_shown(head);
    assert_shown("      api_key: (set)\n");
    assert_shown("      base_url: \"http://127.0.0.1:8/p\"\n      weight: 0\n    - name: \"c\"\n");
    assert_null(strstr(show(), SECRET));
}

static void test_targets_credentials(void **state)
{
    (void)state;
    AUTO(free_charp) char *secret = x_printf("%s/secret", dir);
    AUTO(free_charp)
    char *text = x_printf(TARGETS "    - {name: a, api_key_file: '%s'}\n"
                                  "    - {name: b, auth_token_env: B_TOKEN}\n",
                          secret);
    FILE *f = fopen(secret, "w");
    assert_non_null(f);
    fputs("from-file\r\n", f);
    fclose(f);
    assert_loads(text, ENV("B_TOKEN=from-env"));
    assert_target(0, "a", "https://api.anthropic.com", "from-file", false, 1);
    assert_target(1, "b", "https://api.anthropic.com", "from-env", true, 1);
    assert_null(strstr(show(), "from-env"));
    assert_shown("      auth_token_env: \"B_TOKEN\"\n");

    /* all that is wrong with them is told at once */
    f = fopen(secret, "w");
    assert_non_null(f);
    fputs("two lines\nof " SECRET "\n", f);
    fclose(f);
    assert_int_equal(load(text, ENV("B_TOKEN=x " SECRET)), -1);
    assert_file_error("3: upstream.targets[0].api_key_file: must hold one line");
    assert_file_error("4: upstream.targets[1].auth_token_env: must hold one line");
    assert_null(strstr(buf_cstr(&errors), SECRET));
    unlink(secret);
    assert_int_equal(load(text, no_env), -1);
    assert_file_error("3: upstream.targets[0].api_key_file: cannot read '");
    assert_file_error("4: upstream.targets[1].auth_token_env: the variable 'B_TOKEN' is not set\n");
    assert_int_equal(count_lines(buf_cstr(&errors)), 2);
}

static void test_targets_refused(void **state)
{
    (void)state;
    static const struct {
        const char *item, *error;
    } rows[] = {
        {"{api_key: x}", "3: upstream.targets[0].name: must be given\n"},
        {"{name: 'a b'}", "3: upstream.targets[0].name: must be 1 to 32 letters"},
        {"{name: a, name: b}", "3: upstream.targets[0].name: is given twice, first on line 3\n"},
        {"{name: a, weight: 1001}", "3: upstream.targets[0].weight: must be a whole number from 0"},
        {"{name: a, weight: '1'}", "3: upstream.targets[0].weight: must be a whole number"},
        {"{name: a, weight: }", "3: upstream.targets[0].weight: has no value\n"},
        {"{name: a, weight: 0}", "3: upstream.targets: one of them must have a weight above 0\n"},
        {"{name: a, base_url: 'http://example.com'}",
         "3: upstream.targets[0].base_url: plain http is allowed to this machine only"},
        {"{name: a, api_key: [" SECRET "]}", "3: upstream.targets[0].api_key: must be a text"},
        {"{name: a, api_key: 'a " SECRET "'}",
         "3: upstream.targets[0].api_key: must be visible ASCII"},
        {"{name: a, key: x}", "3: upstream.targets[0].key: unknown; a target has name, "},
        {"{name: a, api_key: x, auth_token: y}",
         "3: upstream.targets[0]: must have one credential only"},
        {"{name: a, api_key: x, api_key_env: Y}",
         "3: upstream.targets[0]: must have one credential only"},
        {"{name: a, api_key_env: CLAUDEGATE_X}",
         "3: upstream.targets[0].api_key_env: must be the name of a variable"},
        {"{name: a}\n    - {name: a}",
         "4: upstream.targets[1].name: is the name of upstream.targets[0] as well\n"},
        {"a", "3: upstream.targets: must be a list of at most 16 mappings"},
        {"&x {name: a}", "3: upstream.targets: must be a list"},
        {"{name: &x a}", "3: upstream.targets[0].name: anchors (&name) are not allowed\n"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        AUTO(free_charp) char *text = x_printf(TARGETS "    - %s\n", rows[i].item);
        assert_int_equal(load(text, no_env), -1);
        assert_file_error(rows[i].error);
        assert_null(strstr(buf_cstr(&errors), SECRET));
    }
    assert_refused("upstream:\n  targets: a\n", "2: upstream.targets: must be a list");
    assert_refused("upstream:\n  targets: {name: a}\n", "2: upstream.targets: must be a list");
    assert_refused("upstream:\n  targets: []\n  targets: []\n",
                   "3: upstream.targets: is given twice, first on line 2\n");
    AUTO(buf_release) struct buf many;
    buf_init(&many, 1 << 16);
    buf_adds(&many, TARGETS);
    for (int i = 0; i <= CONF_MAX_TARGETS; i++)
        buf_printf(&many, "    - name: n%d\n", i);
    assert_refused(buf_cstr(&many), "19: upstream.targets: must be a list of at most 16 mappings");
}

/* JSON is YAML: a container needs no file. The variable replaces the whole list. */
static void test_targets_from_env(void **state)
{
    (void)state;
    assert_loads(TARGETS "    - {name: a, api_key: x}\n    - {name: b, api_key: y}\n",
                 ENV("CLAUDEGATE_UPSTREAM_TARGETS=[{\"name\":\"e\",\"api_key\":\"" SECRET
                     "\",\n\"weight\":3}]"));
    assert_int_equal(conf_target_count(conf), 1);
    assert_target(0, "e", "https://api.anthropic.com", SECRET, false, 3);
    assert_shown("  targets:  # environment CLAUDEGATE_UPSTREAM_TARGETS\n    - name: \"e\"\n");
    assert_null(strstr(show(), SECRET));
    assert_env_refused("CLAUDEGATE_UPSTREAM_TARGETS=[{name: e, weight: x}]",
                       "environment: CLAUDEGATE_UPSTREAM_TARGETS: upstream.targets[0].weight: must "
                       "be a whole number from 0 to 1000, without quotes\n");
    static const char *const bad[] = {
        "{}", "x", "[1]", "[{name: a}", "[{", "[{name: a}] b", "# no", "[{name: a}]\n---\n[]"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(free_charp) char *variable = x_printf("CLAUDEGATE_UPSTREAM_TARGETS=%s", bad[i]);
        assert_int_equal(load(NULL, ENV(variable)), -1);
        assert_error("environment: CLAUDEGATE_UPSTREAM_TARGETS: ");
        assert_int_equal(count_lines(buf_cstr(&errors)), 1);
    }
}

static void test_targets_and_others(void **state)
{
    (void)state;
    assert_int_equal(load(TARGETS "    - {name: a, api_key: x}\n", ENV("ANTHROPIC_API_KEY=y")), -1);
    assert_file_error("3: upstream.targets: cannot be set together with upstream.api_key (from "
                      "ANTHROPIC_API_KEY): make it one of them\n");
    assert_int_equal(load(TARGETS "    - {name: a, api_key_env: MY_KEY}\nclaude:\n"
                                  "  pass_env: TZ, MY_KEY\n",
                          ENV("MY_KEY=y")),
                     -1);
    assert_file_error("5: claude.pass_env: must not name the variable of a credential "
                      "(upstream.targets[0])\n");
    assert_int_equal(count_lines(buf_cstr(&errors)), 1);
    /* What is broken is not judged a second time. */
    assert_int_equal(load(TARGETS "    - {name: a, weight: x}\n", ENV("ANTHROPIC_API_KEY=y")), -1);
    assert_int_equal(count_lines(buf_cstr(&errors)), 1);
}

static void test_proxy(void **state)
{
    static const char *const good[] = {"http://p:3128", "https://u:p%40w@p.example:443",
                                       "socks5://127.0.0.1:1080", "socks5h://[::1]:9/"};
    static const char *const bad[] = {"p:3128",
                                      "http://p",
                                      "ftp://p:1",
                                      "http://p:1/path",
                                      "http://p:1?q",
                                      "http://u:p w@p:1",
                                      "http://:1",
                                      "socks4://p:1",
                                      "http://p:1#f",
                                      "http://p:0x1",
                                      "http://u:" SECRET "@p"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        AUTO(free_charp) char *text = x_printf("upstream:\n  proxy: %s\n", good[i]);
        assert_loads(text, no_env);
        assert_string_equal(conf->upstream.proxy, good[i]);
        assert_shown("  proxy: (set)  # ");
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        AUTO(free_charp) char *text = x_printf("upstream:\n  proxy: '%s'\n", bad[i]);
        assert_refused(text, "2: upstream.proxy: must have the form http://host:port, https://");
        assert_null(strstr(buf_cstr(&errors), SECRET));
    }
    assert_loads("upstream:\n  http_version: 2\n", no_env);
    assert_string_equal(conf->upstream.http_version, "2");
    assert_refused("upstream:\n  http_version: 3\n", "2: upstream.http_version: must be one of");
}
