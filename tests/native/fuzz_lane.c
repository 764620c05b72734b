/* A lane under a script of everything that can be done to it: steering, frames, datagrams of its own and of others.
 *
 * Session i seals for session i ^ 1 of the same lane, so that what it sends comes back to it, whole or spoilt. There is
 * no cipher (LIBRARY_NONE): every datagram is authentic. What must hold at every step is said by MUST. */
#include "script.h"

enum {
    PORTS = 4,
    SESSIONS = 8,
    KEPT = 64,     /* datagrams that may come in again */
    SEEN = 1024,   /* counters that have come in */
    MOST_FRAME = MAX_FRAME_BYTES + 60,
};

struct kept {
    uint8_t *bytes;
    size_t length;
};

struct seen {
    uint32_t index, generation;
    uint64_t counter;
};

struct world {
    struct script script;
    struct lane lane;
    struct outbox outbox;
    const struct provider *provider;
    double now;
    struct kept kept[KEPT];
    unsigned kept_count;
    struct seen seen[SEEN];
    unsigned seen_count;
    uint32_t generations[SESSIONS];
    size_t limits[PORTS];
};

static uint8_t desk[HEADROOM + MOST_FRAME + 64], joined[MOST_FRAME + 2 * VNET_BYTES];

static void mac_of(uint8_t mac[6], unsigned number)
{
    memcpy(mac, "\x02\xfa\x64\x40\x00", 5);
    mac[5] = (uint8_t)number;
}

static void ip_of(uint8_t ip[16], unsigned number)
{
    memset(ip, 0, 16);
    ip[0] = 0xfd;
    ip[15] = (uint8_t)number;
}

static void deliver(void *context, const struct iovec *parts, int count)
{
    size_t length = 0;
    struct shape shape;
    (void)context;
    for (int part = 0; part < count; part++) {
        MUST(length + parts[part].iov_len <= sizeof joined);
        memcpy(joined + length, parts[part].iov_base, parts[part].iov_len);
        length += parts[part].iov_len;
    }
    MUST(count >= 2 && length >= VNET_BYTES + MIN_FRAME_BYTES);
    MUST(joined[0] == 0 || joined[0] == NEEDS_CSUM);
    if (joined[0] == 0)
        for (int at = 0; at < VNET_BYTES; at++)
            MUST(joined[at] == 0);
    else
        MUST(is_sound(joined, joined + VNET_BYTES, length - VNET_BYTES, &shape));
}

static struct sink sink_of(struct world *world)
{
    return (struct sink){world, deliver};
}

/* Keeps what is sent, and looks at the runs that it is in. */
static void take_outbox(struct world *world)
{
    size_t used = 0;
    MUST(world->lane.unflushed == NULL);
    for (size_t at = 0; at < world->outbox.run_count; at++) {
        const struct run *run = &world->outbox.runs[at];
        MUST(run->at == used && run->count >= 1 && run->count <= world->outbox.segments);
        MUST((run->bytes + run->each - 1) / run->each == run->count);
        MUST(run->count == 1 || run->bytes <= MAX_RUN_BYTES);
        for (size_t from = 0; from < run->bytes; from += run->each) {
            size_t length = run->bytes - from < run->each ? run->bytes - from : run->each;
            struct kept *kept = &world->kept[world->kept_count++ % KEPT];
            MUST(length >= OVERHEAD_BYTES && length <= MAX_DATAGRAM_BYTES);
            free(kept->bytes);
            kept->bytes = malloc(length);
            kept->length = length;
            memcpy(kept->bytes, world->outbox.bytes + run->at + from, length);
            MUST(get_u64(kept->bytes + 8) < LAST_COUNTER);
        }
        used += run->bytes;
    }
    MUST(used == world->outbox.used);
    outbox_clear(&world->outbox);
}

static void check_bounds(const struct world *world)
{
    for (uint32_t index = 0; index < SESSIONS; index++) {
        const struct session *session = lane_session(&world->lane, index);
        if (session != NULL)
            MUST(session->reassembly.count <= MAX_PARTIAL && session->reassembly.waiting_bytes <= MAX_WAITING_BYTES &&
                 (session->reassembly.first == NULL) == (session->reassembly.count == 0));
    }
    for (uint32_t number = 0; number < PORTS; number++) {
        const struct port *port = lane_port(&world->lane, number);
        if (port != NULL)
            MUST(port->waiting_frames == 0 && (port->sealing == NULL || port->sealing->port == port));
    }
}

/* Gives the lane a datagram in a block of its own length. No counter of a session may come in twice. */
static void give(struct world *world, const uint8_t *bytes, size_t length)
{
    struct way source = {.family = 4, .transport = TRANSPORT_UDP, .port = (uint16_t)(1 + next_u8(&world->script) % 4)};
    struct sink sink = sink_of(world);
    uint8_t *datagram = malloc(length + (length == 0));
    memcpy(datagram, bytes, length);
    struct session *session = length >= OVERHEAD_BYTES ? lane_session(&world->lane, get_u32(datagram + 4)) : NULL;
    uint64_t counter = length >= HEADER_BYTES ? get_u64(datagram + 8) : 0, opened = session ? session->opened : 0;
    lane_take_datagram(&world->lane, datagram, length, &source, world->now, &sink);
    if (session != NULL && session->opened != opened) {
        struct seen now = {session->index, world->generations[session->index], counter};
        unsigned known = world->seen_count < SEEN ? world->seen_count : SEEN;
        for (unsigned at = 0; at < known; at++)
            MUST(world->seen[at].index != now.index || world->seen[at].generation != now.generation ||
                 world->seen[at].counter != now.counter);
        world->seen[world->seen_count++ % SEEN] = now;
    }
    free(datagram);
}

static void give_record(struct world *world, const uint8_t *record, size_t length)
{
    static uint8_t datagram[MAX_DATAGRAM_BYTES + OVERHEAD_BYTES];
    uint8_t how = next_u8(&world->script);
    memset(datagram, 0, HEADER_BYTES);
    datagram[0] = DATA_TYPE;
    put_u32(datagram + 4, how % SESSIONS);
    put_u64(datagram + 8, how & 0x80 ? (uint64_t)next_u16(&world->script) << (how >> 3 & 15) * 3 : world->seen_count + 100000);
    memcpy(datagram + HEADER_BYTES, record, length);
    memset(datagram + HEADER_BYTES + length, 0, TAG_BYTES);
    give(world, datagram, length + OVERHEAD_BYTES);
}

static void add_port(struct world *world)
{
    uint8_t how = next_u8(&world->script), mac[6];
    uint32_t number = how % PORTS;
    struct port *port = lane_port(&world->lane, number);
    if (port == NULL)
        port = lane_add_port(&world->lane, number);
    port->claim = (struct claim){.bridge = how & 16, .count = 2};
    mac_of(mac, number);
    memcpy(port->claim.mac, mac, 6);
    memcpy(port->claim.own_mac, world->lane.mac, 6);
    port->claim.addresses[0].length = 4;
    memcpy(port->claim.addresses[0].ip, mac + 2, 4);
    port->claim.addresses[1].length = 16;
    ip_of(port->claim.addresses[1].ip, number);
    MUST(lane_add_station(&world->lane, mac, port));
}

/* As module.c does it. */
static void remove_port(struct world *world)
{
    struct lane *lane = &world->lane;
    struct port *port = lane_port(lane, next_u8(&world->script) % PORTS);
    if (port == NULL)
        return;
    for (uint32_t index = 0; index < SESSIONS; index++) {
        struct session *session = lane_session(lane, index);
        if (session != NULL && session->port == port)
            lane_remove_session(lane, session);
    }
    lane_remove_port(lane, port);
}

static void install(struct world *world)
{
    static const uint8_t key[KEY_BYTES];
    uint8_t how = next_u8(&world->script);
    uint32_t index = how % SESSIONS;
    struct port *port = lane_port(&world->lane, how >> 3 & 3);
    struct session *session = lane_session(&world->lane, index);
    if (port == NULL)
        return;
    if (session != NULL)
        lane_remove_session(&world->lane, session);
    session = lane_add_session(&world->lane, index, port);
    world->generations[index]++;
    session->awaiting = how & 32;
    session->sealer.remote_index = index ^ 1;
    if (how & 64)
        session->sealer.counter = LAST_COUNTER - how % 5;
    MUST(aead_make(&session->sealer.aead, world->provider, SUITE_AES_256_GCM, key, true) &&
         aead_make(&session->opener.aead, world->provider, SUITE_AES_256_GCM, key, false));
    if (how & 128)
        port_seal_with(port, session);
}

static void promote_or_retire(struct world *world)
{
    uint8_t how = next_u8(&world->script);
    struct session *session = lane_session(&world->lane, how % SESSIONS);
    if (session == NULL)
        return;
    if (how & 128) {
        lane_remove_session(&world->lane, session);
        return;
    }
    session->awaiting = false;
    port_seal_with(session->port, session);
}

static void steer(struct world *world)
{
    uint8_t how = next_u8(&world->script);
    struct port *port = lane_port(&world->lane, how % PORTS);
    struct way to = {.family = 4, .transport = TRANSPORT_UDP, .port = (uint16_t)(1 + (how >> 2 & 3))}, copy_to = {0};
    if (how & 16)
        copy_to = (struct way){.family = 6, .transport = TRANSPORT_RELAY_TLS, .port = 2};
    if (how & 32)
        to.family = 0;
    size_t limit = how & 64 ? next_u16(&world->script) : 1472;
    if (port != NULL)
        MUST(port_steer(port, &to, limit, &copy_to, world->now));
}

static void send(struct world *world, uint8_t vnet[VNET_BYTES], size_t length)
{
    lane_send_frame(&world->lane, vnet, desk + HEADROOM, length, world->now, &world->outbox);
    if (next_u8(&world->script) & 1)
        return; /* more come before the flush */
    lane_flush(&world->lane, world->now, &world->outbox);
    take_outbox(world);
}

static void send_any(struct world *world)
{
    uint8_t vnet[VNET_BYTES] = {0}, how = next_u8(&world->script), *frame = desk + HEADROOM;
    size_t length = next_u16(&world->script) % (how & 8 ? 65536 : 2048), own = next_u8(&world->script);
    if (how & 16)
        next_bytes(&world->script, vnet, VNET_BYTES);
    next_bytes(&world->script, frame, own < length ? own : length);
    for (size_t at = own; at < length; at++)
        frame[at] = payload_byte(at);
    if (!(how & 32) && length >= 12) {
        mac_of(frame, how % PORTS);
        mac_of(frame + 6, how % PORTS);
    }
    send(world, vnet, length);
}

/* `spoils`: so many bytes of the headers are changed. */
static size_t write_any_super_frame(struct world *world, uint8_t vnet[VNET_BYTES], uint8_t *frame)
{
    uint8_t how = next_u8(&world->script), kind = next_u8(&world->script), flags = next_u8(&world->script), mac[6], ip[16];
    uint16_t gso_size = next_u16(&world->script);
    size_t payload = next_u16(&world->script) % 65400;
    mac_of(mac, how % PORTS);
    ip_of(ip, how % PORTS);
    size_t length = write_super_frame(vnet, frame, kind, flags, payload, gso_size, mac, mac, mac + 2, ip);
    for (unsigned spoils = how >> 2 & 3; spoils > 0; spoils--) {
        uint8_t at = next_u8(&world->script), bits = next_u8(&world->script);
        if (at < VNET_BYTES)
            vnet[at] ^= bits;
        else if ((size_t)at - VNET_BYTES < length)
            frame[at - VNET_BYTES] ^= bits;
    }
    return length;
}

static void send_super_frame(struct world *world)
{
    uint8_t vnet[VNET_BYTES];
    size_t length = write_any_super_frame(world, vnet, desk + HEADROOM);
    send(world, vnet, length < MOST_FRAME ? length : MOST_FRAME);
}

/* Some that were sent, in a row; here and there one is left out or spoilt. */
static void give_kept(struct world *world)
{
    uint8_t first = next_u8(&world->script), count = next_u8(&world->script), lost = next_u8(&world->script);
    for (unsigned at = 0; at < count % (KEPT + 1); at++) {
        struct kept *kept = &world->kept[(first + at) % KEPT];
        if (kept->bytes == NULL || (lost != 0 && at % lost == 1))
            continue;
        if ((first & 0xc0) == 0xc0) {
            size_t spoilt = next_u16(&world->script) % kept->length;
            kept->bytes[spoilt] ^= next_u8(&world->script);
        }
        give(world, kept->bytes, kept->length);
    }
}

static void give_raw(struct world *world)
{
    uint8_t raw[256];
    size_t length = next_u8(&world->script);
    next_bytes(&world->script, raw, length);
    if (length & 1)
        give(world, raw, length);
    else
        give_record(world, raw, length);
}

/* A slice of a super-frame that nobody ever sent as a whole. */
static void give_slice(struct world *world)
{
    static uint8_t record[SLICE_HEAD_BYTES + MOST_FRAME];
    static uint8_t whole[MOST_FRAME];
    uint8_t how = next_u8(&world->script);
    size_t length = write_any_super_frame(world, record + SLICE_VNET_AT, whole), each = 1 + next_u16(&world->script) % 8192;
    size_t count = (length + each - 1) / each, index = next_u8(&world->script);
    if (count > MAX_SLICES)
        return;
    record[0] = 2;
    record[2] = (uint8_t)count;
    record[3] = how & 1 ? VNET_FLAG : how & 3;
    put_u32(record + 4, how >> 2 & 7 ? how >> 2 & 7 : UINT32_MAX);
    if (record[3] != VNET_FLAG)
        memset(record + SLICE_VNET_AT, 0, VNET_BYTES);
    for (size_t rest = how & 32 ? count : 1; rest > 0; rest--, index++) {
        size_t at = index % count * each, part = length - at < each ? length - at : each;
        if ((how & 64) && rest % 3 == 2)
            continue;
        if ((how & 128) && record[3] != VNET_FLAG) /* more than there is: longer than any frame, maybe */
            at = 0, part = each;
        record[1] = (uint8_t)(how & 128 ? index : index % count);
        memcpy(record + SLICE_HEAD_BYTES, whole + at, part);
        give_record(world, record, SLICE_HEAD_BYTES + part);
    }
}

static void pass_time(struct world *world)
{
    static const double steps[] = {0, 0.001, 0.004, 0.005, 0.5, 1, 20};
    struct sink sink = sink_of(world);
    world->now += steps[next_u8(&world->script) % (sizeof steps / sizeof *steps)];
    lane_handle_timeout(&world->lane, world->now, &sink);
    double next = lane_next_timeout(&world->lane);
    MUST(next == 0 || next > world->now);
}

static void take_asks(struct world *world)
{
    struct sink sink = sink_of(world);
    for (struct ask *ask = lane_take_asks(&world->lane), *next; ask != NULL; ask = next) {
        struct session *session = ask->kind == ASK_RECORD ? lane_session(&world->lane, ask->number) : NULL;
        struct port *port = ask->kind == ASK_FRAME ? lane_port(&world->lane, ask->number) : NULL;
        next = ask->next;
        if (session != NULL && !session->awaiting)
            lane_take_record(&world->lane, session, ask->bytes, ask->length, world->now, &sink);
        if (port != NULL && port->claim.bridge)
            MUST(lane_add_station(&world->lane, ask->bytes + VNET_BYTES + 6, port));
        free(ask);
    }
}

static void forget_station(struct world *world)
{
    uint8_t mac[6];
    mac_of(mac, next_u8(&world->script) % (PORTS + 1));
    lane_remove_station(&world->lane, mac);
}

static void start(struct world *world)
{
    const char *reason;
    static const struct provider *provider;
    if (provider == NULL)
        provider = provider_load(LIBRARY_NONE, "", SUITE_AES_256_GCM, &reason);
    world->provider = provider;
    world->now = 1;
    world->outbox.segments = 1 + next_u8(&world->script) % MAX_SEGMENTS;
    MUST(lane_init(&world->lane, (const uint8_t *)"\x02\xfa\x64\x40\x00\x09"));
}

static void finish(struct world *world)
{
    lane_flush(&world->lane, world->now, &world->outbox);
    take_outbox(world);
    lane_free(&world->lane);
    outbox_free(&world->outbox);
    for (unsigned at = 0; at < KEPT; at++)
        free(world->kept[at].bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length)
{
    static void (*const actions[])(struct world *) = {
        add_port,  install,  steer,      promote_or_retire, send_super_frame, send_any,       give_kept,
        give_kept, give_raw, give_slice, pass_time,         take_asks,        forget_station, remove_port,
    };
    struct world world = {.script = {input, length}};
    start(&world);
    while (world.script.length > 0) {
        actions[next_u8(&world.script) % (sizeof actions / sizeof *actions)](&world);
        if (world.lane.unflushed == NULL)
            check_bounds(&world);
    }
    finish(&world);
    return 0;
}
