/* openai_responses_cases.h - requests of the Responses API, and its events. */
#ifndef CG_TESTS_OPENAI_RESPONSES_CASES_H
#define CG_TESTS_OPENAI_RESPONSES_CASES_H

#include "openai_rig.h"

#include "api/openai/responses_answer.h"
#include "api/openai/responses_request.h"

#define HEX     "0123456789abcdef0123456789abcdef"
#define M_      "'model':'m-4-5','max_tokens':4096,"
#define USER_HI "{'role':'user','content':[{'type':'text','text':'hi'}]}"

/* What is stored: of one response, that called a tool. */
#define STORED                                                                                  \
    "{'resp_" HEX "':[{'role':'user','content':[{'type':'text','text':'q'}]},{'role':"          \
    "'assistant','content':[{'type':'thinking','thinking':'t','signature':'s'},{'type':'text'," \
    "'text':'w'},{'type':'tool_use','id':'c1','name':'f','input':{}}]}]}"
#define QUESTION_ "{'role':'user','content':[{'type':'text','text':'q'}]}"
#define CALLED_                                                                                  \
    "{'role':'assistant','content':[{'type':'thinking','thinking':'t','signature':'s'},{'type':" \
    "'text','text':'w'},{'type':'tool_use','id':'c1','name':'f','input':{}}]}"
#define RESULT "{'type':'function_call_output','call_id':'c1','output':'r'}"
#define RESULT_                                                                                    \
    "{'role':'user','content':[{'type':'tool_result','tool_use_id':'c1','content':[{'type':'text'" \
    ",'text':'r'}]}]}"

static const struct {
    const char *body, *expected;
} responses_good[] = {
    {"{'model':'m-4-5','input':'hi'}", "{" M_ "'messages':[" USER_HI "]}"},
    {"{'model':'gpt-4o-mini','input':[{'role':'user','content':'hi'}],'stream':true,"
     "'max_output_tokens':7,'temperature':0.5,'top_p':0.25,'user':'u'}",
     "{'model':'claude-haiku-4-5','max_tokens':7,'temperature':0.5,'top_p':0.25,'metadata':{"
     "'user_id':'u'},'messages':[" USER_HI "],'stream':true}"},
    {"{'model':'m-4-5','instructions':'I','input':[{'type':'message','role':'developer','content':"
     "[{'type':'input_text','text':'D'}]},{'role':'user','content':'hi'},{'id':'msg_1','type':"
     "'message','role':'assistant','status':'completed','content':[{'type':'output_text','text':"
     "'yo','annotations':[],'logprobs':[]}]},{'role':'user','content':[{'type':'input_image',"
     "'image_url':'https://x.test/a.png','detail':'auto'},{'type':'input_file','file_url':"
     "'https://x.test/a.pdf'}]}]}",
     "{" M_ "'system':[{'type':'text','text':'I'},{'type':'text','text':'D'}],'messages':[" USER_HI
     ",{'role':'assistant','content':[{'type':'text','text':'yo'}]},{'role':'user','content':[{"
     "'type':'image','source':{'type':'url','url':'https://x.test/a.png'}},{'type':'document',"
     "'source':{'type':'url','url':'https://x.test/a.pdf'}}]}]}"},
    {"{'model':'m-4-5','input':'hi','tools':[{'type':'function','name':'f','description':'d',"
     "'parameters':{'type':'object'},'strict':true}],'tool_choice':{'type':'function','name':'f'},"
     "'parallel_tool_calls':false}",
     "{" M_ "'messages':[" USER_HI "],'tools':[{'name':'f','description':'d','input_schema':{'type'"
     ":'object'},'strict':true}],'tool_choice':{'type':'tool','name':'f',"
     "'disable_parallel_tool_use':true}}"},
    {"{'model':'m-4-5','input':'hi','text':{'verbosity':'medium','format':{'type':'json_schema',"
     "'name':'n','strict':true,'schema':{'type':'object'}}}}",
     "{" M_ "'messages':[" USER_HI "],'output_config':{'format':{'type':'json_schema','schema':{"
     "'type':'object'}}}}"},
    {"{'model':'m-4-5','input':'hi','reasoning':{'effort':'low','summary':'auto'}}",
     "{" M_ "'messages':[" USER_HI "],'thinking':{'type':'enabled','budget_tokens':2048}}"},
    /* thoughts without their seal say nothing */
    {"{'model':'m-4-5','input':[{'role':'user','content':'q'},{'type':'reasoning','id':'rs_1',"
     "'summary':[]},{'type':'function_call','id':'fc_1','call_id':'c1','name':'f','arguments':'{}',"
     "'status':'completed'}," RESULT "],'reasoning':{'effort':'low'}}",
     "{" M_ "'messages':[" QUESTION_ ",{'role':'assistant','content':[{'type':'tool_use','id':'c1',"
     "'name':'f','input':{}}]}," RESULT_ "]}"},
    /* going on, and by reference; the thoughts before the call are there, so it may think on */
    {"{'model':'m-4-5','previous_response_id':'resp_" HEX "','input':[" RESULT "],'reasoning':{"
     "'effort':'low'}}",
     "{" M_ "'messages':[" QUESTION_ "," CALLED_ "," RESULT_ "],'thinking':{'type':'enabled',"
     "'budget_tokens':2048}}"},
    {"{'model':'m-4-5','input':[{'role':'user','content':'q'},{'type':'item_reference','id':'"
     "rs_" HEX "_0'},{'type':'item_reference','id':'msg_" HEX
     "_1'},{'type':'item_reference','id':'fc_" HEX "_2'}," RESULT "]}",
     "{" M_ "'messages':[" QUESTION_ "," CALLED_ "," RESULT_ "]}"},
};

static const struct {
    const char *body, *param, *code;
} responses_bad[] = {
    {"{'model':'m'}", "input", "missing_required_parameter"},
    {"{'model':'m','input':3}", "input", "invalid_type"},
    {"{'model':'m','input':' '}", "input", "invalid_value"},
    {"{'model':'m','input':[]}", "input", "unsupported_value"},
    {"{'model':'m','input':'x','background':true}", "background", "unsupported_value"},
    {"{'model':'m','input':'x','prompt':{}}", "prompt", "unsupported_value"},
    {"{'model':'m','input':'x','top_logprobs':2}", "top_logprobs", "unsupported_value"},
    {"{'model':'m','input':'x','include':['message.output_text.logprobs']}", "include",
     "unsupported_value"},
    {"{'model':'m','input':'x','text':{'verbosity':'low'}}", "text.verbosity", "unsupported_value"},
    {"{'model':'m','input':'x','text':{'format':{'type':'json_schema','strict':true,'name':'n'}}}",
     "text.format", "invalid_value"},
    {"{'model':'m','input':'x','reasoning':{'effort':'huge'}}", "reasoning.effort",
     "invalid_value"},
    {"{'model':'m','input':'x','reasoning':{'x':1}}", "reasoning.x", "unknown_parameter"},
    {"{'model':'m','input':[{'role':'king','content':'x'}]}", "input[0].role", "invalid_value"},
    {"{'model':'m','input':[{'content':'x'}]}", "input[0].type", "invalid_value"},
    {"{'model':'m','input':[{'role':'user','content':[{'type':'input_text'}]}]}",
     "input[0].content[0].text", "invalid_value"},
    {"{'model':'m','input':[{'role':'user','content':[{'type':'input_image','image_url':'x'}]}]}",
     "input[0].content[0].image_url", "invalid_value"},
    {"{'model':'m','input':[" RESULT "]}", "input[0].call_id", "invalid_value"},
    {"{'model':'m','input':[{'type':'function_call','call_id':'c','name':'f','arguments':'{'}]}",
     "input[0].arguments", "invalid_value"},
    {"{'model':'m','input':[{'role':'user','content':'q'},{'type':'reasoning','encrypted_content':"
     "'AAAA'}]}",
     "input[1].encrypted_content", "invalid_value"},
    {"{'model':'m','previous_response_id':'resp_" HEX "','input':'never mind'}", "input",
     "invalid_value"},
    {"{'model':'m','input':[{'type':'item_reference','id':'msg_1'}]}", "input[0].id",
     "item_not_found"},
    {"{'model':'m','input':[{'type':'item_reference','id':'msg_" HEX "_3'}]}", "input[0].id",
     "item_not_found"},
};

static int translate(const char *text, struct responses_request *r, struct err *err)
{
    static const struct openai_env env = {.aliases = "gpt-4o-mini=claude-haiku-4-5",
                                          .max_tokens = 4096};
    json_t *body = quoted(text);
    responses_request_init(r);
    json_decref(r->stored);
    r->stored = quoted(STORED);
    int rc = responses_read(body, r, err);
    if (rc == 0)
        rc = responses_translate(body, &env, r, err);
    json_decref(body);
    return rc;
}

static void test_good_responses_requests(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(responses_good); i++) {
        struct responses_request r;
        struct err err;
        if (translate(responses_good[i].body, &r, &err) != 0)
            fail_msg("%s: %s", responses_good[i].body, err.msg);
        assert_same(r.base.body, responses_good[i].expected);
        responses_request_release(&r);
    }
}

static void test_bad_responses_requests(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(responses_bad); i++) {
        struct responses_request r;
        struct err err = {0};
        if (translate(responses_bad[i].body, &r, &err) == 0)
            fail_msg("%s was taken", responses_bad[i].body);
        if (strcmp(err.field, responses_bad[i].param) != 0 || !err.detail ||
            strcmp(err.detail, responses_bad[i].code) != 0)
            fail_msg("%s:\ngot  %s %s (%s)\nwant %s %s", responses_bad[i].body, err.field,
                     err.detail ? err.detail : "NULL", err.msg, responses_bad[i].param,
                     responses_bad[i].code);
        responses_request_release(&r);
    }
}

static void test_response_ids(void **state)
{
    (void)state;
    char uuid[37], id[RESPONSE_ID_SIZE];
    size_t index = 0;
    assert_true(responses_id_to_uuid(STR("resp_" HEX), uuid));
    assert_string_equal(uuid, "01234567-89ab-cdef-0123-456789abcdef");
    responses_uuid_to_id(uuid, id);
    assert_string_equal(id, "resp_" HEX);
    assert_true(responses_item_owner(STR("msg_" HEX "_12"), id, &index));
    assert_string_equal(id, "resp_" HEX);
    assert_int_equal(index, 12);
    static const char *const bad[] = {
        "",          "resp_",         "resp_0123456789ABCDEF0123456789abcdef",
        "resq_" HEX, "resp_" HEX "0", "resp_0123456789abcdef0123456789abcde"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(responses_id_to_uuid(str_c(bad[i]), uuid));
    static const char *const bad_items[] = {
        "", "msg_" HEX, "msg_" HEX "_", "msg_" HEX "_x", "msg_0123_1", "_", "msg_" HEX "_-1"};
    for (size_t i = 0; i < ARRAY_SIZE(bad_items); i++)
        assert_false(responses_item_owner(str_c(bad_items[i]), id, &index));
}

static void test_sealed_thoughts(void **state)
{
    (void)state;
    static const char *const blocks[] = {
        "{'type':'thinking','thinking':'hm\\n\\u00fc','signature':'c2ln'}",
        "{'type':'redacted_thinking','data':'abc'}"};
    static const char *const bad[] = {"", "!", "AAAA", "eyJ0eXBlIjoidGV4dCJ9"};
    for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
        json_t *block = quoted(blocks[i]);
        char *text = responses_seal(block);
        json_t *back = responses_unseal(str_c(text));
        assert_same(back, blocks[i]);
        json_decref(back);
        json_decref(block);
        free(text);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_null(responses_unseal(str_c(bad[i])));
}

/* --- events -------------------------------------------------------------------------------- */

struct told {
    struct buf names;
    json_t *events;
};

static void tell(void *ctx, const char *name, const struct buf *data)
{
    struct told *t = ctx;
    json_t *event = quoted(buf_cstr(data));
    assert_string_equal(json_string_value(json_object_get(event, "type")), name);
    assert_int_equal(json_get_int(event, "sequence_number", -1), json_array_size(t->events));
    json_array_append_new(t->events, event);
    buf_printf(&t->names, "%s\n", strchr(name, '.') ? strchr(name, '.') + 1 : name);
}

static void feed(struct response *r, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        json_t *event = quoted(list[i]);
        response_event(r, event);
        json_decref(event);
    }
}

static void new_response(struct response *r, struct told *t, bool summary, bool encrypted)
{
    response_init(r);
    snprintf(r->id, sizeof(r->id), "resp_" HEX);
    r->echo = quoted("{'store':true}");
    r->summary = summary;
    r->encrypted = encrypted;
    r->emit = tell;
    r->ctx = t;
    t->events = json_array();
    buf_init(&t->names, 10000);
}

static void end_response(struct response *r, struct told *t)
{
    response_release(r);
    json_decref(t->events);
    buf_release(&t->names);
}

#define THOUGHT_EVENTS                                                                           \
    "{'type':'message_start','message':{'model':'claude-x'}}",                                   \
        "{'type':'content_block_start','index':0,'content_block':{'type':'thinking','thinking':" \
        "'','signature':''}}",                                                                   \
        "{'type':'content_block_delta','index':0,'delta':{'type':'thinking_delta','thinking':"   \
        "'hm'}}",                                                                                \
        "{'type':'content_block_delta','index':0,'delta':{'type':'signature_delta','signature':" \
        "'s1'}}",                                                                                \
        "{'type':'content_block_stop','index':0}"

static const char *const thought_events[] = {THOUGHT_EVENTS};

static void test_thoughts_are_told_when_asked(void **state)
{
    (void)state;
    struct response r;
    struct told t;
    new_response(&r, &t, false, false);
    feed(&r, thought_events, ARRAY_SIZE(thought_events));
    assert_string_equal(buf_cstr(&t.names),
                        "created\nin_progress\noutput_item.added\noutput_item.done\n");
    assert_same(json_object_get(json_array_get(t.events, 3), "item"),
                "{'id':'rs_" HEX "_0','type':'reasoning','summary':[]}");
    assert_same(json_object_get(json_array_get(t.events, 0), "response"),
                "{'id':'resp_" HEX "','object':'response','created_at':0,'status':'in_progress',"
                "'error':null,'model':'claude-x','output':[],'incomplete_details':null,'usage':null"
                ",'store':true}");
    end_response(&r, &t);
    new_response(&r, &t, true, true);
    feed(&r, thought_events, ARRAY_SIZE(thought_events));
    assert_string_equal(buf_cstr(&t.names),
                        "created\nin_progress\noutput_item.added\nreasoning_summary_part.added\n"
                        "reasoning_summary_text.delta\nreasoning_summary_text.done\n"
                        "reasoning_summary_part.done\noutput_item.done\n");
    const json_t *item = json_object_get(json_array_get(t.events, 7), "item");
    assert_same(json_object_get(item, "summary"), "[{'type':'summary_text','text':'hm'}]");
    json_t *block = responses_unseal(json_get_str(item, "encrypted_content"));
    assert_same(block, "{'type':'thinking','thinking':'hm','signature':'s1'}");
    json_decref(block);
    end_response(&r, &t);
}

static void test_an_error_ends_the_events(void **state)
{
    (void)state;
    struct response r;
    struct told t;
    new_response(&r, &t, false, false);
    json_t *error = quoted("{'message':'m','type':'t','param':null,'code':'overloaded'}");
    response_error(&r, error);
    assert_same(json_array_get(t.events, 0),
                "{'type':'error','sequence_number':0,'code':'overloaded','message':'m','param':"
                "null}");
    json_decref(error);
    end_response(&r, &t);
}

static void test_a_response_says_how_it_ended(void **state)
{
    (void)state;
    static const struct {
        const char *stop_reason, *status, *why;
    } rows[] = {{"end_turn", "completed", "null"},
                {"tool_use", "completed", "null"},
                {"stop_sequence", "completed", "null"},
                {"max_tokens", "incomplete", "{'reason':'max_output_tokens'}"},
                {"model_context_window_exceeded", "incomplete", "{'reason':'max_output_tokens'}"},
                {"refusal", "incomplete", "{'reason':'content_filter'}"}};
    json_t *head = quoted("{'model':'claude-y','usage':{'input_tokens':1,'output_tokens':2}}");
    json_t *content = quoted("[{'type':'text','text':'a'}]");
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct response r;
        struct told t;
        new_response(&r, &t, false, false);
        json_t *object = response_object(&r, NULL, head, content, rows[i].stop_reason);
        assert_string_equal(json_string_value(json_object_get(object, "status")), rows[i].status);
        assert_same(json_object_get(object, "incomplete_details"), rows[i].why);
        assert_same(json_object_get(object, "output"),
                    "[{'id':'msg_" HEX "_0','type':'message','status':'completed','role':"
                    "'assistant','content':[{'type':'output_text','text':'a','annotations':[],"
                    "'logprobs':[]}]}]");
        response_finish(&r, object);
        assert_string_equal(buf_cstr(&t.names), strcmp(rows[i].status, "completed") == 0
                                                    ? "completed\n"
                                                    : "incomplete\n");
        json_decref(object);
        end_response(&r, &t);
    }
    json_decref(head);
    json_decref(content);
}

#endif
