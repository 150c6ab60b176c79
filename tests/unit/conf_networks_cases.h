/* conf_networks_cases.h - lists of networks, as in server.trusted_proxies. */
#include "conf/networks.h"

static void test_networks(void **state)
{
    static const char *const good[] = {
        "",          "10.0.0.0/8", "::1",          "unix",    "192.0.2.1 , 2001:db8::/32,unix",
        "0.0.0.0/0", "::/0",       "192.0.2.1/32", "::1/128", "::ffff:10.0.0.0/104"};
    static const char *const bad[] = {",",
                                      "10.0.0.0/8,,::1",
                                      "localhost",
                                      "10.0.0.1/8",
                                      "10.0.0.0/33",
                                      "::/129",
                                      "10.0.0.0/",
                                      "10.0.0.0/x",
                                      "10.0.0.0/-1",
                                      "10.0.0/8",
                                      "2001:db8::1/32",
                                      "1.2.3.4:80",
                                      "[::1]",
                                      "/8",
                                      "fe80::1%eth0"};
    static const struct {
        const char *list, *address;
        bool in;
    } cases[] = {
        {"", "10.0.0.1", false},
        {"10.0.0.0/8", "10.255.0.1", true},
        {"10.0.0.0/8", "11.0.0.1", false},
        {"10.0.0.0/8", "::ffff:10.1.2.3", true},
        {"::ffff:10.0.0.0/104", "10.1.2.3", true},
        {"192.0.2.128/25", "192.0.2.127", false},
        {"192.0.2.128/25", "192.0.2.128", true},
        {"192.0.2.1", "192.0.2.1", true},
        {"192.0.2.1", "192.0.2.2", false},
        {"0.0.0.0/0", "203.0.113.9", true},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/0", "2001:db8::1", true},
        {"2001:db8::/33", "2001:db8:7fff::1", true},
        {"2001:db8::/33", "2001:db8:8000::1", false},
        {"unix", "unix", true},
        {"10.0.0.0/8", "unix", false},
        {"unix", "10.0.0.1", false},
        {"::/0,unix", "no address", false},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        if (networks_check(str_c(good[i])))
            fail_msg("refused: %s", good[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        if (!networks_check(str_c(bad[i])))
            fail_msg("taken: %s", bad[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct networks *n = networks_new(cases[i].list);
        if (networks_contain(n, cases[i].address) != cases[i].in)
            fail_msg("%s in %s", cases[i].address, cases[i].list);
        networks_free(n);
    }
    assert_refused("server:\n  trusted_proxies: proxy.local\n",
                   "2: server.trusted_proxies: must be addresses and networks");
}
