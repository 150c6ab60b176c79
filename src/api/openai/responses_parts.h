/* responses_parts.h - items of a response. Private to the two files that write responses. */
#ifndef CG_API_OPENAI_RESPONSES_PARTS_H
#define CG_API_OPENAI_RESPONSES_PARTS_H

#include "api/openai/responses_answer.h"

json_t *response_text_part(struct str text);
json_t *response_summary_part(struct str text);
/* The finished item of a block; NULL when the block is none of the output. */
json_t *response_item(const struct response *r, const json_t *block, size_t index);

#endif
