/* test_limits.c - the limits: rules in memory, days of time zones, several servers on one Redis,
 * and what happens while that is away. */
#include "limits_redis_cases.h"
#include "limits_rule_cases.h"
#include "limits_zone_cases.h"

#define RULE(f)  cmocka_unit_test_setup_teardown(f, open_loop, close_loop)
#define REDIS(f) cmocka_unit_test_setup_teardown(f, set_up_redis, tear_down_redis)

int main(void)
{
    id_init();
    const struct CMUnitTest tests[] = {
        RULE(test_burst_then_one_per_interval),
        RULE(test_refusal_consumes_nothing),
        RULE(test_day_limits),
        RULE(test_tokens),
        RULE(test_settle_on_another_day),
        RULE(test_zero_and_unlimited),
        RULE(test_limit_change_is_immediate),
        RULE(test_clock_goes_back),
        RULE(test_restore),
        RULE(test_restore_at_midnight),
        RULE(test_concurrent),
        RULE(test_random_interleavings),
        RULE(test_random_clock),
        RULE(bench_limit),
        RULE(test_zones),
        RULE(test_zone_days_known),
        RULE(test_days_of_a_zone),
        RULE(test_cost),
        REDIS(test_two_servers),
        REDIS(test_true_up),
        REDIS(test_restart_in_the_day),
        REDIS(test_crash_between),
        REDIS(test_renewed),
        REDIS(test_cancel),
        REDIS(test_cancel_while_away),
        REDIS(test_closed),
        REDIS(test_open),
        REDIS(test_share),
        REDIS(test_share_knows),
        REDIS(test_share_knows_the_last),
        REDIS(test_full),
        REDIS(test_back_empty),
        REDIS(test_back_again),
    };
    return cmocka_run_group_tests(tests, start_server, end_server);
}
