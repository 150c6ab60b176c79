/* test_openai.c - the OpenAI API's translations, without a server: requests to Messages requests,
 * messages and events back, errors. */
#include "openai_answer_cases.h"
#include "openai_chat_cases.h"
#include "openai_error_cases.h"
#include "openai_responses_cases.h"

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_chat_requests),
        cmocka_unit_test(test_bad_chat_requests),
        cmocka_unit_test(test_whole_answers),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_good_responses_requests),
        cmocka_unit_test(test_bad_responses_requests),
        cmocka_unit_test(test_response_ids),
        cmocka_unit_test(test_sealed_thoughts),
        cmocka_unit_test(test_thoughts_are_told_when_asked),
        cmocka_unit_test(test_an_error_ends_the_events),
        cmocka_unit_test(test_a_response_says_how_it_ended),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
