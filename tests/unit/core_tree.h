/* core_tree.h - part of test_core.c: trees made to stay are removed, and nothing beside them. Run
 * by root, the cases take the rights of an ordinary user, whom permissions stop. */
#ifndef CG_TESTS_CORE_TREE_H
#define CG_TESTS_CORE_TREE_H

#include "core/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TREE_NOBODY 65534
#define TREE_LEVELS 600 /* of 12 bytes each: far over PATH_MAX */

static char tree_dir[64], tree_top[80];

static void tree_make(const char *name, mode_t mode)
{
    AUTO(free_charp) char *path = x_printf("%s/%s", tree_dir, name);
    assert_int_equal(mkdir(path, mode), 0);
}

static void tree_write(const char *name)
{
    AUTO(free_charp) char *path = x_printf("%s/%s", tree_dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static int tree_set_up(void **state)
{
    (void)state;
    if (getuid() == 0)
        assert_int_equal(seteuid(TREE_NOBODY), 0);
    snprintf(tree_dir, sizeof(tree_dir), "/tmp/test_core_tree.XXXXXX");
    assert_non_null(mkdtemp(tree_dir));
    snprintf(tree_top, sizeof(tree_top), "%s/top", tree_dir);
    assert_int_equal(mkdir(tree_top, 0700), 0);
    return 0;
}

static int tree_tear_down(void **state)
{
    (void)state;
    int rc = rmdir(tree_dir);
    if (getuid() == 0)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(rc, 0);
    return 0;
}

static void tree_expect_gone(void)
{
    static const atomic_bool go_on;
    struct err err;
    struct stat st;
    if (tree_remove(tree_top, &go_on, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(lstat(tree_top, &st), -1);
    assert_int_equal(errno, ENOENT);
    assert_int_equal(tree_remove(tree_top, &go_on, &err), 0); /* what is gone is gone */
}

static void test_tree_without_permissions(void **state)
{
    (void)state;
    tree_make("top/a", 0700);
    tree_make("top/a/b", 0700);
    tree_write("top/a/b/file");
    AUTO(free_charp) char *b = x_printf("%s/a/b", tree_top), *a = x_printf("%s/a", tree_top);
    assert_int_equal(chmod(b, 0500), 0);
    assert_int_equal(chmod(a, 0), 0);
    assert_int_equal(chmod(tree_top, 0), 0);
    tree_expect_gone();
}

static void test_tree_deeper_than_a_path(void **state)
{
    (void)state;
    int fd = open(tree_top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < TREE_LEVELS; i++) {
        assert_int_equal(mkdirat(fd, "eleven-byte", 0700), 0);
        assert_int_equal(symlinkat("..", fd, "up"), 0);
        int next = openat(fd, "eleven-byte", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        close(fd);
        fd = next;
    }
    close(fd);
    tree_expect_gone();
}

static void test_tree_follows_no_links(void **state)
{
    (void)state;
    tree_make("other", 0500);
    AUTO(free_charp) char *to = x_printf("%s/other", tree_dir);
    AUTO(free_charp) char *link = x_printf("%s/link", tree_top);
    assert_int_equal(symlink(to, link), 0);
    tree_expect_gone();
    struct stat st;
    assert_int_equal(stat(to, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0500);
    assert_int_equal(symlink(to, tree_top), 0);
    struct err err;
    static const atomic_bool go_on;
    assert_int_equal(tree_remove(tree_top, &go_on, &err), -1);
    assert_int_equal(unlink(tree_top), 0);
    assert_int_equal(rmdir(to), 0);
}

static void test_tree_can_be_given_up(void **state)
{
    static const atomic_bool stop = true;
    struct err err;
    struct stat st;
    (void)state;
    tree_write("top/file");
    assert_int_equal(tree_remove(tree_top, &stop, &err), -1);
    AUTO(free_charp) char *file = x_printf("%s/file", tree_top);
    assert_int_equal(stat(file, &st), 0);
    tree_expect_gone();
}

#endif
