/* test_core.c - what everything else stands on: errors, text, buffers, clocks, ids, JSON, the
 * loop, the log, trees of files. The cases are in core_*.h, by subject. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core_data.h"
#include "core_log.h"
#include "core_loop.h"
#include "core_text.h"
#include "core_tree.h"

#define LOOP_TEST(f) cmocka_unit_test_setup_teardown(f, loop_set_up, loop_tear_down)
#define LOG_TEST(f)  cmocka_unit_test_setup_teardown(f, log_set_up, log_tear_down)
#define TREE_TEST(f) cmocka_unit_test_setup_teardown(f, tree_set_up, tree_tear_down)

static const struct CMUnitTest text_tests[] = {
    cmocka_unit_test(test_err_every_code_has_a_row),
    cmocka_unit_test(test_err_internals_stay_inside),
    cmocka_unit_test(test_err_set_clears_what_was_there),
    cmocka_unit_test(test_err_field_and_prefix),
    cmocka_unit_test(test_err_truncates_and_stays_text),
    cmocka_unit_test(test_err_may_be_null),
    cmocka_unit_test(test_str_null_is_empty),
    cmocka_unit_test(test_str_split_keeps_every_part),
    cmocka_unit_test(test_str_compare),
    cmocka_unit_test(test_str_to_u64),
    cmocka_unit_test(test_str_glob),
    cmocka_unit_test(test_str_glob_is_not_exponential),
    cmocka_unit_test(test_utf8_every_code_point_at_every_length),
    cmocka_unit_test(test_utf8_every_pair_and_cut),
    cmocka_unit_test(test_buf_limit_is_exact),
    cmocka_unit_test(test_buf_rejects_absurd_sizes),
    cmocka_unit_test(test_buf_consume),
    cmocka_unit_test(test_buf_printf_around_its_stack_buffer),
    cmocka_unit_test(test_json_str_valid_text_survives),
    cmocka_unit_test(test_json_str_invalid_bytes_become_replacement),
    cmocka_unit_test(test_json_str_over_the_limit_says_so),
    cmocka_unit_test(test_list_counts_and_forgives),
};

static const struct CMUnitTest data_tests[] = {
    cmocka_unit_test(test_rfc3339_out),
    cmocka_unit_test(test_rfc3339_in),
    cmocka_unit_test(test_rfc3339_refused),
    cmocka_unit_test(test_rfc3339_every_day),
    cmocka_unit_test(test_clocks_move),
    cmocka_unit_test(test_uuids_are_well_formed_and_in_order),
    cmocka_unit_test(test_uuids_differ_in_their_random_part),
    cmocka_unit_test(test_ids_are_unique),
    cmocka_unit_test(test_alnum_uses_the_whole_alphabet_evenly),
    cmocka_unit_test(test_json_parse_is_strict),
    cmocka_unit_test(test_json_of_others_is_bounded),
    cmocka_unit_test(test_json_parse_values_and_nul),
    cmocka_unit_test(test_json_depth_is_limited),
    cmocka_unit_test(test_json_write_numbers),
    cmocka_unit_test(test_json_write_is_compact),
    cmocka_unit_test(test_json_write_over_the_limit_says_so),
    cmocka_unit_test(test_fields_read),
    cmocka_unit_test(test_fields_null_is_absent),
    cmocka_unit_test(test_fields_refuse),
    cmocka_unit_test(test_fields_required),
    cmocka_unit_test(test_fields_long_unknown_name),
};

static const struct CMUnitTest loop_tests[] = {
    LOOP_TEST(test_defer_runs_in_order_and_later),
    LOOP_TEST(test_defer_during_defer_comes_after_the_others),
    LOOP_TEST(test_loop_free_runs_what_is_deferred),
    LOOP_TEST(test_defer_does_not_starve_the_loop),
    LOOP_TEST(test_timer_fires_once_and_not_early),
    LOOP_TEST(test_timer_rearm_stop_release),
    LOOP_TEST(test_timer_may_be_released_in_its_callback),
    LOOP_TEST(test_work_one_thread_keeps_the_order),
    LOOP_TEST(test_work_many_threads_each_once),
    LOOP_TEST(test_work_free_finishes_everything),
    LOOP_TEST(test_work_free_at_once),
    LOOP_TEST(test_work_done_may_submit),
};

static const struct CMUnitTest log_tests[] = {
    LOG_TEST(test_log_line_is_json_for_nasty_values),
    LOG_TEST(test_log_levels_and_files),
    LOG_TEST(test_log_level_names),
    LOG_TEST(test_log_reopen_after_rotation),
    LOG_TEST(test_log_reopen_leaks_nothing_and_survives_failure),
    LOG_TEST(test_log_is_buffered_on_the_loop),
    LOG_TEST(test_log_never_half_a_line_at_the_limit),
    LOG_TEST(test_log_full_disk),
    LOG_TEST(test_log_open_refuses),
    LOG_TEST(test_log_console),
};

static const struct CMUnitTest tree_tests[] = {
    TREE_TEST(test_tree_without_permissions),
    TREE_TEST(test_tree_deeper_than_a_path),
    TREE_TEST(test_tree_follows_no_links),
    TREE_TEST(test_tree_can_be_given_up),
};

int main(void)
{
    id_init();
    int failed = cmocka_run_group_tests(text_tests, NULL, NULL);
    failed += cmocka_run_group_tests(data_tests, NULL, NULL);
    failed += cmocka_run_group_tests(loop_tests, NULL, NULL);
    failed += cmocka_run_group_tests(log_tests, NULL, NULL);
    failed += cmocka_run_group_tests(tree_tests, NULL, NULL);
    return failed;
}
