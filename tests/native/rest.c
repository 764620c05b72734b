/* What send_answers has read from the device and not sent in its one turn leaves all the same, though the device says
 * nothing of it any more: rounds of more frames than a turn sends, each waited for. */
#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include "script.h"
#include "threads.h"

enum { ROUNDS = 20, FRAMES = 100, FRAME_BYTES = 100, PATIENCE_MS = 2000 };

static struct lane lane;
static struct threads threads;

static uint64_t sent(const struct port *port)
{
    pthread_mutex_lock(&lane.out);
    uint64_t bytes = port->tx_bytes;
    pthread_mutex_unlock(&lane.out);
    return bytes;
}

static int open_udp(struct sockaddr_in *address)
{
    socklen_t length = sizeof *address;
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    MUST(udp >= 0 && bind(udp, (struct sockaddr *)address, sizeof *address) == 0);
    MUST(getsockname(udp, (struct sockaddr *)address, &length) == 0);
    return udp;
}

int main(void)
{
    static const uint8_t key[KEY_BYTES], mine[] = {2, 0, 0, 0, 0, 1}, theirs[] = {2, 0, 0, 0, 0, 2};
    const char *reason;
    const struct provider *provider = provider_load(LIBRARY_NONE, "", SUITE_CHACHA20_POLY1305, &reason);
    struct sockaddr_in own, other;
    int device[2], udp = open_udp(&own);
    open_udp(&other);
    MUST(provider != NULL && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, device) == 0);
    MUST(lane_init(&lane, mine));
    struct port *port = lane_add_port(&lane, 1);
    MUST(port != NULL && lane_add_station(&lane, theirs, port));
    struct session *session = lane_add_session(&lane, 1, port);
    MUST(aead_make(&session->sealer.aead, provider, SUITE_CHACHA20_POLY1305, key, true));
    MUST(aead_make(&session->opener.aead, provider, SUITE_CHACHA20_POLY1305, key, false));
    struct way to = {.family = 4, .transport = TRANSPORT_UDP, .port = ntohs(other.sin_port), .ip = {127, 0, 0, 1}};
    struct way nowhere = {0};
    MUST(port_steer(port, &to, 1472, &nowhere, 0));
    port_seal_with(port, session);
    MUST(threads_start(&threads, &lane, device[0], udp, -1, 64) == 0);
    uint8_t item[VNET_BYTES + FRAME_BYTES] = {0};
    memcpy(item + VNET_BYTES, theirs, 6);
    memcpy(item + VNET_BYTES + 6, mine, 6);
    item[VNET_BYTES + 12] = 0x88;
    item[VNET_BYTES + 13] = 0xb5;
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        for (int frame = 0; frame < FRAMES; frame++)
            MUST(send(device[1], item, sizeof item, 0) == sizeof item);
        send_answers(&threads);
        for (int waited = 0; sent(port) < round * FRAMES * FRAME_BYTES; waited++) {
            MUST(waited < PATIENCE_MS);
            poll(NULL, 0, 1);
        }
    }
    threads_stop(&threads);
    lane_free(&lane);
    puts("nothing stays behind");
    return 0;
}
