/* test_cli.c - the stream-json protocol of the claude program: lines out, lines in, messages, and
 * how the program is started, tried out and given a history. The recordings in data/cli were made
 * with version 2.1.197, their long lists shortened. The cases are in cli_*_cases.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cli_decode_cases.h"
#include "cli_encode_cases.h"
#include "cli_launch_cases.h"
#include "cli_message_cases.h"
#include "cli_probe_cases.h"
#include "cli_transcript_cases.h"

#define PROGRAM_TEST(f) cmocka_unit_test_setup_teardown(f, program_set_up, program_tear_down)
#define FILE_TEST(f)    cmocka_unit_test_setup_teardown(f, transcript_set_up, transcript_tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control_requests),
        cmocka_unit_test(test_set_model_of_any_length),
        cmocka_unit_test(test_control_error),
        cmocka_unit_test(test_user_text_is_data),
        cmocka_unit_test(test_user_block_cannot_reach_the_envelope),
        cmocka_unit_test(test_lone_surrogates_are_refused_before),
        cmocka_unit_test(test_assistant_history),
        cmocka_unit_test(test_clear_and_boundary),
        cmocka_unit_test(test_encode_over_the_limit_says_so),
        cmocka_unit_test(test_recordings),
        cmocka_unit_test(test_assembled_blocks_are_the_programs_own),
        cmocka_unit_test(test_decode_garbage),
        cmocka_unit_test(test_decode_kinds),
        cmocka_unit_test(test_decode_tool_results),
        cmocka_unit_test(test_decode_wrong_types_read_as_nothing),
        cmocka_unit_test(test_decode_survives_lone_surrogates),
        cmocka_unit_test(test_decode_partial_lines),
        cmocka_unit_test(test_decode_is_not_misled_by_contents),
        cmocka_unit_test(test_decode_kept_events),
        cmocka_unit_test(test_decode_huge_and_deep),
        cmocka_unit_test(test_message_all_kinds_of_blocks),
        cmocka_unit_test(test_message_second_start_begins_anew),
        cmocka_unit_test(test_message_events_out_of_order),
        cmocka_unit_test(test_message_initial_text_and_unknown_blocks),
        cmocka_unit_test(test_message_long_names_are_cut),
        cmocka_unit_test(test_message_limit),
        cmocka_unit_test(test_message_many_small_deltas),
        cmocka_unit_test(test_message_told_again),
        cmocka_unit_test(test_message_told_again_is_a_stream),
        cmocka_unit_test(test_launch_is_exact),
        cmocka_unit_test(test_launch_profiles),
        cmocka_unit_test(test_launch_tool_env),
        cmocka_unit_test(test_tool_names),
        cmocka_unit_test(test_pass_env),
        cmocka_unit_test(test_pass_env_cannot_replace),
        cmocka_unit_test(test_pass_env_many),
        PROGRAM_TEST(test_find_program),
        PROGRAM_TEST(test_program_version),
        cmocka_unit_test(test_probe_good),
        cmocka_unit_test(test_probe_tolerates),
        cmocka_unit_test(test_probe_no_request),
        cmocka_unit_test(test_probe_history_missing),
        cmocka_unit_test(test_probe_order_and_roles),
        cmocka_unit_test(test_probe_changed_text),
        cmocka_unit_test(test_probe_not_literal),
        cmocka_unit_test(test_probe_boundary_leak),
        cmocka_unit_test(test_probe_history_answered),
        cmocka_unit_test(test_probe_lines),
        FILE_TEST(test_transcript_lines),
        FILE_TEST(test_transcript_ends),
        FILE_TEST(test_transcript_place),
        FILE_TEST(test_transcript_refuses),
    };
    id_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
