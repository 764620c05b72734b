#include "aead.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* OpenSSL, as its manual pages EVP_EncryptInit(3) and OpenSSL_version_num(3) declare it. */

enum { EVP_CTRL_AEAD_GET_TAG = 0x10, EVP_CTRL_AEAD_SET_TAG = 0x11 };

typedef void EVP_CIPHER;
typedef void EVP_CIPHER_CTX;

struct openssl {
    const EVP_CIPHER *cipher;
    unsigned long version;
    EVP_CIPHER_CTX *(*context_new)(void);
    void (*context_free)(EVP_CIPHER_CTX *);
    int (*init)(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const uint8_t *, const uint8_t *, int);
    int (*update)(EVP_CIPHER_CTX *, uint8_t *, int *, const uint8_t *, int);
    int (*final)(EVP_CIPHER_CTX *, uint8_t *, int *);
    int (*control)(EVP_CIPHER_CTX *, int, int, void *);
};

/* libsodium, as its documentation of `crypto_aead_*` declares it; AES with its key schedule kept. */

typedef int sodium_seal(uint8_t *, unsigned long long *, const uint8_t *, unsigned long long, const uint8_t *,
                        unsigned long long, const uint8_t *, const uint8_t *, const void *);
typedef int sodium_open(uint8_t *, unsigned long long *, uint8_t *, const uint8_t *, unsigned long long,
                        const uint8_t *, unsigned long long, const uint8_t *, const void *);

struct sodium {
    const char *version;
    int (*schedule)(void *, const uint8_t *); /* NULL: the key itself is the state */
    size_t state_bytes;
    sodium_seal *seal;
    sodium_open *open;
};

struct provider {
    enum library library;
    union {
        struct openssl openssl;
        struct sodium sodium;
    } of;
};

static bool find(void *object, const char *name, void *function)
{
    void *found = dlsym(object, name);
    memcpy(function, &found, sizeof found); /* ISO C knows no cast from an object's address to a function's */
    return found != NULL;
}

static const char *load_openssl(struct openssl *library, void *object, enum suite suite)
{
    unsigned long (*version)(void);
    const EVP_CIPHER *(*cipher)(void);
    if (!find(object, "OpenSSL_version_num", &version) ||
        !find(object, suite == SUITE_AES_256_GCM ? "EVP_aes_256_gcm" : "EVP_chacha20_poly1305", &cipher) ||
        !find(object, "EVP_CIPHER_CTX_new", &library->context_new) ||
        !find(object, "EVP_CIPHER_CTX_free", &library->context_free) ||
        !find(object, "EVP_CipherInit_ex", &library->init) ||
        !find(object, "EVP_CipherUpdate", &library->update) ||
        !find(object, "EVP_CipherFinal_ex", &library->final) ||
        !find(object, "EVP_CIPHER_CTX_ctrl", &library->control))
        return "it lacks a function";
    library->version = version();
    library->cipher = cipher();
    return library->cipher ? NULL : "it lacks the cipher";
}

static const char *load_sodium(struct sodium *library, void *object, enum suite suite)
{
    int (*init)(void);
    const char *(*version)(void);
    /* PyNaCl's own copy shows neither; importing it has initialised it. */
    if (find(object, "sodium_init", &init) && init() < 0)
        return "it can't be initialised";
    library->version = find(object, "sodium_version_string", &version) ? version() : "";
    if (suite == SUITE_CHACHA20_POLY1305) {
        library->schedule = NULL;
        library->state_bytes = KEY_BYTES;
        return find(object, "crypto_aead_chacha20poly1305_ietf_encrypt", &library->seal) &&
                       find(object, "crypto_aead_chacha20poly1305_ietf_decrypt", &library->open)
                   ? NULL
                   : "it lacks a function";
    }
    int (*available)(void);
    size_t (*state_bytes)(void);
    if (!find(object, "crypto_aead_aes256gcm_is_available", &available) ||
        !find(object, "crypto_aead_aes256gcm_statebytes", &state_bytes) ||
        !find(object, "crypto_aead_aes256gcm_beforenm", &library->schedule) ||
        !find(object, "crypto_aead_aes256gcm_encrypt_afternm", &library->seal) ||
        !find(object, "crypto_aead_aes256gcm_decrypt_afternm", &library->open))
        return "it lacks a function";
    library->state_bytes = state_bytes();
    return available() ? NULL : "it has no AES for this processor";
}

enum { CACHE_LINE = 64 };

static void *state_new(size_t bytes)
{
    return aligned_alloc(CACHE_LINE, (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
}

bool aead_make(struct aead *aead, const struct provider *provider, enum suite suite, const uint8_t key[KEY_BYTES],
               bool seals)
{
    *aead = (struct aead){.provider = provider, .suite = suite, .seals = seals};
    if (provider->library == LIBRARY_OPENSSL) {
        const struct openssl *library = &provider->of.openssl;
        aead->state = library->context_new();
        if (aead->state && library->init(aead->state, library->cipher, NULL, key, NULL, seals) != 1)
            aead_wipe(aead);
    } else if (provider->library == LIBRARY_SODIUM) {
        const struct sodium *library = &provider->of.sodium;
        aead->state = state_new(library->state_bytes);
        if (aead->state && library->schedule)
            library->schedule(aead->state, key);
        else if (aead->state)
            memcpy(aead->state, key, KEY_BYTES);
    } else {
        aead->state = state_new(CACHE_LINE);
    }
    return aead->state != NULL;
}

void aead_wipe(struct aead *aead)
{
    if (aead->state == NULL)
        return;
    if (aead->provider->library == LIBRARY_OPENSSL) {
        aead->provider->of.openssl.context_free(aead->state); /* which cleanses it: EVP_CIPHER_CTX_reset(3) */
    } else {
        if (aead->provider->library == LIBRARY_SODIUM)
            explicit_bzero(aead->state, aead->provider->of.sodium.state_bytes);
        free(aead->state);
    }
    aead->state = NULL;
}

static bool openssl_seal(const struct aead *aead, const uint8_t *nonce, const uint8_t *header, size_t header_bytes,
                         const uint8_t *message, size_t length, uint8_t *out)
{
    const struct openssl *library = &aead->provider->of.openssl;
    int done;
    return library->init(aead->state, NULL, NULL, NULL, nonce, -1) == 1 &&
           library->update(aead->state, NULL, &done, header, (int)header_bytes) == 1 &&
           (length == 0 || library->update(aead->state, out, &done, message, (int)length) == 1) &&
           library->final(aead->state, out + length, &done) == 1 &&
           library->control(aead->state, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, out + length) == 1;
}

static bool openssl_open(const struct aead *aead, const uint8_t *nonce, const uint8_t *header, size_t header_bytes,
                         uint8_t *sealed, size_t length)
{
    const struct openssl *library = &aead->provider->of.openssl;
    uint8_t *tag = sealed + length;
    int done;
    return library->init(aead->state, NULL, NULL, NULL, nonce, -1) == 1 &&
           library->update(aead->state, NULL, &done, header, (int)header_bytes) == 1 &&
           (length == 0 || library->update(aead->state, sealed, &done, sealed, (int)length) == 1) &&
           library->control(aead->state, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1 &&
           library->final(aead->state, tag, &done) == 1;
}

bool aead_seal(const struct aead *aead, const uint8_t nonce[NONCE_BYTES], const uint8_t *header, size_t header_bytes,
               const uint8_t *message, size_t length, uint8_t *out)
{
    if (aead->provider->library == LIBRARY_OPENSSL)
        return openssl_seal(aead, nonce, header, header_bytes, message, length, out);
    if (aead->provider->library == LIBRARY_SODIUM)
        return aead->provider->of.sodium.seal(out, NULL, message, length, header, header_bytes, NULL, nonce,
                                              aead->state) == 0;
    memmove(out, message, length);
    memset(out + length, 0, TAG_BYTES);
    return true;
}

bool aead_open(const struct aead *aead, const uint8_t nonce[NONCE_BYTES], const uint8_t *header, size_t header_bytes,
               uint8_t *sealed, size_t length)
{
    if (length < TAG_BYTES)
        return false;
    if (aead->provider->library == LIBRARY_OPENSSL)
        return openssl_open(aead, nonce, header, header_bytes, sealed, length - TAG_BYTES);
    if (aead->provider->library == LIBRARY_SODIUM)
        return aead->provider->of.sodium.open(sealed, NULL, NULL, sealed, length, header, header_bytes, nonce,
                                              aead->state) == 0;
    return true;
}

/* Known answers: NIST's GCM test case 16 and RFC 8439 section 2.8.2. */

struct answer {
    enum suite suite;
    uint8_t key[KEY_BYTES];
    uint8_t nonce[NONCE_BYTES];
    const char *header;
    size_t header_bytes;
    const char *message;
    size_t length;
    const char *sealed;
};

static const struct answer answers[] = {
    {SUITE_AES_256_GCM,
     {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08,
      0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08},
     {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88},
     "\xfe\xed\xfa\xce\xde\xad\xbe\xef\xfe\xed\xfa\xce\xde\xad\xbe\xef\xab\xad\xda\xd2",
     20,
     "\xd9\x31\x32\x25\xf8\x84\x06\xe5\xa5\x59\x09\xc5\xaf\xf5\x26\x9a\x86\xa7\xa9\x53\x15\x34\xf7\xda\x2e\x4c\x30\x3d"
     "\x8a\x31\x8a\x72\x1c\x3c\x0c\x95\x95\x68\x09\x53\x2f\xcf\x0e\x24\x49\xa6\xb5\x25\xb1\x6a\xed\xf5\xaa\x0d\xe6\x57"
     "\xba\x63\x7b\x39",
     60,
     "\x52\x2d\xc1\xf0\x99\x56\x7d\x07\xf4\x7f\x37\xa3\x2a\x84\x42\x7d\x64\x3a\x8c\xdc\xbf\xe5\xc0\xc9\x75\x98\xa2\xbd"
     "\x25\x55\xd1\xaa\x8c\xb0\x8e\x48\x59\x0d\xbb\x3d\xa7\xb0\x8b\x10\x56\x82\x88\x38\xc5\xf6\x1e\x63\x93\xba\x7a\x0a"
     "\xbc\xc9\xf6\x62\x76\xfc\x6e\xce\x0f\x4e\x17\x68\xcd\xdf\x88\x53\xbb\x2d\x55\x1b"},
    {SUITE_CHACHA20_POLY1305,
     {0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f,
      0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f},
     {0x07, 0x00, 0x00, 0x00, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47},
     "\x50\x51\x52\x53\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7",
     12,
     "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be "
     "it.",
     114,
     "\xd3\x1a\x8d\x34\x64\x8e\x60\xdb\x7b\x86\xaf\xbc\x53\xef\x7e\xc2\xa4\xad\xed\x51\x29\x6e\x08\xfe\xa9\xe2\xb5\xa7"
     "\x36\xee\x62\xd6\x3d\xbe\xa4\x5e\x8c\xa9\x67\x12\x82\xfa\xfb\x69\xda\x92\x72\x8b\x1a\x71\xde\x0a\x9e\x06\x0b\x29"
     "\x05\xd6\xa5\xb6\x7e\xcd\x3b\x36\x92\xdd\xbd\x7f\x2d\x77\x8b\x8c\x98\x03\xae\xe3\x28\x09\x1b\x58\xfa\xb3\x24\xe4"
     "\xfa\xd6\x75\x94\x55\x85\x80\x8b\x48\x31\xd7\xbc\x3f\xf4\xde\xf0\x8e\x4b\x7a\x9d\xe5\x76\xd2\x65\x86\xce\xc6\x4b"
     "\x61\x16\x1a\xe1\x0b\x59\x4f\x09\xe2\x6a\x7e\x90\x2e\xcb\xd0\x60\x06\x91"},
};

static bool answers_hold(const struct answer *known, const struct aead *seal, const struct aead *open)
{
    const uint8_t *header = (const uint8_t *)known->header, *message = (const uint8_t *)known->message;
    uint8_t sealed[256];
    for (int in_place = 0; in_place < 2; in_place++) {
        memcpy(sealed, message, known->length);
        if (!aead_seal(seal, known->nonce, header, known->header_bytes, in_place ? sealed : message, known->length,
                       sealed) ||
            memcmp(sealed, known->sealed, known->length + TAG_BYTES) != 0)
            return false;
    }
    if (!aead_open(open, known->nonce, header, known->header_bytes, sealed, known->length + TAG_BYTES) ||
        memcmp(sealed, message, known->length) != 0)
        return false;
    memcpy(sealed, known->sealed, known->length + TAG_BYTES);
    sealed[known->length] ^= 1;
    return !aead_open(open, known->nonce, header, known->header_bytes, sealed, known->length + TAG_BYTES);
}

static bool knows_answers(const struct provider *provider, enum suite suite)
{
    for (size_t at = 0; at < sizeof answers / sizeof *answers; at++) {
        if (answers[at].suite != suite)
            continue;
        struct aead seal, open;
        if (!aead_make(&seal, provider, suite, answers[at].key, true))
            return false;
        bool holds = false;
        if (aead_make(&open, provider, suite, answers[at].key, false)) {
            holds = answers_hold(&answers[at], &seal, &open);
            aead_wipe(&open);
        }
        aead_wipe(&seal);
        return holds;
    }
    return false;
}

const struct provider *provider_load(enum library library, const char *path, enum suite suite, const char **reason)
{
    struct provider *provider = calloc(1, sizeof *provider);
    *reason = "there is no memory";
    if (provider == NULL)
        return NULL;
    provider->library = library;
    if (library == LIBRARY_NONE)
        return provider;
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (object == NULL)
        *reason = "it can't be loaded";
    else
        *reason = library == LIBRARY_OPENSSL ? load_openssl(&provider->of.openssl, object, suite)
                                             : load_sodium(&provider->of.sodium, object, suite);
    if (object != NULL && *reason == NULL && !knows_answers(provider, suite))
        *reason = "it gives wrong answers";
    if (*reason == NULL)
        return provider;
    free(provider); /* the object stays: what it has set up in this process may not be taken away under it */
    return NULL;
}

void provider_version(const struct provider *provider, char *text, size_t size)
{
    if (provider->library == LIBRARY_OPENSSL) {
        unsigned long version = provider->of.openssl.version; /* 0xMNN00PP0 since 3.0 */
        snprintf(text, size, "OpenSSL %lu.%lu.%lu", version >> 28, version >> 20 & 0xff, version >> 4 & 0xff);
    } else if (provider->library == LIBRARY_SODIUM) {
        const char *version = provider->of.sodium.version;
        snprintf(text, size, "libsodium%s%s", *version ? " " : "", version);
    } else {
        snprintf(text, size, "none");
    }
}
