/* sandbox_box_cases.h - part of test_sandbox.c: what a process in bubblewrap sees and can do. */
#ifndef CG_TESTS_SANDBOX_BOX_CASES_H
#define CG_TESTS_SANDBOX_BOX_CASES_H

#include "child/bwrap.h"
#include "child/run.h"
#include "sandbox_rig.h"

/* --- files -------------------------------------------------------------------------------- */

static void test_box_shows_no_other_file(void **state)
{
    struct box *b = *state;
    char script[1024];
    box_open(b);
    assert_true(sandbox_status(b->s)->filesystem);
    assert_memory_equal(sandbox_status(b->s)->summary, "bubblewrap", 10);
    snprintf(script, sizeof(script),
             "for f in /etc/shadow /etc/ssl/private /root /var /srv /opt /mnt /sys /boot %s %s; "
             "do test -e $f && echo sees $f; done; cat %s; "
             "find / -path /proc -prune -o -name '" CANARY "*' -print 2>/dev/null; "
             "grep -c . /etc/passwd >/dev/null && echo system; ls -A /work /home /home/w /tmp",
             b->dir, b->secret, b->secret);
    box_sh(b, script);
    assert_lines(b->rig, "system|/home:|w||/home/w:||/tmp:||/work:|");
}

/* The same script finds them when it is not in a box: it looks in the right places. */
static void test_without_box_it_would_see(void **state)
{
    struct box *b = *state;
    char script[512];
    b->opts.mode = SANDBOX_OFF;
    box_open(b);
    assert_string_equal(sandbox_status(b->s)->summary, "off");
    assert_string_equal(sandbox_status(b->s)->reason, "");
    snprintf(script, sizeof(script), "cat %s; find %s -name '" CANARY "*'; pwd", b->secret, b->dir);
    box_sh(b, script);
    snprintf(script, sizeof(script), CANARY "|%s|%s|", b->secret, b->work);
    assert_lines(b->rig, script);
}

static void test_box_is_read_only(void **state)
{
    struct box *b = *state;
    box_open(b);
    box_sh(b, "for d in / /usr /usr/bin /bin /etc /run /cc /work /home /dev /proc; do "
              "(: > $d/x) 2>/dev/null && echo wrote $d; done; "
              "for f in /etc/passwd /etc/hosts /usr/bin/env /cc/claude /run/relay.sock; do "
              "(: >> $f) 2>/dev/null && echo opened $f; rm -f $f 2>/dev/null && echo removed $f; "
              "chmod 777 $f 2>/dev/null && echo changed $f; done; "
              "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname "
              "/proc/sys/vm/drop_caches /proc/sysrq-trigger; do "
              "(: >> $f) 2>/dev/null && echo opened $f; done; "
              "mount -t tmpfs none /work 2>/dev/null && echo mounted; "
              "mount -o remount,rw,bind /usr 2>/dev/null && echo remounted; "
              "echo a > /tmp/a && echo b > $HOME/b && echo c > /dev/shm/c && "
              "cat /tmp/a $HOME/b /dev/shm/c && echo d > /dev/null && echo done");
    assert_lines(b->rig, "a|b|c|done|");
    assert_int_equal(access("/tmp/a", F_OK), -1);
    assert_int_equal(rmdir(b->home), 0); /* still empty */
    make_dir(b->home, 0700);
}

static void test_box_memory_files_have_a_size(void **state)
{
    struct box *b = *state;
    box_open(b);
    if (sandbox_status(b->s)->reason[0])
        SKIP("%s", sandbox_status(b->s)->reason);
    box_sh(b, "for d in /tmp $HOME /dev/shm; do stat -f -c '%b %S' $d | "
              "{ read n s; test $((n * s)) -le 300000000 && echo limited; }; done");
    assert_lines(b->rig, "limited|limited|limited|");
}

static void test_box_keeps_what_is_asked(void **state)
{
    struct box *b = *state;
    char path[256];
    b->job.keep_home = b->job.keep_work = true;
    box_open(b);
    snprintf(path, sizeof(path), "%s/given", b->work);
    write_file(path, "from outside\n");
    box_sh(b, "pwd; cat given; echo w > made && echo h > $HOME/made && ls -A / | grep -c tmp.cg");
    assert_lines(b->rig, "/work|from outside|0|");
    snprintf(path, sizeof(path), "%s/made", b->work);
    assert_string_equal(file_text(path), "w\n");
    snprintf(path, sizeof(path), "%s/made", b->home);
    assert_string_equal(file_text(path), "h\n");
}

/* --- network ------------------------------------------------------------------------------ */

static void test_box_has_no_network(void **state)
{
    struct box *b = *state;
    char script[512];
    box_open(b);
    snprintf(script, sizeof(script),
             "/cc/claude --inside tcp %d; /cc/claude --inside unix @" CANARY "-%d; "
             "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /sys 2>/dev/null",
             b->port, (int)getpid());
    box_sh(b, script);
    assert_lines(b->rig, "refused: Connection refused|refused: Connection refused|lo|");
    assert_string_equal(heard(b->tcp), "");
    assert_string_equal(heard(b->abstract), "");
}

static void test_without_box_it_would_connect(void **state)
{
    struct box *b = *state;
    char script[PATH_MAX + 256];
    b->opts.mode = SANDBOX_OFF;
    box_open(b);
    snprintf(script, sizeof(script), "%s --inside tcp %d; %s --inside unix @" CANARY "-%d", b->self,
             b->port, b->self, (int)getpid());
    box_sh(b, script);
    assert_lines(b->rig, "connected|connected|");
    assert_string_equal(heard(b->tcp), "hello");
    assert_string_equal(heard(b->abstract), "hello");
}

static void test_box_reaches_the_relay(void **state)
{
    struct box *b = *state;
    struct sandbox_view view;
    box_open(b);
    sandbox_view(b->s, &b->job, &view);
    box_run(b, "unix", view.socket);
    assert_lines(b->rig, "connected|");
    assert_int_equal(b->rig->how.code, 0);
    assert_string_equal(heard(b->relay), "hello");
}

/* --- processes and rights ----------------------------------------------------------------- */

static void test_box_shows_no_other_process(void **state)
{
    struct box *b = *state;
    char script[512];
    box_open(b);
    snprintf(script, sizeof(script),
             "n=0; for p in /proc/[0-9]*; do n=$((n+1)); done; test $n -le 4 && echo few; "
             "test -e /proc/%d && echo sees; kill -0 %d 2>/dev/null && echo reaches; "
             "cat /proc/sys/kernel/hostname; hostname",
             (int)getpid(), (int)getpid());
    assert_true(getpid() > 20);
    box_sh(b, script);
    assert_lines(b->rig, "few|worker|worker|");
}

static void test_box_has_no_rights(void **state)
{
    struct box *b = *state;
    box_open(b);
    if (sandbox_status(b->s)->reason[0])
        SKIP("%s", sandbox_status(b->s)->reason);
    box_sh(b, "grep -E 'Cap(Eff|Prm|Bnd|Amb)|NoNewPrivs' /proc/self/status | tr -d '\\t'; "
              "unshare -Ur true 2>/dev/null && echo new user namespace; "
              "unshare -n true 2>/dev/null && echo new network");
    assert_lines(b->rig, "CapPrm:0000000000000000|CapEff:0000000000000000|CapBnd:0000000000000000|"
                         "CapAmb:0000000000000000|NoNewPrivs:1|");
}

static void test_box_has_three_descriptors(void **state)
{
    struct box *b = *state;
    int low = open("/dev/null", O_RDONLY);
    assert_true(dup2(low, 50) == 50 && dup2(low, 200) == 200);
    box_open(b);
    box_sh(b, "exec ls /proc/self/fd");
    close(low);
    close(50);
    close(200);
    assert_lines(b->rig, "0|1|2|3|"); /* 3 is the directory that ls itself reads */
}

/* --- the end ------------------------------------------------------------------------------ */

static void test_box_passes_lines_and_status(void **state)
{
    struct box *b = *state;
    struct err err;
    box_open(b);
    box_spawn(b, "sh", "read x; echo got $x; echo bad >&2; exit 7");
    assert_int_equal(rig_write(b->rig, STR("line\n"), &err), 0);
    rig_wait_end(b->rig);
    assert_lines(b->rig, "got line|");
    assert_string_equal(b->rig->tail, "bad\n");
    assert_false(b->rig->how.signaled);
    assert_int_equal(b->rig->how.code, 7);
    sandbox_leave(&b->p);
    box_sh(b, "kill -9 $$");
    assert_false(b->rig->how.signaled);
    assert_int_equal(b->rig->how.code, 128 + SIGKILL);
}

static void make_mark(char *mark, size_t size)
{
    static int n;
    snprintf(mark, size, CANARY "-%d-%d", (int)getpid(), n++);
}

/* A shell that stays, in a session of its own, with the mark in its command line; written in two
 * pieces here, so that no other process has it in one. */
static void stay_script(char *script, size_t size, const char *mark, const char *then)
{
    snprintf(
        script, size,
        "setsid sh -c 'trap \"\" TERM HUP INT; for i in $(seq 600); do sleep 0.05; done' %.3s''%s "
        "</dev/null >/dev/null 2>&1 & echo ready; %s",
        mark, mark + 3, then);
}

static void test_box_leaves_no_grandchild(void **state)
{
    struct box *b = *state;
    char mark[64], script[512];
    struct err err;
    box_open(b);
    make_mark(mark, sizeof(mark));
    stay_script(script, sizeof(script), mark, "read x; exit 3");
    box_spawn(b, "sh", script);
    assert_true(wait_marked(mark, true));
    assert_int_equal(rig_write(b->rig, STR("go\n"), &err), 0);
    rig_wait_end(b->rig);
    assert_int_equal(b->rig->how.code, 3);
    assert_false(b->rig->how.output_cut);
    assert_true(wait_marked(mark, false));
}

static void end_by(struct box *b, void (*end)(struct box *b))
{
    char mark[64], script[512];
    make_mark(mark, sizeof(mark));
    stay_script(script, sizeof(script), mark, "for i in $(seq 600); do sleep 0.05; done");
    box_spawn(b, "sh", script);
    assert_true(wait_marked(mark, true));
    int64_t start = clock_mono_ms();
    end(b);
    rig_wait_end(b->rig);
    assert_true(clock_mono_ms() - start < 3000);
    assert_true(wait_marked(mark, false));
    sandbox_leave(&b->p);
}

static void end_stop(struct box *b)
{
    rig_stop(b->rig, 20000); /* SIGTERM does it, not what comes twenty seconds later */
}

static void end_kill_outer(struct box *b)
{
    kill(child_pid(b->rig->child), SIGKILL);
}

static void end_kill_group(struct box *b)
{
    child_signal(b->rig->child, SIGKILL);
}

static void test_box_ends_whole(void **state)
{
    struct box *b = *state;
    box_open(b);
    end_by(b, end_stop);
    assert_int_equal(b->rig->how.code, SIGTERM);
    end_by(b, end_kill_outer);
    end_by(b, end_kill_group);
}

/* A signal to the group reaches the program inside, not only bubblewrap. */
static void test_box_passes_signals_to_the_group(void **state)
{
    struct box *b = *state;
    box_open(b);
    box_spawn(b, "sh",
              "trap 'echo got it' WINCH; echo ready; "
              "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.05; done");
    assert_true(rig_run_until(b->rig, has_line, 10000));
    child_signal(b->rig->child, SIGWINCH);
    rig_wait_end(b->rig);
    assert_lines(b->rig, "ready|got it|");
}

static noreturn void be_a_server_with_a_box(struct box *b, const char *script, int report)
{
    box_spawn(b, "sh", script);
    if (write(report, "x", 1) != 1)
        _exit(1);
    for (int i = 0; i < 3000; i++)
        usleep(10000);
    _exit(2);
}

/* escaped: what must end has a session of its own; else it is the child itself. */
static void kill_its_server(struct box *b, bool escaped)
{
    char mark[64], script[512], byte;
    int p[2], status;
    make_mark(mark, sizeof(mark));
    if (escaped)
        stay_script(script, sizeof(script), mark,
                    "trap '' TERM; for i in $(seq 600); do sleep 0.05; done");
    else
        snprintf(
            script, sizeof(script),
            "exec sh -c 'trap \"\" TERM HUP; for i in $(seq 600); do sleep 0.05; done' %.3s''%s",
            mark, mark + 3);
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0)
        be_a_server_with_a_box(b, script, p[1]);
    close(p[1]);
    assert_int_equal(read(p[0], &byte, 1), 1);
    close(p[0]);
    assert_true(wait_marked(mark, true));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(wait_marked(mark, false));
}

static void test_box_dies_with_the_server(void **state)
{
    struct box *b = *state;
    box_open(b);
    kill_its_server(b, true);
}

/* --- limits, refusals --------------------------------------------------------------------- */

static void test_limits_cannot_be_passed(void **state)
{
    static const enum sandbox_mode modes[] = {SANDBOX_OFF, SANDBOX_AUTO};
    struct box *b = *state;
    b->opts.max_open_files = 64;
    b->opts.max_file_mb = 3;
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        b->opts.mode = modes[i];
        box_open(b);
        char file[256];
        bool in_box = sandbox_status(b->s)->filesystem;
        snprintf(file, sizeof(file), "%s/f", in_box ? "/tmp" : b->dir);
        if (!in_box && we_are_root()) { /* who may raise a hard limit */
            box_sh(b, "ulimit -n; ulimit -f; ulimit -c");
            assert_lines(b->rig, "64|6144|0|");
        } else {
            box_run(b, "limits", file);
            assert_lines(b->rig, "files 61 bytes 3145728 core 0|");
        }
        sandbox_free(TAKE_PTR(b->s));
    }
}

/* More than we have ourselves is not an error. */
static void test_limits_never_above_our_own(void **state)
{
    struct box *b = *state;
    struct rlimit rl;
    char expected[64];
    b->opts.mode = SANDBOX_OFF;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &rl), 0);
    b->opts.max_open_files = (int64_t)rl.rlim_max + 1000;
    box_open(b);
    box_sh(b, "ulimit -n");
    snprintf(expected, sizeof(expected), "%llu|", (unsigned long long)rl.rlim_max);
    assert_lines(b->rig, expected);
}

static void test_unboxed_has_no_new_privileges(void **state)
{
    struct box *b = *state;
    b->opts.mode = SANDBOX_OFF;
    box_open(b);
    box_sh(b, "grep NoNewPrivs /proc/self/status | tr -d '\\t'");
    assert_lines(b->rig, "NoNewPrivs:1|");
}

/* A program that the box cannot show: `on` refuses by name, `auto` says why not. */
static void test_box_that_does_not_work(void **state)
{
    struct box *b = *state;
    struct err err;
    b->opts.program = "/no/such/program";
    assert_null(sandbox_new(&b->opts, &err));
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "sandbox.mode is on"));
    assert_non_null(strstr(err.msg, "bubblewrap"));
    b->opts.mode = SANDBOX_AUTO;
    b->s = sandbox_new(&b->opts, &err);
    assert_non_null(b->s);
    assert_false(sandbox_status(b->s)->filesystem);
    assert_string_equal(sandbox_status(b->s)->summary, "off");
    assert_non_null(strstr(sandbox_status(b->s)->reason, "bubblewrap"));
    assert_non_null(strstr(sandbox_status(b->s)->reason, "sandbox.mode"));
}

/* An older bubblewrap, and a system whose /bin is a directory of its own. */
static void test_box_in_its_basic_form(void **state)
{
    struct box *b = *state;
    struct bwrap bw;
    struct err err;
    struct buf out;
    const char *const argv[] = {
        "/bin/sh", "-c",
        "test -L /bin || echo dir; (: >> /proc/sys/kernel/core_pattern) 2>/dev/null || echo safe; "
        "(: > /work/x) 2>/dev/null || echo read-only; echo t > /tmp/t && cat /tmp/t",
        NULL};
    const char *const envp[] = {"PATH=/usr/bin:/bin", NULL};
    box_open(b); /* or skip */
    bwrap_init(&bw);
    bw.basic = true;
    for (size_t i = 0; i < bw.dir_count; i++) {
        if (strcmp(bw.dirs[i].path, "/bin") == 0)
            x_replace(&bw.dirs[i].target, NULL);
    }
    const char **full = bwrap_argv(&bw, &b->job, argv);
    struct spawn_opts o = {.argv = full, .envp = envp, .cwd = "/"};
    buf_init(&out, 4096);
    assert_int_equal(run_process(&o, 20000, &out, NULL, &err), 0);
    assert_string_equal(buf_cstr(&out), "dir\nsafe\nread-only\nt\n");
    buf_release(&out);
    free(full);
    bwrap_release(&bw);
}

static void test_directories_in_the_system_are_refused(void **state)
{
    struct box *b = *state;
    const char *const argv[] = {"/cc/claude", NULL};
    struct err err;
    box_open(b);
    b->job.home = "/usr/local/claudegate/home";
    assert_int_equal(sandbox_enter(b->s, 1, &b->job, argv, &b->p, &err), -1);
    assert_int_equal(err.code, ERR_CONFIG);
    assert_non_null(strstr(err.msg, "/usr/local/claudegate/home"));
    assert_null(b->p.sandbox);
}

static void test_twenty_boxes_leave_nothing(void **state)
{
    struct box *b = *state;
    box_open(b);
    box_sh(b, "exit 0");
    size_t fds = fd_count();
    for (int i = 0; i < 20; i++)
        box_sh(b, i % 2 ? "exit 0" : "kill -9 $$");
    assert_int_equal(fd_count(), fds);
}

#endif
