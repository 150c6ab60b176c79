/* openai_answer_cases.h - messages and stream events as chat completions. */
#ifndef CG_TESTS_OPENAI_ANSWER_CASES_H
#define CG_TESTS_OPENAI_ANSWER_CASES_H

#include "openai_rig.h"

#include "api/openai/chat_answer.h"

#define USAGE                                                                                 \
    "'usage':{'input_tokens':10,'cache_creation_input_tokens':3,'cache_read_input_tokens':7," \
    "'output_tokens':5}"
#define USAGE_                                                                                \
    "{'prompt_tokens':20,'completion_tokens':5,'total_tokens':25,'prompt_tokens_details':{"   \
    "'cached_tokens':7,'audio_tokens':0},'completion_tokens_details':{'reasoning_tokens':%d," \
    "'audio_tokens':0,'accepted_prediction_tokens':0,'rejected_prediction_tokens':0}}"

static void new_answer(struct openai_chat *c, bool usage, bool legacy)
{
    openai_chat_init(c);
    c->created = 1700000000;
    c->include_usage = usage;
    c->legacy = legacy;
    snprintf(c->id, sizeof(c->id), "chatcmpl-x");
    snprintf(c->fingerprint, sizeof(c->fingerprint), "fp_1");
}

static const struct whole {
    const char *content, *stop_reason;
    bool legacy;
    const char *message, *finish;
    int reasoning;
} wholes[] = {
    {"[{'type':'text','text':'a\\n'},{'type':'text','text':'b'}]", "end_turn", false,
     "'content':'a\\nb'", "stop", 0},
    {"[]", "end_turn", false, "'content':''", "stop", 0},
    {"[{'type':'text','text':'a'}]", "stop_sequence", false, "'content':'a'", "stop", 0},
    {"[{'type':'text','text':'a'}]", "max_tokens", false, "'content':'a'", "length", 0},
    {"[{'type':'text','text':'a'}]", "model_context_window_exceeded", false, "'content':'a'",
     "length", 0},
    {"[{'type':'text','text':'a'}]", "refusal", false, "'content':'a'", "content_filter", 0},
    {"[{'type':'thinking','thinking':'12345678','signature':'s'},{'type':'text','text':'a'}]",
     "end_turn", false, "'content':'a'", "stop", 2},
    {"[{'type':'thinking','thinking':'1234567812345678123456781234567812345678','signature':''}]",
     "max_tokens", false, "'content':''", "length", 5},
    {"[{'type':'tool_use','id':'t1','name':'f','input':{'a':\"x\"}},{'type':'tool_use','id':'t2',"
     "'name':'g','input':{}}]",
     "tool_use", false,
     "'content':null,'tool_calls':[{'id':'t1','type':'function','function':{'name':'f','arguments':"
     "'{\\'a\\':\\'x\\'}'}},{'id':'t2','type':'function','function':{'name':'g','arguments':'{}'}}"
     "]",
     "tool_calls", 0},
    {"[{'type':'text','text':'so'},{'type':'tool_use','id':'t1','name':'f','input':{}}]",
     "tool_use", true, "'content':'so','function_call':{'name':'f','arguments':'{}'}",
     "function_call", 0},
};

static void test_whole_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(wholes); i++) {
        const struct whole *w = &wholes[i];
        struct openai_chat c;
        struct buf out;
        char usage[400], expected[1500];
        json_t *content = quoted(w->content);
        json_t *head = quoted("{'id':'msg_1','model':'claude-x'," USAGE "}");
        new_answer(&c, false, w->legacy);
        buf_init(&out, 10000);
        openai_chat_completion(&c, head, content, w->stop_reason, &out);
        json_t *got = quoted(buf_cstr(&out));
        snprintf(usage, sizeof(usage), USAGE_, w->reasoning);
        snprintf(expected, sizeof(expected),
                 "{'id':'chatcmpl-x','object':'chat.completion','created':1700000000,'model':"
                 "'claude-x','service_tier':'default','system_fingerprint':'fp_1','choices':[{"
                 "'index':0,'message':{'role':'assistant',%s,'refusal':null,'annotations':[]},"
                 "'logprobs':null,'finish_reason':'%s'}],'usage':%s}",
                 w->message, w->finish, usage);
        assert_same(got, expected);
        json_decref(got);
        json_decref(content);
        json_decref(head);
        buf_release(&out);
        openai_chat_release(&c);
    }
}

#define START                                                                                \
    "{'type':'message_start','message':{'id':'msg_1','role':'assistant','model':'claude-x'," \
    "'content':[],'usage':{}}}"

static const char *const events[] = {
    START,
    "{'type':'content_block_start','index':0,'content_block':{'type':'thinking','thinking':''}}",
    "{'type':'content_block_delta','index':0,'delta':{'type':'thinking_delta','thinking':'hmmm'}}",
    "{'type':'content_block_delta','index':0,'delta':{'type':'signature_delta','signature':'s'}}",
    "{'type':'content_block_stop','index':0}",
    "{'type':'content_block_start','index':1,'content_block':{'type':'text','text':''}}",
    "{'type':'content_block_delta','index':1,'delta':{'type':'text_delta','text':'a\\n'}}",
    "{'type':'content_block_stop','index':1}",
    "{'type':'content_block_start','index':2,'content_block':{'type':'tool_use','id':'t1','name':"
    "'f','input':{}}}",
    "{'type':'content_block_delta','index':2,'delta':{'type':'input_json_delta','partial_json':''}"
    "}",
    "{'type':'content_block_delta','index':2,'delta':{'type':'input_json_delta','partial_json':"
    "'{\\'a'}}",
    "{'type':'content_block_stop','index':2}",
    "{'type':'content_block_start','index':3,'content_block':{'type':'tool_use','id':'t2','name':"
    "'g','input':{}}}",
    "{'type':'content_block_stop','index':3}",
    "{'type':'message_delta','delta':{'stop_reason':'tool_use'},'usage':{'output_tokens':5}}",
    "{'type':'message_stop'}",
};

/* The deltas that the events above become. */
static const char *const deltas[] = {
    "{'role':'assistant','content':'','refusal':null}",
    "{'content':'a\\n'}",
    "{'tool_calls':[{'index':0,'id':'t1','type':'function','function':{'name':'f','arguments':''}}]"
    "}",
    "{'tool_calls':[{'index':0,'function':{'arguments':'{\\'a'}}]}",
    "{'tool_calls':[{'index':1,'id':'t2','type':'function','function':{'name':'g','arguments':''}}]"
    "}",
    "{'tool_calls':[{'index':1,'function':{'arguments':'{}'}}]}",
};

static const char *const legacy_deltas[] = {
    "{'role':'assistant','content':'','refusal':null}", "{'content':'a\\n'}",
    "{'function_call':{'name':'f','arguments':''}}",    "{'function_call':{'arguments':'{\\'a'}}",
    "{'function_call':{'name':'g','arguments':''}}",    "{'function_call':{'arguments':'{}'}}",
};

static void assert_chunk(const struct buf *out, const char *delta, const char *finish, bool usage)
{
    char expected[1000];
    json_t *got = quoted(buf_cstr(out));
    snprintf(expected, sizeof(expected),
             "{'id':'chatcmpl-x','object':'chat.completion.chunk','created':1700000000,'model':"
             "'claude-x','service_tier':'default','system_fingerprint':'fp_1','choices':[{'index':0"
             ",'delta':%s,'logprobs':null,'finish_reason':%s}]%s}",
             delta, finish, usage ? ",'usage':null" : "");
    assert_same(got, expected);
    json_decref(got);
}

static void check_stream(const char *const *expected, size_t count, bool usage, bool legacy)
{
    struct openai_chat c;
    struct buf out;
    size_t n = 0;
    new_answer(&c, usage, legacy);
    buf_init(&out, 10000);
    for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
        json_t *event = quoted(events[i]);
        buf_clear(&out);
        openai_chat_event(&c, event, &out);
        json_decref(event);
        if (out.len == 0)
            continue;
        assert_true(n < count);
        assert_chunk(&out, expected[n++], "null", usage);
    }
    assert_int_equal(n, count);
    buf_clear(&out);
    openai_chat_finish_chunk(&c, "tool_use", &out);
    assert_chunk(&out, "{}", legacy ? "'function_call'" : "'tool_calls'", usage);
    buf_clear(&out);
    json_t *head = quoted("{" USAGE "}");
    openai_chat_usage_chunk(&c, json_object_get(head, "usage"), &out);
    char text[400], all[1000];
    snprintf(text, sizeof(text), USAGE_, 1);
    snprintf(all, sizeof(all),
             "{'id':'chatcmpl-x','object':'chat.completion.chunk','created':1700000000,'model':"
             "'claude-x','service_tier':'default','system_fingerprint':'fp_1','choices':[],'usage':"
             "%s}",
             text);
    json_t *got = quoted(buf_cstr(&out));
    assert_same(got, all);
    json_decref(got);
    json_decref(head);
    buf_release(&out);
    openai_chat_release(&c);
}

static void test_streams(void **state)
{
    (void)state;
    check_stream(deltas, ARRAY_SIZE(deltas), false, false);
    check_stream(deltas, ARRAY_SIZE(deltas), true, false);
    check_stream(legacy_deltas, ARRAY_SIZE(legacy_deltas), true, true);
}

#endif
