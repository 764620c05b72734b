/* Gives a harness the files named in its arguments, for builds without libFuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t length);

enum { MOST_BYTES = 1 << 20 };

static void replay(const char *path)
{
    static uint8_t room[MOST_BYTES];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    size_t length = fread(room, 1, sizeof room, file);
    fclose(file);
    /* In a block of its own length, so that a read beyond it is seen. */
    uint8_t *input = malloc(length + (length == 0));
    memcpy(input, room, length);
    LLVMFuzzerTestOneInput(input, length);
    free(input);
}

int main(int count, char **arguments)
{
    unsigned replayed = 0;
    for (int at = 1; at < count; at++) {
        DIR *directory = opendir(arguments[at]);
        if (directory == NULL) {
            replay(arguments[at]);
            replayed++;
            continue;
        }
        for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", arguments[at], entry->d_name);
            if (entry->d_name[0] != '.') {
                replay(path);
                replayed++;
            }
        }
        closedir(directory);
    }
    printf("replayed %u\n", replayed);
    return replayed == 0;
}
