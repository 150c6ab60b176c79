/* trial.h - answers one request of a trial (see struct relay_trial) without asking upstream. */
#ifndef CG_UPSTREAM_TRIAL_H
#define CG_UPSTREAM_TRIAL_H

#include "upstream/relay.h"

struct evhttp_request;

/* Takes the request over. `trial` is not touched afterwards. */
void trial_serve(struct relay_trial *trial, struct evhttp_request *req);

#endif
