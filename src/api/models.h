/* models.h - GET /v1/models[/:id] for the clients of both APIs. */
#ifndef CG_API_MODELS_H
#define CG_API_MODELS_H

#include "gateway/gateway.h"

http_handler api_models, api_model;

/* In api/openai: answers in that API's shape. models: those the key may use, as the Anthropic API
 * lists them; id NULL = all of them. Must answer. */
void openai_reply_models(const struct gateway *g, struct http_req *req, const json_t *models,
                         const char *id);

#endif
