/* The way out: frames fill records, wholes are cut into slices, records become datagrams. */
#include "lane.h"

enum { KIND_FRAMES = 1, KIND_SLICE = 2 };

/* The datagrams of a run leave in one system call, so all but the last have one length. */
static void note_datagram(struct outbox *outbox, const struct port *port, size_t length)
{
    struct run *run = outbox->run_count ? &outbox->runs[outbox->run_count - 1] : NULL;
    bool joins = run != NULL && !run->is_closed && run->count < outbox->segments && length <= run->each &&
                 run->bytes + length <= MAX_RUN_BYTES && way_is_same(&run->to, &port->to) &&
                 way_is_same(&run->copy_to, &port->copy_to);
    if (joins) {
        run->is_closed = length < run->each;
    } else {
        run = &outbox->runs[outbox->run_count++];
        *run = (struct run){.to = port->to, .copy_to = port->copy_to, .at = outbox->used, .each = length};
    }
    run->count++;
    run->bytes += length;
    outbox->used += length;
}

static bool is_able(struct port *port, unsigned frames)
{
    if (port->sealing != NULL && port->to.family != 0)
        return true;
    port->tx_drops[port->sealing == NULL ? DROP_NO_SESSION : DROP_NO_PATH] += frames;
    return false;
}

/* Seals a record of `frames` frames, which are `carried` bytes. */
static bool seal(struct lane *lane, struct port *port, const uint8_t *record, size_t length, unsigned frames,
                 size_t carried, double now, struct outbox *outbox)
{
    struct session *session = port->sealing;
    if (!is_able(port, frames))
        return false;
    if (!outbox_make_room(outbox, length + OVERHEAD_BYTES)) {
        port->tx_drops[DROP_BACKPRESSURE] += frames;
        return false;
    }
    if (!sealer_seal(&session->sealer, record, length, outbox->bytes + outbox->used)) {
        port->tx_drops[DROP_EXHAUSTED] += frames;
        return false;
    }
    note_datagram(outbox, port, length + OVERHEAD_BYTES);
    port->tx_bytes += carried;
    session->sealed++;
    session->last_sealed = now;
    if (!session->out_touched) {
        session->out_touched = true;
        session->next_out = lane->touched_out;
        lane->touched_out = session;
    }
    return true;
}

static void seal_waiting(struct lane *lane, struct port *port, double now, struct outbox *outbox)
{
    size_t length = port->waiting_bytes;
    unsigned frames = port->waiting_frames;
    if (frames == 0)
        return;
    port->waiting_bytes = port->waiting_frames = 0;
    port->waiting[0] = KIND_FRAMES;
    seal(lane, port, port->waiting, 1 + length, frames, length - LENGTH_BYTES * frames, now, outbox);
}

static void keep(struct lane *lane, struct port *port, const uint8_t *frame, size_t length)
{
    if (length < MIN_FRAME_BYTES) {
        port->tx_drops[DROP_MALFORMED]++;
        return;
    }
    uint8_t *at = port->waiting + 1 + port->waiting_bytes;
    put_u16(at, (uint16_t)length);
    memcpy(at + LENGTH_BYTES, frame, length);
    port->waiting_bytes += LENGTH_BYTES + length;
    port->waiting_frames++;
    if (!port->is_unflushed) {
        port->is_unflushed = true;
        port->next_unflushed = lane->unflushed;
        lane->unflushed = port;
    }
}

/* Seals one slice: its head is written over the bytes before it, which have left already or are headroom. */
static bool seal_slice(struct lane *lane, struct port *port, const uint8_t *head, uint8_t index, uint8_t *part,
                       size_t length, double now, struct outbox *outbox)
{
    uint8_t *record = part - SLICE_HEAD_BYTES;
    memcpy(record, head, SLICE_HEAD_BYTES);
    record[1] = index;
    return seal(lane, port, record, SLICE_HEAD_BYTES + length, 0, 0, now, outbox);
}

/* `first` bytes go into the first slice, `each` into the others. */
static void seal_slices(struct lane *lane, struct port *port, const uint8_t vnet[VNET_BYTES], uint8_t *whole,
                        size_t length, size_t first, size_t each, double now, struct outbox *outbox)
{
    size_t count = length <= first ? 1 : 1 + (length - first + each - 1) / each;
    uint8_t head[SLICE_HEAD_BYTES] = {KIND_SLICE, 0, (uint8_t)count, vnet == NULL ? 0 : VNET_FLAG};
    if (count > MAX_SLICES) {
        port->tx_drops[DROP_OVERSIZE]++;
        return;
    }
    put_u32(head + 4, ++port->slice_id);
    if (vnet != NULL)
        memcpy(head + SLICE_VNET_AT, vnet, VNET_BYTES);
    for (size_t index = 0, at = 0, part = first; index < count; index++, at += part, part = each) {
        size_t wanted = length - at < part ? length - at : part;
        if (!seal_slice(lane, port, head, (uint8_t)index, whole + at, wanted, now, outbox)) {
            port->tx_drops[DROP_EXHAUSTED]++;
            return;
        }
    }
    port->tx_bytes += length;
}

static size_t slice_room(const struct port *port)
{
    return port->limit > OVERHEAD_BYTES + SLICE_HEAD_BYTES ? port->limit - OVERHEAD_BYTES - SLICE_HEAD_BYTES : 0;
}

static void send_oversize(struct lane *lane, struct port *port, uint8_t *frame, size_t length, double now,
                          struct outbox *outbox)
{
    size_t room = slice_room(port);
    if (!is_able(port, 1))
        return;
    if (room == 0 || length > MAX_FRAME_BYTES) {
        port->tx_drops[DROP_OVERSIZE]++;
        return;
    }
    size_t count = (length + room - 1) / room, each = (length + count - 1) / count;
    seal_slices(lane, port, NULL, frame, length, each, each, now, outbox);
}

static void send_super_frame(struct lane *lane, struct port *port, const uint8_t vnet[VNET_BYTES], uint8_t *frame,
                             size_t length, double now, struct outbox *outbox)
{
    struct shape shape;
    uint8_t written[VNET_BYTES];
    size_t room = slice_room(port);
    if (!shape_of(&shape, vnet, (struct view){frame, length}, length)) {
        lane->out_drops[DROP_MALFORMED]++;
        return;
    }
    if (!is_able(port, 1))
        return;
    size_t datagrams = shape.is_udp && room > shape.headers ? (room - shape.headers) / shape.gso_size : 0;
    size_t count = room == 0 ? MAX_SLICES + 1 : (length + room - 1) / room, first = (length + count - 1) / count;
    size_t each = datagrams > 0 ? datagrams * shape.gso_size : first;
    if (datagrams > 0)
        first = shape.headers + each;
    if (room == 0 || first < shape.headers || length > MAX_FRAME_BYTES) {
        port->tx_drops[DROP_OVERSIZE]++;
        return;
    }
    memcpy(written, vnet, VNET_BYTES);
    put_le16(written + 2, (uint16_t)shape.headers);
    seal_slices(lane, port, written, frame, length, first, each, now, outbox);
}

static void send_plain(struct lane *lane, struct port *port, uint8_t *frame, size_t length, double now,
                       struct outbox *outbox)
{
    size_t taken = length + LENGTH_BYTES;
    if (port->waiting_frames > 0) {
        if (port->waiting_bytes + taken <= port->room) {
            keep(lane, port, frame, length);
            return;
        }
        seal_waiting(lane, port, now, outbox);
    }
    if (taken > port->room) {
        send_oversize(lane, port, frame, length, now, outbox);
    } else if (taken > port->enough) {
        uint8_t *record = frame - FRAMES_HEAD_BYTES;
        record[0] = KIND_FRAMES;
        put_u16(record + 1, (uint16_t)length);
        seal(lane, port, record, FRAMES_HEAD_BYTES + length, 1, length, now, outbox);
    } else {
        keep(lane, port, frame, length);
    }
}

void port_send_frame(struct lane *lane, struct port *port, const uint8_t vnet[VNET_BYTES], uint8_t *frame,
                     size_t length, double now, struct outbox *outbox)
{
    if (vnet[1] != GSO_NONE) {
        seal_waiting(lane, port, now, outbox); /* what came first leaves first */
        send_super_frame(lane, port, vnet, frame, length, now, outbox);
    } else if ((vnet[0] & NEEDS_CSUM) != 0 && !complete_checksum(vnet, frame, length)) {
        lane->out_drops[DROP_MALFORMED]++;
    } else {
        send_plain(lane, port, frame, length, now, outbox);
    }
}

void lane_send_frame(struct lane *lane, const uint8_t vnet[VNET_BYTES], uint8_t *frame, size_t length, double now,
                     struct outbox *outbox)
{
    struct station *station = length < 6 ? NULL : table_find(&lane->stations, get_u48(frame));
    if (station != NULL) {
        port_send_frame(lane, station->port, vnet, frame, length, now, outbox);
        return;
    }
    struct iovec parts[] = {{(void *)vnet, VNET_BYTES}, {frame, length}};
    lane_ask(lane, ASK_UNADDRESSED, 0, NULL, parts, 2);
}

void lane_flush(struct lane *lane, double now, struct outbox *outbox)
{
    while (lane->unflushed != NULL) {
        struct port *port = lane->unflushed;
        lane->unflushed = port->next_unflushed;
        port->is_unflushed = false;
        seal_waiting(lane, port, now, outbox);
    }
}
