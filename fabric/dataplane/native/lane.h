/* A lane: where frames become datagrams, and datagrams frames. No system call, no clock, no thread in it.
 *
 *     frames    --MAC--> port --fill, cut--> sealer --> outbox
 *     datagrams --index--> session --window, open, put together--> guard --> sink
 *               --else--> asks, for Python
 *
 * Two locks make it one thread a direction: `out` is for ports as they send, `in` for sessions as they open. Whoever
 * steers takes both, `out` first. A function says in its comment which it wants held. */
#ifndef FABRIC_LANE_H
#define FABRIC_LANE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "guard.h"
#include "reassembly.h"
#include "session.h"
#include "table.h"

enum drop {
    DROP_MALFORMED,
    DROP_UNKNOWN_INDEX,
    DROP_AUTHENTICATION,
    DROP_REPLAY,
    DROP_COPY,
    DROP_UNKNOWN_KIND,
    DROP_SOURCE_GUARD,
    DROP_NO_SESSION,
    DROP_NO_PATH,
    DROP_OVERSIZE,
    DROP_EXHAUSTED,
    DROP_BACKPRESSURE,
    DROP_REASSEMBLY,
    DROP_QUEUE,
    DROPS
};

enum { TRANSPORT_UDP = 1, TRANSPORT_TCP = 2, TRANSPORT_RELAY_UDP = 3, TRANSPORT_RELAY_TLS = 4 };

/* Where datagrams go to and come from: `fabric.wire.address.Target`. To be cleared before it is filled: it is
 * compared as bytes. */
struct way {
    uint64_t via;
    uint8_t ip[16];
    uint16_t port;
    uint8_t family; /* 4, 6; 0: nowhere */
    uint8_t transport;
    uint8_t unused[4];
};

static inline bool way_is_same(const struct way *one, const struct way *other)
{
    return memcmp(one, other, sizeof *one) == 0;
}

/* Whether it is sent by a main UDP socket. */
static inline bool way_is_main(const struct way *way)
{
    return way->transport == TRANSPORT_UDP && way->via == 0;
}

enum {
    HEADROOM = 64,  /* before a frame that is handed in: for the vnet header, and the head of its first record */
    MAX_DATAGRAM_BYTES = 65507,
    MAX_SEGMENTS = 128,      /* UDP_MAX_SEGMENTS of Linux 6.9 */
    MAX_RUN_BYTES = 64000,   /* a UDP send that is longer arrives in pieces */
    LENGTH_BYTES = 2,
    FRAMES_HEAD_BYTES = 3,
    MIN_FRAME_BYTES = 14,
    ETHERNET_MINIMUM = 60,
    MAX_ASKS = 4096,
    MAX_ASKED_BYTES = 4 << 20,
    ASKERS = 64,
};

static const double COPY_LINGER_S = 10.0;

/* Datagrams that follow each other to one place, all of `each` bytes but a shorter last one. */
struct run {
    struct way to, copy_to;
    size_t at, bytes, each;
    unsigned count;
    bool is_closed;
};

struct outbox {
    uint8_t *bytes;
    size_t used, size;
    struct run *runs;
    size_t run_count, run_size;
    unsigned segments; /* at most in a run */
};

struct port {
    uint32_t number;
    struct claim claim;
    struct session *sealing;
    struct way to, copy_to;
    double copied_until;
    size_t limit, room, enough;
    uint32_t slice_id;
    uint8_t *waiting; /* a record of frames that is being filled, behind its kind */
    size_t waiting_bytes, waiting_size;
    unsigned waiting_frames;
    struct port *next_unflushed;
    bool is_unflushed;
    uint64_t rx_bytes, tx_bytes, rx_drops[DROPS], tx_drops[DROPS];
};

struct session {
    uint32_t index;
    struct port *port;
    bool awaiting;
    struct sealer sealer;
    uint64_t sealed;
    double last_sealed;
    bool out_touched;
    struct session *next_out;

    struct opener opener;
    struct reassembly reassembly;
    uint64_t opened;
    double last_opened;
    struct way source;
    bool in_touched, is_reassembling;
    struct session *next_in, *next_reassembling;
};

/* What Python is asked to do. */
enum ask_kind {
    ASK_UNADDRESSED, /* a frame of this host, with its vnet header, for no port in particular */
    ASK_LEFTOVER,    /* a datagram that is not DATA, from `way` */
    ASK_RECORD,      /* the plain record of a session `number` that awaits its promotion */
    ASK_CONTROL,     /* a message for core, of session `number`, from `way` */
    ASK_FRAME,       /* a frame from port `number` that the guard must look into, with its vnet header */
    ASK_SEND,        /* a sealed datagram for `way`, which no main socket serves */
    ASK_TOO_LONG,    /* this host's own devices refused a datagram of `number` bytes to `way` */
    ASK_SEGMENT,     /* a super-frame for this host that its kernel does not take */
};

struct ask {
    struct ask *next;
    enum ask_kind kind;
    uint32_t number;
    struct way way;
    size_t length;
    uint8_t bytes[];
};

/* Of the room for what is asked: strangers get half of it, each peer a quarter, so that nobody's flood is all that
 * Python gets to hear. */
struct share {
    size_t count, bytes;
};

/* A MAC behind a port. `seen` is set when a frame comes from one that was learned. */
struct station {
    struct port *port;
    uint8_t mac[6];
    bool seen;
    struct station *next;
};

struct sink {
    void *context;
    void (*deliver)(void *context, const struct iovec *parts, int count);
};

struct lane {
    uint8_t mac[6];
    pthread_mutex_t out, in, asking;
    struct table stations, ports, sessions;
    struct station *all_stations;
    struct port *unflushed;
    struct session *touched_out, *touched_in, *reassembling;
    uint64_t out_drops[DROPS], in_drops[DROPS]; /* of no known peer */
    double now;                                 /* when the last datagram came */
    atomic_uint_fast64_t unopened;              /* came so far by main sockets, and opened under no session */
    atomic_bool is_urgent;                      /* a session that awaits its promotion has opened something */

    struct ask *first_ask, *last_ask;
    struct share asked, asked_by[ASKERS]; /* all together; by kind, or by the number of who it comes from */
    uint64_t unasked;
    uint64_t unopened_told;    /* of `unopened`, when somebody last asked what is new; under `in` */
    int ask_event, news_event; /* written to when there is something; -1 for none */
    atomic_bool has_told_news;
};

bool lane_init(struct lane *lane, const uint8_t mac[6]);
void lane_free(struct lane *lane);

/* Steering: both locks held. Each returns false where memory is short, and has then changed nothing. */
struct port *lane_port(const struct lane *lane, uint32_t number);
struct session *lane_session(const struct lane *lane, uint32_t index);
struct port *lane_add_port(struct lane *lane, uint32_t number);
void lane_remove_port(struct lane *lane, struct port *port);
bool lane_add_station(struct lane *lane, const uint8_t mac[6], struct port *port);
void lane_remove_station(struct lane *lane, const uint8_t mac[6]);
struct session *lane_add_session(struct lane *lane, uint32_t index, struct port *port);
void lane_remove_session(struct lane *lane, struct session *session);
bool port_steer(struct port *port, const struct way *to, size_t limit, const struct way *copy_to, double now);
void port_seal_with(struct port *port, struct session *session);

/* Sending: `out` held. `frame` has HEADROOM bytes before it, which are ours, and all of it may be overwritten. */
void lane_send_frame(struct lane *lane, const uint8_t vnet[VNET_BYTES], uint8_t *frame, size_t length, double now,
                     struct outbox *outbox);
void port_send_frame(struct lane *lane, struct port *port, const uint8_t vnet[VNET_BYTES], uint8_t *frame,
                     size_t length, double now, struct outbox *outbox);
void lane_flush(struct lane *lane, double now, struct outbox *outbox);

/* Receiving: `in` held. The datagram is overwritten. */
void lane_take_datagram(struct lane *lane, uint8_t *datagram, size_t length, const struct way *source, double now,
                        const struct sink *sink);
/* A record that was opened before its session was promoted. */
void lane_take_record(struct lane *lane, struct session *session, uint8_t *record, size_t length, double now,
                      const struct sink *sink);
void lane_handle_timeout(struct lane *lane, double now, const struct sink *sink);
double lane_next_timeout(const struct lane *lane); /* 0 for never */

/* No lock held. */
void lane_ask(struct lane *lane, enum ask_kind kind, uint32_t number, const struct way *way, const struct iovec *parts,
              int count);
struct ask *lane_take_asks(struct lane *lane);
void lane_tell_news(struct lane *lane); /* some time */
void lane_press(struct lane *lane);     /* now */

bool outbox_make_room(struct outbox *outbox, size_t bytes);
void outbox_clear(struct outbox *outbox);
void outbox_free(struct outbox *outbox);

#endif
