/* openai_chat_cases.h - chat requests: what a good one becomes, and what is wrong with a bad one.
 */
#ifndef CG_TESTS_OPENAI_CHAT_CASES_H
#define CG_TESTS_OPENAI_CHAT_CASES_H

#include "openai_rig.h"

#include "api/openai/chat_request.h"

#define PNG "data:image/png;base64,iVBORw0KGgo="
#define HI  "'messages':[{'role':'user','content':'hi'}]"
#define HI_ "'messages':[{'role':'user','content':[{'type':'text','text':'hi'}]}]"
#define TOOL                                                                            \
    "{'type':'function','function':{'name':'f','description':'d','parameters':{'type':" \
    "'object','properties':{'a':{'type':'string'}}}}}"
#define TOOL_                                                                            \
    "{'name':'f','input_schema':{'type':'object','properties':{'a':{'type':'string'}}}," \
    "'description':'d'}"
#define BASE_ "'model':'m-4-5','max_tokens':4096,"

static const struct good {
    const char *body, *expected, *ignored; /* ignored: names with a space behind each */
} chat_good[] = {
    {"{'model':'m-4-5'," HI "}", "{" BASE_ HI_ "}", ""},
    {"{'model':'gpt-4o-mini'," HI "}", "{'model':'claude-haiku-4-5','max_tokens':4096," HI_ "}",
     ""},
    {"{'model':'o3'," HI "}", "{'model':'claude-opus-4-1','max_tokens':4096," HI_ "}", ""},
    /* values that ask for nothing */
    {"{'model':'m-4-5'," HI ",'n':1,'logprobs':false,'logit_bias':{},'presence_penalty':0,"
     "'frequency_penalty':0.0,'store':false,'modalities':['text'],'stop':null,'tools':[],"
     "'verbosity':'medium','service_tier':'auto','temperature':null,'response_format':{'type':"
     "'text'},'tool_choice':'auto','user':null}",
     "{" BASE_ HI_ "}", ""},
    {"{'model':'m-4-5'," HI ",'seed':7,'metadata':{'a':'b'},'prompt_cache_key':'k',"
     "'prompt_cache_options':{'mode':'explicit'},'moderation':null}",
     "{" BASE_ HI_ "}", "seed metadata prompt_cache_key prompt_cache_options "},
    {"{'model':'m-4-5'," HI ",'max_tokens':10,'temperature':0.5,'top_p':0.9,'stop':'END','user':"
     "'u1','stream':true,'service_tier':'default'}",
     "{'model':'m-4-5','max_tokens':10," HI_ ",'temperature':0.5,'top_p':0.9,'stop_sequences':["
     "'END'],'metadata':{'user_id':'u1'},'stream':true,'service_tier':'standard_only'}",
     ""},
    {"{'model':'m-4-5'," HI ",'max_completion_tokens':11,'stop':['a','b'],'safety_identifier':'s'}",
     "{'model':'m-4-5','max_tokens':11," HI_ ",'stop_sequences':['a','b'],'metadata':{'user_id':"
     "'s'}}",
     ""},
    /* roles */
    {"{'model':'m-4-5','messages':[{'role':'system','content':'A'},{'role':'user','content':'hi'},"
     "{'role':'assistant','content':'yo','refusal':null,'annotations':[],'audio':null,"
     "'function_call':null,'tool_calls':null},{'role':'developer','content':[{'type':'text','text':"
     "'B'}]},{'role':'user','content':'on'}]}",
     "{" BASE_
     "'system':[{'type':'text','text':'A'},{'type':'text','text':'B'}],'messages':[{'role'"
     ":'user','content':[{'type':'text','text':'hi'}]},{'role':'assistant','content':[{'type':"
     "'text','text':'yo'}]},{'role':'user','content':[{'type':'text','text':'on'}]}]}",
     ""},
    {"{'model':'m-4-5','messages':[{'role':'user','name':'ann','content':'a'},{'role':'user',"
     "'content':'b'},{'role':'assistant','content':''},{'role':'user','content':'c'}]}",
     "{" BASE_ "'messages':[{'role':'user','content':[{'type':'text','text':'a'},{'type':'text',"
     "'text':'b'},{'type':'text','text':'c'}]}]}",
     "messages.name "},
    {"{'model':'m-4-5','messages':[{'role':'user','content':'a'},{'role':'assistant','content':[{"
     "'type':'refusal','refusal':'no'}]},{'role':'user','content':'b'},{'role':'assistant',"
     "'content':null,'refusal':'never'},{'role':'user','content':'c'}]}",
     "{" BASE_ "'messages':[{'role':'user','content':[{'type':'text','text':'a'}]},{'role':"
     "'assistant','content':[{'type':'text','text':'no'}]},{'role':'user','content':[{'type':'text'"
     ",'text':'b'}]},{'role':'assistant','content':[{'type':'text','text':'never'}]},{'role':'user'"
     ",'content':[{'type':'text','text':'c'}]}]}",
     ""},
    /* images and files */
    {"{'model':'m-4-5','messages':[{'role':'user','content':[{'type':'text','text':'look'},{'type':"
     "'image_url','image_url':{'url':'" PNG "','detail':'auto'}},{'type':'image_url','image_url':{"
     "'url':'https://x.test/a.png','detail':'low'}},{'type':'image_url','image_url':{'url':"
     "'data:image/jpg;base64,AAAA'}}]}]}",
     "{" BASE_ "'messages':[{'role':'user','content':[{'type':'text','text':'look'},{'type':'image'"
     ",'source':{'type':'base64','media_type':'image/png','data':'iVBORw0KGgo='}},{'type':'image',"
     "'source':{'type':'url','url':'https://x.test/a.png'}},{'type':'image','source':{'type':"
     "'base64','media_type':'image/jpeg','data':'AAAA'}}]}]}",
     "image_url.detail "},
    {"{'model':'m-4-5','messages':[{'role':'user','content':[{'type':'file','file':{'file_data':"
     "'data:application/pdf;base64,JVBERi0=','filename':'a.pdf'}}]}]}",
     "{" BASE_ "'messages':[{'role':'user','content':[{'type':'document','source':{'type':'base64',"
     "'media_type':'application/pdf','data':'JVBERi0='},'title':'a.pdf'}]}]}",
     ""},
    /* tools */
    {"{'model':'m-4-5'," HI ",'tools':[" TOOL "]}", "{" BASE_ HI_ ",'tools':[" TOOL_ "]}", ""},
    {"{'model':'m-4-5'," HI ",'tools':[" TOOL "],'tool_choice':'required','parallel_tool_calls':"
     "false}",
     "{" BASE_ HI_ ",'tools':[" TOOL_ "],'tool_choice':{'type':'any','disable_parallel_tool_use':"
     "true}}",
     ""},
    {"{'model':'m-4-5'," HI ",'tools':[" TOOL "],'parallel_tool_calls':false}",
     "{" BASE_ HI_ ",'tools':[" TOOL_ "],'tool_choice':{'type':'auto','disable_parallel_tool_use':"
     "true}}",
     ""},
    {"{'model':'m-4-5'," HI ",'tools':[" TOOL "],'tool_choice':'none','parallel_tool_calls':false}",
     "{" BASE_ HI_ ",'tools':[" TOOL_ "],'tool_choice':{'type':'none'}}", ""},
    {"{'model':'m-4-5'," HI ",'tools':[" TOOL ",{'type':'function','function':{'name':'g','strict':"
     "true}}],'tool_choice':{'type':'function','function':{'name':'g'}}}",
     "{" BASE_ HI_ ",'tools':[" TOOL_
     ",{'name':'g','input_schema':{'type':'object','properties':{}}"
     ",'strict':true}],'tool_choice':{'type':'tool','name':'g'}}",
     ""},
    {"{'model':'m-4-5'," HI ",'tools':[" TOOL ",{'type':'function','function':{'name':'g',"
     "'parameters':{'anyOf':[{}]}}}],'tool_choice':{'type':'allowed_tools','allowed_tools':{'mode':"
     "'required','tools':[{'type':'function','function':{'name':'g'}}]}}}",
     "{" BASE_ HI_ ",'tools':[{'name':'g','input_schema':{'type':'object','anyOf':[{}]}}],"
     "'tool_choice':{'type':'any'}}",
     ""},
    /* a round of tools: two calls at once, results in any order, an image in one */
    {"{'model':'m-4-5','messages':[{'role':'user','content':'go'},{'role':'assistant','content':"
     "null"
     ",'tool_calls':[{'id':'c|1','type':'function','function':{'name':'f','arguments':'{\\'a\\':1}'"
     "}"
     "},{'id':'c2','type':'function','index':1,'function':{'name':'f','arguments':''}}]},{'role':"
     "'tool','tool_call_id':'c2','content':'two'},{'role':'tool','tool_call_id':'c|1','content':[{"
     "'type':'image_url','image_url':{'url':'" PNG "'}}]},{'role':'user','content':'and?'}]}",
     "{" BASE_ "'messages':[{'role':'user','content':[{'type':'text','text':'go'}]},{'role':"
     "'assistant','content':[{'type':'tool_use','id':'c_1','name':'f','input':{'a':1}},{'type':"
     "'tool_use','id':'c2','name':'f','input':{}}]},{'role':'user','content':[{'type':'tool_result'"
     ",'tool_use_id':'c2','content':[{'type':'text','text':'two'}]},{'type':'tool_result',"
     "'tool_use_id':'c_1','content':[{'type':'image','source':{'type':'base64','media_type':"
     "'image/png','data':'iVBORw0KGgo='}}]},{'type':'text','text':'and?'}]}]}",
     ""},
    /* from before there were tools */
    {"{'model':'m-4-5','functions':[{'name':'f'}],'function_call':{'name':'f'},'messages':[{'role':"
     "'user','content':'go'},{'role':'assistant','content':null,'function_call':{'name':'f',"
     "'arguments':'{}'}},{'role':'function','name':'f','content':'r'}]}",
     "{" BASE_ "'tools':[{'name':'f','input_schema':{'type':'object','properties':{}}}],"
     "'tool_choice':{'type':'tool','name':'f','disable_parallel_tool_use':true},'messages':[{'role'"
     ":'user','content':[{'type':'text','text':'go'}]},{'role':'assistant','content':[{'type':"
     "'tool_use','id':'call_1','name':'f','input':{}}]},{'role':'user','content':[{'type':"
     "'tool_result','tool_use_id':'call_1','content':[{'type':'text','text':'r'}]}]}]}",
     ""},
    /* formats */
    {"{'model':'m-4-5'," HI ",'response_format':{'type':'json_schema','json_schema':{'name':'n',"
     "'strict':true,'schema':{'type':'object','$schema':'x','properties':{}}}}}",
     "{" BASE_ HI_ ",'output_config':{'format':{'type':'json_schema','schema':{'type':'object',"
     "'properties':{}}}}}",
     ""},
    {"{'model':'m-4-5','messages':[{'role':'user','content':'as JSON'}],'response_format':{'type':"
     "'json_object'}}",
     "{" BASE_ "'messages':[{'role':'user','content':[{'type':'text','text':'as JSON'}]}],'system':"
     "[{'type':'text','text':'Answer with exactly one JSON object. Write nothing before or after "
     "it, and no code fence.'}]}",
     ""},
    {"{'model':'m-4-5'," HI ",'response_format':{'type':'json_schema','json_schema':{'name':'n',"
     "'description':'a pet','schema':{'type':'object'}}}}",
     "{" BASE_ HI_ ",'system':[{'type':'text','text':'Answer with exactly one JSON object. Write "
     "nothing before or after it, and no code fence. It is: a pet It must fit this JSON schema:\\n"
     "{\\'type\\':\\'object\\'}'}]}",
     ""},
    /* effort: a budget for the older models, an effort for the newer */
    {"{'model':'m-4-5'," HI ",'reasoning_effort':'none'}", "{" BASE_ HI_ "}", ""},
    {"{'model':'m-4-5'," HI ",'reasoning_effort':'low'}",
     "{" BASE_ HI_ ",'thinking':{'type':'enabled','budget_tokens':2048}}", ""},
    {"{'model':'m-4-5'," HI ",'reasoning_effort':'high','temperature':1}",
     "{" BASE_ HI_ ",'temperature':1.0,'thinking':{'type':'enabled','budget_tokens':3072}}", ""},
    {"{'model':'claude-sonnet-4-20250514'," HI ",'reasoning_effort':'minimal'}",
     "{'model':'claude-sonnet-4-20250514','max_tokens':4096," HI_
     ",'thinking':{'type':'enabled','budget_tokens':1024}}",
     ""},
    {"{'model':'claude-opus-4-6'," HI ",'reasoning_effort':'medium'}",
     "{'model':'claude-opus-4-6','max_tokens':4096," HI_
     ",'thinking':{'type':'adaptive'},'output_config':{'effort':'medium'}}",
     ""},
    {"{'model':'opus'," HI ",'reasoning_effort':'xhigh','response_format':{'type':'json_schema',"
     "'json_schema':{'name':'n','strict':true,'schema':{}}}}",
     "{'model':'opus','max_tokens':4096," HI_ ",'thinking':{'type':'adaptive'},'output_config':{"
     "'format':{'type':'json_schema','schema':{}},'effort':'max'}}",
     ""},
    {"{'model':'opus'," HI ",'reasoning_effort':'max'}",
     "{'model':'opus','max_tokens':4096," HI_
     ",'thinking':{'type':'adaptive'},'output_config':{'effort':'max'}}",
     ""},
    {"{'model':'m-4-5'," HI ",'reasoning_effort':'low','tools':[" TOOL
     "],'tool_choice':'required'}",
     "{" BASE_ HI_ ",'tools':[" TOOL_ "],'tool_choice':{'type':'any'}}", "reasoning_effort "},
    {"{'model':'m-4-5','reasoning_effort':'low','messages':[{'role':'user','content':'go'},{'role':"
     "'assistant','tool_calls':[{'id':'c','type':'function','function':{'name':'f','arguments':'{}'"
     "}"
     "}]},{'role':'tool','tool_call_id':'c','content':''}]}",
     "{" BASE_ "'messages':[{'role':'user','content':[{'type':'text','text':'go'}]},{'role':"
     "'assistant','content':[{'type':'tool_use','id':'c','name':'f','input':{}}]},{'role':'user',"
     "'content':[{'type':'tool_result','tool_use_id':'c'}]}]}",
     "reasoning_effort "},
};

static const struct bad {
    const char *body, *param, *code;
} chat_bad[] = {
    {"[]", "", "invalid_type"},
    {"{'model':'m'}", "messages", "missing_required_parameter"},
    {"{" HI "}", "model", "missing_required_parameter"},
    {"{'model':'m'," HI ",'foo':1}", "foo", "unknown_parameter"},
    {"{'model':1," HI "}", "model", "invalid_type"},
    {"{'model':'m','messages':[]}", "messages", "unsupported_value"},
    {"{'model':'m','messages':[{'role':'system','content':'x'}]}", "messages", "unsupported_value"},
    {"{'model':'m','messages':[{'role':'user','content':'x'},{'role':'assistant','content':'y'}]}",
     "messages", "unsupported_value"},
    {"{'model':'m','messages':[{'role':'king','content':'x'}]}", "messages[0].role",
     "invalid_value"},
    {"{'model':'m','messages':[{'content':'x'}]}", "messages[0].role",
     "missing_required_parameter"},
    {"{'model':'m','messages':['x']}", "messages[0]", "invalid_type"},
    {"{'model':'m','messages':[{'role':'user'}]}", "messages[0].content", "invalid_type"},
    {"{'model':'m','messages':[{'role':'user','content':' \\n'}]}", "messages[0].content",
     "invalid_value"},
    {"{'model':'m','messages':[{'role':'user','content':'x','foo':1}]}", "messages[0].foo",
     "unknown_parameter"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'text'}]}]}",
     "messages[0].content[0].text", "invalid_value"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'text','text':'x'},{'type':'odd'}]"
     "}]}",
     "messages[0].content[1].type", "invalid_value"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'input_audio','input_audio':{}}]}]"
     "}",
     "messages[0].content[0].type", "unsupported_value"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'image_url','image_url':{'url':"
     "'http://x.test/a.png'}}]}]}",
     "messages[0].content[0].image_url.url", "invalid_value"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'image_url','image_url':{'url':"
     "'data:image/png;base64,@@'}}]}]}",
     "messages[0].content[0].image_url.url", "invalid_value"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'image_url','image_url':{'url':"
     "'data:image/tiff;base64,AAAA'}}]}]}",
     "messages[0].content[0].image_url.url", "unsupported_value"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'image_url'}]}]}",
     "messages[0].content[0].image_url", "invalid_type"},
    {"{'model':'m','messages':[{'role':'user','content':[{'type':'file','file':{'file_id':'f'}}]}]"
     "}",
     "messages[0].content[0].file.file_id", "unsupported_value"},
    {"{'model':'m','messages':[{'role':'system','content':[{'type':'image_url','image_url':{'url':"
     "'" PNG "'}}]}]}",
     "messages[0].content[0].type", "invalid_value"},
    {"{'model':'m','messages':[{'role':'assistant'}]}", "messages[0].content", "invalid_value"},
    {"{'model':'m','messages':[{'role':'assistant','audio':{'id':'x'}}]}", "messages[0].audio",
     "unsupported_value"},
    {"{'model':'m','messages':[{'role':'assistant','tool_calls':[{'id':'c','function':{'name':'f',"
     "'arguments':'{'}}]}]}",
     "messages[0].tool_calls[0].function.arguments", "invalid_value"},
    {"{'model':'m','messages':[{'role':'assistant','tool_calls':[{'id':'c','function':{'name':'f',"
     "'arguments':'[1]'}}]}]}",
     "messages[0].tool_calls[0].function.arguments", "invalid_value"},
    {"{'model':'m','messages':[{'role':'user','content':'x'},{'role':'tool','tool_call_id':'c',"
     "'content':'x'}]}",
     "messages[1].tool_call_id", "invalid_value"},
    {"{'model':'m','messages':[{'role':'tool','content':'x'}]}", "messages[0].tool_call_id",
     "invalid_value"},
    {"{'model':'m','messages':[{'role':'assistant','tool_calls':[{'id':'c','type':'function',"
     "'function':{'name':'f','arguments':'{}'}}]},{'role':'user','content':'x'}]}",
     "messages[1]", "invalid_value"},
    {"{'model':'m','messages':[{'role':'assistant','tool_calls':[{'id':'c','type':'function',"
     "'function':{'name':'f','arguments':'{}'}}]}]}",
     "messages", "invalid_value"},
    {"{'model':'m'," HI ",'n':2}", "n", "unsupported_value"},
    {"{'model':'m'," HI ",'logprobs':true}", "logprobs", "unsupported_value"},
    {"{'model':'m'," HI ",'top_logprobs':3}", "top_logprobs", "unsupported_value"},
    {"{'model':'m'," HI ",'logit_bias':{'1':1}}", "logit_bias", "unsupported_value"},
    {"{'model':'m'," HI ",'presence_penalty':0.1}", "presence_penalty", "unsupported_value"},
    {"{'model':'m'," HI ",'frequency_penalty':-1}", "frequency_penalty", "unsupported_value"},
    {"{'model':'m'," HI ",'prediction':{}}", "prediction", "unsupported_value"},
    {"{'model':'m'," HI ",'modalities':['text','audio']}", "modalities", "unsupported_value"},
    {"{'model':'m'," HI ",'audio':{}}", "audio", "unsupported_value"},
    {"{'model':'m'," HI ",'web_search_options':{}}", "web_search_options", "unsupported_value"},
    {"{'model':'m'," HI ",'store':true}", "store", "unsupported_value"},
    {"{'model':'m'," HI ",'verbosity':'low'}", "verbosity", "unsupported_value"},
    {"{'model':'m'," HI ",'moderation':{}}", "moderation", "unsupported_value"},
    {"{'model':'m\\u0000x'," HI "}", "model", "invalid_value"},
    {"{'model':'m'," HI ",'tools':[{'type':'function','function':{'name':'a b'}}]}",
     "tools[0].function.name", "invalid_value"},
    {"{'model':'m'," HI ",'service_tier':'flex'}", "service_tier", "unsupported_value"},
    {"{'model':'m'," HI ",'temperature':1.5}", "temperature", "unsupported_value"},
    {"{'model':'m'," HI ",'temperature':2.5}", "temperature", "invalid_value"},
    {"{'model':'m'," HI ",'top_p':2}", "top_p", "invalid_value"},
    {"{'model':'m'," HI ",'max_tokens':0}", "max_tokens", "invalid_value"},
    {"{'model':'m'," HI ",'max_tokens':1,'max_completion_tokens':1}", "max_tokens",
     "invalid_value"},
    {"{'model':'m'," HI ",'stop':'\\n'}", "stop", "unsupported_value"},
    {"{'model':'m'," HI ",'stop':[1]}", "stop", "invalid_value"},
    {"{'model':'m'," HI ",'stop':['a','b','c','d','e']}", "stop", "invalid_value"},
    {"{'model':'m'," HI ",'stream_options':{'include_usage':true}}", "stream_options",
     "invalid_value"},
    {"{'model':'m'," HI ",'stream':true,'stream_options':{'x':1}}", "stream_options.x",
     "unknown_parameter"},
    {"{'model':'m'," HI ",'tool_choice':'required'}", "tool_choice", "invalid_value"},
    {"{'model':'m'," HI ",'tools':[" TOOL "],'tool_choice':'any'}", "tool_choice", "invalid_value"},
    {"{'model':'m'," HI ",'tools':[" TOOL "],'tool_choice':{'type':'function','function':{'name':"
     "'zz'}}}",
     "tool_choice", "invalid_value"},
    {"{'model':'m'," HI ",'tools':[{'type':'web_search'}]}", "tools[0].type", "unsupported_value"},
    {"{'model':'m'," HI ",'tools':[{'function':{'name':'f'}}]}", "tools[0].type", "invalid_value"},
    {"{'model':'m'," HI ",'tools':[" TOOL ",{'type':'function','function':{}}]}",
     "tools[1].function.name", "missing_required_parameter"},
    {"{'model':'m'," HI ",'tools':[" TOOL "],'functions':[{'name':'f'}]}", "functions",
     "invalid_value"},
    {"{'model':'m'," HI ",'function_call':'auto'}", "function_call", "invalid_value"},
    {"{'model':'m'," HI ",'functions':[{'name':''}]}", "functions[0].name", "invalid_value"},
    {"{'model':'m'," HI ",'response_format':{'type':'xml'}}", "response_format", "invalid_value"},
    {"{'model':'m'," HI ",'response_format':{'type':'json_object'}}", "response_format",
     "invalid_value"},
    {"{'model':'m'," HI ",'response_format':{'type':'json_schema'}}", "response_format.json_schema",
     "invalid_value"},
    {"{'model':'m'," HI ",'response_format':{'type':'json_schema','json_schema':{'schema':{}}}}",
     "response_format.json_schema.name", "missing_required_parameter"},
    {"{'model':'m'," HI ",'reasoning_effort':'huge'}", "reasoning_effort", "invalid_value"},
    {"{'model':'m-4-5'," HI ",'reasoning_effort':'low','max_tokens':1024}", "reasoning_effort",
     "unsupported_value"},
    {"{'model':'m-4-5'," HI ",'reasoning_effort':'low','temperature':0}", "temperature",
     "unsupported_value"},
};

static const struct openai_env chat_env = {
    .aliases = "gpt-4o-mini=claude-haiku-4-5, gpt-4*=claude-sonnet-4-5,o3 = claude-opus-4-1",
    .max_tokens = 4096};

static void test_good_chat_requests(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(chat_good); i++) {
        struct openai_request r;
        struct err err;
        char ignored[300] = "";
        json_t *body = quoted(chat_good[i].body);
        openai_request_init(&r);
        if (openai_chat_translate(body, &chat_env, &r, &err) != 0)
            fail_msg("%s: %s", chat_good[i].body, err.msg);
        assert_same(r.body, chat_good[i].expected);
        for (size_t k = 0; k < r.ignored_count; k++) {
            size_t n = strlen(ignored);
            snprintf(ignored + n, sizeof(ignored) - n, "%s ", r.ignored[k]);
        }
        assert_string_equal(ignored, chat_good[i].ignored);
        openai_request_release(&r);
        json_decref(body);
    }
}

static void test_bad_chat_requests(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(chat_bad); i++) {
        struct openai_request r;
        struct err err = {0};
        json_t *body = quoted(chat_bad[i].body);
        openai_request_init(&r);
        if (openai_chat_translate(body, &chat_env, &r, &err) == 0)
            fail_msg("%s was taken", chat_bad[i].body);
        if (strcmp(err.field, chat_bad[i].param) != 0 || !err.detail ||
            strcmp(err.detail, chat_bad[i].code) != 0)
            fail_msg("%s:\ngot  %s %s (%s)\nwant %s %s", chat_bad[i].body, err.field,
                     err.detail ? err.detail : "NULL", err.msg, chat_bad[i].param,
                     chat_bad[i].code);
        assert_int_equal(err.code, ERR_INVALID);
        openai_request_release(&r);
        json_decref(body);
    }
}

#endif
