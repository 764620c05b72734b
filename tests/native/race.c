/* Two lanes with their threads, real sockets between them and packet sockets for devices; a third thread steers both.
 *
 *     feeder --device--> lane 0 ==UDP on loopback== lane 1 --device--> drain       and the same the other way round
 *                           \---- steerer: install, promote, retire, steer, take traffic and asks ----/
 *
 * For ThreadSanitizer: it sees who touches what without a lock. Argument: seconds. */
#include "script.h"
#include "threads.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { UDP_OPTIONS = 17, UDP_GRO = 104, FRAME_ROOM = VNET_BYTES + MAX_FRAME_BYTES };

struct end {
    struct lane lane;
    struct threads threads;
    int device, host, udp; /* the lane's side of the device, and this host's */
    uint16_t port;
    uint8_t mac[6], ip[16];
    struct end *peer;
    struct port *to_peer;
    pthread_t feeder, drain;
    unsigned long fed, drained, super_frames, reports, asks;
};

static struct end ends[2];
static atomic_bool is_over;
static const struct provider *provider;
static uint32_t generation;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_BOOTTIME, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void *feed(void *context)
{
    struct end *end = context;
    uint8_t *item = malloc(FRAME_ROOM + 200);
    while (!atomic_load(&is_over)) {
        uint8_t kind = (uint8_t)(end->fed % 7);
        size_t length;
        if (kind < 4) {
            length = write_super_frame(item, item + VNET_BYTES, kind, 0x18, 3000 + end->fed % 9000, 1000,
                                       end->peer->mac, end->mac, end->mac + 2, end->ip);
        } else {
            length = kind == 4 ? 60 : 1400;
            memset(item, 0, VNET_BYTES + length);
            memcpy(item + VNET_BYTES, end->peer->mac, 6);
            memcpy(item + VNET_BYTES + 6, end->mac, 6);
            put_u16(item + VNET_BYTES + 12, 0x88b5);
            if (kind == 6)
                memset(item + VNET_BYTES, 0xff, 6);
        }
        struct pollfd room = {.fd = end->host, .events = POLLOUT};
        if (write(end->host, item, VNET_BYTES + length) > 0)
            end->fed++;
        else
            poll(&room, 1, 10);
    }
    free(item);
    return NULL;
}

static void *drain(void *context)
{
    struct end *end = context;
    uint8_t *item = malloc(FRAME_ROOM);
    struct pollfd waits = {.fd = end->host, .events = POLLIN};
    while (!atomic_load(&is_over)) {
        ssize_t length = read(end->host, item, FRAME_ROOM);
        if (length > 0) {
            end->drained++;
            end->super_frames += item[1] != GSO_NONE;
        } else {
            poll(&waits, 1, 10);
        }
    }
    free(item);
    return NULL;
}

static void take_both(struct lane *lane)
{
    pthread_mutex_lock(&lane->out);
    pthread_mutex_lock(&lane->in);
}

static void give_both(struct lane *lane)
{
    pthread_mutex_unlock(&lane->in);
    pthread_mutex_unlock(&lane->out);
}

static void install(struct end *end, uint32_t index)
{
    static const uint8_t key[KEY_BYTES];
    take_both(&end->lane);
    struct session *session = lane_add_session(&end->lane, index, end->to_peer);
    MUST(session != NULL);
    session->awaiting = index % 4 == 0;
    session->sealer.remote_index = index;
    MUST(aead_make(&session->sealer.aead, provider, SUITE_CHACHA20_POLY1305, key, true));
    MUST(aead_make(&session->opener.aead, provider, SUITE_CHACHA20_POLY1305, key, false));
    give_both(&end->lane);
}

static void promote(struct end *end, uint32_t index)
{
    take_both(&end->lane);
    struct session *session = lane_session(&end->lane, index);
    session->awaiting = false;
    port_seal_with(end->to_peer, session);
    give_both(&end->lane);
}

static void retire(struct end *end, uint32_t index)
{
    take_both(&end->lane);
    struct session *session = lane_session(&end->lane, index);
    if (session != NULL)
        lane_remove_session(&end->lane, session);
    give_both(&end->lane);
}

static void steer(struct end *end, size_t limit)
{
    struct way to = {.family = 4, .transport = TRANSPORT_UDP, .port = end->peer->port, .ip = {127, 0, 0, 1}}, none = {0};
    take_both(&end->lane);
    MUST(port_steer(end->to_peer, &to, limit, generation % 5 == 0 ? &to : &none, now()));
    give_both(&end->lane);
}

/* As module.c does it. */
static void take_news(struct end *end)
{
    struct lane *lane = &end->lane;
    uint64_t rung;
    while (read(lane->ask_event, &rung, sizeof rung) > 0 || read(lane->news_event, &rung, sizeof rung) > 0)
        ;
    for (struct ask *ask = lane_take_asks(lane), *next; ask != NULL; ask = next, end->asks++) {
        next = ask->next;
        free(ask);
    }
    take_both(lane);
    atomic_store(&lane->has_told_news, false);
    lane->is_urgent = false;
    for (struct session *session = lane->touched_out; session != NULL; session = session->next_out, end->reports++)
        session->out_touched = false;
    for (struct session *session = lane->touched_in; session != NULL; session = session->next_in, end->reports++)
        session->in_touched = false;
    lane->touched_out = lane->touched_in = NULL;
    give_both(lane);
    MUST(atomic_load(&end->threads.failure) == 0);
}

static void open_end(struct end *end, unsigned number)
{
    int pair[2], one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
    end->device = pair[0];
    end->host = pair[1];
    end->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    MUST(bind(end->udp, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(getsockname(end->udp, (struct sockaddr *)&address, &length) == 0);
    setsockopt(end->udp, UDP_OPTIONS, UDP_GRO, &one, sizeof one);
    end->port = ntohs(address.sin_port);
    memcpy(end->mac, "\x02\xfa\x64\x40\x00", 5);
    end->mac[5] = (uint8_t)(number + 1);
    end->ip[0] = 0xfd;
    end->ip[15] = (uint8_t)(number + 1);
    end->peer = &ends[1 - number];
    MUST(lane_init(&end->lane, end->mac));
    end->lane.ask_event = eventfd(0, EFD_NONBLOCK);
    end->lane.news_event = eventfd(0, EFD_NONBLOCK);
}

static void know_peer(struct end *end)
{
    const struct end *peer = end->peer;
    end->to_peer = lane_add_port(&end->lane, 1);
    end->to_peer->claim = (struct claim){.count = 2};
    memcpy(end->to_peer->claim.mac, peer->mac, 6);
    memcpy(end->to_peer->claim.own_mac, end->mac, 6);
    end->to_peer->claim.addresses[0].length = 4;
    memcpy(end->to_peer->claim.addresses[0].ip, peer->mac + 2, 4);
    end->to_peer->claim.addresses[1].length = 16;
    memcpy(end->to_peer->claim.addresses[1].ip, peer->ip, 16);
    MUST(lane_add_station(&end->lane, peer->mac, end->to_peer));
}

static void steer_all(double until)
{
    static const size_t limits[] = {1472, 700, 9000, 1200, 4000};
    while (now() < until) {
        generation++;
        for (int at = 0; at < 2; at++)
            install(&ends[at], generation);
        for (int at = 0; at < 2; at++) {
            steer(&ends[at], limits[generation % 5]);
            promote(&ends[at], generation);
        }
        for (int at = 0; at < 2; at++) {
            if (generation > 2)
                retire(&ends[at], generation - 2);
            take_news(&ends[at]);
        }
        poll(NULL, 0, 1);
    }
}

int main(int count, char **arguments)
{
    const char *reason;
    double seconds = count > 1 ? atof(arguments[1]) : 2;
    provider = provider_load(LIBRARY_NONE, "", SUITE_CHACHA20_POLY1305, &reason);
    for (unsigned at = 0; at < 2; at++)
        open_end(&ends[at], at);
    for (int at = 0; at < 2; at++)
        know_peer(&ends[at]);
    for (int at = 0; at < 2; at++) {
        MUST(threads_start(&ends[at].threads, &ends[at].lane, ends[at].device, ends[at].udp, -1, 64) == 0);
        MUST(pthread_create(&ends[at].feeder, NULL, feed, &ends[at]) == 0);
        MUST(pthread_create(&ends[at].drain, NULL, drain, &ends[at]) == 0);
    }
    steer_all(now() + seconds);
    atomic_store(&is_over, true);
    for (int at = 0; at < 2; at++) {
        pthread_join(ends[at].feeder, NULL);
        pthread_join(ends[at].drain, NULL);
        threads_stop(&ends[at].threads);
        take_news(&ends[at]);
        lane_free(&ends[at].lane);
        printf("%lu fed, %lu drained, %lu super-frames, %lu reports, %lu asks\n", ends[at].fed, ends[at].drained,
               ends[at].super_frames, ends[at].reports, ends[at].asks);
        MUST(ends[at].drained > 0 && ends[at].super_frames > 0 && ends[at].reports > 0 && ends[at].asks > 0);
    }
    printf("%u generations\n", (unsigned)generation);
    return 0;
}
