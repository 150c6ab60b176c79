/* sandbox_user_cases.h - part of test_sandbox.c: users of their own, and what a tree uses. */
#ifndef CG_TESTS_SANDBOX_USER_CASES_H
#define CG_TESTS_SANDBOX_USER_CASES_H

#include "sandbox_box_cases.h"

static uid_t owner(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_uid;
}

static void run_as_own_user(struct box *b, enum sandbox_mode mode)
{
    char expected[256];
    b->opts.mode = mode;
    b->opts.uids = "200000-200003";
    box_open(b);
    assert_true(sandbox_status(b->s)->own_users);
    assert_non_null(strstr(sandbox_status(b->s)->summary, "own users"));
    for (int i = 0; i < 6; i++) { /* each gets the next one, and they go round */
        box_sh(b, "id -u; id -g; id -G; touch $HOME/x 2>/dev/null; "
                  "grep -E '^(Uid|Gid|CapEff):' /proc/self/status | tr -s '\\t' ' '");
        int id = 200000 + i % 4;
        snprintf(expected, sizeof(expected),
                 "%d|%d|%d|Uid: %d %d %d %d|Gid: %d %d %d %d|CapEff: 0000000000000000|", id, id, id,
                 id, id, id, id, id, id, id, id);
        assert_lines(b->rig, expected);
    }
}

static void test_user_of_its_own(void **state)
{
    run_as_own_user(*state, SANDBOX_OFF);
}

static void test_user_of_its_own_in_a_box(void **state)
{
    struct box *b = *state;
    run_as_own_user(b, SANDBOX_ON);
    box_run(b, "unix", "/run/relay.sock");
    assert_lines(b->rig, "connected|");
    b->job.keep_home = true;
    box_sh(b, "touch $HOME/x && touch /tmp/y && stat -c %u $HOME/x");
    assert_lines(b->rig, "200003|");
}

static void test_users_run_out(void **state)
{
    struct box *b = *state;
    struct sandbox_view view;
    struct sandboxed p[3] = {{0}};
    struct err err;
    b->opts.mode = SANDBOX_OFF;
    b->opts.uids = "200000-200001";
    box_open(b);
    sandbox_view(b->s, &b->job, &view);
    const char *const argv[] = {view.program, NULL};
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(sandbox_enter(b->s, i, &b->job, argv, &p[i], &err), 0);
    assert_true(p[0].confine.uid != p[1].confine.uid);
    assert_int_equal(sandbox_enter(b->s, 2, &b->job, argv, &p[2], &err), -1);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "sandbox.uids"));
    uid_t freed = p[0].confine.uid;
    sandbox_leave(&p[0]);
    assert_int_equal(sandbox_enter(b->s, 2, &b->job, argv, &p[2], &err), 0);
    assert_int_equal(p[2].confine.uid, freed);
    for (size_t i = 0; i < ARRAY_SIZE(p); i++)
        sandbox_leave(&p[i]);
}

/* Everything in the directories becomes the user's, but nothing that they only point to. */
static void test_users_get_their_files(void **state)
{
    struct box *b = *state;
    char deep[256], file[300], link[300], hard[300];
    b->opts.mode = SANDBOX_OFF;
    b->opts.uids = "200000-200001";
    box_open(b);
    snprintf(deep, sizeof(deep), "%s/deep", b->home);
    snprintf(file, sizeof(file), "%s/file", deep);
    snprintf(link, sizeof(link), "%s/link", deep);
    snprintf(hard, sizeof(hard), "%s/hard", deep);
    make_dir(deep, 0700);
    write_file(file, "mine\n");
    assert_int_equal(symlink(b->secret, link), 0);
    assert_int_equal(linkat(AT_FDCWD, b->secret, AT_FDCWD, hard, 0), 0);
    box_sh(b, "cat $0 2>/dev/null; echo end");
    assert_int_equal(owner(b->home), 200000);
    assert_int_equal(owner(b->work), 200000);
    assert_int_equal(owner(b->socket), 200000);
    assert_int_equal(owner(deep), 200000);
    assert_int_equal(owner(file), 200000);
    assert_int_equal(owner(link), 200000);
    assert_int_equal(owner(b->secret), 0);
    assert_int_equal(owner(b->dir), 0);
}

/* A process of this user; it has run its own program when this returns. */
static pid_t somebody(uid_t id)
{
    int p[2];
    char byte;
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (setresuid(id, id, id) == 0)
            execl("/bin/sleep", "sleep", "60", (char *)NULL);
        _exit(1);
    }
    close(p[1]);
    assert_int_equal(read(p[0], &byte, 1), 0);
    close(p[0]);
    return pid;
}

/* Without a box the user is what keeps workers apart. */
static void test_users_cannot_touch_others(void **state)
{
    struct box *b = *state;
    char script[1024];
    b->opts.mode = SANDBOX_OFF;
    b->opts.uids = "200000-200001";
    box_open(b);
    pid_t other = somebody(200001);
    snprintf(script, sizeof(script),
             "cat %s 2>/dev/null; ls %s/other 2>/dev/null; ls %s 2>/dev/null; kill -0 %d "
             "2>/dev/null && echo reaches server; kill -9 %d 2>/dev/null && echo reaches other; "
             "cat /proc/%d/environ 2>/dev/null; cat /etc/shadow 2>/dev/null; echo end",
             b->secret, b->dir, b->dir, (int)getpid(), (int)other, (int)other);
    box_sh(b, script);
    assert_false(process_gone(other));
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    assert_lines(b->rig, "end|");
}

/* What fled into another session keeps running until the user id is taken back. */
static void test_users_leave_nothing_running(void **state)
{
    struct box *b = *state;
    char mark[64], script[512];
    struct err err;
    b->opts.mode = SANDBOX_OFF;
    b->opts.uids = "200000-200000";
    box_open(b);
    make_mark(mark, sizeof(mark));
    stay_script(script, sizeof(script), mark, "read x; exit 0");
    box_spawn(b, "sh", script);
    assert_true(wait_marked(mark, true));
    assert_int_equal(rig_write(b->rig, STR("go\n"), &err), 0);
    rig_wait_end(b->rig);
    assert_true(wait_marked(mark, true)); /* it holds no pipe, and is in no group of ours */
    sandbox_leave(&b->p);
    assert_true(wait_marked(mark, false));
    assert_false(process_gone(getpid()));
    box_sh(b, "id -u"); /* the id is free again */
    assert_lines(b->rig, "200000|");
}

/* The change of user clears the wish to die with the parent: it has to be made after it. */
static void test_user_dies_with_the_server(void **state)
{
    struct box *b = *state;
    b->opts.mode = SANDBOX_OFF;
    b->opts.uids = "200000-200001";
    box_open(b);
    kill_its_server(b, false);
}

static void test_users_need_an_open_path(void **state)
{
    struct box *b = *state;
    char closed[128], program[192];
    struct sandbox_view view;
    struct err err;
    b->opts.mode = SANDBOX_OFF;
    b->opts.uids = "200000-200001";
    box_open(b);
    sandbox_view(b->s, &b->job, &view);
    const char *const argv[] = {view.program, NULL};
    assert_int_equal(chmod(b->dir, 0700), 0);
    assert_int_equal(sandbox_enter(b->s, 1, &b->job, argv, &b->p, &err), -1);
    assert_non_null(strstr(err.msg, b->dir));
    assert_non_null(strstr(err.msg, "is closed"));
    assert_int_equal(chmod(b->dir, 0711), 0);
    sandbox_free(TAKE_PTR(b->s));
    snprintf(closed, sizeof(closed), "%s/other", b->dir);
    snprintf(program, sizeof(program), "%s/program", closed);
    assert_int_equal(linkat(AT_FDCWD, "/usr/bin/env", AT_FDCWD, program, 0) == 0 ||
                         symlink("/usr/bin/env", program) == 0,
                     1);
    b->opts.program = program;
    assert_null(sandbox_new(&b->opts, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "sandbox.uids"));
    assert_non_null(strstr(err.msg, program));
    snprintf(program, sizeof(program), "'%s' is closed", closed);
    assert_non_null(strstr(err.msg, program));
}

static void test_users_refused(void **state)
{
    static const char *const bad[] = {"1", "0-5", "9-8", "a-b", "1-", "-1", "1-4294967295", "1--2"};
    struct box *b = *state;
    struct err err;
    int status;
    b->opts.mode = SANDBOX_OFF;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        b->opts.uids = bad[i];
        assert_null(sandbox_new(&b->opts, &err));
        assert_int_equal(err.code, ERR_CONFIG);
        assert_non_null(strstr(err.msg, "sandbox.uids"));
    }
    b->opts.uids = "200000-200001";
    pid_t pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0)
            _exit(2);
        bool refused = !sandbox_new(&b->opts, &err) && err.code == ERR_CONFIG &&
                       strstr(err.msg, "sandbox.uids") && strstr(err.msg, "root");
        _exit(refused ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* --- alive, usage ------------------------------------------------------------------------- */

static void test_alive_is_the_kernels_word(void **state)
{
    struct box *b = *state;
    struct rig *r = b->rig;
    rig_spawn_sh(r, "exec sleep 60");
    assert_true(child_alive(r->child));
    kill(child_pid(r->child), SIGKILL);
    for (int i = 0; i < 2000 && child_alive(r->child); i++)
        usleep(1000); /* the loop does not run */
    assert_false(child_alive(r->child));
    assert_int_equal(r->ended, 0);
    r->keep = true;
    rig_wait_end(r);
    assert_false(child_alive(r->child));
    struct child_usage u;
    assert_false(child_usage(r->child, &u));
}

/* The large one is a grandchild, as it is in a box. */
static void use_and_look(struct box *b, const char *script)
{
    struct child_usage u;
    box_spawn(b, "sh", script);
    assert_true(rig_run_until(b->rig, has_line, 20000));
    rig_run_for(b->rig, 600); /* a picture of all processes may be that old */
    assert_true(child_usage(b->rig->child, &u));
    assert_in_range(u.rss_kb, 80 * 1024, 400 * 1024);
    assert_in_range(u.cpu_ms, 200, 5000);
    assert_in_range(u.processes, 2, 6);
    child_signal(b->rig->child, SIGKILL);
    rig_wait_end(b->rig);
    sandbox_leave(&b->p);
}

static void test_usage_of_the_tree(void **state)
{
    struct box *b = *state;
    char script[PATH_MAX + 64];
    b->opts.mode = SANDBOX_OFF;
    box_open(b);
    snprintf(script, sizeof(script), "%s --inside eat 80; exit", b->self);
    use_and_look(b, script);
    sandbox_free(TAKE_PTR(b->s));
    b->opts.mode = SANDBOX_ON;
    box_open(b);
    use_and_look(b, "/cc/claude --inside eat 80; exit");
}

static bool has_two_lines(const struct rig *r)
{
    return r->line_count >= 2;
}

static void test_usage_of_a_small_one(void **state)
{
    struct box *b = *state;
    struct child_usage u;
    rig_spawn_sh(b->rig, "echo ready; exec sleep 60");
    assert_true(rig_run_until(b->rig, has_line, 10000));
    assert_true(child_usage(b->rig->child, &u));
    assert_in_range(u.rss_kb, 0, 20000); /* the kernel counts in batches: little may read as none */
    assert_in_range(u.cpu_ms, 0, 1000);
    assert_int_equal(u.processes, 1);
}

/* Right after a sample that may be remembered. */
static void test_usage_that_is_fresh(void **state)
{
    struct box *b = *state;
    struct child_usage u;
    struct err err;
    struct rig *r = b->rig;
    rig_spawn_sh(r, "echo ready; read x; sleep 60 & echo left; read x; kill $!");
    assert_true(rig_run_until(r, has_line, 10000));
    for (int64_t seen = 1; seen <= 2; seen++) {
        assert_true(child_usage_fresh(r->child, &u));
        assert_int_equal(u.processes, seen);
        if (seen == 1) {
            assert_int_equal(child_write(r->child, str_c("go\n"), &err), 0);
            assert_true(rig_run_until(r, has_two_lines, 10000));
        }
    }
}

#endif
