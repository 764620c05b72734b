/* The way in: datagrams become records, records frames, and the source guard has its say about each. */
#include "lane.h"

enum { KIND_FRAMES = 1, KIND_SLICE = 2, KIND_CONTROL = 3, RELAYED_TYPE = 0xf3 };

/* One datagram on its way in. */
struct arrival {
    struct lane *lane;
    struct session *session;
    const struct way *source; /* NULL: it was held until its session was promoted */
    const struct sink *sink;
    double now;
};

/* Returns whether a copy is what one was to expect. */
static bool count_replay(struct port *port, const struct way *source, double now)
{
    bool is_relayed = source->transport == TRANSPORT_RELAY_UDP || source->transport == TRANSPORT_RELAY_TLS;
    bool is_copy = port->copy_to.family != 0 || now < port->copied_until || is_relayed;
    port->rx_drops[is_copy ? DROP_COPY : DROP_REPLAY]++;
    return is_copy;
}

/* Whether a frame from behind a bridge comes from where its MAC is known to be. */
static bool is_stationed(struct lane *lane, struct port *port, const uint8_t *source)
{
    struct station *station = table_find(&lane->stations, get_u48(source));
    if (station == NULL || station->port != port)
        return false;
    station->seen = true;
    return true;
}

/* `parts` are the vnet header and `bytes` of frame; `head` is all of the frame, or all of its headers. */
static void take_frame(const struct arrival *arrival, struct iovec *parts, int count, struct view head, size_t bytes)
{
    struct port *port = arrival->session->port;
    enum verdict verdict = guard_check(&port->claim, head);
    if (verdict == VERDICT_IN && port->claim.bridge && !is_stationed(arrival->lane, port, head.bytes + 6))
        verdict = VERDICT_ASK;
    switch (verdict) {
    case VERDICT_IN:
        port->rx_bytes += bytes;
        arrival->sink->deliver(arrival->sink->context, parts, count);
        return;
    case VERDICT_ASK:
        lane_ask(arrival->lane, ASK_FRAME, port->number, NULL, parts, count);
        return;
    case VERDICT_MALFORMED:
        port->rx_drops[DROP_MALFORMED]++;
        return;
    case VERDICT_FALSE_SOURCE:
        port->rx_drops[DROP_SOURCE_GUARD]++;
        return;
    }
}

static const uint8_t no_vnet[VNET_BYTES];

static void take_plain(const struct arrival *arrival, uint8_t *frame, size_t length)
{
    struct iovec parts[] = {{(void *)no_vnet, VNET_BYTES}, {frame, length}};
    take_frame(arrival, parts, 2, (struct view){frame, length}, length);
}

/* Slices put together: what takes a frame wants it in one piece, as its headers may be anywhere. */
static void take_joined_frame(void *context, struct iovec *parts, int count, size_t bytes)
{
    const struct arrival *arrival = context;
    uint8_t joined[MAX_FRAME_BYTES], *at = joined;
    if (bytes < MIN_FRAME_BYTES) {
        arrival->session->port->rx_drops[DROP_MALFORMED]++;
        return;
    }
    for (int part = 0; part < count; at += parts[part++].iov_len)
        memcpy(at, parts[part].iov_base, parts[part].iov_len);
    take_plain(arrival, joined, bytes);
}

static void take_super_frame(void *context, struct iovec *parts, int count, struct view headers, size_t bytes)
{
    take_frame(context, parts, count, headers, bytes);
}

static void take_joined_control(void *context, struct iovec *parts, int count, size_t bytes)
{
    const struct arrival *arrival = context;
    (void)bytes;
    if (arrival->source != NULL)
        lane_ask(arrival->lane, ASK_CONTROL, arrival->session->index, arrival->source, parts, count);
}

static struct receiver receiver_of(const struct arrival *arrival)
{
    return (struct receiver){(void *)arrival, take_joined_frame, take_super_frame, take_joined_control};
}

static void settle_reassembly(struct lane *lane, struct session *session)
{
    struct reassembly *reassembly = &session->reassembly;
    session->port->rx_drops[DROP_REASSEMBLY] += reassembly->dropped;
    session->port->rx_drops[DROP_MALFORMED] += reassembly->malformed;
    reassembly->dropped = reassembly->malformed = 0;
    if (reassembly->first != NULL && !session->is_reassembling) {
        session->is_reassembling = true;
        session->next_reassembling = lane->reassembling;
        lane->reassembling = session;
    }
}

static void take_slice(const struct arrival *arrival, const uint8_t *record, size_t length)
{
    struct session *session = arrival->session;
    if (length <= SLICE_HEAD_BYTES || record[1] >= record[2]) {
        session->port->rx_drops[DROP_MALFORMED]++;
        return;
    }
    if (record[3] != 0 && record[3] != VNET_FLAG && record[3] != CONTROL_FLAG) {
        session->port->rx_drops[DROP_UNKNOWN_KIND]++;
        return;
    }
    struct receiver receiver = receiver_of(arrival);
    reassembly_take(&session->reassembly, record, length, arrival->now, &receiver);
    settle_reassembly(arrival->lane, session);
}

/* All lengths are looked at before any frame is taken: a record is wholly good or not at all. */
static bool frames_fill(const uint8_t *record, size_t length)
{
    size_t at = 1;
    while (at < length) {
        if (length - at < LENGTH_BYTES)
            return false;
        size_t frame = get_u16(record + at);
        at += LENGTH_BYTES;
        if (frame < MIN_FRAME_BYTES || frame > length - at)
            return false;
        at += frame;
    }
    return length > 1;
}

static void take_frames(const struct arrival *arrival, uint8_t *record, size_t length)
{
    if (!frames_fill(record, length)) {
        arrival->session->port->rx_drops[DROP_MALFORMED]++;
        return;
    }
    for (size_t at = 1; at < length;) {
        size_t frame = get_u16(record + at);
        take_plain(arrival, record + at + LENGTH_BYTES, frame);
        at += LENGTH_BYTES + frame;
    }
}

static void take_record(const struct arrival *arrival, uint8_t *record, size_t length)
{
    struct session *session = arrival->session;
    if (length == 0)
        return;
    bool is_control = record[0] == KIND_CONTROL || (length > 3 && record[0] == KIND_SLICE && record[3] == CONTROL_FLAG);
    struct iovec part = {record, length};
    if (session->awaiting && !is_control) {
        lane_ask(arrival->lane, ASK_RECORD, session->index, NULL, &part, 1);
        return;
    }
    switch (record[0]) {
    case KIND_FRAMES:
        take_frames(arrival, record, length);
        return;
    case KIND_SLICE:
        take_slice(arrival, record, length);
        return;
    case KIND_CONTROL:
        part = (struct iovec){record + 1, length - 1};
        if (arrival->source != NULL)
            lane_ask(arrival->lane, ASK_CONTROL, session->index, arrival->source, &part, 1);
        return;
    default:
        session->port->rx_drops[DROP_UNKNOWN_KIND]++;
    }
}

static void note_opened(struct lane *lane, struct session *session, const struct way *source, double now)
{
    struct port *port = session->port;
    session->opened++;
    session->last_opened = now;
    if (!way_is_same(source, &port->to) && !way_is_same(source, &port->copy_to))
        session->source = *source;
    if (!session->in_touched) {
        session->in_touched = true;
        session->next_in = lane->touched_in;
        lane->touched_in = session;
        if (session->awaiting)
            atomic_store(&lane->is_urgent, true);
    }
}

/* False for what nobody who belongs here would send, but to begin with: a handshake is such, too. */
static bool take_datagram(struct lane *lane, uint8_t *datagram, size_t length, const struct way *source, double now,
                          const struct sink *sink)
{
    if (length == 0 || datagram[0] != DATA_TYPE) {
        struct iovec part = {datagram, length};
        lane_ask(lane, ASK_LEFTOVER, 0, source, &part, 1);
        return length > 0 && datagram[0] == RELAYED_TYPE; /* what is in it is still to come */
    }
    if (length < 8) {
        lane->in_drops[DROP_MALFORMED]++;
        return false;
    }
    bool is_clear = (datagram[1] | datagram[2] | datagram[3]) == 0;
    struct session *session = is_clear ? table_find(&lane->sessions, get_u32(datagram + 4)) : NULL;
    if (session == NULL) {
        lane->in_drops[DROP_UNKNOWN_INDEX]++;
        return false;
    }
    size_t opened;
    switch (opener_open(&session->opener, datagram, length, &opened)) {
    case OPENED_MALFORMED:
        session->port->rx_drops[DROP_MALFORMED]++;
        return false;
    case OPENED_REPLAY:
        return count_replay(session->port, source, now);
    case OPENED_FORGED:
        session->port->rx_drops[DROP_AUTHENTICATION]++;
        return false;
    case OPENED:
        break;
    }
    note_opened(lane, session, source, now);
    struct arrival arrival = {lane, session, source, sink, now};
    take_record(&arrival, datagram + HEADER_BYTES, opened);
    return true;
}

/* A filter can be given to the main sockets alone, and relays over UDP come in by these. */
static bool is_by_main(const struct way *source)
{
    return way_is_main(source) || source->transport == TRANSPORT_RELAY_UDP;
}

void lane_take_datagram(struct lane *lane, uint8_t *datagram, size_t length, const struct way *source, double now,
                        const struct sink *sink)
{
    lane->now = now;
    if (!take_datagram(lane, datagram, length, source, now, sink) && is_by_main(source))
        lane->unopened++;
}

void lane_take_record(struct lane *lane, struct session *session, uint8_t *record, size_t length, double now,
                      const struct sink *sink)
{
    struct arrival arrival = {lane, session, NULL, sink, now};
    take_record(&arrival, record, length);
}

void lane_handle_timeout(struct lane *lane, double now, const struct sink *sink)
{
    struct session **link = &lane->reassembling;
    while (*link != NULL) {
        struct session *session = *link;
        struct arrival arrival = {lane, session, NULL, sink, now};
        struct receiver receiver = receiver_of(&arrival);
        reassembly_handle_timeout(&session->reassembly, now, &receiver);
        settle_reassembly(lane, session);
        if (session->reassembly.first == NULL) {
            session->is_reassembling = false;
            *link = session->next_reassembling;
        } else {
            link = &session->next_reassembling;
        }
    }
}

double lane_next_timeout(const struct lane *lane)
{
    double next = 0;
    for (const struct session *session = lane->reassembling; session != NULL; session = session->next_reassembling) {
        double due = reassembly_next_timeout(&session->reassembly);
        if (due != 0 && (next == 0 || due < next))
            next = due;
    }
    return next;
}
