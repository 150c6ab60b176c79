/* chat_answer.h - answers of the Messages API as chat.completion and chat.completion.chunk. Pure:
 * everything is appended to a buffer as JSON text. */
#ifndef CG_API_OPENAI_CHAT_ANSWER_H
#define CG_API_OPENAI_CHAT_ANSWER_H

#include "core/json.h"

struct openai_usage {
    int64_t prompt, cached, completion; /* prompt: all of the input, cached: what was read back */
    int64_t reasoning;                  /* an estimate: upstream counts thoughts as output */
};
/* usage: of the Messages API. thinking_bytes: of the thoughts seen. */
struct openai_usage openai_usage_of(const json_t *usage, size_t thinking_bytes);
/* How much of the content is thoughts. */
size_t openai_thinking_bytes(const json_t *content);

#define OPENAI_ID_SIZE 80

/* One answer as it is being told. */
struct openai_chat {
    char id[OPENAI_ID_SIZE], fingerprint[24], model[100];
    int64_t created; /* seconds since 1970 */
    bool include_usage, legacy;
    struct buf head; /* how each chunk begins; made at message_start */
    int64_t tool;    /* index of the latest tool call, -1 = none yet */
    bool in_tool, got_json;
    size_t thinking_bytes;
};
void openai_chat_init(struct openai_chat *c);
void openai_chat_release(struct openai_chat *c);

/* "stop", "length", "tool_calls", "function_call" or "content_filter" */
const char *openai_finish_reason(const char *stop_reason, bool legacy);

/* What a tool_use block calls with, as JSON text. ret_text is initialised here; the caller's. */
void openai_arguments(const json_t *block, struct buf *ret_text);

/* The whole answer. head: {id,model,usage,...} of the message; content: its blocks. */
void openai_chat_completion(const struct openai_chat *c, const json_t *head, const json_t *content,
                            const char *stop_reason, struct buf *out);

/* The chunk that tells of this event; nothing is appended when there is nothing to tell. */
void openai_chat_event(struct openai_chat *c, const json_t *event, struct buf *out);
/* The chunk with the finish reason, and after it (with include_usage) the one with the usage. */
void openai_chat_finish_chunk(const struct openai_chat *c, const char *stop_reason,
                              struct buf *out);
void openai_chat_usage_chunk(const struct openai_chat *c, const json_t *usage, struct buf *out);

#endif
