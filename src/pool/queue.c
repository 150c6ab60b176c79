/* queue.c - deficit round robin without walking the rounds.
 *
 * The cost of a turn is known only when it has ended, so a key may be served while its deficit is
 * above zero and the charge may take it below ("surplus" round robin). A round is a number: a key
 * in debt stands on a wheel in the slot of the round in which it will have paid, and the rounds
 * until then pass by counting up. Deficits are not in milliseconds but in parts of a round: what a
 * millisecond costs follows the average turn, so that keys take turns one by one and a wheel of
 * fixed size is enough, whether turns take milliseconds or minutes.
 *
 *   waiting, deficit > 0    -> `ready`, in the order in which they got there
 *   waiting, deficit <= 0   -> wheel
 *   only running            -> on no list; pays meanwhile, saves nothing
 *   nothing, but in debt    -> wheel and `idle`, while others wait: forgotten when it has paid
 *
 * serve() asks `ready` and then the slots ahead, in one walk that never turns back. The round moves
 * only when a key of a later slot was really served - being asked in vain forgives no debt - and
 * with it all keys up to that slot become ready, in order. */
#include "pool/queue.h"

#include "core/clock.h"

#define HASH_FUNCTION HASH_FNV /* ids are ours; the default warns under clang */
#include <uthash.h>

#define UNIT           1000 /* what a round gives to weight 1, for quantum_ms of a worker */
#define ROUNDS_A_TURN  8    /* default quantum: this part of an average turn */
#define QUANTUM_MAX_MS 3600000
#define TURN_MS        5000 /* believed of turns before the first has ended */
#define TURN_MAX_MS    86400000
#define WHEEL          1024
#define BOUND_TURNS    4 /* credit and debt: this many average turns ... */
#define KEY_SMOOTH     4 /* averages move by 1/n of the difference */
#define ALL_SMOOTH     256
#define IDLE_MAX       1000 /* keys remembered only for their debt */
#define DRAIN_MEMORY   0.9
#define RETRY_MIN_S    1
#define RETRY_MAX_S    60

struct queue_key {
    UT_hash_handle hh;
    struct node node;      /* on ready or on the wheel */
    struct list *on;       /* which of them; NULL = neither */
    struct node idle_node; /* on idle */
    struct list waiting;
    int64_t order; /* of its arrival on the list it is on */
    size_t running;
    int weight;
    int64_t deficit; /* 1/UNIT of a round of weight 1 */
    int64_t round;   /* up to which the deficit is booked */
    double turn_ms;  /* smoothed time of its turns; 0 = none has ended yet */
    char id[];
};

struct queue {
    struct queue_opts opts;
    struct queue_key *keys;
    struct list ready, wheel[WHEEL], idle, by_age;
    size_t waiting_keys, running;
    int64_t round, last_order;
    size_t turns;   /* averaged: ALL_SMOOTH at most */
    double turn_ms; /* of all keys; 0 = none has ended yet */
    double quantum_ms;
    /* Drain rate: entries served, and the time it took, between moments when some had to wait. */
    double drained, drain_us;
    int64_t short_since_us; /* 0 = nothing waits for want of a worker */
    bool serving;
};

static struct queue_key *key_of(struct node *n)
{
    return container_of(n, struct queue_key, node);
}

static struct queued *entry_of(struct node *n)
{
    return container_of(n, struct queued, node);
}

/* Of a key that has one. */
static struct queued *first_entry(const struct queue_key *k)
{
    return entry_of(k->waiting.head.next);
}

static int64_t now_us(const struct queue *q)
{
    return q->opts.now_us ? q->opts.now_us() : clock_mono_us();
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* --- deficits ---------------------------------------------------------------------------- */

static int64_t per_round(const struct queue_key *k)
{
    return (int64_t)UNIT * k->weight;
}

static double average_turn_ms(const struct queue *q)
{
    return q->turn_ms > 0 ? q->turn_ms : TURN_MS;
}

static double turn_ms_of(const struct queue *q, const struct queue_key *k)
{
    return k->turn_ms > 0 ? k->turn_ms : average_turn_ms(q);
}

/* Follows the average turn in large steps only: a price that moved with every turn would make those
 * cheap that come together with long ones. */
static void set_quantum(struct queue *q)
{
    double want = average_turn_ms(q) / ROUNDS_A_TURN;
    if (q->opts.quantum_ms)
        q->quantum_ms = (double)q->opts.quantum_ms;
    else if (want > 2 * q->quantum_ms || want < q->quantum_ms / 2)
        q->quantum_ms = want > 1 ? want : 1;
}

/* What so much of a worker's time costs; never nothing, so that every turn counts. */
static int64_t cost(const struct queue *q, double ms)
{
    double units = ms * UNIT / q->quantum_ms;
    return units < 1 ? 1 : (int64_t)units;
}

static int64_t usual_cost(const struct queue *q, const struct queue_key *k)
{
    return cost(q, turn_ms_of(q, k));
}

/* The deficit in the present round. Rounds pay debts; no key saves up more than one of them. */
static int64_t deficit_now(const struct queue *q, const struct queue_key *k)
{
    int64_t rounds = q->round - k->round;
    if (k->deficit > 0 || rounds == 0)
        return k->deficit;
    int64_t paid = k->deficit + rounds * per_round(k);
    int64_t most = k->waiting.len ? per_round(k) : 0;
    return paid < most ? paid : most;
}

/* Books the rounds since, and gives (or takes) so many units. */
static void credit(const struct queue *q, struct queue_key *k, int64_t units)
{
    k->deficit = deficit_now(q, k) + units;
    k->round = q->round;
}

/* Rounds until the deficit is above zero, when so many units more were charged. */
static int64_t rounds_to_pay(const struct queue *q, const struct queue_key *k, int64_t units)
{
    int64_t d = deficit_now(q, k) - units;
    return d > 0 ? 0 : -d / per_round(k) + 1;
}

/* Large enough to even out turns of different length, small enough to be paid soon. */
static int64_t bound(const struct queue *q, const struct queue_key *k)
{
    double own = turn_ms_of(q, k), turn = own > q->turn_ms ? own : q->turn_ms;
    return clamp(cost(q, BOUND_TURNS * turn), per_round(k), (WHEEL - 2) * per_round(k));
}

/* --- keys -------------------------------------------------------------------------------- */

static void unlist(struct queue_key *k)
{
    if (k->on)
        list_remove(k->on, &k->node);
    k->on = NULL;
}

/* At the end of the list, unless it stands there already. */
static void move_to(struct queue *q, struct queue_key *k, struct list *to)
{
    if (k->on == to)
        return;
    unlist(k);
    list_push_back(to, &k->node);
    k->on = to;
    k->order = ++q->last_order;
}

static void forget(struct queue *q, struct queue_key *k)
{
    BUG_ON(k->waiting.len || k->running);
    unlist(k);
    list_remove(&q->idle, &k->idle_node);
    HASH_DELETE(hh, q->keys, k);
    free(k);
}

static void forget_idle(struct queue *q, size_t keep)
{
    while (q->idle.len > keep)
        forget(q, container_of(list_first(&q->idle), struct queue_key, idle_node));
}

static struct queue_key *find(const struct queue *q, const char *id)
{
    struct queue_key *k;
    HASH_FIND_STR(q->keys, id, k);
    return k;
}

static struct queue_key *find_or_new(struct queue *q, const char *id)
{
    struct queue_key *k = find(q, id);
    if (k)
        return k;
    size_t n = strlen(id);
    k = x_calloc(1, sizeof(*k) + n + 1);
    memcpy(k->id, id, n);
    list_init(&k->waiting);
    k->weight = 1;
    k->round = q->round;
    HASH_ADD_KEYPTR(hh, q->keys, k->id, n, k);
    return k;
}

static struct list *slot(struct queue *q, int64_t round)
{
    return &q->wheel[round % WHEEL];
}

/* Puts a key where it belongs after any change. It may be forgotten. */
static void place(struct queue *q, struct queue_key *k)
{
    credit(q, k, 0);
    k->deficit = clamp(k->deficit, -bound(q, k), k->waiting.len ? bound(q, k) : 0);
    bool idle = !k->waiting.len && !k->running;
    if (k->waiting.len && k->deficit > 0)
        move_to(q, k, &q->ready);
    else if (k->waiting.len || idle)
        move_to(q, k, slot(q, q->round + rounds_to_pay(q, k, 0)));
    else
        unlist(k);
    if (!idle)
        list_remove(&q->idle, &k->idle_node);
    else if (!node_linked(&k->idle_node))
        list_push_back(&q->idle, &k->idle_node);
    if (idle && k->deficit == 0)
        forget(q, k);
    forget_idle(q, q->by_age.len ? IDLE_MAX : 0);
}

/* The rounds up to this one pass: who has paid by then is ready. */
static void pass_rounds(struct queue *q, int64_t upto)
{
    while (q->round < upto) {
        q->round++;
        LIST_EACH(slot(q, q->round), n)
        {
            place(q, key_of(n)); /* frees no other key: entries wait, and `idle` only shrinks */
        }
        BUG_ON(slot(q, q->round)->len);
    }
}

/* --- coming and leaving ------------------------------------------------------------------ */

struct queue *queue_new(const struct queue_opts *opts)
{
    struct queue *q = x_calloc(1, sizeof(*q));
    q->opts = *opts;
    q->opts.quantum_ms = clamp(opts->quantum_ms, 0, QUANTUM_MAX_MS);
    set_quantum(q);
    list_init(&q->ready);
    list_init(&q->idle);
    list_init(&q->by_age);
    for (size_t i = 0; i < WHEEL; i++)
        list_init(&q->wheel[i]);
    return q;
}

void queue_free(struct queue *q)
{
    if (!q)
        return;
    BUG_ON(q->by_age.len || q->running);
    forget_idle(q, 0);
    BUG_ON(q->keys);
    free(q);
}

static void enter(struct queue *q, struct queued *e, struct queue_key *k, bool in_front)
{
    struct node *n = in_front ? k->waiting.head.next : k->waiting.head.prev;
    e->number = k->waiting.len ? entry_of(n)->number + (in_front ? -1 : 1) : 0;
    e->key = k;
    e->since_us = now_us(q);
    q->waiting_keys += k->waiting.len == 0;
    if (in_front)
        list_push_front(&k->waiting, &e->node);
    else
        list_push_back(&k->waiting, &e->node);
    list_push_back(&q->by_age, &e->by_age);
}

static void leave(struct queue *q, struct queued *e)
{
    struct queue_key *k = e->key;
    list_remove(&k->waiting, &e->node);
    list_remove(&q->by_age, &e->by_age);
    q->waiting_keys -= k->waiting.len == 0;
    if (!q->by_age.len)
        q->short_since_us = 0;
}

static int retry_after(const struct queue *q, size_t position);

/* Where one more entry of this key would stand; k may be NULL. */
static size_t next_position(const struct queue *q, const struct queue_key *k)
{
    return k && k->waiting.len ? queue_position(q, entry_of(k->waiting.head.prev)) + 1 : 1;
}

static int check_room(const struct queue *q, const struct queue_key *k, struct err *err)
{
    if (k && q->opts.max_per_key && k->waiting.len >= q->opts.max_per_key) {
        err_set(err, ERR_OVERLOADED, "Too many requests of this API key wait already (%zu)",
                k->waiting.len);
        if (err)
            err->retry_after_s = retry_after(q, next_position(q, k));
        return -1;
    }
    if (q->by_age.len >= q->opts.max) {
        err_set(err, ERR_OVERLOADED, "The queue is full (%zu requests wait)", q->by_age.len);
        if (err)
            err->retry_after_s = queue_retry_after(q);
        return -1;
    }
    return 0;
}

int queue_push(struct queue *q, struct queued *e, const char *key_id, int weight, struct err *err)
{
    BUG_ON(q->serving || node_linked(&e->node) || e->running);
    if (check_room(q, find(q, key_id), err) != 0)
        return -1;
    struct queue_key *k = find_or_new(q, key_id);
    credit(q, k, 0); /* at the old weight */
    k->weight = (int)clamp(weight, 1, QUEUE_WEIGHT_MAX);
    enter(q, e, k, false);
    place(q, k);
    return 0;
}

static struct queue_key *stop_running(struct queue *q, struct queued *e)
{
    struct queue_key *k = e->key;
    BUG_ON(q->serving || !e->running);
    e->running = false;
    k->running--;
    q->running--;
    return k;
}

void queue_push_back_in(struct queue *q, struct queued *e)
{
    struct queue_key *k = stop_running(q, e);
    credit(q, k, e->charged);
    enter(q, e, k, true);
    place(q, k);
}

void queue_remove(struct queue *q, struct queued *e)
{
    if (!node_linked(&e->node))
        return;
    BUG_ON(q->serving);
    struct queue_key *k = e->key;
    leave(q, e);
    e->key = NULL;
    place(q, k);
}

/* --- serving ----------------------------------------------------------------------------- */

/* The first key of the list of round *round, else of the next round that has one. There is one. */
static struct node *first_from(struct queue *q, int64_t *round)
{
    struct list *l = *round == q->round ? &q->ready : slot(q, *round);
    while (!l->len) {
        ++*round;
        BUG_ON(*round - q->round >= WHEEL);
        l = slot(q, *round);
    }
    return list_first(l);
}

/* The first entry of a ready key got a worker. False when the key's turn is over. */
static bool charge_first(struct queue *q, struct queue_key *k)
{
    struct queued *e = first_entry(k);
    leave(q, e);
    e->running = true;
    e->charged = clamp(usual_cost(q, k), 1, deficit_now(q, k) + bound(q, k));
    k->running++;
    q->running++;
    credit(q, k, -e->charged);
    place(q, k);
    return k->on == &q->ready;
}

static size_t serve_all(struct queue *q, queue_serve_fn *fn, void *ctx)
{
    size_t left = q->waiting_keys, served = 0; /* left: keys neither refused nor emptied */
    int64_t round = q->round;
    struct node *n = NULL; /* whom to ask next; NULL = the first of `round` */
    while (left) {
        if (!n)
            n = first_from(q, &round);
        struct queue_key *k = key_of(n);
        struct node *end = &k->on->head, *next = n->next;
        if (k->waiting.len && fn(ctx, first_entry(k))) {
            pass_rounds(q, round);
            end = &q->ready.head;
            next = n->next;
            if (charge_first(q, k))
                next = n;
            left -= k->waiting.len == 0;
            served++;
        } else {
            left -= k->waiting.len > 0;
        }
        round += next == end;
        n = next == end ? NULL : next;
    }
    return served;
}

/* since_us: short_since_us before the call. What was served without having had to wait says nothing
 * about how fast the queue drains. */
static void note_drain(struct queue *q, size_t served, int64_t since_us)
{
    int64_t now = now_us(q);
    if (served && since_us) {
        q->drained = DRAIN_MEMORY * q->drained + (double)served;
        q->drain_us = DRAIN_MEMORY * q->drain_us + (double)(now - since_us);
    }
    if (!q->by_age.len)
        q->short_since_us = 0;
    else if (served || !since_us)
        q->short_since_us = now;
}

size_t queue_serve(struct queue *q, queue_serve_fn *fn, void *ctx)
{
    BUG_ON(q->serving);
    int64_t since_us = q->short_since_us;
    q->serving = true;
    size_t served = serve_all(q, fn, ctx);
    q->serving = false;
    note_drain(q, served, since_us);
    return q->by_age.len;
}

void queue_finished(struct queue *q, struct queued *e, int64_t spent_ms)
{
    struct queue_key *k = stop_running(q, e);
    int64_t spent = clamp(spent_ms, 0, TURN_MAX_MS);
    q->turns += q->turns < ALL_SMOOTH;
    q->turn_ms += ((double)spent - q->turn_ms) / (double)q->turns;
    k->turn_ms = turn_ms_of(q, k) + ((double)spent - turn_ms_of(q, k)) / KEY_SMOOTH;
    set_quantum(q);
    credit(q, k, e->charged - cost(q, (double)spent));
    e->key = NULL;
    place(q, k);
}

/* --- looking ----------------------------------------------------------------------------- */

size_t queue_length(const struct queue *q)
{
    return q->by_age.len;
}

size_t queue_keys(const struct queue *q)
{
    return q->waiting_keys;
}

struct queued *queue_oldest(const struct queue *q)
{
    struct node *n = list_first(&q->by_age);
    return n ? container_of(n, struct queued, by_age) : NULL;
}

/* How many entries a key will have been given at the end of its turn so many rounds from now. */
static size_t served_by(const struct queue *q, const struct queue_key *k, int64_t rounds)
{
    int64_t units = deficit_now(q, k) + rounds * per_round(k);
    if (units <= 0)
        return 0;
    return (size_t)clamp((units - 1) / usual_cost(q, k) + 1, 0, (int64_t)k->waiting.len);
}

/* How many of `other` come before what k is given in `rounds`, when k's next turn is in `turn`.
 * When both get something in the same round, the one whose turn comes later now will be there
 * first: it was put on the wheel earlier. */
static size_t ahead(const struct queue *q, const struct queue_key *k, const struct queue_key *other,
                    int64_t turn, int64_t rounds)
{
    int64_t others_turn = rounds_to_pay(q, other, 0);
    if (others_turn > turn || (others_turn == turn && other->order < k->order))
        return served_by(q, other, rounds);
    return rounds ? served_by(q, other, rounds - 1) : 0;
}

size_t queue_position(const struct queue *q, const struct queued *e)
{
    if (!node_linked(&e->node))
        return 0;
    const struct queue_key *k = e->key;
    int64_t in_line = clamp(e->number - first_entry(k)->number, 0, (int64_t)k->waiting.len - 1);
    int64_t turn = rounds_to_pay(q, k, 0);
    int64_t rounds = rounds_to_pay(q, k, in_line * usual_cost(q, k));
    size_t position = 1 + (size_t)in_line;
    for (struct queue_key *o = q->keys; o; o = o->hh.next) {
        if (o != k && o->waiting.len)
            position += ahead(q, k, o, turn, rounds);
    }
    return position;
}

/* Time from one entry served to the next, while entries wait. */
static double gap_us(const struct queue *q)
{
    double open = q->short_since_us ? (double)(now_us(q) - q->short_since_us) : 0;
    double gap = average_turn_ms(q) * 1000 / (double)(q->running + !q->running);
    if (q->drained > 0)
        gap = q->drain_us / q->drained;
    if (open > gap) /* it has become slower than it was */
        gap = (q->drain_us + open) / (q->drained + 1);
    return gap;
}

static int retry_after(const struct queue *q, size_t position)
{
    double s = gap_us(q) * (double)position / 1e6;
    return s >= RETRY_MAX_S ? RETRY_MAX_S : s <= RETRY_MIN_S ? RETRY_MIN_S : (int)s + 1;
}

int queue_retry_after(const struct queue *q)
{
    return retry_after(q, q->by_age.len + 1);
}
