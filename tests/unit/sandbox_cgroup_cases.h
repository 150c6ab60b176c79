/* sandbox_cgroup_cases.h - part of test_sandbox.c: cgroup v2.
 *
 * Controllers are rarely delegated to a test, so the files are those of a directory that behaves
 * like the kernel's: mkdir() in it makes a group with its files, rmdir() removes them as well and
 * refuses while a process is in it. Entering and killing is done in a real hierarchy. */
#ifndef CG_TESTS_SANDBOX_CGROUP_CASES_H
#define CG_TESTS_SANDBOX_CGROUP_CASES_H

#include "child/cgroup.h"
#include "sandbox_user_cases.h"

#include <sys/mount.h>

/* --- the make-believe kernel -------------------------------------------------------------- */

static struct {
    char root[80];
    const char *controllers;
    bool no_kill; /* as before Linux 5.14 */
    bool no_swap; /* without swap accounting */
    bool no_pids; /* pids.max cannot be written */
} fake;

static void fake_file(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    write_file(path, text);
}

static bool is_fake(const char *path)
{
    return fake.root[0] && strncmp(path, fake.root, strlen(fake.root)) == 0;
}

/* Files that are written are empty at first, so that a test sees exactly what was. */
static void fake_group(const char *dir)
{
    fake_file(dir, "cgroup.procs", "");
    fake_file(dir, "cgroup.type", "domain\n");
    fake_file(dir, "cgroup.controllers", fake.controllers);
    fake_file(dir, "cgroup.subtree_control", "");
    fake_file(dir, "memory.max", "");
    fake_file(dir, "memory.oom.group", "");
    fake_file(dir, "cpu.max", "");
    if (!fake.no_kill)
        fake_file(dir, "cgroup.kill", "");
    if (!fake.no_swap)
        fake_file(dir, "memory.swap.max", "");
    if (!fake.no_pids)
        fake_file(dir, "pids.max", "");
}

static bool fake_busy(const char *dir)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
    pid_t pid = (pid_t)strtol(file_text(path), NULL, 10);
    return pid > 0 && !process_gone(pid);
}

/* In place of the C library's. */
int mkdir(const char *path, mode_t mode)
{
    int rc = mkdirat(AT_FDCWD, path, mode);
    if (rc == 0 && is_fake(path))
        fake_group(path);
    return rc;
}

int rmdir(const char *path)
{
    static const char *const names[] = {"cgroup.procs",
                                        "cgroup.type",
                                        "cgroup.controllers",
                                        "memory.max",
                                        "memory.swap.max",
                                        "memory.oom.group",
                                        "cpu.max",
                                        "pids.max",
                                        "cgroup.kill",
                                        "cgroup.subtree_control"};
    char file[512];
    if (is_fake(path) && fake_busy(path))
        return errno = EBUSY, -1;
    for (size_t i = 0; i < ARRAY_SIZE(names) && is_fake(path); i++) {
        snprintf(file, sizeof(file), "%s/%s", path, names[i]);
        unlink(file);
    }
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

static int fake_set_up(void **state)
{
    box_set_up(state);
    struct box *b = *state;
    memset(&fake, 0, sizeof(fake));
    fake.controllers = "cpuset cpu io memory pids\n";
    char root[80];
    snprintf(root, sizeof(root), "%s/cg", b->dir);
    make_dir(root, 0755);
    memcpy(fake.root, root, sizeof(root));
    fake_group(root);
    b->opts.cgroup_root = fake.root;
    b->opts.mode = SANDBOX_OFF;
    return 0;
}

static int fake_tear_down(void **state)
{
    int rc = box_tear_down(state);
    memset(&fake, 0, sizeof(fake));
    return rc;
}

static const char *fake_text(const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return file_text(path);
}

static bool there(const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

/* --- finding it --------------------------------------------------------------------------- */

static void test_cgroup_is_located(void **state)
{
    static const char v2[] =
        "30 22 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    static const char hybrid[] =
        "30 22 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "31 30 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
        "40 30 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    static const char below[] = "30 22 0:27 /a/b /cg\\0402 rw - cgroup2 cgroup2 rw\n";
    static const struct {
        const char *self, *mounts, *expected;
    } rows[] = {
        {"0::/\n", v2, "/sys/fs/cgroup"},
        {"0::/system.slice/claudegate.service\n", v2,
         "/sys/fs/cgroup/system.slice/claudegate.service"},
        {"9:name=systemd:/\n4:memory:/x\n0::/y z\n", hybrid, "/sys/fs/cgroup/unified/y z"},
        {"0::/a/b/c\n", below, "/cg 2/c"},
        {"0::/a/b\n", below, "/cg 2"},
        {"0::/a/bc\n", below, NULL},
        {"0::/../x\n", v2, NULL},
        {"4:memory:/x\n", v2, NULL},
        {"0::/\n", "31 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", NULL},
        {"", v2, NULL},
        {"0::/\n", "", NULL},
        {"0::/\n", "1 2 3\n - cgroup2 \n1 2 3 4 5 - cgroup2", NULL},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char *found = cgroup_locate(rows[i].self, rows[i].mounts);
        if (rows[i].expected)
            assert_string_equal(found, rows[i].expected);
        else
            assert_null(found);
        free(found);
    }
}

/* --- files -------------------------------------------------------------------------------- */

static void worker_dir(char *dir, size_t size, int pid, unsigned id)
{
    snprintf(dir, size, "%s/worker-%d-%u", fake.root, pid, id);
}

static int enter(struct box *b, unsigned id, struct err *err)
{
    struct sandbox_view view;
    sandbox_view(b->s, &b->job, &view);
    const char *const argv[] = {view.program, NULL};
    return sandbox_enter(b->s, id, &b->job, argv, &b->p, err);
}

static void test_cgroup_files(void **state)
{
    struct box *b = *state;
    struct err err;
    char dir[256];
    b->opts.memory_mb = 512;
    b->opts.cpu_percent = 150;
    b->opts.max_processes = 100;
    box_open(b);
    assert_true(sandbox_status(b->s)->cgroup);
    assert_string_equal(sandbox_status(b->s)->summary, "cgroup limits (memory, CPU, processes)");
    assert_string_equal(sandbox_status(b->s)->reason, "");
    assert_string_equal(fake_text(fake.root, "cgroup.subtree_control"), "+memory +cpu +pids");
    assert_false(there(fake.root, "server")); /* we were not in the way */
    assert_int_equal(enter(b, 7, &err), 0);
    worker_dir(dir, sizeof(dir), getpid(), 7);
    assert_string_equal(b->p.cgroup, dir);
    assert_string_equal(fake_text(dir, "memory.max"), "536870912");
    assert_string_equal(fake_text(dir, "memory.swap.max"), "0");
    assert_string_equal(fake_text(dir, "memory.oom.group"), "1");
    assert_string_equal(fake_text(dir, "cpu.max"), "150000 100000");
    assert_string_equal(fake_text(dir, "pids.max"), "100");
    sandbox_leave(&b->p);
    assert_int_equal(access(dir, F_OK), -1);
    box_sh(b, "exit 0"); /* the process writes itself in; the file keeps it until it is removed */
    assert_int_equal(b->rig->how.code, 0);
}

/* Only what was asked for is limited, and what this machine has. */
static void test_cgroup_takes_what_there_is(void **state)
{
    struct box *b = *state;
    struct err err;
    fake.controllers = "cpuset memory";
    fake.no_swap = true;
    fake_file(fake.root, "cgroup.controllers", fake.controllers);
    b->opts.memory_mb = 1;
    b->opts.cpu_percent = 100;
    box_open(b);
    assert_string_equal(sandbox_status(b->s)->summary, "cgroup limits (memory)");
    assert_non_null(strstr(sandbox_status(b->s)->reason, "CPU"));
    assert_null(strstr(sandbox_status(b->s)->reason, "processes"));
    assert_string_equal(fake_text(fake.root, "cgroup.subtree_control"), "+memory");
    assert_int_equal(enter(b, 1, &err), 0);
    assert_string_equal(fake_text(b->p.cgroup, "memory.max"), "1048576");
    assert_string_equal(fake_text(b->p.cgroup, "cpu.max"), "");
    assert_string_equal(fake_text(b->p.cgroup, "pids.max"), "");
}

static void assert_not_used(struct box *b, const char *why)
{
    box_open(b);
    assert_false(sandbox_status(b->s)->cgroup);
    assert_string_equal(sandbox_status(b->s)->summary, "off");
    assert_non_null(strstr(sandbox_status(b->s)->reason, why));
    struct err err;
    assert_int_equal(enter(b, 1, &err), 0);
    assert_null(b->p.cgroup);
    assert_int_equal(b->p.confine.cgroup_procs, -1);
    sandbox_leave(&b->p);
    sandbox_free(TAKE_PTR(b->s));
}

static void test_cgroup_not_used(void **state)
{
    struct box *b = *state;
    char path[256];
    b->opts.max_processes = 10;
    fake_file(fake.root, "cgroup.controllers", "memory cpu spids pidsx");
    assert_not_used(b, "no controller for processes");
    fake_file(fake.root, "cgroup.controllers", "pids");
    snprintf(path, sizeof(path), "%s/cgroup.subtree_control", fake.root);
    assert_int_equal(unlink(path), 0);
    assert_not_used(b, strerror(ENOENT));
    b->opts.max_processes = 0; /* nothing is asked: nothing is missing */
    box_open(b);
    assert_false(sandbox_status(b->s)->cgroup);
    assert_string_equal(sandbox_status(b->s)->reason, "");
}

/* Our own process must go to a leaf, and comes back when we stop or when it was of no use. */
static void test_cgroup_moves_us_to_a_leaf(void **state)
{
    struct box *b = *state;
    char pid[32], path[256];
    b->opts.max_processes = 10;
    snprintf(pid, sizeof(pid), "1\n%d\n", (int)getpid());
    fake_file(fake.root, "cgroup.procs", pid);
    box_open(b);
    assert_true(sandbox_status(b->s)->cgroup);
    snprintf(path, sizeof(path), "%s/server", fake.root);
    assert_string_equal(fake_text(path, "cgroup.procs"), "0");
    assert_string_equal(fake_text(fake.root, "cgroup.subtree_control"), "+pids");
    fake_file(fake.root, "cgroup.procs", "");
    sandbox_free(TAKE_PTR(b->s));
    assert_string_equal(fake_text(fake.root, "cgroup.subtree_control"), "-pids");
    assert_string_equal(fake_text(fake.root, "cgroup.procs"), "0");
    assert_false(there(fake.root, "server"));
    fake_file(fake.root, "cgroup.procs", pid);
    snprintf(path, sizeof(path), "%s/cgroup.subtree_control", fake.root);
    assert_int_equal(unlink(path), 0);
    box_open(b);
    assert_false(sandbox_status(b->s)->cgroup);
    assert_string_equal(fake_text(fake.root, "cgroup.procs") + 1, pid + 1); /* "0" on top */
    assert_false(there(fake.root, "server"));
}

/* A limit that cannot be set fails the start; nothing stays behind. */
static void test_cgroup_limit_that_fails(void **state)
{
    struct box *b = *state;
    struct err err;
    char dir[256];
    b->opts.max_processes = 10;
    box_open(b);
    fake.no_pids = true;
    size_t fds = fd_count();
    assert_int_equal(enter(b, 3, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    worker_dir(dir, sizeof(dir), getpid(), 3);
    assert_non_null(strstr(err.msg, dir));
    assert_int_equal(access(dir, F_OK), -1);
    assert_null(b->p.sandbox);
    assert_int_equal(fd_count(), fds);
    fake.no_pids = false;
    assert_int_equal(enter(b, 3, &err), 0);
}

/* What a killed server left goes at the next start; what a living one has stays. */
static void test_cgroup_sweeps(void **state)
{
    struct box *b = *state;
    char dead[256], ours[256], other[256];
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    b->opts.max_processes = 10;
    worker_dir(dead, sizeof(dead), pid, 1);
    worker_dir(other, sizeof(other), getppid(), 2);
    worker_dir(ours, sizeof(ours), getpid(), 1);
    assert_int_equal(mkdir(dead, 0755), 0);
    assert_int_equal(mkdir(other, 0755), 0);
    assert_int_equal(mkdir(ours, 0755), 0); /* of an earlier process with our number */
    box_open(b);
    assert_int_equal(access(dead, F_OK), -1);
    assert_int_equal(access(other, F_OK), 0);
    struct err err;
    assert_int_equal(enter(b, 1, &err), 0);
    sandbox_leave(&b->p);
    assert_int_equal(access(ours, F_OK), -1);
    sandbox_free(TAKE_PTR(b->s)); /* shared: the controllers stay on */
    assert_string_equal(fake_text(fake.root, "cgroup.subtree_control"), "+pids");
    rmdir(other);
}

static pid_t stubborn(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGTERM, SIG_IGN);
        sleep(60);
        _exit(0);
    }
    return pid;
}

/* Before Linux 5.14 there is no cgroup.kill. */
static void test_cgroup_kills_one_by_one(void **state)
{
    struct box *b = *state;
    struct err err;
    char text[32], dir[256];
    fake.no_kill = true;
    b->opts.max_processes = 10;
    box_open(b);
    assert_int_equal(enter(b, 1, &err), 0);
    worker_dir(dir, sizeof(dir), getpid(), 1);
    pid_t pid = stubborn();
    snprintf(text, sizeof(text), "%d\n1\n", (int)pid);
    fake_file(dir, "cgroup.procs", text);
    sandbox_leave(&b->p);
    assert_true(wait_process_gone(pid, 3000));
    waitpid(pid, NULL, 0);
    sandbox_free(TAKE_PTR(b->s)); /* whatever was too slow goes now */
    assert_int_equal(access(dir, F_OK), -1);
}

/* One that will not die holds nobody up, and is tried again. */
static void test_cgroup_that_stays_busy(void **state)
{
    struct box *b = *state;
    struct err err;
    char text[32], dir[256];
    b->opts.max_processes = 10;
    box_open(b);
    assert_int_equal(enter(b, 1, &err), 0);
    worker_dir(dir, sizeof(dir), getpid(), 1);
    pid_t pid = stubborn();
    snprintf(text, sizeof(text), "%d\n", (int)pid);
    fake_file(dir, "cgroup.procs", text); /* cgroup.kill is there, but this one does nothing */
    int64_t start = clock_mono_ms();
    sandbox_leave(&b->p);
    assert_true(clock_mono_ms() - start < 200);
    assert_string_equal(fake_text(dir, "cgroup.kill"), "1");
    assert_int_equal(access(dir, F_OK), 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(enter(b, 2, &err), 0);
    assert_int_equal(access(dir, F_OK), -1);
}

/* --- a real one --------------------------------------------------------------------------- */

static void need_real_cgroups(const char *point)
{
    if (!we_are_root())
        SKIP("needs root");
    if (mount("none", point, "cgroup2", 0, NULL) != 0)
        SKIP("no cgroup v2 can be mounted: %s", strerror(errno));
}

static void test_cgroup_for_real(void **state)
{
    struct box *b = *state;
    char group[256], script[600], mark[64], procs[300];
    struct err err;
    struct stat st;
    need_real_cgroups(b->home);
    snprintf(group, sizeof(group), "%s/cg-test-%d", b->home, (int)getpid());
    if (mkdir(group, 0755) != 0) {
        umount2(b->home, MNT_DETACH);
        SKIP("no group can be made");
    }
    snprintf(procs, sizeof(procs), "%s/cgroup.procs", group);
    int fd = open(procs, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    make_mark(mark, sizeof(mark));
    stay_script(script, sizeof(script), mark, "grep ^0:: /proc/self/cgroup; read x");
    struct child_confine confine = {.cgroup_procs = fd, .uid = 200000, .gid = 200000};
    b->rig->opts.confine = &confine;
    rig_spawn_sh(b->rig, script);
    assert_true(wait_marked(mark, true));
    assert_int_equal(rig_write(b->rig, STR("go\n"), &err), 0);
    rig_wait_end(b->rig);
    assert_non_null(strstr(said(b), "/cg-test-"));
    assert_true(wait_marked(mark, true)); /* in a session of its own: only the group holds it */
    bool killed = false;
    for (int i = 0; i < 100 && !killed; i++)
        killed = cgroup_destroy(group);
    assert_true(killed);
    assert_true(wait_marked(mark, false));
    assert_int_equal(stat(group, &st), -1);
    close(fd);
    assert_int_equal(umount2(b->home, MNT_DETACH), 0);
}

static void test_cgroup_that_cannot_be_entered(void **state)
{
    struct box *b = *state;
    struct err err;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    struct child_confine confine = {.cgroup_procs = fd};
    const char *const argv[] = {"/bin/true", NULL};
    assert_true(fd >= 0);
    b->rig->opts.confine = &confine;
    b->rig->opts.argv = argv;
    assert_null(child_spawn(b->rig->loop, &b->rig->opts, &err));
    assert_non_null(strstr(err.msg, "cannot enter its cgroup"));
    assert_non_null(strstr(err.msg, strerror(ENOSPC)));
    close(fd);
}

#endif
