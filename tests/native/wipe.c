/* What is left of a key in this process's memory once its session is removed: nothing that this program can find.
 *
 * `free` is interposed: every block that is given back while the session goes is kept, and looked through. */
#include "script.h"

#include <malloc.h>

enum { WATCHED = 256 };

static uint8_t seal_key[KEY_BYTES], open_key[KEY_BYTES];

struct watched {
    const uint8_t *at;
    size_t length;
};

static struct watched watched[WATCHED];
static size_t watched_count;
static bool is_watching;

/* Half a key would be found as well. */
static bool has_key(const uint8_t *at, size_t length)
{
    for (size_t from = 0; from + KEY_BYTES / 2 <= length; from++)
        for (int half = 0; half < 2; half++)
            if (memcmp(at + from, seal_key + half * KEY_BYTES / 2, KEY_BYTES / 2) == 0 ||
                memcmp(at + from, open_key + half * KEY_BYTES / 2, KEY_BYTES / 2) == 0)
                return true;
    return false;
}

extern void __libc_free(void *block);
void free(void *block);

/* Of this program, and of every library in it. */
void free(void *block)
{
    if (!is_watching || block == NULL) {
        __libc_free(block);
        return;
    }
    MUST(watched_count < WATCHED);
    watched[watched_count++] = (struct watched){block, malloc_usable_size(block)};
}

static unsigned look(enum library library, const char *path, enum suite suite)
{
    const char *reason;
    const struct provider *provider = provider_load(library, path, suite, &reason);
    struct lane lane;
    unsigned found = 0, schedules = 0;
    if (provider == NULL) {
        printf("%s: %s\n", path, reason);
        return 0;
    }
    for (int at = 0; at < KEY_BYTES; at++) {
        seal_key[at] = (uint8_t)(17 * at + 3);
        open_key[at] = (uint8_t)(29 * at + 5);
    }
    MUST(lane_init(&lane, (const uint8_t *)"\x02\0\0\0\0\1"));
    struct session *session = lane_add_session(&lane, 5, lane_add_port(&lane, 1));
    MUST(aead_make(&session->sealer.aead, provider, suite, seal_key, true));
    MUST(aead_make(&session->opener.aead, provider, suite, open_key, false));
    uint8_t datagram[OVERHEAD_BYTES + 4];
    MUST(sealer_seal(&session->sealer, (const uint8_t *)"four", 4, datagram));
    schedules += has_key(session->sealer.aead.state, malloc_usable_size(session->sealer.aead.state));
    schedules += has_key(session->opener.aead.state, malloc_usable_size(session->opener.aead.state));
    watched_count = 0;
    is_watching = true;
    lane_remove_session(&lane, session);
    is_watching = false;
    MUST(watched_count >= 3);
    for (size_t at = 0; at < watched_count; at++)
        found += has_key(watched[at].at, watched[at].length);
    for (size_t at = 0; at < watched_count; at++)
        __libc_free((void *)watched[at].at);
    lane_free(&lane);
    printf("%s, suite %d: %zu blocks given back, key seen before in %u states, after in %u blocks\n", path, (int)suite,
           watched_count, schedules, found);
    MUST(found == 0);
    return schedules;
}

/* Arguments: library number and path, for each. */
int main(int count, char **arguments)
{
    unsigned schedules = 0, looked = 0;
    for (int at = 1; at + 1 < count; at += 2)
        for (int suite = SUITE_AES_256_GCM; suite <= SUITE_CHACHA20_POLY1305; suite++, looked++)
            schedules += look((enum library)atoi(arguments[at]), arguments[at + 1], (enum suite)suite);
    printf("looked at %u\n", looked);
    return looked != 0 && schedules == 0; /* a search that finds no key where it lies proves nothing */
}
