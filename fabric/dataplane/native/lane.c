/* What is steered: ports, stations, sessions; and what is asked of Python. */
#include "lane.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

bool lane_init(struct lane *lane, const uint8_t mac[6])
{
    *lane = (struct lane){.ask_event = -1, .news_event = -1};
    memcpy(lane->mac, mac, 6);
    return pthread_mutex_init(&lane->out, NULL) == 0 && pthread_mutex_init(&lane->in, NULL) == 0 &&
           pthread_mutex_init(&lane->asking, NULL) == 0;
}

/* Frees every value of a table by `remove`, which takes it out. */
static void *any(const struct table *table)
{
    for (size_t at = 0; table->slots != NULL && at <= table->mask; at++)
        if (table->slots[at].value != NULL)
            return table->slots[at].value;
    return NULL;
}

void lane_free(struct lane *lane)
{
    void *value;
    while ((value = any(&lane->sessions)) != NULL)
        lane_remove_session(lane, value);
    while (lane->all_stations != NULL)
        lane_remove_station(lane, lane->all_stations->mac);
    while ((value = any(&lane->ports)) != NULL)
        lane_remove_port(lane, value);
    for (struct ask *ask = lane_take_asks(lane), *next; ask != NULL; ask = next) {
        next = ask->next;
        free(ask);
    }
    table_free(&lane->sessions);
    table_free(&lane->stations);
    table_free(&lane->ports);
    pthread_mutex_destroy(&lane->out);
    pthread_mutex_destroy(&lane->in);
    pthread_mutex_destroy(&lane->asking);
}

struct port *lane_port(const struct lane *lane, uint32_t number)
{
    return table_find(&lane->ports, number);
}

struct session *lane_session(const struct lane *lane, uint32_t index)
{
    return table_find(&lane->sessions, index);
}

struct port *lane_add_port(struct lane *lane, uint32_t number)
{
    struct port *port = calloc(1, sizeof *port);
    if (port == NULL || !table_put(&lane->ports, number, port)) {
        free(port);
        return NULL;
    }
    port->number = number;
    return port;
}

void lane_remove_port(struct lane *lane, struct port *port)
{
    for (struct port **link = &lane->unflushed; *link != NULL; link = &(*link)->next_unflushed)
        if (*link == port) {
            *link = port->next_unflushed;
            break;
        }
    for (struct station *station = lane->all_stations, *next; station != NULL; station = next) {
        next = station->next;
        if (station->port == port)
            lane_remove_station(lane, station->mac);
    }
    table_remove(&lane->ports, port->number);
    free(port->waiting);
    free(port);
}

bool lane_add_station(struct lane *lane, const uint8_t mac[6], struct port *port)
{
    struct station *station = table_find(&lane->stations, get_u48(mac));
    if (station == NULL) {
        station = calloc(1, sizeof *station);
        if (station == NULL || !table_put(&lane->stations, get_u48(mac), station)) {
            free(station);
            return false;
        }
        memcpy(station->mac, mac, 6);
        station->next = lane->all_stations;
        lane->all_stations = station;
    }
    station->port = port;
    return true;
}

void lane_remove_station(struct lane *lane, const uint8_t mac[6])
{
    struct station *station = table_find(&lane->stations, get_u48(mac)), **link = &lane->all_stations;
    if (station == NULL)
        return;
    while (*link != station)
        link = &(*link)->next;
    *link = station->next;
    table_remove(&lane->stations, get_u48(station->mac));
    free(station);
}

struct session *lane_add_session(struct lane *lane, uint32_t index, struct port *port)
{
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL || !table_put(&lane->sessions, index, session)) {
        free(session);
        return NULL;
    }
    session->index = index;
    session->port = port;
    return session;
}

static void unlink_session(struct lane *lane, struct session *session)
{
    for (struct session **link = &lane->touched_out; *link != NULL; link = &(*link)->next_out)
        if (*link == session) {
            *link = session->next_out;
            break;
        }
    for (struct session **link = &lane->touched_in; *link != NULL; link = &(*link)->next_in)
        if (*link == session) {
            *link = session->next_in;
            break;
        }
    for (struct session **link = &lane->reassembling; *link != NULL; link = &(*link)->next_reassembling)
        if (*link == session) {
            *link = session->next_reassembling;
            break;
        }
}

void lane_remove_session(struct lane *lane, struct session *session)
{
    unlink_session(lane, session);
    if (session->port->sealing == session)
        port_seal_with(session->port, NULL);
    table_remove(&lane->sessions, session->index);
    reassembly_free(&session->reassembly);
    aead_wipe(&session->sealer.aead);
    aead_wipe(&session->opener.aead);
    explicit_bzero(session, sizeof *session);
    free(session);
}

/* While nothing can be sent there is no room: every frame is looked at by what counts it. */
static void measure(struct port *port)
{
    bool is_able = port->sealing != NULL && port->to.family != 0;
    port->room = is_able && port->limit > OVERHEAD_BYTES + 1 ? port->limit - OVERHEAD_BYTES - 1 : 0;
    size_t worth_waiting = LENGTH_BYTES + ETHERNET_MINIMUM;
    port->enough = port->room > worth_waiting ? port->room - worth_waiting : 0;
}

bool port_steer(struct port *port, const struct way *to, size_t limit, const struct way *copy_to, double now)
{
    limit = limit < MAX_DATAGRAM_BYTES ? limit : MAX_DATAGRAM_BYTES;
    if (limit > port->waiting_size) {
        uint8_t *waiting = realloc(port->waiting, limit);
        if (waiting == NULL)
            return false;
        port->waiting = waiting;
        port->waiting_size = limit;
    }
    if (port->copy_to.family != 0)
        port->copied_until = now + COPY_LINGER_S;
    port->to = *to;
    port->copy_to = to->family != 0 && !way_is_same(to, copy_to) ? *copy_to : (struct way){0};
    port->limit = limit;
    measure(port);
    return true;
}

void port_seal_with(struct port *port, struct session *session)
{
    port->sealing = session;
    measure(port);
}

static void ring(int event)
{
    static const uint64_t one = 1;
    if (event >= 0)
        while (write(event, &one, sizeof one) < 0 && errno == EINTR)
            ;
}

/* Returns where it is counted, and in `portion` which fraction of the room is the most. */
static struct share *share_of(struct lane *lane, enum ask_kind kind, uint32_t number, size_t *portion)
{
    enum { KINDS = ASK_SEGMENT + 1 };
    bool is_of_peer = kind == ASK_RECORD || kind == ASK_CONTROL || kind == ASK_FRAME;
    *portion = is_of_peer ? 4 : kind == ASK_LEFTOVER || kind == ASK_SEGMENT ? 2 : 1;
    uint32_t asker = KINDS + (2 * number + (kind == ASK_FRAME)) % (ASKERS - KINDS); /* of a port, or of a session */
    return &lane->asked_by[is_of_peer ? asker : (uint32_t)kind];
}

static bool has_share(const struct share *share, size_t length, size_t portion)
{
    return share->count < MAX_ASKS / portion && share->bytes + length <= MAX_ASKED_BYTES / portion;
}

static void take_share(struct share *share, size_t length)
{
    share->count++;
    share->bytes += length;
}

void lane_ask(struct lane *lane, enum ask_kind kind, uint32_t number, const struct way *way, const struct iovec *parts,
              int count)
{
    size_t length = 0, portion;
    for (int part = 0; part < count; part++)
        length += parts[part].iov_len;
    struct share *share = share_of(lane, kind, number, &portion);
    struct ask *ask = malloc(sizeof *ask + length);
    pthread_mutex_lock(&lane->asking);
    bool has_room = ask != NULL && has_share(&lane->asked, length, 1) && has_share(share, length, portion);
    bool is_first = lane->first_ask == NULL;
    if (has_room) {
        uint8_t *at = ask->bytes;
        *ask = (struct ask){.kind = kind, .number = number, .length = length};
        if (way != NULL)
            ask->way = *way;
        for (int part = 0; part < count; at += parts[part++].iov_len)
            memcpy(at, parts[part].iov_base, parts[part].iov_len);
        if (is_first)
            lane->first_ask = ask;
        else
            lane->last_ask->next = ask;
        lane->last_ask = ask;
        take_share(&lane->asked, length);
        take_share(share, length);
    } else {
        lane->unasked++;
    }
    pthread_mutex_unlock(&lane->asking);
    if (!has_room)
        free(ask);
    else if (is_first)
        ring(lane->ask_event);
}

struct ask *lane_take_asks(struct lane *lane)
{
    pthread_mutex_lock(&lane->asking);
    struct ask *first = lane->first_ask;
    lane->first_ask = lane->last_ask = NULL;
    lane->asked = (struct share){0};
    memset(lane->asked_by, 0, sizeof lane->asked_by);
    pthread_mutex_unlock(&lane->asking);
    return first;
}

void lane_tell_news(struct lane *lane)
{
    if (!atomic_exchange(&lane->has_told_news, true))
        ring(lane->news_event);
}

void lane_press(struct lane *lane)
{
    ring(lane->ask_event);
}
