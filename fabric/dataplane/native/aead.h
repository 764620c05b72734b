/* The two ciphers of a session, from whichever library the machine has.
 *
 * No header and no link to any of them is needed to build this: the functions are looked up in a shared object when
 * the lane starts, and believed only when they give known answers (NIST's and the RFC's test vectors). */
#ifndef FABRIC_AEAD_H
#define FABRIC_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KEY_BYTES = 32, NONCE_BYTES = 12, TAG_BYTES = 16 };

enum suite { SUITE_AES_256_GCM = 1, SUITE_CHACHA20_POLY1305 = 2 };

enum library { LIBRARY_OPENSSL, LIBRARY_SODIUM, LIBRARY_NONE };

struct provider;

/* One key at work in one direction. */
struct aead {
    const struct provider *provider;
    enum suite suite;
    bool seals;
    void *state;
};

/* Returns a provider of `suite` from the shared object at `path`, or NULL with a reason. It is never given back. */
const struct provider *provider_load(enum library library, const char *path, enum suite suite, const char **reason);

/* Writes the library's version, for people, at most `size` bytes with the closing zero. */
void provider_version(const struct provider *provider, char *text, size_t size);

/* False where memory is short, and then there is nothing to wipe. */
bool aead_make(struct aead *aead, const struct provider *provider, enum suite suite, const uint8_t key[KEY_BYTES],
               bool seals);

/* Overwrites the key and everything that was made from it. */
void aead_wipe(struct aead *aead);

/* Writes `length` bytes of ciphertext and the tag to `out`. `message` and `out` are the same or do not overlap. */
bool aead_seal(const struct aead *aead, const uint8_t nonce[NONCE_BYTES], const uint8_t *header, size_t header_bytes,
               const uint8_t *message, size_t length, uint8_t *out);

/* Opens `length` bytes, the tag included, in place; false where exactly these bytes were not sealed so. */
bool aead_open(const struct aead *aead, const uint8_t nonce[NONCE_BYTES], const uint8_t *header, size_t header_bytes,
               uint8_t *sealed, size_t length);

#endif
