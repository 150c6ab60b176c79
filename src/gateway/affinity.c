/* affinity.c - the number that a conversation keeps: the same in its every turn, on every server.
 *
 * It is hashed from what does not change while a conversation grows: whose it is, its model, its
 * system text and its first message. Cache marks do change, so they are left out; and of a long
 * text its length and beginning are enough. */
#include "gateway/gateway.h"

#include <sodium.h>

#define BEGINNING ((size_t)4096)

static void add_text(crypto_generichash_state *h, struct str text)
{
    uint64_t len = text.len;
    crypto_generichash_update(h, (const unsigned char *)&len, sizeof(len));
    crypto_generichash_update(h, (const unsigned char *)(text.len ? text.p : ""),
                              text.len < BEGINNING ? text.len : BEGINNING);
}

/* "type" is left out so that a text and a block with that text are the same. */
static void add_texts(crypto_generichash_state *h, const json_t *j)
{
    size_t i;
    const char *key;
    json_t *v;
    if (json_is_string(j))
        add_text(h, str_n(json_string_value(j), json_string_length(j)));
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        if (strcmp(key, "cache_control") != 0 && strcmp(key, "type") != 0)
            add_texts(h, v);
    }
    json_array_foreach(j, i, v) add_texts(h, v);
}

uint64_t gateway_affinity(const char *key_id, const struct chat_request *r, const json_t *history)
{
    crypto_generichash_state h;
    unsigned char out[crypto_generichash_BYTES_MIN];
    uint64_t n = 0;
    const json_t *first = json_array_get(history, 0);
    crypto_generichash_init(&h, NULL, 0, sizeof(out));
    add_text(&h, str_c(key_id));
    add_text(&h, str_c(r->model));
    add_texts(&h, r->system);
    add_text(&h, STR(""));
    add_texts(&h, first ? json_object_get(first, "content") : r->content);
    crypto_generichash_final(&h, out, sizeof(out));
    for (size_t i = 0; i < sizeof(n); i++)
        n = n << 8 | out[i];
    return n ? n : 1;
}
