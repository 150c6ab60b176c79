/* test_shared_contract.c - the contract of shared/, on this process' memory and on a real Redis
 * that the test starts itself; then what only Redis can do wrong. */
#include "shared_redis_cases.h"

static int start_server(void **state)
{
    (void)state;
    rig_start(&server, NULL);
    return 0;
}

static int end_server(void **state)
{
    (void)state;
    rig_end(&server);
    return 0;
}

#define MEMORY(f)                                        \
    {                                                    \
        "memory: " #f, f, set_up_memory, tear_down, NULL \
    }
#define REDIS(f)                                       \
    {                                                  \
        "redis: " #f, f, set_up_redis, tear_down, NULL \
    }
#define BOTH(f) MEMORY(f), REDIS(f)

int main(void)
{
    id_init();
    const struct CMUnitTest tests[] = {
        BOTH(test_rate),
        BOTH(test_rate_limits),
        BOTH(test_rate_given_back),
        BOTH(test_counter),
        BOTH(test_counter_saturates),
        BOTH(test_all_or_none),
        BOTH(test_tickets),
        BOTH(test_tickets_end),
        BOTH(test_same_ticket_again),
        BOTH(test_groups_are_apart),
        BOTH(test_window_ends),
        BOTH(test_clock_steps_back),
        BOTH(test_seed),
        BOTH(test_volley),
        BOTH(test_storm),
        BOTH(test_lease),
        BOTH(test_lease_wanted),
        BOTH(test_nonce),
        BOTH(test_messages),
        BOTH(test_cache),
        BOTH(bench_take),
        MEMORY(test_memory_bounds),
        MEMORY(test_memory_cache_bytes),
        REDIS(test_processes),
        REDIS(test_replicas),
        REDIS(test_between_servers),
        REDIS(test_stopped_server),
        REDIS(test_pending_fail_together),
        REDIS(test_killed_and_restarted),
        REDIS(test_forgotten_scripts),
        REDIS(test_read_only_server),
        REDIS(test_messages_come_back),
        REDIS(test_addresses),
        REDIS(test_password),
        REDIS(test_not_redis),
        REDIS(test_close_any_time),
        REDIS(test_close_sends),
        REDIS(test_keys_expire),
        REDIS(test_cluster),
    };
    return cmocka_run_group_tests(tests, start_server, end_server);
}
