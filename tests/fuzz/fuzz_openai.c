/* fuzz_openai.c - request bodies of both OpenAI APIs: whatever a client sends becomes a request of
 * the Messages API or an error that names a field; nothing leaks, nothing breaks. */
#include "api/openai/chat_request.h"
#include "api/openai/responses_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct openai_request *r)
{
    size_t i;
    const json_t *message;
    BUG_ON(!json_is_string(json_object_get(r->body, "model")));
    BUG_ON(json_get_int(r->body, "max_tokens", 0) < 1);
    BUG_ON(json_array_size(json_object_get(r->body, "messages")) == 0);
    json_array_foreach(json_object_get(r->body, "messages"), i, message)
    {
        BUG_ON(json_array_size(json_object_get(message, "content")) == 0);
    }
}

static void check_error(const struct err *err)
{
    BUG_ON(err->code == ERR_NONE || err->msg[0] == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct openai_env env = {.aliases = "a*=b,c=d", .max_tokens = 4096};
    struct err err = {0};
    AUTO(json_unref_p) json_t *body = json_parse(str_n((const char *)data, size), &err);
    if (!body)
        return 0;
    struct openai_request chat;
    openai_request_init(&chat);
    if (openai_chat_translate(body, &env, &chat, &err) == 0)
        check(&chat);
    else
        check_error(&err);
    openai_request_release(&chat);
    struct responses_request responses;
    responses_request_init(&responses);
    if (responses_read(body, &responses, &err) == 0 &&
        responses_translate(body, &env, &responses, &err) == 0)
        check(&responses.base);
    else
        check_error(&err);
    responses_request_release(&responses);
    return 0;
}
