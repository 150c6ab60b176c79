/* test_sandbox.c - what a confined process cannot do, tried by one that wants to. Cases that need
 * root, bubblewrap or a cgroup v2 say why they are skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sandbox_cgroup_cases.h"

#define BOX_TEST(f)  cmocka_unit_test_setup_teardown(f, box_set_up, box_tear_down)
#define FAKE_TEST(f) cmocka_unit_test_setup_teardown(f, fake_set_up, fake_tear_down)

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        BOX_TEST(test_box_shows_no_other_file),
        BOX_TEST(test_without_box_it_would_see),
        BOX_TEST(test_box_is_read_only),
        BOX_TEST(test_box_memory_files_have_a_size),
        BOX_TEST(test_box_keeps_what_is_asked),
        BOX_TEST(test_box_has_no_network),
        BOX_TEST(test_without_box_it_would_connect),
        BOX_TEST(test_box_reaches_the_relay),
        BOX_TEST(test_box_shows_no_other_process),
        BOX_TEST(test_box_has_no_rights),
        BOX_TEST(test_box_has_three_descriptors),
        BOX_TEST(test_box_passes_lines_and_status),
        BOX_TEST(test_box_leaves_no_grandchild),
        BOX_TEST(test_box_ends_whole),
        BOX_TEST(test_box_passes_signals_to_the_group),
        BOX_TEST(test_box_dies_with_the_server),
        BOX_TEST(test_limits_cannot_be_passed),
        BOX_TEST(test_limits_never_above_our_own),
        BOX_TEST(test_unboxed_has_no_new_privileges),
        BOX_TEST(test_box_that_does_not_work),
        BOX_TEST(test_box_in_its_basic_form),
        BOX_TEST(test_directories_in_the_system_are_refused),
        BOX_TEST(test_twenty_boxes_leave_nothing),
        BOX_TEST(test_user_of_its_own),
        BOX_TEST(test_user_of_its_own_in_a_box),
        BOX_TEST(test_users_run_out),
        BOX_TEST(test_users_get_their_files),
        BOX_TEST(test_users_cannot_touch_others),
        BOX_TEST(test_users_leave_nothing_running),
        BOX_TEST(test_user_dies_with_the_server),
        BOX_TEST(test_users_need_an_open_path),
        BOX_TEST(test_users_refused),
        BOX_TEST(test_alive_is_the_kernels_word),
        BOX_TEST(test_usage_of_the_tree),
        BOX_TEST(test_usage_of_a_small_one),
        BOX_TEST(test_usage_that_is_fresh),
        BOX_TEST(test_cgroup_is_located),
        FAKE_TEST(test_cgroup_files),
        FAKE_TEST(test_cgroup_takes_what_there_is),
        FAKE_TEST(test_cgroup_not_used),
        FAKE_TEST(test_cgroup_moves_us_to_a_leaf),
        FAKE_TEST(test_cgroup_limit_that_fails),
        FAKE_TEST(test_cgroup_sweeps),
        FAKE_TEST(test_cgroup_kills_one_by_one),
        FAKE_TEST(test_cgroup_that_stays_busy),
        BOX_TEST(test_cgroup_for_real),
        BOX_TEST(test_cgroup_that_cannot_be_entered),
    };
    if (argc > 3 && strcmp(argv[1], "--inside") == 0)
        return inside_main(argv + 2);
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
