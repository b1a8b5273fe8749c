/* A C program as others would write it: an epoll loop of its own with a client in it. Its arguments are an address, a
 * subsystem and a second address of it. It says what is wrong and ends with 1, or says "ok" and ends with 0. */
#define _POSIX_C_SOURCE 200809L
#include "dolmen_initiator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define BLOCK 4096u
#define COMMANDS 64u
#define MANY 8192u
#define CHECK(what)                                                          \
    do {                                                                     \
        if (!(what)) {                                                       \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what,            \
                    client ? dolmen_error_text(client) : "no client");       \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

static dolmen_client *client;
static int loop_fd;

/* One turn of the program's own loop; returns the next completions. */
static size_t turn(struct dolmen_completion *done, size_t most)
{
    struct epoll_event event;
    size_t count;
    dolmen_client_poll(client);
    while ((count = dolmen_completions(client, done, most)) == 0) {
        int64_t ns = dolmen_client_timeout_ns(client);
        int ms = ns < 0 ? -1 : (int)(ns / 1000000) + 1;
        CHECK(epoll_wait(loop_fd, &event, 1, ms) >= 0);
        dolmen_client_poll(client);
    }
    return count;
}

static void one(uint64_t ticket, int outcome)
{
    struct dolmen_completion done;
    CHECK(turn(&done, 1) == 1);
    CHECK(done.ticket == ticket);
    CHECK(done.outcome == outcome);
}

int main(int argc, char **argv)
{
    struct dolmen_options options;
    struct dolmen_namespace ns;
    struct dolmen_completion done[COMMANDS];
    struct dolmen_range ranges[2] = {{8, 4, 0}, {20, 1, 0}};
    dolmen_buffer *buffers[COMMANDS];
    static dolmen_buffer *many[MANY];
    struct epoll_event event;
    uint32_t subsystem, nsids[8], i;
    size_t count, left;

    CHECK(argc == 4 && dolmen_abi() == DOLMEN_ABI);
    CHECK(dolmen_client_new((size_t)-1) == NULL && dolmen_client_new(((size_t)64 << 30) + 1) == NULL);
    CHECK(dolmen_client_new(0) == NULL && dolmen_client_new(1) == NULL && dolmen_client_new((4u << 20) - 1) == NULL);
    client = dolmen_client_new(16u << 20);
    CHECK(client != NULL);
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    loop_fd = epoll_create1(0);
    CHECK(loop_fd >= 0 && epoll_ctl(loop_fd, EPOLL_CTL_ADD, dolmen_client_fd(client), &event) == 0);

    dolmen_options_init(&options);
    CHECK(options.size == sizeof options);
    options.address = argv[1];
    options.subsystem = argv[2];
    options.host = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-00000000000c";
    CHECK(dolmen_connect(client, &options, &subsystem) == DOLMEN_INVALID); /* no host identifier */
    CHECK(strstr(dolmen_error_text(client), "identifier") != NULL);
    options.host_id[0] = 12;
    options.io_queues = 2;
    options.policy = 9;
    CHECK(dolmen_connect(client, &options, &subsystem) == DOLMEN_INVALID);
    options.policy = DOLMEN_ROUND_ROBIN;
    options.more_addresses = argv[3];
    options.data_digest = 1;
    CHECK(dolmen_state(client, 0) == DOLMEN_GONE);
    CHECK(dolmen_connect(client, &options, &subsystem) == DOLMEN_OK);
    CHECK(dolmen_state(client, subsystem) == DOLMEN_CONNECTING);
    CHECK(dolmen_wait_live(client, subsystem, 10000) == DOLMEN_OK);
    CHECK(dolmen_state(client, subsystem) == DOLMEN_LIVE);
    CHECK(dolmen_namespaces(client, subsystem, 10000, nsids, 8) == 2 && nsids[0] == 1 && nsids[1] == 2);
    CHECK(dolmen_describe(client, subsystem, 10000, 1, &ns) == DOLMEN_OK);
    CHECK(ns.block_bytes == BLOCK && ns.blocks == 2048 && ns.uuid[0] == 1 && ns.nguid[0] == 1);

    /* Many writes under way together, then reads of the same blocks through the same buffers. */
    for (i = 0; i < COMMANDS; i++) {
        buffers[i] = dolmen_buffer_new(client, BLOCK);
        CHECK(buffers[i] != NULL && dolmen_buffer_size(buffers[i]) == BLOCK);
        memset(dolmen_buffer_data(buffers[i]), (int)(i + 1), BLOCK);
        CHECK(dolmen_write(client, subsystem, i, 10000, 1, i, 1, buffers[i], 0) == DOLMEN_OK);
        CHECK(dolmen_buffer_free(buffers[i]) == DOLMEN_BUSY && dolmen_buffer_data(buffers[i]) == NULL);
    }
    for (left = COMMANDS; left > 0; left -= count) {
        count = turn(done, COMMANDS);
        for (i = 0; i < count; i++) {
            CHECK(done[i].outcome == DOLMEN_DONE && done[i].buffer == buffers[done[i].ticket]);
            CHECK(done[i].subsystem == subsystem && done[i].latency_ns > 0);
            memset(dolmen_buffer_data(done[i].buffer), 0xee, BLOCK);
        }
    }
    for (i = 0; i < COMMANDS; i++)
        CHECK(dolmen_read(client, subsystem, i, 10000, 1, i, 1, buffers[i]) == DOLMEN_OK);
    for (left = COMMANDS; left > 0; left -= count) {
        count = turn(done, COMMANDS);
        for (i = 0; i < count; i++) {
            const unsigned char *bytes = dolmen_buffer_data(done[i].buffer);
            CHECK(done[i].outcome == DOLMEN_DONE);
            CHECK(bytes[0] == done[i].ticket + 1 && bytes[BLOCK - 1] == done[i].ticket + 1);
        }
    }

    /* The other commands. */
    memset(dolmen_buffer_data(buffers[0]), 10, BLOCK);
    memset(dolmen_buffer_data(buffers[1]), 77, BLOCK);
    CHECK(dolmen_compare_and_write(client, subsystem, 90, 10000, 1, 9, 1, buffers[0], buffers[1]) == DOLMEN_OK);
    CHECK(turn(done, 1) == 1 && done[0].outcome == DOLMEN_DONE && done[0].buffer == buffers[1]);
    CHECK(dolmen_compare_and_write(client, subsystem, 91, 10000, 1, 9, 1, buffers[0], buffers[1]) == DOLMEN_OK);
    CHECK(turn(done, 1) == 1 && done[0].outcome == DOLMEN_STATUS && (done[0].status & 0x7ff) == 0x285);
    CHECK(dolmen_compare_and_write(client, subsystem, 92, 0, 1, 9, 1, buffers[1], buffers[1]) == DOLMEN_INVALID);
    CHECK(strstr(dolmen_error_text(client), "two buffers") != NULL);
    memset(dolmen_buffer_data(buffers[0]), 6, BLOCK);
    CHECK(dolmen_compare(client, subsystem, 100, 10000, 1, 5, 1, buffers[0]) == DOLMEN_OK);
    one(100, DOLMEN_DONE);
    CHECK(dolmen_compare(client, subsystem, 101, 10000, 1, 6, 1, buffers[0]) == DOLMEN_OK);
    CHECK(turn(done, 1) == 1 && done[0].outcome == DOLMEN_STATUS && (done[0].status & 0x7ff) == 0x285);
    CHECK(dolmen_write_zeroes(client, subsystem, 102, 10000, 1, 6, 1, 1) == DOLMEN_OK);
    one(102, DOLMEN_DONE);
    CHECK(dolmen_trim(client, subsystem, 103, 10000, 1, ranges, 2) == DOLMEN_OK);
    one(103, DOLMEN_DONE);
    CHECK(dolmen_flush(client, subsystem, 104, 10000, 1) == DOLMEN_OK);
    one(104, DOLMEN_DONE);
    CHECK(dolmen_read(client, subsystem, 105, 10000, 1, ns.blocks, 1, buffers[0]) == DOLMEN_OK);
    one(105, DOLMEN_STATUS);
    CHECK(dolmen_trim(client, subsystem, 106, 0, 1, ranges, 0) == DOLMEN_INVALID);
    CHECK(strstr(dolmen_error_text(client), "1 to 256") != NULL);
    CHECK(dolmen_state(client, 77) == DOLMEN_GONE && strstr(dolmen_error_text(client), "subsystem") != NULL);
    CHECK(dolmen_read(client, subsystem, 106, 0, 1, 0, 0, buffers[0]) == DOLMEN_INVALID);
    CHECK(dolmen_buffer_data(buffers[0]) != NULL); /* what was not taken is still ours */

    /* Who takes all buffers there are can still use them. */
    for (count = 0; count < MANY && (many[count] = dolmen_buffer_new(client, BLOCK)) != NULL; count++)
        ;
    CHECK(count > COMMANDS && count < MANY);
    for (i = 0; i < COMMANDS; i++)
        CHECK(dolmen_read(client, subsystem, i, 10000, 1, i, 1, many[i]) == DOLMEN_OK);
    for (left = COMMANDS; left > 0;) {
        size_t came = turn(done, COMMANDS);
        for (i = 0; i < came; i++)
            CHECK(done[i].outcome == DOLMEN_DONE);
        left -= came;
    }
    while (count > 0)
        CHECK(dolmen_buffer_free(many[--count]) == DOLMEN_OK);

    /* A buffer outlives its client; one that a command has comes free when the client goes. */
    CHECK(dolmen_read(client, subsystem, 107, 0, 1, 0, 1, buffers[1]) == DOLMEN_OK);
    CHECK(dolmen_disconnect(client, subsystem) == DOLMEN_OK);
    one(107, DOLMEN_DISCONNECTED);
    CHECK(dolmen_flush(client, subsystem, 108, 0, 1) == DOLMEN_GONE);
    dolmen_client_free(client);
    for (i = 0; i < COMMANDS; i++)
        if (dolmen_buffer_free(buffers[i]) != DOLMEN_OK)
            return 1;
    puts("ok");
    return 0;
}
